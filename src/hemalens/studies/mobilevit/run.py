"""MobileViT on bone-marrow cells: a small vision transformer and four convolutional networks, from random weights.

Published: `--data cells=matek19:AML-Cytomorphology_LMU`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hemalens.datasets.splits import seeded
from hemalens.evaluation.evaluate import evaluate
from hemalens.evaluation.results import Evaluation, Report, TrainingCurve
from hemalens.evaluation.significance import compare
from hemalens.methods import find_method
from hemalens.methods.mobilevit import MobileVitConfig
from hemalens.models.cost import count_backbone
from hemalens.report.compose import Results, make_report
from hemalens.report.gallery import sample_gallery
from hemalens.runs.curves import read_curve
from hemalens.runs.folders import finish_run, fit_or_resume, method_request, open_run
from hemalens.runs.inputs import report_inputs
from hemalens.studies.base import Study, StudyOptions, input_paths
from hemalens.studies.mobilevit.images import Parts, divide, draw_cells
from hemalens.studies.mobilevit.settings import ROWS, departures, network_configs, split_settings
from hemalens.studies.mobilevit.tables import accuracy_table, class_table, size_table

FITS = "fits"
"""Folder of the trainings, one a network, in the folder of the run."""


def run(data: Mapping[str, Sequence[str]], options: StudyOptions) -> Report:
    """Train every network on the same images, test all on the same others; the same call resumes."""
    config, own = split_settings(options.settings)
    configs = network_configs(config, own, published_only=options.published_only)
    cells = draw_cells(data["cells"][0], config, options.seed)
    parts = divide(cells.inputs.dataset, config, options.seed)
    method = find_method("mobilevit")
    request = {
        "job": "study mobilevit",
        "study": config.model_dump(mode="json"),
        "rows": [method_request(method, each) for each in configs.values()],
        "data": cells.inputs.dataset.fingerprint,
        "published only": options.published_only,
        "seed": options.seed,
    }
    with open_run(
        options.out, request, overwrite=options.overwrite, inputs=input_paths(data, options.settings), say=options.say
    ) as folder:
        options = replace(options, out=folder)
        validated = f"{len(parts.scored)} for validation, " if config.validation_fraction else ""
        counts = f"{len(parts.train)} training images, {validated}{len(parts.test)} for the test"
        report_inputs(options.say, [cells.inputs], counts)
        evaluations = {name: _tested(name, each, parts, options) for name, each in configs.items()}
        classes = parts.train.classes
        report = make_report(
            f"MobileViT and others on {cells.inputs.dataset.name}",
            f"study mobilevit: {counts}; the same split and settings for {len(configs)} networks",
            Results(
                evaluations=list(evaluations.values()),
                comparisons=[] if options.published_only else compare(list(evaluations.values()), seed=options.seed),
                tables=[
                    accuracy_table(
                        evaluations,
                        departures=departures(data["cells"][0], cells.n_found, config, configs),
                        epoch=_epoch(next(iter(configs.values()))),
                        published_only=options.published_only,
                    ),
                    size_table({name: count_backbone(each, n_classes=len(classes)) for name, each in configs.items()}),
                    class_table(cells, parts.train, next(iter(configs.values()))),
                ],
                differences=STUDY.differences,
                pictures=[sample_gallery(cells.inputs.dataset, title="Cells of each class", seed=options.seed)],
                curves=_curves(configs, options.out, part="validation" if config.validation_fraction else "test"),
            ),
            data=[cells.inputs.card],
            methods={ROWS.get(name, name): each.model_dump(mode="json") for name, each in configs.items()},
            seed=options.seed,
        )
        return finish_run(options.out, report)


def _tested(name: str, config: MobileVitConfig, parts: Parts, options: StudyOptions) -> Evaluation:
    """Train a network, or open it where it is trained, and test it."""
    shown = ROWS.get(name, name)
    options.say(f"{shown}: {config.epochs} epochs")
    folder, rng = options.out / FITS / name, seeded(options.seed, "fit")
    bundle = fit_or_resume(folder, find_method("mobilevit"), parts.train, validation=parts.scored, config=config, rng=rng)
    cells = parts.test.name
    found = evaluate([bundle], [parts.test], target=parts.test, source_name=cells, seed=options.seed)
    return found.model_copy(update={"method": shown, "name": f"{shown}: {cells}, test part"})


def _curves(configs: Iterable[str], out: Path, *, part: str) -> list[TrainingCurve]:
    """Loss and accuracy of every network against the epoch; `part` is what each epoch is scored on."""
    found = (read_curve(out / FITS / name, ROWS.get(name, name), group="all networks", part=part) for name in configs)
    return [curve for curve in found if curve is not None]


def _epoch(config: MobileVitConfig) -> str:
    """The epoch whose weights are tested, in words."""
    best = f"the best epoch by validation {config.selection_score.replace('_', ' ')}, of {config.epochs}"
    return best if config.kept_epoch == "best" else f"the last of {config.epochs} epochs"


STUDY = Study.of("mobilevit", run)
