"""Tables of the study, beside the published numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hemalens.datasets import CellDataset
from hemalens.datasets.splits import balanced_weights
from hemalens.evaluation.results import ComparisonTable, Evaluation
from hemalens.methods.mobilevit import MobileVitConfig
from hemalens.models.cost import Counted
from hemalens.studies.mobilevit.images import Cells
from hemalens.studies.mobilevit.settings import ROWS, published_rows

CONTRADICTION = (
    "The paper's tables print an accuracy of 0.964 for MobileViT, its abstract and introduction 97 %. It does not say "
    "which epoch its accuracies are from."
)
COUNTER = (
    "FLOPs and parameters as thop 0.0.31 counts them: twice the multiply-adds of convolutions and linear layers, four "
    "FLOPs for each output of a batch norm, no attention products and no layer norms. By this counter the FLOPs printed "
    "for MobileNetV2 and MobileNetV3 are exchanged. Published: 224 px, MobileViT 256 px, eight classes."
)


def accuracy_table(
    evaluations: Mapping[str, Evaluation], *, departures: Sequence[str], epoch: str, published_only: bool = False
) -> ComparisonTable:
    """Accuracy of each network by timm's name; `departures` are reasons why the published ones are not comparable."""
    reference = published_rows()
    shown = "published" if not departures else "published, not comparable"
    columns = ("network", "accuracy", shown, *(() if published_only else ("balanced accuracy",)))
    rows = []
    for name, found in evaluations.items():
        row = (ROWS.get(name, name), found.scores.accuracy.value, reference.get(name, {}).get("accuracy"))
        rows.append(row if published_only else (*row, found.scores.balanced_accuracy.value))
    majority = next(iter(evaluations.values())).scores.majority_rate
    note = f"Weights of {epoch}. Majority rate {majority:.3f}. {CONTRADICTION}"
    if departures:
        note += f" Not comparable: {', '.join(departures)}."
    return ComparisonTable(title="Accuracy", columns=columns, rows=tuple(rows), note=note)


def size_table(counts: Mapping[str, Counted]) -> ComparisonTable:
    """FLOPs and parameters of each network by timm's name, with the published figures."""
    reference = published_rows()
    rows = []
    for name, counted in counts.items():
        there = reference.get(name, {})
        flops, parameters = f"{counted.thop_flops / 1e9:.3f}", f"{counted.thop_parameters / 1e6:.3f}"
        row = (counted.input_px, flops, there.get("gflops"), parameters, there.get("parameters_m"))
        rows.append((ROWS.get(name, name), *row))
    columns = ("network", "px", "GFLOPs", "published", "parameters, M", "published")
    return ComparisonTable(title="Work and size", columns=columns, rows=tuple(rows), note=COUNTER)


def class_table(cells: Cells, train: CellDataset, config: MobileVitConfig) -> ComparisonTable:
    """Images of each class: in the set, used, in the training part, and drawn in an epoch with the sampler, on average."""
    n_draws = config.images_per_epoch or len(train)
    even = config.sampling == "balanced"
    weights = balanced_weights(train.targets) if even else np.full(len(train), 1 / len(train))
    drawn = n_draws * np.bincount(train.targets, weights, minlength=len(train.classes))
    rows = [
        (
            label,
            cells.available[label],
            cells.inputs.dataset.class_counts[label],
            train.class_counts[label],
            f"{drawn[i]:.0f}",
        )
        for i, label in enumerate(train.classes)
    ]
    how = "each class equally often" if even else "in the mix of the training part: the sampler is off"
    note = f"An epoch draws {n_draws:,} images, {how}. Without the sampler it has the mix of the training part."
    columns = ("class", "in the set", "used", "training part", "an epoch, on average")
    return ComparisonTable(title="Classes before and after the sampler", columns=columns, rows=tuple(rows), note=note)
