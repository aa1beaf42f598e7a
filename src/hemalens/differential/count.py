"""The differential count of a slide: what enters the hundred, what is given beside it, and the flags.

Nucleated red cells never enter the hundred: they are given per 100 leukocytes, and from a stated number on the white
count is corrected for them (CLSI H20-A2). Smudge cells are given per 100, counted, or counted as lymphocytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from hemalens.config import StrictConfig
from hemalens.differential.limits import Share, cells_to_see, share
from hemalens.errors import InputError
from hemalens.taxonomy import cell_types

NUCLEATED_RED_CELL = "erythroblast"
SMUDGE_CELL = "smudge_cell"
LYMPHOCYTE = "lymphocyte"
LEUKOCYTE = "leukocyte"
Smudge = Literal["per 100", "counted", "as lymphocytes"]


class Interval(StrictConfig):
    """A reference interval in per cent of leukocytes."""

    low: float = Field(ge=0, le=100)
    high: float = Field(ge=0, le=100)


class CountRules(StrictConfig):
    """A laboratory's rules of counting.

    `nucleated_red_cells_from`: number per 100 leukocytes from which on the white count is corrected. `platelets_per_field`:
    thousands of platelets per microlitre that one platelet an oil field stands for. `flags`: per cent of a type above
    which it is flagged; 0 flags every cell. `reference`: intervals in per cent.
    """

    nucleated_red_cells_from: float = Field(default=5, ge=0)
    smudge_cells: Smudge = "per 100"
    platelets_per_field: float = Field(default=15.0, gt=0)
    flags: dict[str, float] = Field(default_factory=dict)
    reference: dict[str, Interval] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Differential:
    """A differential count.

    `shares` are those of the counted leukocytes by type, `per_100` cells given beside them by type, in cells per 100
    leukocytes. `white_count` and `corrected_white_count` are in 10^3 per microlitre, None where no count was given or none
    is corrected. `flags` are sentences.
    """

    total: int
    shares: Mapping[str, Share]
    per_100: Mapping[str, float]
    white_count: float | None
    corrected_white_count: float | None
    flags: tuple[str, ...]

    @property
    def absolute(self) -> dict[str, float]:
        """Cells in 10^3 per microlitre by type; empty without a white count."""
        count = self.corrected_white_count or self.white_count
        if count is None:
            return {}
        return {code: count * each.value for code, each in self.shares.items() if each.value is not None}

    @property
    def blasts_seen_from(self) -> float | None:
        """The smallest share of a type at which this count shows one cell of it or more with 95 % probability."""
        return None if not self.total else 1 - 0.05 ** (1 / self.total)


def differential(counts: Mapping[str, int], rules: CountRules, *, white_count: float | None = None) -> Differential:
    """The differential of cells counted by type; `white_count` in 10^3 per microlitre.

    Types that are no leukocytes, as platelets, are left out. Raises `InputError` for negative numbers.
    """
    if any(n < 0 for n in counts.values()) or (white_count is not None and white_count < 0):
        raise InputError("a count is negative", expected="0 or more")
    found = Counter(counts)
    beside = {NUCLEATED_RED_CELL: found.pop(NUCLEATED_RED_CELL, 0)}
    smudged = found.pop(SMUDGE_CELL, 0)
    if rules.smudge_cells == "per 100":
        beside[SMUDGE_CELL] = smudged
    else:
        found[SMUDGE_CELL if rules.smudge_cells == "counted" else LYMPHOCYTE] += smudged
    leukocytes = {code: n for code, n in found.items() if code == SMUDGE_CELL or is_leukocyte(code)}
    total = sum(leukocytes.values())
    shares = {code: share(n, total) for code, n in leukocytes.items()}
    per_100 = {code: 100 * n / total for code, n in beside.items() if total}
    nucleated = per_100.get(NUCLEATED_RED_CELL, 0.0)
    corrected = None
    if white_count is not None and nucleated >= max(rules.nucleated_red_cells_from, 1e-9):
        corrected = corrected_white_count(white_count, nucleated)
    return Differential(total, shares, per_100, white_count, corrected, _flags(shares, per_100, rules))


def is_leukocyte(code: str) -> bool:
    """Whether a cell type of the taxonomy is a leukocyte; a type of one's own counts as one."""
    known = cell_types()
    return code not in known or known[code].lineage()[-1] == LEUKOCYTE


def corrected_white_count(white_count: float, nucleated_red_cells: float) -> float:
    """The white count without nucleated red cells, of which there are so many per 100 leukocytes (CLSI H20-A2)."""
    return white_count * 100 / (100 + nucleated_red_cells)


def platelets_by_ratio(platelets: int, red_cells: int, red_count: float) -> float | None:
    """Platelets in 10^3 per microlitre from the same fields' red cells; `red_count` in 10^6 per microlitre."""
    return 1000 * red_count * platelets / red_cells if red_cells else None


def platelets_by_field(platelets: int, n_fields: int, rules: CountRules) -> float | None:
    """Platelets in 10^3 per microlitre from their mean in a field of the oil lens."""
    return rules.platelets_per_field * platelets / n_fields if n_fields else None


def _flags(shares: Mapping[str, Share], per_100: Mapping[str, float], rules: CountRules) -> tuple[str, ...]:
    percents = {code: 100 * each.value for code, each in shares.items() if each.value is not None} | dict(per_100)
    found = [
        f"{code} {percents[code]:.1f} %, above {limit:g} %"
        for code, limit in rules.flags.items()
        if percents.get(code, 0) > limit
    ]
    for code, interval in rules.reference.items():
        each = shares.get(code)
        if each is None or each.value is None:
            continue
        # outside only where the limits of the count are: else the count does not tell
        if 100 * each.low > interval.high or 100 * each.high < interval.low:
            found.append(f"{code} {100 * each.value:.1f} %, outside {interval.low:g} to {interval.high:g} %")
    return tuple(found)


def to_see_one(percents: tuple[float, ...] = (1, 2, 5)) -> dict[float, int]:
    """Cells to count to see one of a type with 95 % probability, by its per cent."""
    return {percent: cells_to_see(percent / 100) for percent in percents}
