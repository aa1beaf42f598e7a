"""The differential count of a slide."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hemalens.evaluation.results.base import Estimate, Part


class ReferenceInterval(Part):
    """A reference interval in per cent of leukocytes.

    `found` is "low" or "high" only where the limits of the count lie outside the interval as a whole.
    """

    low: float
    high: float
    found: Literal["within", "low", "high"]


class CountedType(Part):
    """A type among the counted white cells: its share in [0, 1] with exact limits, and the same in 10^3 per microlitre.

    `total_of` names the types that a row sums up; those rows add nothing to the total. `adjusted` is the share corrected
    for the model's known confusion, `reviewed` that corrected by reviewed cells. `flagged`: one of the slide's flags is
    about this type.
    """

    code: str
    count: int = Field(ge=0)
    share: Estimate
    absolute: Estimate | None = None
    reference: ReferenceInterval | None = None
    flagged: bool = False
    total_of: tuple[str, ...] = ()
    adjusted: Estimate | None = None
    reviewed: Estimate | None = None


class CountedBeside(Part):
    """Cells found while counting that do not enter the hundred: their number, and per 100 leukocytes."""

    code: str
    count: int = Field(ge=0)
    per_100: float | None


class CellsNeeded(Part):
    """White cells still to be counted for a `goal`; 0 where it is reached."""

    goal: str
    cells: int = Field(ge=0)


class SlideResult(Part):
    """The differential count of one slide.

    `total` white cells were counted; `n_beyond` were found after the target was reached. Counts of white cells and
    platelets are in 10^3 per microlitre. `smallest_share` is the smallest share in [0, 1] of a type of which this count
    shows a cell with 95 % probability. `not_counted`: cells by the reason why they are not counted. `decision` says what
    is to be done with the count.
    """

    name: str
    n_fields: int = Field(ge=0)
    total: int = Field(ge=0)
    target: int | None = None
    n_beyond: int = 0
    types: tuple[CountedType, ...]
    beside: tuple[CountedBeside, ...]
    white_count: float | None = None
    corrected_white_count: float | None = None
    n_red_cells: int = 0
    n_platelets: int = 0
    platelets_by_ratio: float | None = None
    platelets_by_field: float | None = None
    flags: tuple[str, ...] = ()
    decision: str
    smallest_share: float | None
    to_see_one: dict[str, int]
    """White cells to count to see one of a type with 95 % probability, by its per cent."""
    needed: tuple[CellsNeeded, ...]
    not_counted: dict[str, int] = Field(default_factory=dict)
    reference_source: str = ""
    adjusted_by: str = ""
    """The test part whose confusion `adjusted` uses."""
    n_reviewed: int = 0
