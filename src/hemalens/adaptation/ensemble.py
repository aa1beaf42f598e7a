"""Ensemble of a fine-tuned network and a few-shot classifier on the bundle as it was before.

Their errors differ: one model keeps the bundle's knowledge, the other has adapted to the new laboratory. The ensemble
averages their log probabilities.
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
from hemalens.adaptation.source_head import SourceHead
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
    """Raise `ConfigError` for further encoders without the classifier that uses them."""
    if beside and not classifier:
        raise ConfigError("--beside needs classifier=true", remedy="Leave out --beside or classifier=false.")


def mean_log_probabilities(own: Logits, kept: Logits) -> NDArray[np.float64]:
    """Mean log probabilities (n, k) of two models; minus infinity in rows that either model lacks."""
    finite = np.isfinite(own).all(axis=1) & np.isfinite(kept).all(axis=1)
    found = np.full(own.shape, -np.inf)
    found[finite] = (log_softmax(own[finite]) + log_softmax(kept[finite])) / 2
    return found


@dataclass(frozen=True, slots=True)
class EnsembleClassifier:
    """A few-shot classifier on `cells`, with their embeddings (n, d) and the logits (n, k) of the bundle's head."""

    embedders: Embedders
    cells: CellDataset
    embeddings: NDArray[np.float64]
    before: NDArray[np.float64]

    @classmethod
    def on(cls, embedders: Embedders, cells: CellDataset) -> EnsembleClassifier:
        """Embed the cells by encoders that were opened for `RULE`."""
        embeddings = embedders.embed(cells)
        return cls(embedders, cells, embeddings, _head_of(embedders).logits(embeddings, cells.classes))

    def learn(self, rows: NDArray[np.int64] | None = None) -> PrototypeClassifier:
        """Fit on the cells at indices `rows`, by default on all."""
        rows = np.arange(len(self.cells)) if rows is None else rows
        unit, parts = units(self.cells)[rows], self.embedders.parts
        return RULE.make().fit(
            self.embeddings[rows], self.cells.targets[rows], base=self.before[rows], unit=unit, parts=parts
        )

    def logits(self, learned: PrototypeClassifier) -> Logits:
        """Logits (n, k) of the cells."""
        return learned.decision_function(self.embeddings, self.before)

    def left_out(self) -> Logits:
        """Cross-validated logits (n, k) of the cells; minus infinity for those that cannot be held out."""
        unit, parts = units(self.cells), self.embedders.parts
        return leave_one_out(RULE, self.embeddings, self.cells.targets, unit, base=self.before, parts=parts)

    def joined(self, own: onnx.ModelProto, learned: PrototypeClassifier) -> onnx.ModelProto:
        """Join the network `own` (image -> embedding, raw_logits, finer types) with the classifier.

        The embeddings are concatenated, the log probabilities averaged, and the finer types are the network's.
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


def _head_of(embedders: Embedders) -> SourceHead:
    if embedders.head is None:
        raise ValueError("the encoders were opened without the bundle's head")
    return embedders.head
