"""What each piece of adapting without labels makes of a bundle's graph, and the same computed in another way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from hemalens import graphs
from hemalens.batch_norm import estimate, pixels_of, preprocessing_of, with_statistics
from hemalens.bundle import FINE, Bundle
from hemalens.cache import FeatureCache
from hemalens.datasets import CellDataset, Record
from hemalens.errors import ImageError
from hemalens.evaluation.metrics import log_softmax
from hemalens.features import extract
from hemalens.progress import track
from hemalens.runtime import GraphRunner, run_rows
from hemalens.sampling import seeded
from hemalens.unlabelled import (
    UnlabelledConfig,
    estimate_prior,
    standardisation,
    training_prior,
    with_prior,
    with_standardisation,
)


@dataclass(frozen=True, slots=True)
class Adapted:
    """The new graph, and its probabilities (n, k) computed in another way; the estimated prior (k,)."""

    graph: onnx.ModelProto
    base: onnx.ModelProto
    encoder: onnx.ModelProto
    affine: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    prior: NDArray[np.float64] | None
    log_ratio: NDArray[np.float64]

    def reference(self, records: list[Record]) -> NDArray[np.float64]:
        """The base bundle's head on embeddings computed in another way, and behind it the formula of the prior."""
        return self.probabilities(self._embeddings(records))

    def fine_reference(self, records: list[Record]) -> NDArray[np.float32]:
        """Probabilities (n, f) of finer types given the class, by the base bundle's head; no prior touches them."""
        head = graphs.cut(self.base, ["embedding"], [FINE]).SerializeToString()
        return run_rows(head, {"embedding": self._standardised(self._embeddings(records))}, [FINE])[FINE]

    def probabilities(self, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probabilities (n, k) of embeddings (n, d) that the encoder gave."""
        return np.exp(log_softmax(_logits(self.base, self._standardised(embeddings)) + self.log_ratio))

    def _standardised(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embeddings (n, d) of the encoder, brought by the formula to what the head expects."""
        if self.affine is None:
            return embeddings
        return (embeddings * self.affine[0] + self.affine[1]).astype(np.float32)

    def _embeddings(self, records: list[Record]) -> NDArray[np.float32]:
        """Embeddings (n, d) by the encoder as it stands in the file, layer by layer; ONNX Runtime would join some."""
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        content = self.encoder.SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return np.stack([session.run(["embedding"], {"image": record.read()[None]})[0][0] for record in records])


def _logits(graph: onnx.ModelProto, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """Calibrated logits (n, k) of a graph's head."""
    head = graphs.cut(graph, ["embedding"], ["logits"]).SerializeToString()
    return run_rows(head, {"embedding": embeddings}, ["logits"])["logits"].astype(np.float64)


def adapted_to(
    base: Bundle, images: CellDataset, config: UnlabelledConfig, seed: int, *, cache: FeatureCache | None = None
) -> Adapted:
    """The pieces one after the other, each on what the one before made; `cache` may know the encoder's embeddings."""
    graph = base.graph
    if config.batch_norm:
        order = seeded(seed, "unlabelled").permutation(len(images))
        statistics = estimate(graph, _batches(graph, images, order, config.batch_size), strength=config.strength)
        graph = with_statistics(graph, statistics)
    encoder = graphs.cut(graph, ["image"], ["embedding"])
    embeddings = np.zeros((0, 0), np.float32)
    if config.standardise or config.prior:
        with track("embedding", len(images)) as progress:
            embeddings = extract(images.records, encoder, cache=cache, progress=progress).complete()
    affine = None
    if config.standardise and base.statistics is not None:
        wide = embeddings.astype(np.float64)
        target = np.stack([wide.mean(axis=0), wide.std(axis=0)])
        affine = standardisation(base.statistics, target, config.strength)
        graph = with_standardisation(graph, *affine)
        embeddings = embeddings * affine[0] + affine[1]
    k = len(base.manifest.labels)
    prior, log_ratio = None, np.zeros(k)
    if config.prior:
        old = training_prior(base.manifest)
        probabilities = np.exp(log_softmax(_logits(base.graph, embeddings)))
        # a class of which nothing was seen counts as half an image: it may still come
        prior = np.maximum(estimate_prior(probabilities, old), 0.5 / len(images))
        prior /= prior.sum()
        log_ratio = np.log(prior / old)
        graph = with_prior(graph, log_ratio)
    return Adapted(graph, base.graph, encoder, affine, prior, log_ratio)


def _batches(
    graph: onnx.ModelProto, images: CellDataset, order: NDArray[np.int64], size: int
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Pixels of all images, in batches as even as can be of at most `size`, in this order."""
    names = pixels_of(graph)
    runner = GraphRunner(preprocessing_of(graph).SerializeToString(), names)
    with track("batch norm", len(images)) as progress:
        for chosen in np.array_split(order, -(-len(order) // size)):
            rows = []
            for _, answer in runner.map(images.records[i] for i in chosen):
                if isinstance(answer, ImageError):
                    raise answer
                rows.append(answer)
                progress(1)
            yield {name: np.stack([row[name] for row in rows]) for name in names}
