"""Settings of the protocol efficiency."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from hemalens.config import Seed, StrictConfig
from hemalens.graphs.runtime import n_cores

Paths = Annotated[tuple[str, ...], BeforeValidator(lambda given: tuple(map(str, given))), Field(strict=False)]


class EfficiencyConfig(StrictConfig):
    """How networks are timed: `rounds` in which all take turns, on so many `threads` (None: all cores)."""

    rounds: int = Field(default=5, ge=1)
    threads: int | None = Field(default=None, ge=1)

    @property
    def n_threads(self) -> int:
        """The number of threads."""
        return self.threads or n_cores()


class NetworksConfig(EfficiencyConfig):
    """Networks that are measured without training.

    `backbones` are NAME or NAME@PX of timm, with random weights and a head of `classes`. `bundles` are tested on the
    labelled images of `target`, where it is given, each under its own label map; `min_per_class` leaves out smaller
    classes, `drop_seen` leaves out the images that any bundle has seen.
    """

    backbones: tuple[str, ...] = Field(default=(), strict=False)
    bundles: Paths = ()
    target: str | None = None
    classes: int = Field(default=8, ge=1)
    min_per_class: int = Field(default=1, ge=1)
    drop_seen: bool = False
    seed: Seed = 0
