"""The cells of a test that a person must look at, as a table, a gallery and a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from hemalens.evaluation import formatting
from hemalens.evaluation.results import ReviewCheck
from hemalens.report.tables import Block, Cell, Section, Table, number_columns

HEADING = "Cells to review"
NOTE = (
    "A cell has the most urgent reason that applies. The last column is the share of all wrong labels that a review finds."
)
NO_THRESHOLDS = "The bundle has no thresholds: only doubtful cells are found."


def section(check: ReviewCheck | None, gallery: Sequence[Block]) -> Section:
    """The section; without blocks where there is no check."""
    if check is None:
        return Section("review", HEADING, ())
    return Section("review", HEADING, (_table(check), *([_types(check)] if check.types else []), *gallery))


def _table(check: ReviewCheck) -> Table:
    """A row for each reason, and one for all of them."""
    counts = [(each.reason, each.n, each.n_wrong) for each in check.reasons]
    rows = [
        (Cell(reason), Cell(formatting.count(n)), Cell(_share(n, check.n_cells)), Cell(formatting.count(wrong)),
         Cell(_share(wrong, check.n_wrong)))
        for reason, n, wrong in [*counts, ("any", check.n_to_review, check.n_caught)]
    ]  # fmt: skip
    columns = number_columns("Reason", ("Cells", "Of all cells", "Wrong labels", "Of all wrong labels"))
    note = NOTE if check.stated is not None else NO_THRESHOLDS
    return Table("Cells that a person must look at, by the reason", columns, tuple(rows), note=note)


def _types(check: ReviewCheck) -> Table:
    """A row for each true type."""
    rows = [
        (Cell(formatting.label(each.type)), Cell(formatting.count(each.n)), Cell(formatting.count(each.n_right)),
         Cell(formatting.count(each.n_urgent)), Cell(formatting.count(each.n_to_review)),
         Cell(formatting.count(each.n_missed)))
        for each in check.types
    ]  # fmt: skip
    titles = ("Cells", "Predicted rightly", "Urgent or unknown", "Any reason", "Wrong and not marked")
    return Table("Cells under review, by the true type", number_columns("True type", titles), tuple(rows))


def sentence(check: ReviewCheck) -> str:
    """How many cells to review, the errors that they hold, and the false alarms."""
    caught = f"they hold {check.n_caught:,} of {check.n_wrong:,} wrong labels"
    found = f"To review: {check.n_to_review:,} of {formatting.counted(check.n_cells, 'cell')}; {caught}"
    if check.stated is None:
        return f"{found}. {NO_THRESHOLDS}"
    alarms = f"false alarms {_share(check.n_false_alarms, check.n_mature)} of the cells of mature types"
    return f"{found}; {alarms} ({100 * check.stated:.1f} % on held-out training data)."


def _share(n: int, of: int) -> str:
    return f"{100 * n / of:.1f} %" if of else formatting.MISSING
