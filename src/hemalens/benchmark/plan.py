"""The plan of a benchmark: its data opened and checked, its tasks and trials listed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hemalens.benchmark.config import BenchmarkConfig, Entry
from hemalens.benchmark.protocols.base import SourceProtocol, Task
from hemalens.benchmark.protocols.data import BenchmarkData
from hemalens.benchmark.trials import Trial, plan_trials
from hemalens.bundle.segmenter import cell_image_stages
from hemalens.datasets import CellDataset
from hemalens.datasets.leaks import refuse_leaks, traces
from hemalens.datasets.splits import Unreadable
from hemalens.errors import InputError
from hemalens.evaluation.results import DataCard
from hemalens.runs.auxiliary import mask_note, open_auxiliary
from hemalens.runs.inputs import Inputs


@dataclass(frozen=True, slots=True)
class BenchmarkPlan:
    """The opened data and the trials of a benchmark; `request` identifies it."""

    entries: tuple[Entry, ...]
    tasks: Sequence[Task]
    auxiliary: Mapping[str, Inputs]
    trials: Sequence[Trial]
    out: Path
    notes: Sequence[str | None]
    request: dict[str, Any]

    def at(self, folder: Path) -> BenchmarkPlan:
        """The same plan in another output folder."""
        trials = [trial.moved(self.out, folder) for trial in self.trials]
        return replace(self, trials=trials, out=folder)

    @property
    def sources(self) -> list[Inputs]:
        """Each source once."""
        return list({id(task.source): task.source for task in self.tasks}.values())

    @property
    def auxiliary_sets(self) -> dict[str, CellDataset]:
        """The auxiliary datasets by role."""
        return {role: each.dataset for role, each in self.auxiliary.items()}

    @property
    def cards(self) -> list[DataCard]:
        """The card of every source, target and auxiliary set, each once in each role."""
        cards = [card for task in self.tasks for card in task.source_cards]
        cards += [card for task in self.tasks for card in task.cards]
        cards += [each.card for each in self.auxiliary.values()]
        return list({(card.role, card.name, card.fingerprint): card for card in cards}.values())


def plan_benchmark(config: BenchmarkConfig, out: Path) -> BenchmarkPlan:
    """Open and check all data of a benchmark, and list its trials; nothing is written. Raises `InputError`."""
    config.check()
    entries = config.entries()
    stages = cell_image_stages(config.cell_image)
    unreadable: Unreadable = "drop" if config.drop_unreadable else "refuse"
    data = BenchmarkData(
        labels=config.labels,
        min_per_class=config.min_per_class,
        unreadable=unreadable,
        stages=stages,
        seed=config.seed,
        support=config.k_shot.support,
        target_labels=config.k_shot.target_labels,
    )
    tasks = open_tasks(config, data)
    methods = list({entry.method.name: entry.method for entry in entries}.values())
    specs = [(role, spec) for role, specs in config.auxiliary.items() for spec in specs]
    auxiliary = open_auxiliary(methods, specs, labels=config.labels, unreadable=unreadable, stages=stages)
    labelled = {role.name for method in methods for role in method.roles if role.labelled}
    for role in labelled & auxiliary.keys():
        _refuse_tested(tasks, auxiliary[role].dataset)
    trials = plan_trials(
        entries,
        tasks,
        out=out,
        auxiliary={role: each.dataset for role, each in auxiliary.items()},
        stages=[stage.digest for stage in stages],
    )
    sources = {id(task.source): task.source.dataset for task in tasks}.values()
    notes = [note for task in tasks for note in task.notes]
    masks = [mask_note(entry.config, source) for entry in entries for source in sources]
    request = {"trials": [trial.key for trial in trials], "config": config.model_dump(mode="json")}
    return BenchmarkPlan(entries, tasks, auxiliary, trials, out, [*notes, *masks], request)


def open_tasks(config: BenchmarkConfig, data: BenchmarkData) -> list[Task]:
    """The tasks of all sources and protocols, checked; nothing is trained. Raises `InputError`."""
    tasks: list[Task] = []
    names: dict[str, str] = {}
    sources = [(spec, config.targets_of(spec)) for spec in config.sources]
    for name in config.trained_protocols():
        protocol = config.protocol(name)
        found = protocol.tasks(name, sources, data)
        for task in found:
            task.check()
        tasks += found
        if isinstance(protocol, SourceProtocol):
            for (spec, named), task in zip(sources, found, strict=True):
                names |= {spec: task.source.dataset.name}
                names |= dict(zip(named, (tested.name for tested in task.tested), strict=False))
    _refuse_same_names(names)
    return tasks


def _refuse_same_names(names: Mapping[str, str]) -> None:
    """Raise `InputError` where two datasets, by spec, have one name: the report would confuse them."""
    for spec, name in names.items():
        others = [other for other, its in names.items() if its == name and other != spec]
        if others:
            raise InputError(
                f"two sets are called {name!r}",
                got=f"{spec} and {others[0]}",
                remedy="Give the folder or the table of one of them another name.",
            )


def _refuse_tested(tasks: Sequence[Task], labelled: CellDataset) -> None:
    """Raise `SplitError` when a test holds an image of an auxiliary set whose labels are used in training."""
    for task in tasks:
        for tested in (task.source.dataset, *task.tested):
            refuse_leaks(traces(labelled), tested)
