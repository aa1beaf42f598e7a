"""Finer types in training: which are told apart, what each image teaches, a loss by hand, and sums in every answer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hemalens.datasets.base import CellDataset, Record
from hemalens.taxonomy import label_map
from hemalens.training.subclass_labels import FineLabels, admitted_cross_entropy

COUNTS = {
    "band_neutrophil": 30,
    "segmented_neutrophil": 25,
    "neutrophil": 6,
    "eosinophil": 40,
    "myelocyte": 21,
    "promyelocyte": 20,
    "bilobed_promyelocyte": 3,
    "metamyelocyte": 19,
    "immature_granulocyte": 50,
    "lymphocyte": 60,
    "variant_lymphocyte": 22,
}


def _dataset(counts: dict[str, int], name: str = "eight_class") -> CellDataset:
    chosen = label_map(name)
    records = tuple(
        Record(Path(f"{code}/{i}.png"), code, "home", cell_type=code, label=str(chosen[code]))
        for code, n in counts.items()
        for i in range(n)
    )
    present = tuple(c for c in chosen.classes if any(r.label == c for r in records))
    return CellDataset("cells", records, present, name, "none", "none")


def _of(counts: dict[str, int] = COUNTS, name: str = "eight_class") -> FineLabels:
    return FineLabels.of(_dataset(counts, name), min_images=20)


def test_the_finest_types_with_enough_images_are_told_apart_within_their_class() -> None:
    labels = _of()
    assert labels.classes == ("eosinophil", "immature_granulocyte", "lymphocyte", "neutrophil")
    expected = ("eosinophil", "myelocyte", "promyelocyte", "lymphocyte", "band_neutrophil", "segmented_neutrophil")
    assert labels.outputs == expected
    assert labels.sizes == (1, 2, 1, 2)
    assert labels.class_of_output.tolist() == [0, 1, 1, 2, 3, 3]


def test_an_image_teaches_its_type_or_the_next_coarser_one_or_its_class() -> None:
    labels, dataset = _of(), _dataset(COUNTS)
    relabelled = labels.relabelled(dataset)
    found = {record.cell_type: record.label for record in relabelled.records}
    assert found == {
        "band_neutrophil": "band_neutrophil",
        "segmented_neutrophil": "segmented_neutrophil",
        "neutrophil": "any neutrophil",
        "eosinophil": "eosinophil",
        "myelocyte": "myelocyte",
        "promyelocyte": "promyelocyte",
        "bilobed_promyelocyte": "promyelocyte",
        "metamyelocyte": "any immature_granulocyte",
        "immature_granulocyte": "any immature_granulocyte",
        "lymphocyte": "lymphocyte",
        "variant_lymphocyte": "lymphocyte",
    }
    assert relabelled.classes == labels.target_names
    assert [r.path for r in relabelled.records] == [r.path for r in dataset.records]
    np.testing.assert_array_equal(labels.class_of_target[relabelled.targets], dataset.targets)


def test_one_image_too_few_leaves_a_class_whole() -> None:
    labels = _of(COUNTS | {"segmented_neutrophil": 19})
    assert labels.outputs[-1] == "neutrophil"
    assert labels.sizes[-1] == 1
    relabelled = labels.relabelled(_dataset(COUNTS | {"segmented_neutrophil": 19}))
    assert {r.label for r in relabelled.records if "neutrophil" in str(r.cell_type)} == {"neutrophil"}


def test_a_label_map_as_fine_as_the_records_changes_nothing() -> None:
    fine = {code: n for code, n in COUNTS.items() if code in label_map("thirteen_class").classes}
    dataset = _dataset(fine, "thirteen_class")
    labels = FineLabels.of(dataset, min_images=1)
    assert labels == FineLabels.none(dataset.classes)
    np.testing.assert_array_equal(labels.relabelled(dataset).targets, dataset.targets)
    logits = torch.randn(4, len(labels.outputs))
    assert torch.equal(labels.class_logits(logits), logits)


def test_labels_of_one_s_own_have_no_finer_types() -> None:
    records = tuple(Record(Path(f"{i}"), "odd", "home", label="odd") for i in range(40))
    labels = FineLabels.of(CellDataset("own", records, ("odd",), "as_labelled", "", ""), min_images=2)
    assert labels == FineLabels.none(("odd",))


def test_an_image_without_a_label_teaches_nothing() -> None:
    records = (Record(Path("x"), "odd", "home", excluded="for a reason"),)
    dataset = CellDataset("own", records, ("odd",), "as_labelled", "", "")
    assert FineLabels.none(("odd",)).relabelled(dataset).targets.tolist() == [-1]


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 40))
def test_probabilities_of_a_class_are_the_sum_of_its_types(seed: int, scale: float) -> None:
    labels = _of()
    logits = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed)).double() * scale
    fine = torch.softmax(logits, dim=1).numpy()
    classes = torch.softmax(labels.class_logits(logits), dim=1).numpy()
    for k in range(4):
        np.testing.assert_allclose(classes[:, k], fine[:, labels.class_of_output == k].sum(axis=1), atol=1e-12)


def test_the_admitted_outputs_are_the_type_or_all_of_the_class() -> None:
    labels = _of()
    admitted = labels.admitted().numpy()
    assert admitted.shape == (len(labels.target_names), 6)
    np.testing.assert_array_equal(admitted[:6], np.eye(6, dtype=bool))
    assert Counter(admitted[6:].sum(axis=1).tolist()) == {1: 2, 2: 2}
    assert admitted[6 + 3].tolist() == [False, False, False, False, True, True]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_with_one_right_output_each_it_is_torch_s_cross_entropy(smoothing: float, weighted: bool) -> None:
    logits, targets = torch.randn(7, 4), torch.randint(0, 4, (7,))
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0]) if weighted else torch.ones(4)
    found = admitted_cross_entropy(
        logits, torch.eye(4).bool()[targets], smoothing=smoothing, output_weights=weights, image_weights=weights[targets]
    )
    expected = torch.nn.functional.cross_entropy(logits, targets, weight=weights, label_smoothing=smoothing)
    torch.testing.assert_close(found, expected)


def test_where_several_are_right_their_probability_is_summed_and_gradients_are_finite() -> None:
    logits = torch.tensor([[2.0, 1.0, -1.0], [100.0, -100.0, 0.0]], requires_grad=True)
    admitted = torch.tensor([[True, True, False], [False, True, True]])
    loss = admitted_cross_entropy(
        logits, admitted, smoothing=0.0, output_weights=torch.ones(3), image_weights=torch.ones(2)
    )
    p = np.exp([2.0, 1.0, -1.0]) / np.exp([2.0, 1.0, -1.0]).sum()
    assert float(loss.detach()) == pytest.approx((-np.log(p[0] + p[1]) + 100) / 2, rel=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]
    assert logits.grad[0, 2] > 0  # type: ignore[index]
