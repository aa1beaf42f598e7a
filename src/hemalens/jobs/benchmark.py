"""Compare methods: methods x protocols x sources x targets, one report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemalens.datasets import CellDataset
from hemalens.errors import one_line
from hemalens.evaluation.comparisons import compare
from hemalens.evaluation.results import DataCard, MethodCard, Report
from hemalens.jobs.auxiliary import mask_note, open_auxiliary
from hemalens.jobs.benchmark_config import BenchmarkConfig, Entry
from hemalens.jobs.exhibits import costs, first_models, joint_scatters, what_answers_rest_on
from hemalens.jobs.prepare import Prepared, tell
from hemalens.jobs.reporting import make_report, method_card
from hemalens.jobs.runs import claim_run, finish_run
from hemalens.jobs.tasks import Opener, Task, open_tasks, refuse_learned_elsewhere
from hemalens.jobs.train import Say
from hemalens.jobs.trials import Ended, Trial, Watch, failures, plan_trials, run_trials
from hemalens.jobs.workers import run_in_workers
from hemalens.sampling import Unreadable
from hemalens.segmenters import cell_image_stages

MOST_NAMES = 4
"""More methods than this are counted in the report's title, not named."""


def benchmark(
    config: BenchmarkConfig,
    *,
    out: Path,
    n_workers: int = 1,
    overwrite: bool = False,
    say: Say = lambda text: None,
    watch: Watch = lambda trial, status, outcome: None,
) -> Report:
    """Run every method under every protocol from every source, and write one report into `out`.

    All is checked before anything is trained. What was run already is found again by its key, which holds data, settings
    and seed: the same call resumes, and after a change only what it touches runs. A trial that fails is a row of the
    report, and the others go on. `n_workers` processes run side by side where memory allows; `watch` is told of each trial.
    """
    opened = open_benchmark(config, out)
    tell(say, [*opened.sources, *opened.auxiliary.values()], *opened.notes)
    if claim_run(out, {"job": "benchmark", "asked": opened.asked}, overwrite=overwrite, grows=True):
        say(f"{one_line(out)} holds a benchmark: what is known there is not run again")
    for trial in opened.trials:
        watch(trial, "waiting", None)
    if n_workers > 1:
        ended = run_in_workers(config, opened.trials, out=out, n_workers=n_workers, say=say, watch=watch)
    else:
        sets = {role: each.dataset for role, each in opened.auxiliary.items()}
        ended = run_trials(opened.trials, auxiliary=sets, seed=config.seed, say=say, watch=watch)
    return finish_run(out, _report(config, opened, ended, say))


@dataclass(frozen=True, slots=True)
class Opened:
    """A benchmark with its data opened and its trials planned."""

    entries: tuple[Entry, ...]
    tasks: Sequence[Task]
    auxiliary: Mapping[str, Prepared]
    trials: Sequence[Trial]
    notes: Sequence[str | None]
    asked: dict[str, Any]

    @property
    def sources(self) -> list[Prepared]:
        """Each source once."""
        return list({id(task.source): task.source for task in self.tasks}.values())


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


def _report(config: BenchmarkConfig, opened: Opened, ended: Sequence[Ended], say: Say) -> Report:
    outcomes = [each.tested.outcome for each in ended if each.tested is not None]
    evaluations = [evaluation for outcome in outcomes for evaluation in outcome.evaluations]
    names = [entry.name for entry in opened.entries]
    shown = ", ".join(names) if len(names) <= MOST_NAMES else f"{len(names)} methods"
    sources = ", ".join(source.dataset.name for source in opened.sources)
    models = first_models(ended)
    part = config.efficiency
    timed = models if "efficiency" in config.protocols else []
    return make_report(
        f"{shown}: {', '.join(config.protocols)} from {sources}",
        "; ".join(dict.fromkeys(f"{task.protocol}, {task.described}" for task in opened.tasks)),
        evaluations=evaluations,
        k_shot=[result for outcome in outcomes for result in outcome.k_shot],
        fractions=[curve for outcome in outcomes for curve in outcome.fractions],
        efficiency=costs(timed, n_rounds=part.rounds, n_threads=part.threads, say=say),
        comparisons=compare(evaluations, seed=config.seed),
        failures=failures(ended),
        scatters=joint_scatters(ended, projection=config.projection, seed=config.seed),
        pictures=what_answers_rest_on(models, seed=config.seed),
        data=_cards(opened),
        methods={entry.name: entry.config.model_dump(mode="json") for entry in opened.entries},
        method_cards=[_method_card(entry, opened) for entry in opened.entries],
        seed=config.seed,
    )


def _method_card(entry: Entry, opened: Opened) -> MethodCard:
    own = {role.name for role in entry.method.roles}
    sets = [source.card for source in opened.sources]
    sets += [each.card for role, each in opened.auxiliary.items() if role in own]
    return method_card(entry.method, entry.name, sets)


def _cards(opened: Opened) -> list[DataCard]:
    """The card of every source, target and auxiliary set, each once in each role."""
    cards = [source.card for source in opened.sources]
    cards += [card for task in opened.tasks for card in task.cards]
    cards += [each.card for each in opened.auxiliary.values()]
    return list({(card.role, card.name, card.fingerprint): card for card in cards}.values())
