"""Train one method on one dataset, and test it on a part it never saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hemalens.bundle.bundle import Bundle
from hemalens.config import StrictConfig
from hemalens.datasets import CellDataset
from hemalens.progress import Say
from hemalens.errors import SplitError
from hemalens.evaluation.evaluate import evaluate
from hemalens.datasets.leaks import refuse_leaks
from hemalens.evaluation.results import Evaluation, Report
from hemalens.runs.auxiliary import mask_note, open_auxiliary, refuse_learned
from hemalens.runs.inputs import Prepared, prepare, tell
from hemalens.report.compose import Results, make_report, method_card
from hemalens.runs.folders import asked_of, claim_run, finish_run, fit_in
from hemalens.methods import Method, find_method
from hemalens.datasets.splits import Unreadable, check_classes, hold_out, seeded
from hemalens.bundle.segmenter import cell_image_stages
from hemalens.bundle.stages import Stage


def train(
    method_name: str,
    train_specs: str | Sequence[str],
    *,
    out: Path,
    labels: str = "five_class",
    validation_spec: str | None = None,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.15,
    min_per_class: int = 1,
    auxiliary_specs: Sequence[tuple[str, str]] = (),
    cell_image: str | None = None,
    config_file: Path | None = None,
    settings: Sequence[str] = (),
    seed: int = 0,
    overwrite: bool = False,
    drop_unreadable: bool = False,
    say: Say = lambda text: None,
) -> Report:
    """Train, write `out`/bundle, and report on the held-out test part; the same call resumes a stopped run.

    Several `train_specs` are one dataset under one label map; test and validation parts are taken from each of them.
    `test_fraction` of the data is tested and never trained on; `validation_fraction` of the rest (or `validation_spec`)
    serves early stopping and calibration. With `test_fraction` 0 nothing is tested and the report says so.
    `auxiliary_specs` are (role, name) of further sets that the method has a use for. `cell_image` names the segmenter that
    cuts the cells out first, or is "centred".
    """
    method = find_method(method_name)
    config = method.config.load(config_file, settings)
    stages = cell_image_stages(cell_image)
    unreadable: Unreadable = "drop" if drop_unreadable else "refuse"
    role = "train, validation and test" if test_fraction else "train and validation"
    wanted: dict[str, Any] = {"labels": labels, "unreadable": unreadable, "stages": stages}
    given = prepare(train_specs, role=role, min_per_class=min_per_class, **wanted)
    check_classes(given.dataset, n_units=1 + bool(test_fraction) + (validation_spec is None))
    held = prepare(validation_spec, role="validation", **wanted) if validation_spec else None
    more = open_auxiliary([method], auxiliary_specs, **wanted)
    opened = [given, *([held] if held else []), *more.values()]
    learn, validation, test = parts = _split(given.dataset, held, test_fraction, validation_fraction, seed)
    auxiliary = {name: each.dataset for name, each in more.items()}
    refuse_learned([method], auxiliary, [validation, *([test] if test else [])])
    tell(say, opened, mask_note(config, learn))
    request = _request(method, config, parts, auxiliary, stages) | {"seed": seed}
    claim_run(out, request, overwrite=overwrite, say=say)
    n_test = len(test) if test else 0
    say(f"training on {len(learn)} images, {len(validation)} for validation, {n_test} held out for the test")
    fit: dict[str, Any] = {"auxiliary": auxiliary, "config": config, "rng": seeded(seed, "fit")}
    bundle = fit_in(out, method, learn, validation=validation, **fit)
    report = make_report(
        f"{method.name} on {given.dataset.name}",
        f"one split: {test_fraction:.0%} held out for the test" if test else "no test part",
        Results(
            evaluations=_tested(bundle, test, given.dataset.name, seed) if test else [],
            pictures=[method.show(bundle, test or learn)] if method.show else [],
        ),
        data=[each.card for each in opened],
        methods={method.name: config.model_dump(mode="json")},
        method_cards=[method_card(method, method.name, [each.card for each in opened])],
        seed=seed,
    )
    return finish_run(out, report)


def _tested(bundle: Bundle, test: CellDataset, source_name: str, seed: int) -> list[Evaluation]:
    """The test part as a whole, and each of several sets in it that shows two classes or more on its own."""
    alone = [part for part in test.by_source() if np.count_nonzero(list(part.class_counts.values())) > 1]
    targets = [test, *(alone if len(test.sources) > 1 else [])]
    return [evaluate([bundle], [part], target=part, source_name=source_name, seed=seed) for part in targets]


_Parts = tuple[CellDataset, CellDataset, CellDataset | None]
"""(training, validation, test)."""


def _request(
    method: Method,
    config: StrictConfig,
    parts: _Parts,
    auxiliary: Mapping[str, CellDataset],
    stages: tuple[Stage, ...],
) -> dict[str, Any]:
    """What makes a run another one."""
    learn, validation, test = parts
    return asked_of(method, config) | {
        "job": "train",
        "train": learn.fingerprint,
        "validation": validation.fingerprint,
        "test": test.fingerprint if test else None,
        "auxiliary": {role: dataset.fingerprint for role, dataset in auxiliary.items()},
        "before": [stage.digest for stage in stages],
    }


def _split(
    dataset: CellDataset, held: Prepared | None, test_fraction: float, validation_fraction: float, seed: int
) -> _Parts:
    """(training, validation, test) parts; no image or group in two of them."""
    test = None
    if test_fraction:
        dataset, test = hold_out(dataset, test_fraction, seeded(seed, "test"))
    if held is not None:
        refuse_leaks(set(dataset.contents), held.dataset)
        if test is not None:
            refuse_leaks(set(held.dataset.contents), test)
        validation = held.dataset.under(dataset.classes)
        if not len(validation):
            raise SplitError(
                f"the validation data {validation.name} shares no class with the training data",
                expected=", ".join(dataset.classes),
                got=", ".join(held.dataset.classes),
            )
        return dataset, validation, test
    learn, validation = hold_out(dataset, validation_fraction, seeded(seed, "validation"))
    return learn, validation, test
