"""Settings of adaptation to unlabelled images."""

from __future__ import annotations

from pydantic import model_validator

from hemalens.config import StrictConfig

PIECES = ("size", "neighbours", "class_means")
"""The pieces of the adaptation, in the order in which they run."""


class UnlabelledConfig(StrictConfig):
    """Which pieces may adapt a bundle to unlabelled images; `guards` then leaves out those that do not suit the images.

    `size` adds the log likelihood of the nucleus size, relative to the laboratory's typical one, to the logits.
    `neighbours` smooths predictions over the nearest of the images. `class_means` adds the log density of a Gaussian
    mixture of the embedding. The size is off: over many laboratories it gains most and harms too often.
    """

    size: bool = False
    neighbours: bool = True
    class_means: bool = True

    @model_validator(mode="after")
    def _something(self) -> UnlabelledConfig:
        if not self.pieces:
            raise ValueError(f"every piece is off: set one of {', '.join(PIECES)} to true")
        return self

    @property
    def pieces(self) -> tuple[str, ...]:
        """Names of the pieces in use."""
        return tuple(name for name in PIECES if getattr(self, name))
