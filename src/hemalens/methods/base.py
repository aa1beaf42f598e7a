"""What every method is: a strict configuration and a function from a dataset to a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hemalens.bundle.bundle import Bundle
from hemalens.config import StrictConfig
from hemalens.datasets.base import CellDataset
from hemalens.evaluation.results import PictureTable


class Fit(Protocol):
    """How a method learns."""

    def __call__(
        self,
        train: CellDataset,
        *,
        validation: CellDataset | None,
        auxiliary: Mapping[str, CellDataset],
        config: Any,
        rng: np.random.Generator,
        run_dir: Path,
    ) -> Bundle:
        """Learn from `train`; `validation` serves early stopping and calibration, and is never reported.

        `auxiliary` holds unlabelled target images or sets of other tissue, by role. The bundle lands in
        `run_dir`/bundle.
        """


Show = Callable[[Bundle, CellDataset], PictureTable]
"""Pictures of what a bundle of this method makes of some images, for a report."""


@dataclass(frozen=True, slots=True)
class AuxiliaryRole:
    """A part that further data play in a method: what it is, whether their labels are learned, whether it must be there.

    `only_cells`: its images show cells whatever their labels say; elsewhere images without a cell type are tissue.
    """

    name: str
    what: str
    labelled: bool
    required: bool = False
    only_cells: bool = False


@dataclass(frozen=True, slots=True)
class Method:
    """A method by name: what it is in one line, its configuration and its `fit`; `show` where there is something to see.

    `publication`: where it was described first, empty for what is common in the field.
    """

    name: str
    summary: str
    config: type[StrictConfig]
    fit: Fit
    show: Show | None = None
    roles: tuple[AuxiliaryRole, ...] = ()
    publication: str = ""
