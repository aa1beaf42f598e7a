"""MobileViT on bone-marrow cells: a small vision transformer and four convolutional networks, from random weights.

Published: `--data cells=matek19:AML-Cytomorphology_LMU`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from hemalens.config import StrictConfig
from hemalens.datasets import CellDataset
from hemalens.datasets.splits import capped, check_classes, hold_out, seeded
from hemalens.errors import InputError
from hemalens.evaluation.evaluate import evaluate
from hemalens.evaluation.results import ComparisonTable, Evaluation, Report
from hemalens.evaluation.significance import compare
from hemalens.methods import find_method
from hemalens.methods.mobilevit import MobileVitConfig
from hemalens.models.cost import Counted, count_backbone
from hemalens.report.compose import Results, make_report
from hemalens.runs.folders import finish_run, fit_or_resume, method_request, start_run
from hemalens.runs.inputs import Inputs, open_inputs, report_inputs
from hemalens.studies.base import Study, StudyOptions, published

FIT = "fit."
"""Prefix of settings that go to every network."""
ROWS = {
    "resnet50": "ResNet-50",
    "densenet121": "DenseNet-121",
    "mobilenetv2_100": "MobileNetV2",
    "mobilenetv3_large_100": "MobileNetV3",
    "mobilevit_xs": "MobileViT",
}
"""timm's name of each network, and the paper's. MobileViT takes 256 px, the others 224; `fit.image_size_px` sets all."""
SIZE_PX = {"mobilevit_xs": 256}


class MobileVitStudyConfig(StrictConfig):
    """The published protocol: the same split and the same settings for all networks, a tenth of the images for the test.

    `n_images`: how many images are used, 0 for all. The paper uses 6,033 of 18,365 and does not list them; here small
    classes are whole, and larger ones have the same number, drawn at random. `rows`: networks by
    timm's names, empty for the five.
    """

    labels: str = "fab_eight"
    min_per_class: int = Field(default=10, ge=1)
    n_images: int = Field(default=6033, ge=0)
    test_fraction: float = Field(default=0.1, gt=0, lt=1)
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    rows: tuple[str, ...] = Field(default=(), strict=False)


def run(data: Mapping[str, Sequence[str]], options: StudyOptions) -> Report:
    """Train every network on the same images, test all on the same others; the same call resumes."""
    out, seed, say = options.out, options.seed, options.say
    config = MobileVitStudyConfig.load(None, [s for s in options.settings if not s.startswith(FIT)])
    networks = config.rows or tuple(ROWS)
    own = [s.removeprefix(FIT) for s in options.settings if s.startswith(FIT)]
    configs = {name: _config(name, own) for name in networks}
    cells = _cells(data["cells"][0], config, seed)
    learn, validation, test = _parts(cells.dataset, config, seed)
    method = find_method("mobilevit")
    request = {
        "job": "study mobilevit",
        "study": config.model_dump(mode="json"),
        "rows": [method_request(method, each) for each in configs.values()],
        "data": cells.dataset.fingerprint,
        "seed": seed,
    }
    start_run(out, request, overwrite=options.overwrite, say=options.say)
    report_inputs(say, [cells], f"{len(learn)} training images, {len(validation)} for validation, {len(test)} for the test")
    evaluations: list[Evaluation] = []
    counts: dict[str, Counted] = {}
    for name, each in configs.items():
        say(f"{ROWS.get(name, name)}: {each.epochs} epochs")
        rng = seeded(seed, "fit")
        bundle = fit_or_resume(out / "fits" / name, method, learn, validation=validation, config=each, rng=rng)
        found = evaluate([bundle], [test], target=test, source_name=cells.dataset.name, seed=seed)
        shown = ROWS.get(name, name)
        named = {"method": shown, "name": f"{shown}: {cells.dataset.name}, test part"}
        evaluations.append(found.model_copy(update=named))
        counts[name] = count_backbone(each, n_classes=len(learn.classes))
    comparable = data["cells"][0].startswith("matek19:")
    report = make_report(
        f"MobileViT and others on {cells.dataset.name}",
        f"study mobilevit: {len(learn)} images, the same split and settings for {len(networks)} networks",
        Results(
            evaluations=evaluations,
            comparisons=compare(evaluations, seed=seed),
            tables=[
                accuracy_table(dict(zip(networks, evaluations, strict=True)), comparable=comparable),
                size_table(counts),
            ],
        ),
        data=[cells.card],
        methods={ROWS.get(name, name): each.model_dump(mode="json") for name, each in configs.items()},
        seed=seed,
    )
    return finish_run(out, report)


def _config(name: str, settings: Sequence[str]) -> MobileVitConfig:
    base: dict[str, Any] = {"backbone": name, "image_size_px": SIZE_PX.get(name, 224)}
    return MobileVitConfig.load(None, settings, base=base)


def _cells(spec: str, config: MobileVitStudyConfig, seed: int) -> Inputs:
    given = open_inputs(spec, role="cells", labels=config.labels, min_per_class=config.min_per_class)
    n = config.n_images
    if n == 0 or n >= len(given.dataset):
        if n > len(given.dataset):
            raise InputError(
                f"{given.dataset.name} has fewer images than the study uses",
                expected=f"{n}",
                got=str(len(given.dataset)),
                remedy="Use --set n_images=NUMBER with a smaller one, or 0 for all.",
            )
        return given
    drawn = capped(given.dataset, n, seeded(seed, "images"))
    dropped = {"images that the study leaves out": len(given.dataset) - len(drawn)}
    card = given.card.model_copy(
        update={"n_images": len(drawn), "class_counts": drawn.class_counts, "dropped": {**given.card.dropped, **dropped}}
    )
    shown = ", ".join(f"{label} {count}" for label, count in drawn.class_counts.items())
    return replace(given, dataset=drawn, card=card, notes=(*given.notes, f"{drawn.name}: {n} images drawn: {shown}"))


def _parts(cells: CellDataset, config: MobileVitStudyConfig, seed: int) -> tuple[CellDataset, CellDataset, CellDataset]:
    check_classes(cells, n_units=3, purpose="training, validation and test")
    rest, test = hold_out(cells, config.test_fraction, seeded(seed, "test"))
    learn, validation = hold_out(rest, config.validation_fraction, seeded(seed, "validation"))
    return learn, validation, test


def accuracy_table(evaluations: Mapping[str, Evaluation], *, comparable: bool) -> ComparisonTable:
    """Accuracies; the published ones only where the cells are Matek-19's."""
    reference = published("mobilevit")["rows"]
    rows = [
        (
            ROWS.get(name, name),
            found.scores.accuracy.value,
            reference.get(name, {}).get("accuracy") if comparable else None,
            found.scores.balanced_accuracy.value,
        )
        for name, found in evaluations.items()
    ]
    note = f"Majority rate {next(iter(evaluations.values())).scores.majority_rate:.3f}. "
    note += "Published: the last of 200 epochs on 10 % of the images."
    columns = ("network", "accuracy", "published", "balanced accuracy")
    return ComparisonTable(title="Accuracy", columns=columns, rows=tuple(rows), note=note)


def size_table(counts: Mapping[str, Counted]) -> ComparisonTable:
    """FLOPs and parameters, with the published figures."""
    reference = published("mobilevit")["rows"]
    rows = []
    for name, counted in counts.items():
        there = reference.get(name, {})
        flops, parameters = f"{counted.layer_flops / 1e9:.3f}", f"{counted.parameters / 1e6:.3f}"
        row = (counted.input_px, flops, there.get("gflops"), parameters, there.get("parameters_m"))
        rows.append((ROWS.get(name, name), *row))
    note = (
        "FLOPs are twice the multiply-adds of convolutions and linear layers, apparently as in the paper; attention, "
        "norms and activations are left out. Parameters, in millions, with a head of these classes."
    )
    columns = ("network", "px", "GFLOPs", "published", "parameters", "published")
    return ComparisonTable(title="Work and size", columns=columns, rows=tuple(rows), note=note)


STUDY = Study.of("mobilevit", run)
