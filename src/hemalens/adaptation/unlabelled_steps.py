"""Adaptation of a bundle's graph to unlabelled images, and its probabilities recomputed in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from hemalens.adaptation.adjustment import Images
from hemalens.adaptation.guards import Chosen, choose
from hemalens.adaptation.unlabelled_config import UnlabelledConfig
from hemalens.bundle.bundle import FINE, Bundle
from hemalens.bundle.nucleus_size import extent_of, log_diameters
from hemalens.cache import FeatureCache
from hemalens.classifiers.calibration import log_softmax
from hemalens.datasets import CellDataset, Record
from hemalens.graphs import build as graphs
from hemalens.graphs.features import extract
from hemalens.graphs.runtime import run_rows
from hemalens.progress import track


@dataclass(frozen=True, slots=True)
class Adapted:
    """An adapted graph, and the parts from which NumPy recomputes its probabilities (n, k).

    `base` is the bundle's graph, `chosen` the change of its logits and what was left out. `extent` is the side of the crop
    in nucleus diameters, where it gives the diameter.
    """

    graph: onnx.ModelProto
    base: onnx.ModelProto
    chosen: Chosen
    extent: float | None

    def reference(self, records: list[Record]) -> NDArray[np.float64]:
        """Probabilities (n, k) of images, computed independently of `graph` for the parity check."""
        return self.probabilities(self._embeddings(records), records)

    def fine_reference(self, records: list[Record]) -> NDArray[np.float32]:
        """Probabilities (n, f) of finer types given the class, by the bundle's head."""
        head = graphs.cut(self.base, ["embedding"], [FINE]).SerializeToString()
        return run_rows(head, {"embedding": self._embeddings(records)}, [FINE])[FINE]

    def probabilities(self, embeddings: NDArray[np.float32], records: Sequence[Record]) -> NDArray[np.float64]:
        """Probabilities (n, k) of images from the bundle's embeddings (n, d)."""
        adjustment = self.chosen.adjustment
        images = Images(_logits(self.base, embeddings), embeddings)
        if adjustment is None:
            return np.exp(log_softmax(images.logits))
        if adjustment.size is not None:
            images = Images(images.logits, embeddings, log_diameters(records, adjustment.size.extent))
        return np.exp(log_softmax(adjustment.logits(images)))

    def _embeddings(self, records: list[Record]) -> NDArray[np.float32]:
        """Embeddings (n, d) by the encoder without ONNX Runtime's fusion of layers."""
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        content = graphs.cut(self.base, ["image"], ["embedding"]).SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return np.stack([session.run(["embedding"], {"image": record.read()[None]})[0][0] for record in records])


def adapted_to(
    base: Bundle, images: CellDataset, config: UnlabelledConfig, seed: int, *, cache: FeatureCache | None = None
) -> Adapted:
    """Fit the configured pieces in the order of `PIECES`, each on the result of the ones before, and leave out by `guards`.

    `cache` may hold the encoder's embeddings; `seed` draws the images that neighbours are kept of.
    """
    encoder = graphs.cut(base.tested_graph, ["image"], ["embedding"])
    with track("embedding", len(images)) as progress:
        embeddings = extract(images.records, encoder, cache=cache, progress=progress).complete()
    extent = extent_of(base.stages) if config.size else None
    diameters = None if extent is None else log_diameters(images.records, extent)
    found = Images(_logits(base.graph, embeddings), embeddings, diameters)
    chosen = choose(base, found, config, extent, seed)
    graph = base.graph if chosen.adjustment is None else chosen.adjustment.graph(base.graph)
    return Adapted(graph, base.graph, chosen, extent)


def _logits(graph: onnx.ModelProto, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """Calibrated logits (n, k) of a graph's head."""
    head = graphs.cut(graph, ["embedding"], ["logits"]).SerializeToString()
    return run_rows(head, {"embedding": embeddings}, ["logits"])["logits"].astype(np.float64)
