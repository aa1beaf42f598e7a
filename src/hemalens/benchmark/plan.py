"""A benchmark before it runs: its data opened and checked, its tasks and trials planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemalens.benchmark.config import BenchmarkConfig, Entry
from hemalens.benchmark.tasks import Opener, Task, open_tasks, refuse_learned_elsewhere
from hemalens.benchmark.trials import Trial, plan_trials
from hemalens.bundle.segmenter import cell_image_stages
from hemalens.datasets import CellDataset
from hemalens.datasets.splits import Unreadable
from hemalens.evaluation.results import DataCard
from hemalens.runs.auxiliary import mask_note, open_auxiliary
from hemalens.runs.inputs import Inputs


@dataclass(frozen=True, slots=True)
class Opened:
    """A benchmark with its data opened and its trials planned."""

    entries: tuple[Entry, ...]
    tasks: Sequence[Task]
    auxiliary: Mapping[str, Inputs]
    trials: Sequence[Trial]
    notes: Sequence[str | None]
    asked: dict[str, Any]

    @property
    def sources(self) -> list[Inputs]:
        """Each source once."""
        return list({id(task.source): task.source for task in self.tasks}.values())

    @property
    def cards(self) -> list[DataCard]:
        """The card of every source, target and auxiliary set, each once in each role."""
        cards = [source.card for source in self.sources]
        cards += [card for task in self.tasks for card in task.cards]
        cards += [each.card for each in self.auxiliary.values()]
        return list({(card.role, card.name, card.fingerprint): card for card in cards}.values())


def open_benchmark(config: BenchmarkConfig, out: Path) -> Opened:
    """Open and check all that a benchmark needs; nothing is written. Raises `InputError`."""
    config.check()
    entries = config.entries()
    stages = cell_image_stages(config.cell_image)
    opener = Opener(config, stages)
    tasks = open_tasks(config, opener)
    methods = list({entry.method.name: entry.method for entry in entries}.values())
    specs = [(role, spec) for role, specs in config.auxiliary.items() for spec in specs]
    unreadable: Unreadable = "drop" if config.drop_unreadable else "refuse"
    auxiliary = open_auxiliary(methods, specs, labels=config.labels, unreadable=unreadable, stages=stages)
    labelled = {role.name for method in methods for role in method.roles if role.labelled}
    for role in labelled & auxiliary.keys():
        refuse_learned_elsewhere(tasks, auxiliary[role].dataset)
    sources: dict[int, CellDataset] = {id(task.source): task.source.dataset for task in tasks}
    trials = plan_trials(
        entries,
        tasks,
        out=out,
        auxiliary={role: each.dataset for role, each in auxiliary.items()},
        before=[stage.digest for stage in stages],
        seed=config.seed,
    )
    notes = [note for task in tasks for note in task.notes]
    masks = [mask_note(entry.config, source) for entry in entries for source in sources.values()]
    asked = {"trials": [trial.key for trial in trials], "config": config.model_dump(mode="json")}
    return Opened(entries, tasks, auxiliary, trials, [*notes, *masks], asked)
