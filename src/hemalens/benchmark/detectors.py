"""Detectors on laboratories left out: trained on all others, and tested on the one left out, each in turn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from hemalens.benchmark.protocols.base import Names
from hemalens.bundle.artifact import library_versions
from hemalens.bundle.detector import Detector, open_detector
from hemalens.config import Seed, StrictConfig
from hemalens.datasets.fields.base import FieldDataset
from hemalens.datasets.fields.open import open_fields
from hemalens.datasets.fields.readers import FIELD_READERS
from hemalens.errors import BundleError, HemalensError, InputError, one_line, public
from hemalens.evaluation.fields import TestedDetector
from hemalens.evaluation.results import Detection, Failure, Report
from hemalens.files import PathLike, as_path, sha256_text, write_sealed
from hemalens.progress import Say
from hemalens.report.compose import Results, field_card, make_report
from hemalens.runs.curves import read_curves
from hemalens.runs.evaluate_fields import detections_of, fields_of, fields_path, is_fields
from hemalens.runs.field_parts import FieldParts, split_fields
from hemalens.runs.folders import finish_run, open_run

if TYPE_CHECKING:
    from hemalens.methods.detector import DetectorConfig

PROTOCOL = "leave-one-laboratory-out"
DETECTOR = "detector"
"""The method that learns from fields."""
FITS = "fits"


class DetectorBenchmark(StrictConfig):
    """Fields of several laboratories, `sources`, and the `settings` of the detector as key=value."""

    sources: Names = Field(min_length=1)
    settings: Names = ()
    seed: Seed = 0


@dataclass(frozen=True, slots=True)
class Fold:
    """One laboratory left out: the fields of the others to learn from, and its own to test on."""

    laboratory: str
    parts: FieldParts
    test: tuple[FieldDataset, ...]


@public
def benchmark_detectors(
    config: DetectorBenchmark,
    *,
    out: PathLike,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Report:
    """Train a detector without each laboratory in turn, test it there, and write one report into `out`.

    The same call resumes: finished trainings are not repeated. A training that fails is a row of the report. Raises
    `DatasetError` for fields without a box, and `InputError` for fields of one laboratory.
    """
    from hemalens.methods.detector import DetectorConfig

    if not isinstance(config, DetectorBenchmark):
        raise InputError("this is no benchmark of detectors", expected="DetectorBenchmark", got=type(config).__name__)
    out, settings = as_path(out, "out"), DetectorConfig.load(None, config.settings)
    if settings.leave_out:
        raise InputError(
            f"--set leave_out has no effect in the protocol {PROTOCOL}",
            expected="settings of the training alone",
            got=f"leave_out={','.join(settings.leave_out)}",
            remedy="Each laboratory is left out in turn; name fewer fields with --source.",
        )
    given = _opened(config.sources)
    folds = leave_one_out(given, seed=config.seed)
    asked = {"settings": settings.model_dump(mode="json"), "sources": [each.fingerprint for each in given]}
    request = {"job": "benchmark", "asked": {"protocol": PROTOCOL, "seed": config.seed, **asked}}
    inputs = [*map(fields_path, config.sources), *settings.named_paths()]
    with open_run(out, request, overwrite=overwrite, inputs=inputs, grows=True, say=say) as folder:
        name = " + ".join(each.name for each in given)
        ended = [_ended(fold, settings, folder, name, seed=config.seed, say=say) for fold in folds]
        report = make_report(
            f"{DETECTOR}: {PROTOCOL} on {name}",
            f"{PROTOCOL}, trained on all laboratories but one, tested on that one",
            Results(
                detections=[each for detections, _ in ended for each in detections],
                failures=[failure for _, failure in ended if failure],
                curves=read_curves([_run_dir(folder, fold, settings) for fold in folds], DETECTOR, group=PROTOCOL),
            ),
            data=[field_card(each, "train and test") for each in given],
            methods={DETECTOR: settings.model_dump(mode="json")},
            seed=config.seed,
        )
        return finish_run(folder, report)


def _ended(
    fold: Fold, settings: DetectorConfig, folder: Path, name: str, *, seed: int, say: Say
) -> tuple[list[Detection], Failure | None]:
    """The scores of one fold, or why there are none."""
    say(f"without {fold.laboratory}: training on {sum(map(len, fold.parts.learn))} field(s)")
    try:
        detector = _fitted(fold, settings, _run_dir(folder, fold, settings))
        names = TestedDetector(detector=DETECTOR, source=f"all but {fold.laboratory}", target=name, seen="none")
        return detections_of(detector, fold.test, names, None, seed=seed, say=say), None
    except HemalensError as error:
        say(f"without {fold.laboratory}: {error}")
        return [], Failure(method=DETECTOR, protocol=PROTOCOL, source=name, target=fold.laboratory, error=str(error))


def _opened(specs: Sequence[str]) -> list[FieldDataset]:
    """The fields of all sources; raises `InputError` for data of another kind."""
    for spec in specs:
        if not is_fields(spec):
            raise InputError(
                f"the protocol {PROTOCOL} takes fields with boxes",
                expected=f"--source {' or '.join(f'{name}:PATH' for name in FIELD_READERS)}",
                got=one_line(spec),
            )
    return fields_of([open_fields(spec) for spec in dict.fromkeys(specs)])


def leave_one_out(given: Sequence[FieldDataset], *, seed: int) -> list[Fold]:
    """A fold for each laboratory; no copy of a field that is tested is learned, whatever part either was given in.

    Raises `InputError` for fields of one laboratory, and `DatasetError` where nothing is left to learn.
    """
    whole = [_without_parts(each) for each in given]
    labs = list(dict.fromkeys(field.record.domain for each in whole for field in each.fields))
    if len(labs) < 2:
        raise InputError(
            f"the protocol {PROTOCOL} needs fields of two laboratories or more",
            got=f"one laboratory, {one_line(labs[0])}",
            remedy="Name more fields with --source.",
        )
    folds = []
    for lab in labs:
        parts = split_fields(whole, leave_out=[lab], test_fraction=0, seed=seed, unreadable="refuse")
        test = [each.subset(i for i, f in enumerate(each.fields) if f.record.domain == lab) for each in whole]
        folds.append(Fold(lab, parts, tuple(each for each in test if len(each))))
    return folds


def _without_parts(dataset: FieldDataset) -> FieldDataset:
    fields = (replace(field, record=replace(field.record, part=None)) for field in dataset.fields)
    return replace(dataset, fields=tuple(fields))


def _run_dir(folder: Path, fold: Fold, settings: StrictConfig) -> Path:
    """The folder of a training, named by a digest of its fields, settings and versions."""
    request = {
        "train": [each.fingerprint for each in fold.parts.learn],
        "masks": fold.parts.masks,
        "settings": settings.model_dump(mode="json"),
        "versions": library_versions(),
    }
    key = sha256_text(json.dumps(request, sort_keys=True, default=str))
    run_dir = folder / FITS / key[:16]
    if not run_dir.exists():
        run_dir.mkdir(parents=True)
        write_sealed(run_dir / "fit.json", {"key": key, "without": fold.laboratory, **request})
    return run_dir


def _fitted(fold: Fold, config: DetectorConfig, run_dir: Path) -> Detector:
    """The detector of a finished training in `run_dir`, or a new one."""
    from hemalens.methods.detector import fit_detector

    with suppress(BundleError):
        return open_detector(run_dir / DETECTOR)
    parts = fold.parts
    return fit_detector(parts.learn, config=config, run_dir=run_dir, dropped=parts.dropped, left_out=parts.left_out)
