"""The classifier that a few labelled cells give on a bundle's embedding as it is, beside a network trained on with them.

The two err differently: one keeps what the bundle knows, the other has learned the new laboratory's looks. Their answer is
the mean of the logarithms of their probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import compose

from hemalens.adaptation.encoders import Embedders
from hemalens.adaptation.source_head import BaseHead
from hemalens.bundle.bundle import FINE
from hemalens.classifiers.calibration import log_softmax
from hemalens.classifiers.few_shot import FewShotConfig, PrototypeClassifier, few_shot_graph, leave_one_out
from hemalens.datasets import CellDataset
from hemalens.datasets.splits import units
from hemalens.errors import ConfigError
from hemalens.graphs import build as graphs

RULE = FewShotConfig(rule="base")
Logits = NDArray[np.floating[Any]]


def refuse_without_classifier(beside: Sequence[str | Path], classifier: bool) -> None:
    """Raise `ConfigError` where something stands beside a classifier that is left out."""
    if beside and not classifier:
        raise ConfigError(
            "what stands beside is for the classifier, which classifier=false leaves out", remedy="Leave one of them out."
        )


def mean_answer(own: Logits, kept: Logits) -> NDArray[np.float64]:
    """The mean of the logarithms of both softmaxes (n, k); minus infinity in the rows that either cannot answer."""
    told = np.isfinite(own).all(axis=1) & np.isfinite(kept).all(axis=1)
    found = np.full(own.shape, -np.inf)
    found[told] = (log_softmax(own[told]) + log_softmax(kept[told])) / 2
    return found


@dataclass(frozen=True, slots=True)
class KeptClassifier:
    """`cells` under the bundle's labels, their embeddings (n, d), and what the bundle's own head says of them (n, k)."""

    embedders: Embedders
    cells: CellDataset
    embeddings: NDArray[np.float64]
    before: NDArray[np.float64]

    @classmethod
    def on(cls, embedders: Embedders, cells: CellDataset) -> KeptClassifier:
        """Of embedders that were opened to classify by `RULE`; runs the networks over the cells."""
        embeddings = embedders.embed(cells)
        return cls(embedders, cells, embeddings, _head_of(embedders).logits(embeddings, cells.classes))

    def learn(self, rows: NDArray[np.int64] | None = None) -> PrototypeClassifier:
        """What these of the cells teach, all where nothing is said."""
        rows = np.arange(len(self.cells)) if rows is None else rows
        unit, parts = units(self.cells)[rows], self.embedders.parts
        return RULE.make().fit(
            self.embeddings[rows], self.cells.targets[rows], base=self.before[rows], unit=unit, parts=parts
        )

    def logits(self, learned: PrototypeClassifier) -> Logits:
        """Logits (n, k) of the cells."""
        return learned.decision_function(self.embeddings, self.before)

    def left_out(self) -> Logits:
        """Logits (n, k) of each of the cells by a classifier that has not seen it; minus infinity where that cannot be."""
        unit, parts = units(self.cells), self.embedders.parts
        return leave_one_out(RULE, self.embeddings, self.cells.targets, unit, base=self.before, parts=parts)

    def joined(self, own: onnx.ModelProto, learned: PrototypeClassifier) -> onnx.ModelProto:
        """The graph of a network, image -> embedding, raw_logits and finer types, with this beside it: both embeddings one
        behind the other, the mean answer, and the network's finer types.
        """
        encoders = [graphs.cut(own, ["image"], ["embedding"]), self.embedders.encoder]
        (d,), (d_kept,) = (graphs.kind_of(encoder, "embedding")[1] for encoder in encoders)
        fine = next(((v.name, graphs.kind_of(own, v.name)[1][0]) for v in own.graph.output if v.name == FINE), None)
        head = graphs.cut(own, ["embedding"], ["raw_logits", *([FINE] if fine else [])])
        kept = _head_of(self.embedders)
        behind = replace(kept, graph=graphs.of_columns(kept.graph, d, d_kept, d + d_kept, rename_outputs=False))
        return graphs.join(
            graphs.side_by_side(encoders, as_they_are=True),
            graphs.of_columns(head, 0, d, d + d_kept, rename_outputs=True),
            behind.graph_for(self.cells.classes),
            compose.add_prefix(few_shot_graph(learned.shifted(d)), "kept_", rename_inputs=False),
            graphs.mean_answer_graph(len(self.cells.classes), fine=fine),
            keep=("embedding",),
        )


def _head_of(embedders: Embedders) -> BaseHead:
    if embedders.head is None:
        raise ValueError("opened without the head that is kept")
    return embedders.head
