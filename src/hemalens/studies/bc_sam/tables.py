"""The tables and pictures of the BC-SAM study, with the published numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hemalens.evaluation.results import ComparisonTable, Estimate, PictureTable
from hemalens.methods.bc_sam import reconstruction_table
from hemalens.studies.base import published
from hemalens.studies.bc_sam.latents import DISCREPANCY_WORDS, POOLED, Material, Protocol, Row, Side
from hemalens.studies.bc_sam.scores import Cell, Gain

PUBLISHED_SETS = {"matek19": "M", "acevedo20": "A"}
N_DRAWN = 4
"""Cells of each laboratory that are shown."""
ROW_NOTES = {
    POOLED: "Features: the pooled feature maps, without an autoencoder. ",
    DISCREPANCY_WORDS["linear"]: "Linear MMD on all images: BC-SAM as published. ",
}
PROTOCOL_NOTES: dict[Protocol | None, str] = {
    "transductive": "All images: the autoencoder learns from those of both laboratories, the tested ones included, without "
    "labels (transductive). ",
    "inductive": "Training folds: it learns from those of both laboratories, and each fold's model is tested on that fold "
    "of the other one (inductive). ",
}
PUBLISHED_NOTE = (
    "Published numbers are as printed, without a deviation where none is printed. The rows of DoRL are of a later paper "
    "(arXiv 2408.07467) with the same folds and tests; its autoencoder learns from a third, private set as well. So does "
    "the authors' code of AE-CFE. "
)


def accuracy_table(cells: Sequence[Cell], sides: Sequence[Side], label_map: str) -> ComparisonTable:
    """The paper's table: accuracy on all images, mean ± population standard deviation over folds; the published rows."""
    pairs = _pairs(sides)
    by_task = _by_task(cells)
    shown = {task: [100 * accuracy for accuracy in cell.whole.accuracies] for task, cell in by_task.items()}
    rates = [100 * float(np.mean(cell.whole.majority_rates)) if (cell := _any(cells, pair)) else None for pair in pairs]
    rows = _accuracy_rows(cells, pairs, shown, rates)
    letters = [PUBLISHED_SETS.get(side.dataset.name) for side in sides]
    note = "An image of a type that the model cannot know counts as wrong, as published. "
    unknown = {pair: cell.whole.n_unknown for pair in pairs if (cell := _any(cells, pair)) and cell.whole.n_unknown}
    note += "".join(f"{_arrow(pair)}: {n:,} such images. " for pair, n in unknown.items())
    if sorted(filter(None, letters)) == ["A", "M"] and label_map == "thirteen_class":
        own = dict(zip([side.key for side in sides], letters, strict=True))
        rows += [_published_row(row, [f"{own[a]}_{own[b]}" for a, b in pairs]) for row in published("bc_sam")["row"]]
        note += PUBLISHED_NOTE
    else:
        note += "The published numbers are for Matek-19 and Acevedo-20 under thirteen_class, and are left out."
    return ComparisonTable(
        title="Accuracy in %, trained on -> tested on",
        columns=("method", "autoencoder trained on", *(_arrow(pair) for pair in pairs), "mean"),
        rows=tuple(rows),
        note=_note(cells, sides) + note,
    )


def restricted_table(cells: Sequence[Cell], sides: Sequence[Side]) -> ComparisonTable | None:
    """The same on the types that the model can know; None where it knows all."""
    if not any(cell.whole.n_unknown for cell in cells):
        return None
    pairs = _pairs(sides)
    shown = {task: [100 * accuracy for accuracy in cell.known_accuracies] for task, cell in _by_task(cells).items()}
    known = [cell.evaluation.scores.majority_rate if (cell := _any(cells, pair)) else None for pair in pairs]
    rates = [None if rate is None else 100 * rate for rate in known]
    return ComparisonTable(
        title="Accuracy in %, restricted to types of both laboratories",
        columns=("method", "autoencoder trained on", *(_arrow(pair) for pair in pairs), "mean"),
        rows=tuple(_accuracy_rows(cells, pairs, shown, rates)),
        note=_note(cells, sides) + "Images of types that the model cannot know are not tested here.",
    )


