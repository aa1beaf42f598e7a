"""Small convolutional networks as bundles, without torch: random filters, and a classifier learned from embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from sklearn.linear_model import LogisticRegression

from hemalens.bundle.artifact import DataEntry
from hemalens.bundle.bundle import Bundle, Manifest, class_entries, write_bundle
from hemalens.bundle.seen import seen_images
from hemalens.bundle.stages import Stage
from hemalens.datasets import CellDataset
from hemalens.graphs.build import float_value, join, make_model, normalise_graph, resize_graph, temperature_graph
from hemalens.graphs.runtime import session_of
from hemalens.imaging.reading import Preprocessing

PREPROCESSING = Preprocessing(size_px=32)
WIDTHS = (3, 8, 16, 32, 32)


def conv_encoder(*, seed: int = 0, n_layers: int = 4) -> onnx.ModelProto:
    """image -> pixels -> `n_layers` 3x3 convolutions with ReLU -> mean over the map -> embedding (n, c)."""
    rng = np.random.default_rng(seed)
    nodes, weights, last = [], [], "pixels"
    for i in range(n_layers):
        fan_in = WIDTHS[i] * 9
        filters = rng.normal(0, np.sqrt(2 / fan_in), (WIDTHS[i + 1], WIDTHS[i], 3, 3)).astype(np.float32)
        bias = rng.normal(0, 0.1, WIDTHS[i + 1]).astype(np.float32)
        weights += [numpy_helper.from_array(filters, f"filters_{i}"), numpy_helper.from_array(bias, f"bias_{i}")]
        nodes += [
            helper.make_node(
                "Conv",
                [last, f"filters_{i}", f"bias_{i}"],
                [f"conv_{i}"],
                pads=[1, 1, 1, 1],
                strides=[2, 2] if i else [1, 1],
            ),
            helper.make_node("Relu", [f"conv_{i}"], [f"map_{i}"]),
        ]
        last = f"map_{i}"
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
    ]
    size = PREPROCESSING.size_px
    network = make_model(
        nodes,
        [float_value("pixels", ["n", 3, size, size])],
        [float_value("embedding", ["n", WIDTHS[n_layers]])],
        weights,
    )
    return join(resize_graph(PREPROCESSING), normalise_graph(PREPROCESSING), network)


def with_head(encoder: onnx.ModelProto, data: CellDataset) -> onnx.ModelProto:
    """A whole bundle's graph: logistic regression, learned from the embeddings of `data`."""
    session = session_of(encoder.SerializeToString())
    embeddings = np.stack([session.run(["embedding"], {"image": record.read()[None]})[0][0] for record in data.records])
    spread = embeddings.std(axis=0) + 1e-6
    learned = LogisticRegression(max_iter=500).fit(embeddings / spread, data.targets)
    k = len(data.classes)
    weight = (learned.coef_ / spread).astype(np.float32)
    head = make_model(
        [helper.make_node("Gemm", ["embedding", "head_weight", "head_bias"], ["raw_logits"], transB=1)],
        [float_value("embedding", ["n", embeddings.shape[1]])],
        [float_value("raw_logits", ["n", k])],
        [
            numpy_helper.from_array(weight, "head_weight"),
            numpy_helper.from_array(learned.intercept_.astype(np.float32), "head_bias"),
        ],
    )
    return join(encoder, head, temperature_graph(k, 1.3), keep=("embedding",))


def conv_bundle(path: Path, train: CellDataset, *, seed: int = 0) -> Bundle:
    """`conv_encoder` and its head as a bundle; `train` holds three classes or more."""
    graph = with_head(conv_encoder(seed=seed), train)
    manifest = Manifest(
        created="2026-01-01T00:00:00+00:00",
        method="random_filters",
        config={"seed": seed},
        label_map=train.label_map,
        classes=class_entries(train.classes),
        preprocessing=PREPROCESSING,
        before_graph=tuple(stage.entry() for stage in _stages(train)),
        embedding_size=WIDTHS[4],
        frozen_backbone=True,
        temperature=1.3,
        data=(DataEntry.of(train, "train"),),
        parity=0.0,
        versions={},
    )
    files = {"model.onnx": graph.SerializeToString(), "seen_images.txt": seen_images(train.contents)}
    files |= {name: more for stage in _stages(train) for name, more in stage.files().items()}
    # weights for further training, which an int8 bundle does not carry along
    return write_bundle(path, manifest, {**files, "weights.safetensors": b"weights"})


def _stages(data: CellDataset) -> list[Stage]:
    return [stage for stage in data.stages if isinstance(stage, Stage)]
