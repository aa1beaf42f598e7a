"""How a bundle was adapted to a laboratory: the parts of its manifest."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from hemalens.bundle.artifact import OLDER, Part


class ExpectedAccuracy(Part):
    """Expected accuracy of an adapted bundle, by leave-one-out over its support images.

    `n` images enter: their class has another image or group. `low` and `high` are exact binomial limits, 95 %. `tells` is
    False when the support is too small for an estimate; `verdict` states the result in words.
    """

    n: int
    accuracy: float | None
    low: float | None
    high: float | None
    balanced_accuracy: float | None
    majority_rate: float | None
    tells: bool
    verdict: str


class Adaptation(Part):
    """How a bundle was adapted to a target laboratory by labelled images, and its expected accuracy.

    `base_model_sha256` are the digests of the base bundles' graphs, or of the ImageNet network's weights. `beside` names
    the encoders whose embeddings are concatenated to the first. `support_images` are content digests.
    """

    base_model_sha256: tuple[str, ...]
    beside: tuple[str, ...] = ()
    few_shot: dict[str, Any]
    support_images: tuple[str, ...]
    new_classes: tuple[str, ...]
    expected: ExpectedAccuracy


class Unlabelled(Part):
    """How a bundle was adapted to a laboratory's unlabelled images.

    `settings` are those of `UnlabelledConfig`; `n_images` and `fingerprint` describe the images used, `n_unreadable` those
    left out. `base_model_sha256` is the digest of the graph before. `pieces` are those in use, `left_out` states why the
    others are not, and `changed` is the fraction of the images whose predicted class changes. With nucleus sizes,
    `typical_nucleus_px` is the laboratory's typical diameter, `size_widening` the factor on the scales, and the embedding
    ends with the log relative diameter. `neighbours` is the number of neighbours.
    """

    settings: dict[str, Any]
    base_model_sha256: str
    n_images: int = Field(ge=1)
    n_unreadable: int = Field(ge=0)
    fingerprint: str
    pieces: tuple[str, ...]
    left_out: dict[str, str]
    changed: float = Field(ge=0, le=1)
    typical_nucleus_px: float | None = Field(default=None, gt=0)
    size_widening: float | None = Field(default=None, ge=1)
    neighbours: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_pieces(cls, given: Any) -> Any:
        """Refuse an adaptation from before it had pieces: its graph changes other things than those named here."""
        if isinstance(given, dict) and "pieces" not in given:
            raise PydanticCustomError(OLDER, "an adaptation to unlabelled images that names its pieces")
        return given
