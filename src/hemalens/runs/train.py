"""Train a method on a dataset, and test it on a held-out part."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from hemalens.bundle.bundle import Bundle
from hemalens.bundle.segmenter import cell_image_stages
from hemalens.bundle.stages import Stage
from hemalens.config import StrictConfig, check_text, check_texts, checked
from hemalens.datasets import CellDataset
from hemalens.datasets.open import check_spec, check_specs, spec_path
from hemalens.datasets.splits import Unreadable, seeded
from hemalens.errors import InputError, public
from hemalens.evaluation.evaluate import evaluate
from hemalens.evaluation.results import Evaluation, Report
from hemalens.files import PathLike, as_path
from hemalens.methods import Method, find_method
from hemalens.progress import Say
from hemalens.report.compose import Results, make_report, method_card
from hemalens.runs.auxiliary import mask_note, open_auxiliary, refuse_learned
from hemalens.runs.curves import read_curves
from hemalens.runs.folders import finish_run, fit_or_resume, method_request, open_run
from hemalens.runs.inputs import Inputs, open_inputs, report_inputs
from hemalens.runs.split import Parts, Protocol, split


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """How the training data are read and split.

    `test_fraction` of the data is tested and never trained on; with 0 nothing is tested. `validation_fraction` of the
    remaining images, or the set `validation_spec`, serves early stopping and calibration. Of a set that is given in parts,
    its test and validation parts are taken instead; with 0, or a `validation_spec`, they are left out. Classes of fewer
    than `min_per_class` images are left out, and so are the laboratories `leave_out` of the training data, with all copies
    of their images. `auxiliary_specs` are (role, name) of further sets of the method. `cell_image` names the segmenter that
    cuts the cells out, or is "centred". `config_file` holds settings of the method, in TOML. With `strict` a label that is
    no cell type is an error.
    """

    labels: str = "five_class"
    validation_spec: PathLike | None = None
    test_fraction: float = 0.2
    validation_fraction: float = 0.15
    min_per_class: Annotated[int, Field(ge=1)] = 1
    auxiliary_specs: Sequence[tuple[str, PathLike]] = ()
    cell_image: PathLike | None = None
    config_file: PathLike | None = None
    drop_unreadable: bool = False
    strict: bool = False
    leave_out: Sequence[str] = ()

    @property
    def unreadable(self) -> Unreadable:
        """What happens to unreadable images."""
        return "drop" if self.drop_unreadable else "refuse"

    @property
    def settings_file(self) -> Path | None:
        """The file with settings of the method."""
        return None if self.config_file is None else as_path(self.config_file, "the file of settings")


DEFAULTS = TrainOptions()


def refuse_unused(options: TrainOptions, used: Collection[str], problem: str) -> None:
    """Raise `InputError`, which begins with `problem`, for an option other than `used` that is not the default."""
    useless = [f.name for f in fields(TrainOptions) if f.name not in used]
    given = [name for name in useless if getattr(options, name) != getattr(DEFAULTS, name)]
    if given:
        raise InputError(
            problem, expected=f"no option but {', '.join(used)}", got=", ".join(given), remedy="Leave these options out."
        )


@public
def train(
    method_name: str,
    train_specs: PathLike | Sequence[PathLike],
    *,
    out: PathLike,
    settings: Sequence[str] = (),
    options: TrainOptions = DEFAULTS,
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Report:
    """Train a method, write `out`/bundle, and report on the held-out test part; the same call resumes a stopped run.

    Several `train_specs` are one dataset under one label map; each is split on its own. `settings` are the method's, as
    key=value.
    """
    check_text(method_name, "the method")
    check_texts(settings, "the settings")
    options = checked(options, TrainOptions)
    out, train_specs = as_path(out, "out"), check_specs(train_specs, "the training data")
    method = find_method(method_name)
    config = method.config.load(options.settings_file, settings)
    data = _open(method, train_specs, options, seed)
    learn, validation, test = data.parts
    report_inputs(say, data.inputs, mask_note(config, learn), *data.protocol.notes)
    request = _request(method, config, data) | {"seed": seed}
    with open_run(out, request, overwrite=overwrite, inputs=_input_paths(train_specs, options, config), say=say) as folder:
        n_test = len(test) if test else 0
        say(data.protocol.text)
        say(f"training on {len(learn)} images, {len(validation)} for validation, {n_test} held out for the test")
        bundle = fit_or_resume(
            folder, method, learn, validation=validation, auxiliary=data.auxiliary, config=config, rng=seeded(seed, "fit")
        )
        cards = [each.card for each in data.inputs]
        report = make_report(
            f"{method.name} on {data.name}",
            data.protocol.text,
            Results(
                evaluations=_tested(bundle, test, data.name, seed) if test else [],
                pictures=[method.show(bundle, test or learn)] if method.show else [],
                curves=read_curves([folder], method.name),
            ),
            data=cards,
            methods={method.name: config.model_dump(mode="json")},
            method_cards=[method_card(method, method.name, cards)],
            seed=seed,
        )
        return finish_run(folder, report)


def _input_paths(train_specs: Sequence[str], options: TrainOptions, config: StrictConfig) -> list[Path]:
    """Everything that a training reads."""
    specs = [*train_specs, options.validation_spec]
    named = [*specs, *(spec for _, spec in options.auxiliary_specs), options.config_file, options.cell_image]
    return [*(spec_path(spec) for spec in named if spec), *config.named_paths()]


@dataclass(frozen=True, slots=True)
class _Data:
    """All data of a run: the inputs as opened, the parts of the training data, the auxiliary sets by role, the stages."""

    inputs: Sequence[Inputs]
    parts: Parts
    protocol: Protocol
    auxiliary: Mapping[str, CellDataset]
    stages: tuple[Stage, ...]

    @property
    def name(self) -> str:
        """Name of the training data."""
        return self.inputs[0].dataset.name


def _open(method: Method, train_specs: Sequence[str], options: TrainOptions, seed: int) -> _Data:
    """Open and split the data; raises `SplitError` where an image is in two parts."""
    segmenter = None if options.cell_image is None else check_spec(options.cell_image, "the segmenter")
    labels, unreadable, stages = options.labels, options.unreadable, cell_image_stages(segmenter)
    given = open_inputs(
        train_specs,
        role="train, validation and test" if options.test_fraction else "train and validation",
        labels=labels,
        min_per_class=options.min_per_class,
        unreadable=unreadable,
        strict=options.strict,
    )
    given = given.without_laboratories(options.leave_out, options.min_per_class).through(stages)
    held = None
    if options.validation_spec:
        held = open_inputs(
            options.validation_spec,
            role="validation",
            labels=labels,
            unreadable=unreadable,
            stages=stages,
            strict=options.strict,
        )
    more = open_auxiliary([method], options.auxiliary_specs, labels=labels, unreadable=unreadable, stages=stages)
    held_set = held.dataset if held else None
    parts, protocol = split(
        given.dataset,
        held_set,
        test_fraction=options.test_fraction,
        validation_fraction=options.validation_fraction,
        seed=seed,
    )
    auxiliary = {name: each.dataset for name, each in more.items()}
    refuse_learned([method], auxiliary, [part for part in parts[1:] if part is not None])
    return _Data([given, *([held] if held else []), *more.values()], parts, protocol, auxiliary, stages)


def _tested(bundle: Bundle, test: CellDataset, source_name: str, seed: int) -> list[Evaluation]:
    """Evaluations of the test part as a whole, and of each of several sets in it that has two classes or more."""
    alone = [part for part in test.by_source() if np.count_nonzero(list(part.class_counts.values())) > 1]
    targets = [test, *(alone if len(test.sources) > 1 else [])]
    return [evaluate([bundle], [part], target=part, source_name=source_name, seed=seed) for part in targets]


def _request(method: Method, config: StrictConfig, data: _Data) -> dict[str, Any]:
    """What identifies the run."""
    learn, validation, test = data.parts
    return method_request(method, config) | {
        "job": "train",
        "train": learn.fingerprint,
        "validation": validation.fingerprint,
        "test": test.fingerprint if test else None,
        "auxiliary": {role: dataset.fingerprint for role, dataset in data.auxiliary.items()},
        "before": [stage.digest for stage in data.stages],
    }
