"""Which cells of a test are explained: by hand-made predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hemalens.datasets import Record
from hemalens.evaluation.chosen_cells import chosen_cells, verdict
from hemalens.evaluation.evaluate import DatasetPredictions


def _answered(rows: Sequence[tuple[str, str | None, Sequence[float]]]) -> DatasetPredictions:
    """(name, true label, probabilities) of each image."""
    records = tuple(Record(Path(name), str(label), "lab", label=label) for name, label, _ in rows)
    return DatasetPredictions(
        records=records,
        index=np.arange(len(rows)),
        probabilities=np.array([p for _, _, p in rows], np.float32),
        embeddings=np.zeros((len(rows), 1), np.float32),
        unreadable={},
    )


def test_the_most_confident_right_of_each_class_then_the_most_confident_of_each_mistake() -> None:
    answered = _answered(
        [
            ("b right", "b", (0.1, 0.9, 0.0)),
            ("b surer", "b", (0.05, 0.95, 0.0)),
            ("a right", "a", (0.6, 0.4, 0.0)),
            ("a as b", "a", (0.2, 0.8, 0.0)),
            ("a as b too", "a", (0.3, 0.7, 0.0)),
            ("b as c", "b", (0.01, 0.0, 0.99)),
            ("foreign", "d", (1.0, 0.0, 0.0)),
            ("unlabelled", None, (1.0, 0.0, 0.0)),
        ]
    )
    names = [answered.records[i].path.name for i in chosen_cells(answered, ("a", "b", "c"), 4)]
    assert names == ["a right", "b surer", "b as c", "a as b"]


def test_ties_go_by_the_path_and_an_order_of_images_changes_nothing() -> None:
    rows = [(name, "a", (1.0, 0.0)) for name in ("z", "m", "c", "x")]
    for order in (rows, rows[::-1]):
        answered = _answered(order)
        (i,) = chosen_cells(answered, ("a", "b"), 4)
        assert answered.records[i].path.name == "c"


def test_mistakes_have_half_of_the_room_and_large_classes_come_first() -> None:
    labels = tuple("abcdef")
    rows: list[tuple[str, str | None, Sequence[float]]] = []
    for k, label in enumerate(labels):
        # class f has most images
        rows += [(f"{label} right {i}", label, 0.9 * np.eye(6)[k]) for i in range(1 + k)]
        rows.append((f"{label} wrong", label, (0.8 + k / 100) * np.eye(6)[(k + 1) % 6]))
    answered = _answered(rows)
    for n, expected in (
        (12, [f"{c} right 0" for c in "abcdef"] + [f"{c} wrong" for c in "fedcba"]),
        (4, ["e right 0", "f right 0", "f wrong", "e wrong"]),
        (3, ["f right 0", "f wrong", "e wrong"]),
        (1, ["f wrong"]),
        (0, []),
    ):
        assert [answered.records[i].path.name for i in chosen_cells(answered, labels, n)] == expected


def test_without_mistakes_right_answers_have_all_the_room() -> None:
    answered = _answered([(label, label, np.eye(4)[k]) for k, label in enumerate("abcd")])
    assert chosen_cells(answered, tuple("abcd"), 4) == [0, 1, 2, 3]


def test_a_verdict_names_both_types_of_a_mistake() -> None:
    assert verdict("segmented_neutrophil", "segmented_neutrophil", 0.876) == "right: segmented neutrophil, 0.88"
    assert verdict("monocyte", "lymphocyte", 1 - 1e-6) == "wrong: true monocyte, predicted lymphocyte, >0.99"
