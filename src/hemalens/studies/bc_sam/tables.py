"""The tables and pictures of the BC-SAM study, with the published numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hemalens.evaluation.results import ComparisonTable, Estimate, PictureTable
from hemalens.methods.bc_sam import reconstruction_table
from hemalens.studies.base import published
from hemalens.studies.bc_sam.latents import Material, Row, Side
from hemalens.studies.bc_sam.scores import Cell, Gain
from hemalens.training.autoencoder import reconstruct

PUBLISHED_SETS = {"matek19": "M", "acevedo20": "A"}
N_DRAWN = 4
"""Cells of each laboratory that are shown."""
TABLE_NOTE = (
    "Mean over folds. Features are the pooled features. The other rows are latents of an autoencoder. A TRANSDUCTIVE one "
    "(as published) is trained on all images of both laboratories, the tested ones included, without labels. An inductive "
    "one is trained on their training folds, and each fold's model is tested on that fold of the other laboratory. "
)


def accuracy_table(cells: Sequence[Cell], sides: Sequence[Side], label_map: str) -> ComparisonTable:
    """The paper's table: accuracy in %, mean ± population standard deviation over folds, and the published rows."""
    pairs = _pairs(sides)
    columns = ["method", "autoencoder trained on", *(_arrow(pair) for pair in pairs), "mean"]
    by_task = _by_task(cells)
    rows: list[tuple[str | int | float | None, ...]] = []
    for row, protocol, head in _lines(cells):
        found = [by_task.get((row, protocol, head, *pair)) for pair in pairs]
        scores = [cell.evaluation.scores.accuracy if cell else None for cell in found]
        values = [s.value for s in scores if s is not None and s.value is not None]
        mean = f"{100 * float(np.mean(values)):.1f}" if len(values) == len(pairs) else None
        n = [cell.evaluation.n_folds if cell else 1 for cell in found]
        shown = [_percent(s, n_folds) for s, n_folds in zip(scores, n, strict=True)]
        rows.append((f"{row}, {head}", _trained_on(protocol), *shown, mean))
    rates = [_majority(cells, pair) for pair in pairs]
    rows.append(("most frequent class", "", *rates, None))
    letters = [PUBLISHED_SETS.get(side.dataset.name) for side in sides]
    if sorted(filter(None, letters)) == ["A", "M"] and label_map == "thirteen_class":
        own = dict(zip([side.key for side in sides], letters, strict=True))
        rows += [_published_row(row, [f"{own[a]}_{own[b]}" for a, b in pairs]) for row in published("bc_sam")["row"]]
        note = ""
    else:
        note = "The published numbers are for Matek-19 and Acevedo-20 under thirteen_class, and are left out."
    return ComparisonTable(
        title="Accuracy in %, trained on -> tested on",
        columns=tuple(columns),
        rows=tuple(rows),
        note=_names(sides) + TABLE_NOTE + note,
    )


def _published_row(row: Mapping[str, Any], keys: Sequence[str]) -> tuple[str | None, ...]:
    pairs = [row[key] for key in keys]
    values = [f"{value:.1f} ± {std:.1f}" if std else f"{value:.1f}" for value, std in pairs]
    mean = float(np.mean([value for value, _ in pairs]))
    return (f"published: {row['method']}", row["saw"], *values, f"{mean:.1f}")


def balanced_table(cells: Sequence[Cell], sides: Sequence[Side]) -> ComparisonTable:
    """Balanced accuracy with 95 % intervals."""
    pairs, by_task = _pairs(sides), _by_task(cells)
    rows = []
    for row, protocol, head in _lines(cells):
        found = [by_task.get((row, protocol, head, *pair)) for pair in pairs]
        shown = [_interval(cell.evaluation.scores.balanced_accuracy) if cell else None for cell in found]
        rows.append((f"{row}, {head}", _trained_on(protocol), *shown))
    n_classes = [len(cell.evaluation.tested_classes) if (cell := _any(cells, pair)) else None for pair in pairs]
    rows.append(("any constant prediction", "", *(f"{1 / n:.3f}" if n else None for n in n_classes)))
    return ComparisonTable(
        title="Balanced accuracy (95 % interval), trained on -> tested on",
        columns=("method", "autoencoder trained on", *(_arrow(pair) for pair in pairs)),
        rows=tuple(rows),
        note=_names(sides) + TABLE_NOTE + "Intervals by a bootstrap over the tested images within their classes.",
    )


