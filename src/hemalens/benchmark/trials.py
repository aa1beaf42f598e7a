"""Trials of a benchmark: one method in one test of one task. Results are kept, so that a stopped run resumes."""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from hemalens.benchmark.config import Entry
from hemalens.benchmark.protocols.base import FitFold, Outcome, Task
from hemalens.bundle.artifact import library_versions
from hemalens.bundle.bundle import Bundle, open_bundle
from hemalens.cache import note_damage
from hemalens.datasets import CellDataset
from hemalens.errors import BundleError, HemalensError, one_line
from hemalens.evaluation.results import Failure
from hemalens.files import atomic_dir, output_errors, read_sealed, sha256_file, sha256_text, write_sealed, write_text
from hemalens.progress import Say
from hemalens.runs.auxiliary import parts_for
from hemalens.runs.folders import fit_or_resume, method_request

RESULT, EMBEDDINGS, ERROR = "result.json", "embeddings.npy", "error.txt"
NAMED = ("evaluations", "k_shot", "fractions", "left_out")
"""Kinds of results that hold the name of their method."""
Status = Literal["waiting", "cached", "running", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Trial:
    """A method in test `i` of a task; `fits` is the folder of its trainings, `result` that of its outcome."""

    entry: Entry
    task: Task
    i: int
    key: str
    fits: Path
    result: Path

    def moved(self, old: Path, new: Path) -> Trial:
        """The same trial below the output folder `new` instead of `old`."""
        return replace(self, fits=new / self.fits.relative_to(old), result=new / self.result.relative_to(old))

    @property
    def target(self) -> str:
        """Name of the dataset it is tested on."""
        return self.task.tests[self.i]

    @property
    def source(self) -> str:
        """Name of the dataset it is trained on."""
        return self.task.source.dataset.name


TrialCallback = Callable[[Trial, Status, Outcome | None], None]
"""Called whenever a trial begins or ends."""


def plan_trials(
    entries: Sequence[Entry],
    tasks: Sequence[Task],
    *,
    out: Path,
    auxiliary: Mapping[str, CellDataset],
    stages: Sequence[str],
) -> list[Trial]:
    """All trials in the order of the report: by source, method, protocol, test. `stages` are digests."""
    trials = []
    for source in dict.fromkeys(id(task.source) for task in tasks):
        for entry in entries:
            method = method_request(entry.method, entry.config)
            own = parts_for(entry.method, auxiliary)
            for task in (task for task in tasks if id(task.source) == source):
                train = task.source.dataset
                for i in range(len(task.tests)):
                    request = {
                        "method": method,
                        "source": train.fingerprint,
                        "masks": train.mask_fingerprint,
                        "auxiliary": {role: dataset.fingerprint for role, dataset in own.items()},
                        "stages": list(stages),
                        "seed": task.seed,
                        "test": task.request(i),
                        "versions": library_versions(),
                    }
                    key = sha256_text(json.dumps(request, sort_keys=True))
                    fits = out / "fits" / entry.name / train.name.replace("/", "_")
                    trials.append(Trial(entry, task, i, key, fits, out / "results" / entry.name / key[:16]))
    return trials


def cached_outcome(trial: Trial) -> Outcome | None:
    """The kept outcome of a trial; None where it was not run, or where the result or its first model is damaged."""
    stored = read_sealed(trial.result / RESULT)
    if stored is None:
        if (trial.result / RESULT).exists():
            note_damage(
                f"a damaged result of the benchmark was computed anew: {one_line(Path(*trial.result.parts[-3:], RESULT))}"
            )
        return None
    try:
        if stored["key"] != trial.key:
            return None
        outcome = Outcome.model_validate_json(json.dumps(stored["outcome"]))
        open_bundle(trial.fits / outcome.model)
        if not outcome.points:
            return outcome
        if stored["embeddings"] != sha256_file(trial.result / EMBEDDINGS):
            return None
        embeddings = np.load(trial.result / EMBEDDINGS, allow_pickle=False)
        return outcome.model_copy(update={"embeddings": embeddings})
    except (OSError, ValueError, KeyError, TypeError, ValidationError, BundleError):
        return None


def write_outcome(trial: Trial, outcome: Outcome) -> None:
    """Write the outcome of a trial, whole or not at all."""
    with atomic_dir(trial.result) as folder:
        embeddings = ""
        if outcome.embeddings is not None:
            np.save(folder / EMBEDDINGS, outcome.embeddings, allow_pickle=False)
            embeddings = sha256_file(folder / EMBEDDINGS)
        names = {
            "method": trial.entry.name,
            "source": trial.source,
            "target": trial.target,
            "protocol": trial.task.protocol,
        }
        kept = {"key": trial.key, **names, "embeddings": embeddings, "outcome": outcome.model_dump(mode="json")}
        write_sealed(folder / RESULT, kept)


@dataclass(frozen=True, slots=True)
class TrialResult:
    """A trial with its outcome, or with its error."""

    trial: Trial
    outcome: Outcome | None
    error: str = ""


def run_trials(
    trials: Iterable[Trial],
    *,
    auxiliary: Mapping[str, CellDataset],
    say: Say,
    on_trial: TrialCallback,
) -> list[TrialResult]:
    """Run one trial after another; an error ends its trial, and those that need the same training."""
    fits: dict[str, FitFold] = {}
    results = []
    for trial in trials:
        outcome = cached_outcome(trial)
        if outcome is not None:
            on_trial(trial, "cached", outcome)
            results.append(TrialResult(trial, outcome))
            continue
        on_trial(trial, "running", None)
        fit = fits.setdefault(trial.entry.name, _once(_fit(trial.entry, parts_for(trial.entry.method, auxiliary), say)))
        try:
            outcome = _renamed(trial.task.run(trial.i, fit, trial.fits), trial)
            write_outcome(trial, outcome)
        except Exception as error:
            results.append(TrialResult(trial, None, _error_text(error, trial, say)))
            on_trial(trial, "failed", None)
            continue
        on_trial(trial, "done", outcome)
        results.append(TrialResult(trial, outcome))
    return results


def _fit(entry: Entry, auxiliary: Mapping[str, CellDataset], say: Say) -> FitFold:
    def fit(train: CellDataset, validation: CellDataset, rng: np.random.Generator, run_dir: Path) -> Bundle:
        say(f"{entry.name}, {run_dir.name.replace('_', ' ')}: {len(train)} images")
        return fit_or_resume(
            run_dir, entry.method, train, validation=validation, config=entry.config, rng=rng, auxiliary=auxiliary
        )

    return fit


def _once(fit: FitFold) -> FitFold:
    """The same fit, which remembers the bundle or the error of each folder, and fits no folder twice."""
    done: dict[Path, Bundle | Exception] = {}

    def fit_once(train: CellDataset, validation: CellDataset, rng: np.random.Generator, run_dir: Path) -> Bundle:
        if run_dir not in done:
            try:
                done[run_dir] = fit(train, validation, rng, run_dir)
            except Exception as error:
                done[run_dir] = error
                raise
        found = done[run_dir]
        if isinstance(found, Exception):
            raise found
        return found

    return fit_once


def _renamed(outcome: Outcome, trial: Trial) -> Outcome:
    """The outcome under the name that the method has in this benchmark."""
    name = trial.entry.name

    def renamed(part: Any) -> Any:
        _, _, task = part.name.partition(": ")
        return part.model_copy(update={"method": name, "name": f"{name}: {task}"})

    parts = {kind: tuple(map(renamed, getattr(outcome, kind))) for kind in NAMED}
    curves = tuple(curve.model_copy(update={"name": name}) for curve in outcome.curves)
    return outcome.model_copy(update={**parts, "curves": curves})


def _error_text(error: Exception, trial: Trial, say: Say) -> str:
    """The error on one line; the traceback of an unexpected one goes into a file."""
    where = f"{trial.entry.name}, {trial.source} -> {trial.target}, {trial.task.protocol}"
    text = str(error) if isinstance(error, HemalensError) else f"{type(error).__name__}: {' '.join(str(error).split())}"
    say(f"failed: {where}: {text}")
    if not isinstance(error, HemalensError):
        with output_errors(trial.result):
            shutil.rmtree(trial.result, ignore_errors=True)
            write_text(trial.result / ERROR, "".join(traceback.format_exception(error)))
    return text


def failures(results: Sequence[TrialResult]) -> tuple[Failure, ...]:
    """A row for each method and task that failed, with the targets that share its error."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for each in results:
        if each.outcome is None:
            trial = each.trial
            found.setdefault((trial.entry.name, trial.task.protocol, trial.source, each.error), []).append(trial.target)
    return tuple(
        Failure(method=method, protocol=protocol, source=source, target=", ".join(targets), error=error)
        for (method, protocol, source, error), targets in found.items()
    )
