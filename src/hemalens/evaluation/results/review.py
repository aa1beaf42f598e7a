"""The cells of a test that a person must look at, against their labels."""

from __future__ import annotations

from pydantic import Field

from hemalens.evaluation.results.base import Part
from hemalens.evaluation.results.exhibits import PictureTable


class ReasonCount(Part):
    """Cells with one reason for a review, and how many of them have a wrong label."""

    reason: str
    n: int = Field(ge=0)
    n_wrong: int = Field(ge=0)


class TypeCount(Part):
    """Of the `n` cells of a true type: those predicted rightly, called urgent or unknown, and with any reason.

    `n_missed` cells have a wrong label and no reason for a review.
    """

    type: str
    n: int = Field(ge=0)
    n_right: int = Field(ge=0)
    n_urgent: int = Field(ge=0)
    n_to_review: int = Field(ge=0)
    n_missed: int = Field(ge=0)


class ReviewCheck(Part):
    """How many of `n_cells` cells, of which `n_wrong` have a wrong label, a person must look at, and why.

    `reasons` are in order of urgency. Of the `n_mature` cells whose true type is mature, `n_false_alarms` are called urgent
    or unknown; `stated` is that share on held-out cells of the training laboratories, None for a bundle without thresholds.
    `types` counts by the true type. `cells` shows the most urgent ones.
    """

    n_cells: int = Field(ge=0)
    n_wrong: int = Field(ge=0)
    reasons: tuple[ReasonCount, ...]
    n_mature: int = Field(ge=0)
    n_false_alarms: int = Field(ge=0)
    stated: float | None
    types: tuple[TypeCount, ...] = ()
    cells: PictureTable

    @property
    def n_to_review(self) -> int:
        """Cells with any reason."""
        return sum(each.n for each in self.reasons)

    @property
    def n_caught(self) -> int:
        """Cells with a reason and a wrong label."""
        return sum(each.n_wrong for each in self.reasons)
