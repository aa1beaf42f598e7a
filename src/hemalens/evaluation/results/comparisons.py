"""Two methods on the same test images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hemalens.evaluation.results.base import Estimate, Part


class Comparison(Part):
    """A paired comparison of two methods, trained on one source and tested on the same images of one target.

    `first_only` and `second_only` count the images that one method alone predicts correctly; an image with predictions of
    several models counts by fractions. `n_units`: groups, or images where there are none. `p_accuracy` is that of `test`;
    `difference` is the balanced accuracy of the first less that of the second, with `p_difference`. The `_holm` values are
    corrected for all comparisons on this source and target (Holm 1979). `better` names a method only where
    `p_difference_holm` is below 0.05. Transductive: tested images were seen in training, without their labels.
    """

    source: str
    target: str
    first: str
    second: str
    n_images: int
    n_units: int
    n_models: int
    first_only: float
    second_only: float
    test: Literal["McNemar, exact", "sign flips, exact"]
    p_accuracy: float = Field(ge=0, le=1)
    p_accuracy_holm: float = Field(ge=0, le=1)
    difference: Estimate
    p_difference: float = Field(ge=0, le=1)
    p_difference_holm: float = Field(ge=0, le=1)
    better: str | None = None
    first_transductive: bool = False
    second_transductive: bool = False
