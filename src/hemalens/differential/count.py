"""The differential count of a slide: what enters the hundred, and what is given beside it.

Nucleated red cells never enter the hundred: they are given per 100 leukocytes, and from a stated number on the white
count is corrected for them (CLSI H20-A2). Smudge cells are given per 100, counted, or counted as lymphocytes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

from hemalens.differential.limits import Share, cells_to_see, share
from hemalens.differential.rules import LYMPHOCYTE, NUCLEATED_RED_CELL, SMUDGE_CELL, CountRules, lineage
from hemalens.errors import InputError, one_line


@dataclass(frozen=True, slots=True)
class Differential:
    """A differential count.

    `shares` are those of the counted leukocytes by type, `beside` the nucleated red cells and smudge cells found while
    counting them, `not_counted` all other cells by type. `white_count` and `corrected_white_count` are in 10^3 per
    microlitre, None where no count was given or none is corrected.
    """

    total: int
    shares: Mapping[str, Share]
    beside: Mapping[str, int]
    not_counted: Mapping[str, int]
    white_count: float | None
    corrected_white_count: float | None

    @property
    def per_100(self) -> dict[str, float]:
        """Nucleated red cells and smudge cells per 100 leukocytes; empty without leukocytes."""
        return {code: 100 * n / self.total for code, n in self.beside.items() if self.total}

    @property
    def absolute(self) -> dict[str, float]:
        """Cells in 10^3 per microlitre by type; empty without a white count."""
        count = self.white_count if self.corrected_white_count is None else self.corrected_white_count
        if count is None:
            return {}
        return {code: count * each.value for code, each in self.shares.items() if each.value is not None}

    @property
    def smallest_share(self) -> float | None:
        """The smallest share of a type at which this count shows one cell of it or more with 95 % probability."""
        return None if not self.total else 1 - 0.05 ** (1 / self.total)

    def together(self, types: Iterable[str]) -> Share:
        """The share of several types together, each with its subtypes."""
        wanted = set(types)
        return share(sum(int(s.count) for code, s in self.shares.items() if wanted & set(lineage(code))), self.total)


def differential(counts: Mapping[str, int], rules: CountRules, *, white_count: float | None = None) -> Differential:
    """The differential of cells counted by type; `white_count` in 10^3 per microlitre.

    Raises `InputError` for a count that is no whole number from 0 on.
    """
    found = checked_counts(counts)
    check_amount(white_count, "the white count")
    red = {code: found.pop(code) for code in list(found) if NUCLEATED_RED_CELL in lineage(code)}
    beside = {NUCLEATED_RED_CELL: sum(red.values())}
    smudged = found.pop(SMUDGE_CELL, 0)
    if rules.smudge_cells == "per 100":
        beside[SMUDGE_CELL] = smudged
    elif smudged:
        found[SMUDGE_CELL if rules.smudge_cells == "counted" else LYMPHOCYTE] += smudged
    leukocytes = {code: n for code, n in found.items() if rules.is_white_cell(code)}
    total = sum(leukocytes.values())
    shares = {code: share(n, total) for code, n in leukocytes.items()}
    nucleated = 100 * beside[NUCLEATED_RED_CELL] / total if total else 0.0
    corrected = None
    if white_count is not None and nucleated and nucleated >= rules.nucleated_red_cells_from:
        corrected = corrected_white_count(white_count, nucleated)
    rest = {code: n for code, n in found.items() if n and code not in leukocytes}
    return Differential(total, shares, beside, rest, white_count, corrected)


def first_cells(cells: Sequence[str], rules: CountRules) -> tuple[Counter[str], int]:
    """The cells by type up to the white cell that completes the target, and the white cells after it."""
    counted: Counter[str] = Counter()
    n_white = 0
    for i, code in enumerate(cells):
        if rules.target is not None and n_white == rules.target:
            return counted, sum(map(rules.is_white_cell, cells[i:]))
        counted[code] += 1
        n_white += rules.is_white_cell(code)
    return counted, 0


def corrected_white_count(white_count: float, nucleated_red_cells: float) -> float:
    """The white count without nucleated red cells, of which there are so many per 100 leukocytes (CLSI H20-A2)."""
    return white_count * 100 / (100 + nucleated_red_cells)


def platelets_by_ratio(platelets: int, red_cells: int, red_count: float) -> float | None:
    """Platelets in 10^3 per microlitre from the same fields' red cells; `red_count` in 10^6 per microlitre."""
    return 1000 * red_count * platelets / red_cells if red_cells else None


def platelets_by_field(platelets: int, n_fields: int, rules: CountRules) -> float | None:
    """Platelets in 10^3 per microlitre from their mean in a field of the oil lens."""
    return rules.platelets_per_field / 1000 * platelets / n_fields if n_fields else None


def to_see_one(percents: tuple[float, ...] = (1, 2, 5)) -> dict[float, int]:
    """Cells to count to see one of a type with 95 % probability, by its per cent."""
    return {percent: cells_to_see(percent / 100) for percent in percents}


def checked_counts(counts: Mapping[str, int]) -> Counter[str]:
    """The counts as whole numbers; raises `InputError` for a negative, fractional or infinite one."""
    found: Counter[str] = Counter()
    for code, n in counts.items():
        whole = isinstance(n, Real) and not isinstance(n, bool) and math.isfinite(n) and float(n).is_integer()
        if not whole or n < 0:
            raise InputError(
                f"the count of {one_line(code)} is wrong", expected="a whole number from 0 on", got=f"{n!r:.40}"
            )
        found[code] += int(n)
    return found


def check_amount(value: float | None, what: str) -> None:
    """Raise `InputError` unless an amount is None or a finite number from 0 on."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if value is not None and not (number and math.isfinite(value) and value >= 0):
        raise InputError(f"{what} is wrong", expected="a number from 0 on", got=f"{value!r:.40}")


def check_number(value: int, what: str) -> None:
    """Raise `InputError` unless a number of things is whole and not negative."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 0:
        raise InputError(f"{what} is wrong", expected="a whole number from 0 on", got=f"{value!r:.40}")
