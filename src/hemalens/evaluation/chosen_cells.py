"""The cells of a test whose explanations a report shows."""

from __future__ import annotations

from collections.abc import Sequence

from hemalens.evaluation import formatting
from hemalens.evaluation.evaluate import DatasetPredictions


def chosen_cells(predictions: DatasetPredictions, labels: Sequence[str], n: int) -> list[int]:
    """Positions in `predictions` of at most `n` cells for the maps; `labels` are the model's.

    First, in label order, the correct prediction of each class with the highest probability. Then, the most confident
    first, the wrong prediction of each pair of classes with the highest probability. If these are more than `n`, wrong ones
    have at least half of the places, and correct ones of the largest classes come first. Images of other labels are left
    out; predictions of equal probability are ordered by their file's path.
    """
    best = predictions.probabilities.argmax(axis=1)
    sure = predictions.probabilities.max(axis=1)
    order = sorted(range(len(best)), key=lambda i: (-float(sure[i]), predictions.records[i].name))
    right: dict[str, int] = {}
    wrong: dict[tuple[str, str], int] = {}
    sizes = dict.fromkeys(labels, 0)
    for i in order:
        truth, predicted = predictions.records[i].label, labels[best[i]]
        if truth is None or truth not in sizes:
            continue
        sizes[truth] += 1
        if truth == predicted:
            right.setdefault(truth, i)
        else:
            wrong.setdefault((truth, predicted), i)
    n_wrong = min(len(wrong), max(n - len(right), n - n // 2))
    kept = sorted(right, key=lambda label: (-sizes[label], labels.index(label)))[: n - n_wrong]
    return [right[label] for label in labels if label in kept] + list(wrong.values())[:n_wrong]


def verdict(label: str, predicted: str, probability: float) -> str:
    """Whether a prediction is right, with its probability: "wrong: true monocyte, predicted neutrophil, 0.98"."""
    right = label == predicted
    name = formatting.label(label) if right else f"true {formatting.label(label)}, predicted {formatting.label(predicted)}"
    return f"{'right' if right else 'wrong'}: {name}, {formatting.probability(probability)}"