def gain_table(gains: Sequence[Gain], sides: Sequence[Side]) -> ComparisonTable:
    """The gain of each autoencoder over the pooled features, under the same head and on the same test images."""
    pairs = _pairs(sides)
    of = {(gain.row, gain.protocol, gain.head, gain.source, gain.target): gain.difference for gain in gains}
    lines = list(dict.fromkeys((gain.row, gain.protocol, gain.head) for gain in gains))
    rows = []
    for line in lines:
        shown = [of.get((*line, *pair)) for pair in pairs]
        rows.append((f"{line[0]}, {line[2]}", _trained_on(line[1]), *(_gain(each) if each else None for each in shown)))
    return ComparisonTable(
        title="Does the autoencoder help? Balanced accuracy minus that of the pooled features",
        columns=("method", "autoencoder trained on", *(_arrow(pair) for pair in pairs)),
        rows=tuple(rows),
        note=_names(sides)
        + "Same head, same folds, same test images; paired 95 % intervals by a bootstrap over the tested "
        "images. An interval that holds 0 shows no difference; among many comparisons a few exclude 0 by chance.",
    )


def verdict(gains: Sequence[Gain]) -> str:
    """Whether the autoencoder helps in the other laboratory, in a sentence."""
    differences = [gain.difference for gain in gains if gain.source != gain.target]
    better = sum(each.low is not None and each.low > 0 for each in differences)
    worse = sum(each.high is not None and each.high < 0 for each in differences)
    return (
        f"The autoencoder against its input features, in the other laboratory: of {len(differences)} comparisons (kind of "
        f"autoencoder, head, direction) {better} are better and {worse} worse in balanced accuracy by a 95 % interval."
    )


def reconstructions(material: Material, rows: Sequence[Row]) -> list[PictureTable]:
    """Some cells of each laboratory, with the reconstruction of each autoencoder; nothing without autoencoders."""
    chosen = np.concatenate(
        [side.start + np.unique(np.linspace(0, len(side.dataset) - 1, N_DRAWN).astype(int)) for side in material.sides]
    )
    columns = {
        f"{row.name}, {row.protocol}": reconstruct(row.autoencoder, material.maps[chosen])
        for row in rows
        if row.autoencoder
    }
    records = [record for side in material.sides for record in side.dataset.records]
    note = "Left: the cell image; then its reconstructions from the latent (inductive autoencoders: the first fold's)."
    return (
        [reconstruction_table([records[i] for i in chosen], material.cells[chosen], columns, note=note)] if columns else []
    )


def _pairs(sides: Sequence[Side]) -> list[tuple[str, str]]:
    """(source, target) keys in the order of the published table."""
    first, second = (side.key for side in sides)
    return [(first, first), (first, second), (second, first), (second, second)]


NUMBERS = {"first": "1", "second": "2"}


def _arrow(pair: tuple[str, str]) -> str:
    return f"{NUMBERS[pair[0]]} -> {NUMBERS[pair[1]]}"


def _names(sides: Sequence[Side]) -> str:
    return ", ".join(f"{NUMBERS[side.key]} = {side.dataset.name}" for side in sides) + ". "


def _lines(cells: Sequence[Cell]) -> list[tuple[str, str | None, str]]:
    return list(dict.fromkeys((cell.row, cell.protocol, cell.head) for cell in cells))


def _by_task(cells: Sequence[Cell]) -> dict[tuple[str, str | None, str, str, str], Cell]:
    """The cells by row, protocol, head, source and target."""
    return {(cell.row, *cell.task): cell for cell in cells}


def _any(cells: Sequence[Cell], pair: tuple[str, str]) -> Cell | None:
    return next((cell for cell in cells if (cell.source, cell.target) == pair), None)


def _majority(cells: Sequence[Cell], pair: tuple[str, str]) -> str | None:
    cell = _any(cells, pair)
    rate = cell.evaluation.scores.majority_rate if cell else None
    return None if rate is None else f"{100 * rate:.1f}"


def _trained_on(protocol: str | None) -> str:
    return {"transductive": "all images", "inductive": "training folds", None: "–"}[protocol]


def _percent(estimate: Estimate | None, n_folds: int) -> str | None:
    if estimate is None or estimate.value is None:
        return None
    if estimate.std is None or n_folds < 2:
        return f"{100 * estimate.value:.1f}"
    # the published tables give the population's standard deviation
    return f"{100 * estimate.value:.1f} ± {100 * estimate.std * math.sqrt((n_folds - 1) / n_folds):.1f}"


def _interval(estimate: Estimate) -> str | None:
    if estimate.value is None:
        return None
    return f"{estimate.value:.3f} ({estimate.low:.3f}–{estimate.high:.3f})"


def _gain(estimate: Estimate) -> str | None:
    if estimate.value is None:
        return None
    return f"{estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"
