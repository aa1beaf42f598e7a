"""The head of a source bundle, with its logits rearranged for the classes of a target laboratory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import compose, helper, numpy_helper

from hemalens.bundle.bundle import Bundle
from hemalens.graphs import build as graphs
from hemalens.graphs.runtime import run_rows


@dataclass(frozen=True, slots=True)
class SourceHead:
    """The head of a bundle: a graph from `embedding` (n, d) to calibrated `logits` (n, K) of `labels` (K,)."""

    graph: onnx.ModelProto
    labels: tuple[str, ...]

    @classmethod
    def of(cls, bundle: Bundle) -> SourceHead:
        """The head of an opened bundle."""
        return cls(graphs.cut(bundle.graph, ["embedding"], ["logits"]), bundle.manifest.labels)

    def classes_with(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """`wanted`, followed by the other labels of the head: the classes that a classifier on top can predict."""
        return (*wanted, *(label for label in self.labels if label not in wanted))

    def logits(self, embeddings: NDArray[np.floating[Any]], classes: Sequence[str]) -> NDArray[np.float64]:
        """Logits (n, k) of embeddings (n, d) for `classes`; a class unknown to the head gets the mean logit."""
        rows = {"embedding": np.asarray(embeddings, np.float32)}
        found = run_rows(self.graph.SerializeToString(), rows, ["logits"])["logits"].astype(np.float64)
        return np.asarray(found @ self._places(classes))

    def graph_for(self, classes: Sequence[str]) -> onnx.ModelProto:
        """Export `logits` as a graph: embedding (n, d) -> base_logits (n, k)."""
        node = helper.make_node("MatMul", ["logits", "places"], ["base_logits"])
        n_known, places = len(self.labels), self._places(classes).astype(np.float32)
        tail = graphs.make_model(
            [node],
            [graphs.float_value("logits", ["n", n_known])],
            [graphs.float_value("base_logits", ["n", len(classes)])],
            [numpy_helper.from_array(places, "places")],
        )
        # the head of an adapted bundle holds tensors of the same names
        head = compose.add_prefix(self.graph, "head_", rename_inputs=False, rename_outputs=False)
        return graphs.join(head, tail)

    def _places(self, classes: Sequence[str]) -> NDArray[np.float64]:
        """Weight (K, k) of each of the head's logits in those of `classes`."""
        n = len(self.labels)
        columns = [np.eye(n)[self.labels.index(c)] if c in self.labels else np.full(n, 1 / n) for c in classes]
        return np.stack(columns, axis=1)
