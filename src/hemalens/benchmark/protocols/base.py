"""The contract of a protocol: settings that open tasks, and tasks that test one method after another.

A protocol is a `ProtocolConfig`: its fields are its settings, `tasks` gives a `Task` for each training set. A task trains
through the `FitFold` that it is given and knows nothing of the method behind it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from hemalens.benchmark.protocols.data import BenchmarkData
from hemalens.bundle.bundle import Bundle
from hemalens.config import StrictConfig
from hemalens.datasets import CellDataset
from hemalens.evaluation.results import DataCard, Evaluation, FractionCurve, KShot, LeftOutTest, TrainingCurve
from hemalens.runs.inputs import Inputs

FitFold = Callable[[CellDataset, CellDataset, np.random.Generator, Path], Bundle]
"""(train, validation, generator, run folder) -> bundle."""


Sources = Sequence[tuple[str, Sequence[str]]]
"""The sources, each with its targets."""

# ------------------------------------------------------------------------------------------------------------ settings


def _as_list(value: Any) -> Any:
    """One value as a list of one."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _split(value: Any) -> Any:
    """Words with commas between them, as on the command line, as a list."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else _as_list(value)


def _numbers(value: Any) -> Any:
    """Whole numbers with commas between them, or a single one, as a list."""
    if isinstance(value, str) and all(part.strip().isdecimal() for part in value.split(",")):
        return tuple(int(part) for part in value.split(","))
    return (value,) if isinstance(value, int) else _as_list(value)


Names = Annotated[tuple[str, ...], BeforeValidator(_as_list), Field(strict=False)]
"""A list of texts, or one text."""
Words = Annotated[tuple[str, ...], BeforeValidator(_split), Field(strict=False)]
"""A list of words, or words with commas between them."""
Counts = Annotated[tuple[int, ...], BeforeValidator(_numbers), Field(strict=False)]
"""A list of whole numbers, or numbers with commas between them."""


class ProtocolConfig(StrictConfig, ABC):
    """Settings of a protocol, and how it opens a task."""

    needs_target: ClassVar[bool] = False
    """Whether every source needs a target."""
    takes_target: ClassVar[bool] = False
    """Whether targets are tested."""

    @abstractmethod
    def tasks(self, name: str, sources: Sources, data: BenchmarkData) -> list[Task]:
        """The tasks of the protocol `name` on the sources; nothing is trained.

        Raises `InputError`.
        """


class SourceProtocol(ProtocolConfig):
    """A protocol that trains on one source after another."""

    def tasks(self, name: str, sources: Sources, data: BenchmarkData) -> list[Task]:
        """One task a source."""
        return [self.open(name, data.source(spec), tested, data) for spec, tested in sources]

    @abstractmethod
    def open(self, name: str, source: Inputs, targets: Sequence[str], data: BenchmarkData) -> Task:
        """The task of the protocol `name` on a source and its targets; nothing is trained. Raises `InputError`."""


# --------------------------------------------------------------------------------------------------------------- tasks


class Outcome(BaseModel):
    """The results of one test of a task. `model` is the folder of the (first) bundle, relative to that of the fits.

    `curves` are those of the trained networks, which tests of one task may share, without a name.
    `embeddings` (n, d) of some tested images come with their labels and predicted labels, `points`; they are not part of
    the JSON.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    evaluations: tuple[Evaluation, ...] = ()
    k_shot: tuple[KShot, ...] = ()
    fractions: tuple[FractionCurve, ...] = ()
    left_out: tuple[LeftOutTest, ...] = ()
    curves: tuple[TrainingCurve, ...] = ()
    model: str = ""
    points: tuple[tuple[str, str], ...] = ()
    embeddings: NDArray[np.float16] | None = Field(default=None, exclude=True, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(ABC):
    """One source under one protocol, tested on one dataset after another.

    `tested` are the datasets of the targets, with their `cards` and `notes`; `description` is the protocol in words.
    """

    protocol: str
    description: str
    source: Inputs
    seed: int
    tested: tuple[CellDataset, ...] = ()
    cards: tuple[DataCard, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def trained_on(self) -> str:
        """The data of the protocol, as the title of a report names them."""
        return self.source.dataset.name

    @property
    def source_cards(self) -> tuple[DataCard, ...]:
        """The cards of the sources."""
        return (self.source.card,)

    @property
    def tests(self) -> tuple[str, ...]:
        """The name of each test."""
        return tuple(dataset.name for dataset in self.tested)

    @abstractmethod
    def check(self) -> None:
        """Raise `InputError`, before anything is trained, for a test that would fail."""

    @abstractmethod
    def request(self, i: int) -> dict[str, Any]:
        """Everything that test `i` depends on, except the method, the source and the seed."""

    @abstractmethod
    def run(self, i: int, fit: FitFold, run_dir: Path) -> Outcome:
        """Train what is not trained yet, and run test `i`."""


def relative_path(bundle: Bundle, run_dir: Path) -> str:
    """The folder of a bundle inside that of the fits."""
    return bundle.path.relative_to(run_dir).as_posix()
