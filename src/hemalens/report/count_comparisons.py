"""Two counts of a slide compared, type by type."""

from __future__ import annotations

from collections.abc import Sequence

from hemalens.evaluation import formatting
from hemalens.evaluation.results import CountComparison, Estimate, TypeDifference
from hemalens.report.tables import Cell, Column, Section, Table

ANCHOR, HEADING = "count-comparisons", "Counts compared"
NOTE = (
    "Difference: the first less the second, in points, with Newcombe's limits, 95 %. p: Fisher's exact test, corrected "
    "(Holm) for all types and the whole. Differs: p below 0.05. The same: the limits lie within the difference that "
    "matters: {tolerance:g} points; in a rarer type its own share, at least 2 points. Needed: cells in each count that "
    "show a difference that matters with 80 % probability."
)


def section(compared: Sequence[CountComparison]) -> Section:
    """The section of all comparisons; without blocks where there are none."""
    return Section(ANCHOR, HEADING, tuple(map(table, compared)))


def sentence(compared: CountComparison) -> str:
    """The verdict on a comparison, with the types that differ."""
    names = f"{formatting.visible(compared.first)} and {formatting.visible(compared.second)}"
    cells = f"{formatting.count(compared.n_first)} and {formatting.count(compared.n_second)} white cells"
    if compared.verdict == "differs":
        found = [formatting.label(each.code) for each in compared.types if each.verdict == "differs"]
        where = f" in {formatting.listed(found)}" if found else " as a whole; no single type does"
        return f"{names} ({cells}) differ{where}; p {p_value(compared.p)} for the whole differential."
    if compared.verdict == "the same":
        return f"{names} ({cells}) are the same within {compared.tolerance:g} points, less in rare types."
    needed = formatting.count(compared.cells_needed)
    return f"{names} ({cells}): too few cells to tell; {needed} in each count would show a difference that matters."


def table(compared: CountComparison) -> Table:
    """One row a type: shares, difference, p and verdict; the whole last."""
    first, second = formatting.visible(compared.first), formatting.visible(compared.second)
    columns = (
        Column("Cell type", numeric=False, heads=True),
        Column(f"{first}, %"),
        Column(f"{second}, %"),
        Column("Difference"),
        Column("p"),
        Column("Verdict", numeric=False),
        Column("Needed"),
    )
    whole = (
        *(Cell("whole differential"), Cell(formatting.count(compared.n_first)), Cell(formatting.count(compared.n_second))),
        *(Cell(""), Cell(p_value(compared.p)), Cell(compared.verdict)),
        Cell(formatting.count(compared.cells_needed) if compared.cells_needed else ""),
    )
    rows = (*map(_row, compared.types), whole)
    caption = f"{first} ({compared.n_first:,} white cells) against {second} ({compared.n_second:,})"
    return Table(caption, columns, rows, note=NOTE.format(tolerance=compared.tolerance), stacked=True)


def _row(each: TypeDifference) -> tuple[Cell, ...]:
    needed = formatting.count(each.cells_needed) if each.cells_needed else ""
    return (
        Cell(formatting.label(each.code)),
        *(_cell(share, formatting.EN_DASH) for share in (each.first, each.second)),
        # limits may be negative
        _cell(each.difference, " to "),
        Cell(p_value(each.p)),
        Cell(each.verdict),
        Cell(needed),
    )


def _cell(value: Estimate, between: str) -> Cell:
    if value.value is None or value.low is None or value.high is None:
        return Cell(formatting.MISSING)
    return Cell(f"{100 * value.value:z.1f}", (f"{100 * value.low:z.1f}{between}{100 * value.high:z.1f}",))


def p_value(p: float) -> str:
    """A p-value with three decimals; a smaller one as "<0.001"."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"
