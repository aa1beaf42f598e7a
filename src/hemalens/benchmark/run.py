"""Compare methods: methods x protocols x sources x targets, one report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hemalens.benchmark.config import BenchmarkConfig, Entry
from hemalens.benchmark.figures import costs, first_models, joint_scatters, what_answers_rest_on
from hemalens.benchmark.plan import Opened, open_benchmark
from hemalens.benchmark.trials import Ended, Watch, failures, run_trials
from hemalens.benchmark.workers import run_in_workers
from hemalens.errors import one_line
from hemalens.evaluation.results import MethodCard, Report
from hemalens.evaluation.significance import compare
from hemalens.progress import Say
from hemalens.report.compose import Results, make_report, method_card
from hemalens.runs.folders import claim_run, finish_run
from hemalens.runs.inputs import tell

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
        Results(
            evaluations=evaluations,
            k_shot=[result for outcome in outcomes for result in outcome.k_shot],
            fractions=[curve for outcome in outcomes for curve in outcome.fractions],
            efficiency=costs(timed, n_rounds=part.rounds, n_threads=part.threads, say=say),
            comparisons=compare(evaluations, seed=config.seed),
            failures=failures(ended),
            scatters=joint_scatters(ended, projection=config.projection, seed=config.seed),
            pictures=what_answers_rest_on(models, seed=config.seed),
        ),
        data=opened.cards,
        methods={entry.name: entry.config.model_dump(mode="json") for entry in opened.entries},
        method_cards=[_method_card(entry, opened) for entry in opened.entries],
        seed=config.seed,
    )


def _method_card(entry: Entry, opened: Opened) -> MethodCard:
    own = {role.name for role in entry.method.roles}
    sets = [source.card for source in opened.sources]
    sets += [each.card for role, each in opened.auxiliary.items() if role in own]
    return method_card(entry.method, entry.name, sets)