def _accuracy_rows(
    cells: Sequence[Cell],
    pairs: Sequence[tuple[str, str]],
    shown: Mapping[tuple[str, str | None, str, str, str], Sequence[float]],
    rates: Sequence[float | None],
) -> list[tuple[str | None, ...]]:
    """A row a method from the percentages of its folds, and the majority rates."""
    rows: list[tuple[str | None, ...]] = []
    for row, protocol, head in _lines(cells):
        folds = [shown.get((row, protocol, head, *pair)) for pair in pairs]
        means = [float(np.mean(values)) for values in folds if values]
        mean = f"{np.mean(means):.2f}" if len(means) == len(pairs) else None
        texts = [_percent(values) if values else None for values in folds]
        rows.append((f"{row}, {head}", _trained_on(protocol), *texts, mean))
    return [*rows, ("most frequent class", "", *(None if rate is None else f"{rate:.2f}" for rate in rates), None)]


def _published_row(row: Mapping[str, Any], keys: Sequence[str]) -> tuple[str | None, ...]:
    """As printed: two decimals, and one of a standard deviation."""
    values = [f"{value:.2f} ± {std:.1f}" if std else f"{value:.2f}" for value, std in (row[key] for key in keys)]
    return (f"published: {row['method']}", row["saw"], *values, f"{row['mean']:.2f}" if "mean" in row else None)


def accuracy_sentences(cells: Sequence[Cell], sides: Sequence[Side]) -> list[str]:
    """The range of accuracies on all images of the other laboratory, with the majority rate."""
    sentences = []
    names = {side.key: side.dataset.name for side in sides}
    for source, target in (pair for pair in _pairs(sides) if pair[0] != pair[1]):
        ranked = sorted(
            (cell for cell in cells if (cell.source, cell.target) == (source, target)),
            key=lambda cell: float(np.mean(cell.whole.accuracies)),
        )
        ends = [ranked[0], ranked[-1]] if len(ranked) > 1 else ranked
        values = [f"{100 * np.mean(e.whole.accuracies):.2f} % ({_line_words(e)})" for e in ends]
        rate = 100 * float(np.mean(ranked[0].whole.majority_rates))
        reach = f"runs from {values[0]} to {values[1]}" if len(values) > 1 else f"is {values[0]}"
        sentences.append(
            f"Accuracy on all images, {names[source]} -> {names[target]}, {reach}; always the most frequent class: "
            f"{rate:.2f} %."
        )
    return sentences


def _line_words(cell: Cell) -> str:
    return ", ".join(part for part in (cell.row, cell.head, cell.protocol) if part)


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
        note=_note(cells, sides) + "Intervals by a bootstrap over the tested images within their classes.",
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
    columns = {f"{row.name}, {row.protocol}": row.draw(material.maps[chosen]) for row in rows if row.draw}
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


def _note(cells: Sequence[Cell], sides: Sequence[Side]) -> str:
    """What the numbers and the rows of a table are."""
    rows, protocols = {cell.row for cell in cells}, {cell.protocol for cell in cells}
    notes = [text for row, text in ROW_NOTES.items() if row in rows]
    notes += [text for protocol, text in PROTOCOL_NOTES.items() if protocol in protocols]
    return f"{_names(sides)}Mean over folds. {''.join(notes)}"


def _names(sides: Sequence[Side]) -> str:
    return ", ".join(f"{NUMBERS[side.key]} = {side.dataset.name}" for side in sides) + ". "


def _lines(cells: Sequence[Cell]) -> list[tuple[str, str | None, str]]:
    return list(dict.fromkeys((cell.row, cell.protocol, cell.head) for cell in cells))


def _by_task(cells: Sequence[Cell]) -> dict[tuple[str, str | None, str, str, str], Cell]:
    """The cells by row, protocol, head, source and target."""
    return {(cell.row, *cell.task): cell for cell in cells}


def _any(cells: Sequence[Cell], pair: tuple[str, str]) -> Cell | None:
    return next((cell for cell in cells if (cell.source, cell.target) == pair), None)


def _trained_on(protocol: str | None) -> str:
    return {"transductive": "all images", "inductive": "training folds", None: "–"}[protocol]


def _percent(folds: Sequence[float]) -> str:
    """Mean ± population standard deviation, as the published tables give it."""
    return f"{np.mean(folds):.2f} ± {np.std(folds):.1f}" if len(folds) > 1 else f"{folds[0]:.2f}"


def _interval(estimate: Estimate) -> str | None:
    if estimate.value is None:
        return None
    return f"{estimate.value:.3f} ({estimate.low:.3f}–{estimate.high:.3f})"


def _gain(estimate: Estimate) -> str | None:
    if estimate.value is None:
        return None
    return f"{estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"
