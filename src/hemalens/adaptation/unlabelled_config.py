"""Settings of adaptation to unlabelled images, and the class prior of types that are scarce in any blood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from hemalens.config import StrictConfig
from hemalens.errors import LabelError
from hemalens.taxonomy import cell_types, find_cell_type

Floats = NDArray[np.floating[Any]]
PIECES = ("batch_norm", "size", "class_bias", "neighbours")
"""The steps of the adaptation, in the order in which they run."""


class UnlabelledConfig(StrictConfig):
    """Which steps adapt a bundle to unlabelled images.

    `batch_norm` re-estimates batch-norm statistics on batches of `batch_size` images; `strength` in (0, 1] is the weight of
    the new statistics. `size` adds the log likelihood of the nucleus size, relative to the laboratory's median, to the
    logits. `class_bias` adds a constant for each class that maximises information, and multiplies the class prior of scarce
    types (basophils) by `scarce`. `neighbours` smooths predictions over the nearest of the images; `neighbour_weight` is
    the largest change of a logit.
    """

    batch_norm: bool = True
    size: bool = True
    class_bias: bool = True
    scarce: float = Field(default=0.5, gt=0, le=1)
    neighbours: bool = False
    neighbour_weight: float = Field(default=3.0, gt=0, le=20)
    strength: float = Field(default=0.5, gt=0, le=1)
    batch_size: int = Field(default=32, ge=8, le=1024)

    @model_validator(mode="after")
    def _something(self) -> UnlabelledConfig:
        if not self.pieces:
            raise ValueError(f"every step is off: set one of {', '.join(PIECES)} to true")
        for name, piece in (("strength", "batch_norm"), ("scarce", "class_bias"), ("neighbour_weight", "neighbours")):
            if name in self.model_fields_set and not getattr(self, piece):
                raise ValueError(f"{name} needs {piece}=true")
        return self

    @property
    def pieces(self) -> tuple[str, ...]:
        """Names of the steps in use."""
        return tuple(name for name in PIECES if getattr(self, name))

    @property
    def needs_logits(self) -> bool:
        """Whether any step needs the bundle's logits of the images."""
        return self.size or self.class_bias or self.neighbours


def log_class_prior(labels: Sequence[str], scarce: float) -> NDArray[np.float64]:
    """Log relative frequency of each class (k,): log `scarce` for types that the taxonomy calls scarce, 0 for others."""
    return np.log([scarce if _is_scarce(label) else 1.0 for label in labels])


def _is_scarce(label: str) -> bool:
    try:
        return cell_types()[find_cell_type(label)].scarce
    except LabelError:
        return False
