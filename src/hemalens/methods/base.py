"""The protocol of a method: a strict config and a function from a dataset to a bundle."""

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
    """The training function of a method."""

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
        """Train on `train` and write `run_dir`/bundle.

        `validation` chooses the epoch and calibrates, and no score on it is reported as a test; where it does neither, it
        may be tested on. `auxiliary` holds further datasets by role.
        """


Show = Callable[[Bundle, CellDataset], PictureTable]
"""Makes pictures for a report from a bundle of this method and some images."""


@dataclass(frozen=True, slots=True)
class AuxiliaryRole:
    """A role of further data in a method.

    `labelled`: whether training uses their labels. `required`: whether the method needs them. `only_cells`: all images
    show cells; in other roles, images without a cell type are tissue.
    """

    name: str
    what: str
    labelled: bool
    required: bool = False
    only_cells: bool = False


@dataclass(frozen=True, slots=True)
class Method:
    """A method: its name, a summary of one line, its config and its training function.

    `show`: makes pictures for the report, None for no pictures. `publication`: the paper that describes the method, empty
    for common practice.
    """

    name: str
    summary: str
    config: type[StrictConfig]
    fit: Fit
    show: Show | None = None
    roles: tuple[AuxiliaryRole, ...] = ()
    publication: str = ""
