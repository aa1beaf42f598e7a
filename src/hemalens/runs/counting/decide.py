"""What counts: white cells, nucleated red cells and smudge cells that neither border nor bundle excludes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from hemalens.differential.rules import NUCLEATED_RED_CELL, SMUDGE_CELL, CountRules, lineage
from hemalens.evaluation import formatting
from hemalens.runs.counting.find import NO_LEUKOCYTE, FoundCell, FoundField

AT_BORDER = "cut by the right or bottom border"
UNREADABLE = "not classified"
BEYOND = "beyond the target"
BORDER_RULE = (
    "A cell that the left or top border of a field cuts is counted; one that the right or bottom border cuts is not."
)


IN_COPY_OF, COUNTED_IN = "copy of ", "counted in "
"""Begin the reasons of a cell that another field shows too."""


def decide(found: FoundField, rules: CountRules) -> None:
    """Give each cell of a field that does not count its reason; those that have one keep it."""
    for cell in found.cells:
        cell.reason = cell.reason or _reason(cell, rules)


def _reason(cell: FoundCell, rules: CountRules) -> str:
    if cell.is_white:
        if cell.label is None:
            return f"{UNREADABLE}: {cell.error or 'no prediction'}"
        if not is_counted_type(cell.label, rules):
            return f"{NO_LEUKOCYTE}: {formatting.label(cell.label)}"
    return AT_BORDER if cell.at_border else ""


def is_counted_type(code: str, rules: CountRules) -> bool:
    """Whether cells of a type enter a count: in the hundred, or per 100 beside it."""
    return rules.is_white_cell(code) or code == SMUDGE_CELL or NUCLEATED_RED_CELL in lineage(code)


def mark_beyond_target(fields: Iterable[FoundField], rules: CountRules) -> None:
    """Give the counted white cells after the one that completes the target their reason."""
    if rules.target is None:
        return
    n_white = 0
    for cell in counted_white(fields):
        if n_white == rules.target:
            cell.reason = f"{BEYOND} of {rules.target}"
        else:
            n_white += rules.is_white_cell(cell.type)


SURELY_FOUND = ("", "found")
"""Values of `cell_found` without doubt; a bundle of whole images looks for no cell."""


def counted_white(fields: Iterable[FoundField]) -> Iterator[FoundCell]:
    """The counted cells that a bundle has classified, in the order of counting."""
    return (cell for found in fields for cell in found.cells if cell.is_white and not cell.reason)


def doubt(cell: FoundCell) -> float:
    """How doubtful a cell is: 1 for the most doubtful, by its probability, its typicality and what the bundle finds."""
    value = 1 - (cell.probability or 0.0)
    value += 0.5 * (cell.typicality is not None and cell.typicality < 0.05)
    value += 0.5 * (cell.prediction_set is not None and len(cell.prediction_set) != 1)
    value += 0.5 * (cell.cell_found not in SURELY_FOUND) + 0.25 * cell.cut
    return value / 2.75


def limits_of(labels: Sequence[str]) -> list[str]:
    """What a bundle cannot separate, in sentences, from its labels."""
    known = {code for label in labels for code in lineage(label)}
    missing = [
        name
        for code, name in ((NUCLEATED_RED_CELL, "nucleated red cells"), (SMUDGE_CELL, "smudge cells"))
        if code not in known
    ]
    if not missing:
        return []
    return [f"This bundle has no class for {formatting.listed(missing)}: such cells are counted as another type."]
