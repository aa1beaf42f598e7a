"""Compare methods: methods x protocols x sources x targets, in one report."""

from __future__ import annotations

from collections.abc import Sequence

from hemalens.benchmark.config import EFFICIENCY, BenchmarkConfig, Entry
from hemalens.benchmark.figures import evidence_maps, first_models, joint_scatters, measure_efficiency, training_curves
from hemalens.benchmark.plan import BenchmarkPlan, plan_benchmark
from hemalens.benchmark.trials import TrialCallback, TrialResult, failures, run_trials
from hemalens.benchmark.workers import run_in_workers
from hemalens.config import check_whole
from hemalens.errors import InputError, public
from hemalens.evaluation.left_out import left_out_scores
from hemalens.evaluation.results import MethodCard, Report
from hemalens.evaluation.significance import compare
from hemalens.files import PathLike, as_path
from hemalens.progress import Say
from hemalens.report.compose import Results, make_report, method_card
from hemalens.runs.folders import finish_run, open_run
from hemalens.runs.inputs import report_inputs

MOST_NAMES = 4
"""The most methods that the report's title names; it counts more."""


@public
def benchmark(
    config: BenchmarkConfig,
    *,
    out: PathLike,
    n_workers: int = 1,
    overwrite: bool = False,
    say: Say = lambda text: None,
    on_trial: TrialCallback = lambda trial, status, outcome: None,
) -> Report:
    """Run every method under every protocol from every source, and write one report into `out`.

    Everything is checked before the first training. A trial's key holds data, settings and seed: the same call resumes,
    and after a change only the trials that it affects run. A trial that fails is a row of the report, and the others go
    on. `n_workers` processes run at once where memory allows; `on_trial` is called as trials begin and end.
    """
    if not isinstance(config, BenchmarkConfig):
        raise InputError("this is no benchmark", expected="BenchmarkConfig", got=type(config).__name__)
    check_whole(n_workers, "the number of workers", least=1)
    out = as_path(out, "out")
    plan = plan_benchmark(config, out)
    report_inputs(say, [*plan.sources, *plan.auxiliary.values()], *plan.notes)
    request = {"job": "benchmark", "asked": plan.request}
    inputs = [*config.paths(), *(path for entry in plan.entries for path in entry.config.named_paths())]
    with open_run(out, request, overwrite=overwrite, inputs=inputs, grows=True, say=say) as folder:
        plan = plan.at(folder)
        for trial in plan.trials:
            on_trial(trial, "waiting", None)
        if n_workers > 1:
            results = run_in_workers(config, plan.trials, out=folder, n_workers=n_workers, say=say, on_trial=on_trial)
        else:
            results = run_trials(plan.trials, auxiliary=plan.auxiliary_sets, say=say, on_trial=on_trial)
        return finish_run(folder, _report(config, plan, results, say))


def _report(config: BenchmarkConfig, plan: BenchmarkPlan, results: Sequence[TrialResult], say: Say) -> Report:
    outcomes = [each.outcome for each in results if each.outcome is not None]
    evaluations = [evaluation for outcome in outcomes for evaluation in outcome.evaluations]
    names = [entry.name for entry in plan.entries]
    shown = ", ".join(names) if len(names) <= MOST_NAMES else f"{len(names)} methods"
    sources = ", ".join(dict.fromkeys(task.trained_on for task in plan.tasks))
    models = first_models(results)
    timed = models if EFFICIENCY in config.protocols else []
    return make_report(
        f"{shown}: {', '.join(config.protocols)} from {sources}",
        "; ".join(dict.fromkeys(f"{task.protocol}, {task.description}" for task in plan.tasks)),
        Results(
            evaluations=evaluations,
            k_shot=[result for outcome in outcomes for result in outcome.k_shot],
            fractions=[curve for outcome in outcomes for curve in outcome.fractions],
            left_out=left_out_scores([test for outcome in outcomes for test in outcome.left_out], seed=config.seed),
            efficiency=measure_efficiency(timed, config.efficiency, say=say),
            comparisons=compare(evaluations, seed=config.seed),
            failures=failures(results),
            scatters=joint_scatters(results, projection=config.projection, seed=config.seed),
            pictures=evidence_maps(models, seed=config.seed),
            curves=training_curves(results),
        ),
        data=plan.cards,
        methods={entry.name: entry.config.model_dump(mode="json") for entry in plan.entries},
        method_cards=[_method_card(entry, plan) for entry in plan.entries],
        seed=config.seed,
    )


def _method_card(entry: Entry, plan: BenchmarkPlan) -> MethodCard:
    own = {role.name for role in entry.method.roles}
    sets = [source.card for source in plan.sources]
    sets += [each.card for role, each in plan.auxiliary.items() if role in own]
    return method_card(entry.method, entry.name, sets)
