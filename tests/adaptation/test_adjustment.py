"""All pieces as one change of the logits: the graph agrees with NumPy, further classes keep their probability."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hemalens.adaptation.adjustment import Adjustment, Images
from hemalens.adaptation.class_means import ClassMeans
from hemalens.adaptation.mature_types import AmongMature
from hemalens.adaptation.neighbours import MAX_NEIGHBOURS, MIN_NEIGHBOURS, WEIGHT, Neighbours, n_nearest_of
from hemalens.adaptation.size_evidence import SizeEvidence
from hemalens.bundle.bundle import FINE
from hemalens.bundle.nucleus_size import NucleusSize
from hemalens.graphs import build as graphs
from hemalens.graphs.additions import without_additions
from hemalens.graphs.runtime import run_rows, session_of

FIVE = ("neutrophil", "platelet", "lymphocyte", "monocyte")
ALL = ("neutrophil", "eosinophil", "lymphocyte", "monocyte")
WEIGHTS = np.random.default_rng(7).normal(size=(4, 3)).astype(np.float32) * 3
SIZES = tuple(NucleusSize(centre=c, scale=0.1) for c in (-0.2, 0.0, 0.1, 0.3))
SIDES = (30, 36, 44)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _bundle_graph() -> onnx.ModelProto:
    """Mean colour -> linear head of four classes, with finer types."""
    nodes = [
        helper.make_node("Cast", ["image"], ["image_float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["image_float", "places"], ["colour"], keepdims=0),
        helper.make_node("Div", ["colour", "whole"], ["embedding"]),
        helper.make_node("Gemm", ["embedding", "weight"], ["raw_logits"], transB=1),
        helper.make_node("Softmax", ["raw_logits"], [FINE], axis=1),
    ]
    constants = {"places": np.array([1, 2]), "whole": np.array([25.0], np.float32), "weight": WEIGHTS}
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "height", "width", 3])
    outputs = [graphs.float_value("embedding", ["n", 3]), *(graphs.float_value(n, ["n", 4]) for n in ("raw_logits", FINE))]
    body = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    model = graphs.make_model(nodes, [image], outputs, body)
    return graphs.join(model, graphs.temperature_graph(4, 0.6), keep=("embedding",))


GRAPH = _bundle_graph()
NAMES = ["embedding", "logits", "probabilities", FINE]


def _run(graph: onnx.ModelProto, images: list[np.ndarray]) -> list[np.ndarray]:
    session = session_of(graph.SerializeToString())
    rows = [session.run(NAMES, {"image": image[None]}) for image in images]
    return [np.concatenate([np.asarray(row[i]) for row in rows]) for i in range(len(NAMES))]


def _images(n: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    sides = rng.choice(SIDES, n)
    return [(rng.uniform(0, 255, 3) + rng.uniform(-9, 9, (side, side, 3))).clip(0, 255).astype(np.uint8) for side in sides]


def _of(graph: onnx.ModelProto, images: list[np.ndarray]) -> Images:
    embeddings, logits = _run(graph, images)[:2]
    return Images(logits.astype(np.float64), embeddings, np.log([image.shape[0] / 1.6 for image in images]))


def _fitted(labels: tuple[str, ...], pieces: set[str], images: Images) -> Adjustment:
    mature = AmongMature.of(labels)
    counts = np.exp(mature.log_mass(images.logits))
    found = Adjustment(mature, 0.6)
    if "size" in pieces:
        sizes = tuple(SIZES[c] for c in mature.columns)
        found = replace(found, size=SizeEvidence(sizes, 1.6, math.log(22), 1.3))
    if "neighbours" in pieces:
        found = replace(found, neighbours=Neighbours.fit(images.embeddings, found.among(images), counts))
    if "class_means" in pieces:
        found = replace(found, class_means=ClassMeans.fit(images.embeddings, found.among(images), counts, None))
    return found.as_confident(images)


@pytest.mark.parametrize("labels", [ALL, FIVE], ids=["mature types", "and platelets"])
@pytest.mark.parametrize(
    "pieces",
    [{"size"}, {"neighbours"}, {"class_means"}, {"size", "neighbours", "class_means"}],
    ids=lambda names: "+".join(sorted(names)),
)
def test_the_graph_agrees_with_the_formula_and_can_be_had_back(labels: tuple[str, ...], pieces: set[str]) -> None:
    images, fresh = _images(40), _images(6, seed=1)
    before = _of(GRAPH, images)
    found = _fitted(labels, pieces, before)
    made = found.graph(GRAPH)
    onnx.checker.check_model(made, full_check=True)
    for asked in (fresh, images[:6]):
        own, after = _of(GRAPH, asked), _run(made, asked)
        np.testing.assert_allclose(after[2], _softmax(found.logits(own)), atol=1e-4)
        sizes = [own.log_diameters[:, None] - math.log(22)] if "size" in pieces and own.log_diameters is not None else []
        np.testing.assert_allclose(after[0], np.hstack([own.embeddings, *sizes]), atol=1e-5)
        np.testing.assert_array_equal(after[3], _run(GRAPH, asked)[3])
    assert np.abs(_run(made, images)[2] - _run(GRAPH, images)[2]).max() > 0.02
    # logits follow from the embedding alone
    head = graphs.cut(made, ["embedding"], ["logits"]).SerializeToString()
    rows = {"embedding": _run(made, fresh)[0]}
    np.testing.assert_allclose(run_rows(head, rows, ["logits"])["logits"], _run(made, fresh)[1], atol=1e-4)
    for first, second in zip(_run(without_additions(made), fresh), _run(GRAPH, fresh), strict=True):
        np.testing.assert_array_equal(first, second)


def test_further_classes_keep_their_probability_and_the_others_their_sum() -> None:
    images = _of(GRAPH, _images(40))
    found = _fitted(FIVE, {"size", "neighbours", "class_means"}, images)
    before, after = _softmax(images.logits), _softmax(found.logits(images))
    np.testing.assert_allclose(after[:, 1], before[:, 1], atol=1e-12)
    np.testing.assert_allclose(after.sum(axis=1), 1)
    assert np.abs(after - before).max() > 0.02


def test_the_mean_confidence_is_that_after_the_sizes() -> None:
    images = _of(GRAPH, _images(40))
    found = _fitted(ALL, {"size", "neighbours", "class_means"}, images)
    sized = replace(found, neighbours=None, class_means=None).among(images)
    kept = _softmax(sized).max(axis=1).mean()
    assert _softmax(found.logits(images)).max(axis=1).mean() == pytest.approx(kept, abs=1e-6)


def test_which_classes_are_mature_types() -> None:
    found = {
        ("neutrophil", "erythroblast", "basophil", "blast"): (0, 2),
        ("band_neutrophil", "segmented_neutrophil", "platelet"): (0, 1),
        ("tumour", "stroma"): (0, 1),
        ("lymphocyte", "something else"): (0, 1),
    }
    for labels, columns in found.items():
        mature = AmongMature.of(labels)
        assert mature.columns == columns
        assert sorted((*mature.columns, *mature.further)) == list(range(len(labels)))


# ------------------------------------------------------------------------------------------------------- the neighbours


def test_smoothed_probabilities_have_settled() -> None:
    rng = np.random.default_rng(4)
    for n in (10, 40):
        embeddings, logits, counts = rng.normal(size=(n, 6)) + 2, rng.normal(size=(n, 3)) * 2, rng.uniform(0.1, 1, n)
        found = Neighbours.fit(embeddings, logits, counts)
        centred = embeddings - np.average(embeddings, axis=0, weights=counts)
        unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        for i in range(n):
            nearest = sorted((j for j in range(n) if j != i), key=lambda j: -float(unit[i] @ unit[j]))[: n_nearest_of(n)]
            smoothed = logits[i] + WEIGHT * found.probabilities[nearest].mean(axis=0)
            np.testing.assert_allclose(found.probabilities[i], _softmax(smoothed[None])[0] * counts[i], atol=1e-4)


def test_how_many_are_the_nearest() -> None:
    assert [n_nearest_of(n) for n in (4, 8, 40, 200, 300, 1000)] == [3, MIN_NEIGHBOURS, 5, 8, 12, MAX_NEIGHBOURS]


def test_a_doubtful_image_follows_those_around_it_and_a_copy_is_no_neighbour() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], 20)
    embeddings = np.array([[4.0, 0.0], [0.0, 4.0]])[truth] + rng.normal(size=(40, 2)) * 0.3
    logits = 3.0 * np.eye(2)[truth]
    logits[0] = [0.0, 1.0]
    found = Neighbours.fit(embeddings, logits, np.ones(40))
    np.testing.assert_array_equal(found.probabilities.argmax(axis=1), truth)
    # the image itself is among those kept: as one of its own neighbours it would vote for its own class
    np.testing.assert_allclose(_softmax(found.logits(embeddings[[0]], logits[[0]])), found.probabilities[[0]], atol=1e-3)
