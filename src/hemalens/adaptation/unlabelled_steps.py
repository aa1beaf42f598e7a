"""Adaptation of a bundle's graph to unlabelled images: each step, and its probabilities recomputed in NumPy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from hemalens.adaptation.class_bias import LogitAdjustment, class_bias
from hemalens.adaptation.neighbours import MAX_IMAGES, Neighbours
from hemalens.adaptation.unlabelled_config import UnlabelledConfig, log_class_prior
from hemalens.bundle.bundle import FINE, Bundle
from hemalens.bundle.nucleus_size import extent_of, log_diameters, widening_of
from hemalens.cache import FeatureCache
from hemalens.classifiers.calibration import log_softmax
from hemalens.classifiers.few_shot import unit_length
from hemalens.datasets import CellDataset, Record
from hemalens.datasets.splits import seeded
from hemalens.errors import ImageError
from hemalens.files import default_cache_dir
from hemalens.graphs import build as graphs
from hemalens.graphs.batch_norm import estimate, pixels_of, preprocessing_of, with_statistics
from hemalens.graphs.features import extract
from hemalens.graphs.runtime import GraphRunner, run_rows
from hemalens.progress import track


@dataclass(frozen=True, slots=True)
class Adapted:
    """An adapted graph, and the parts from which NumPy recomputes its probabilities (n, k).

    `base` is the bundle's graph, whose head stays; `encoder` (image -> embedding) has the new batch-norm statistics.
    `beside` are further encoders whose embeddings help to find neighbours.
    """

    graph: onnx.ModelProto
    base: onnx.ModelProto
    encoder: onnx.ModelProto
    adjustment: LogitAdjustment | None
    neighbours: Neighbours | None = None
    beside: tuple[onnx.ModelProto, ...] = ()

    def reference(self, records: list[Record]) -> NDArray[np.float64]:
        """Probabilities (n, k) of images, computed independently of `graph` for the parity check."""
        others = embeddings_beside(self.beside, records)
        return self.probabilities(self._embeddings(records), self.log_diameters(records), others)

    def log_diameters(self, records: Sequence[Record]) -> NDArray[np.float64] | None:
        """Log diameters of the nuclei (n,), or None without the step `size`."""
        if self.adjustment is None or not self.adjustment.sizes:
            return None
        return log_diameters(records, self.adjustment.extent)

    def fine_reference(self, records: list[Record]) -> NDArray[np.float32]:
        """Probabilities (n, f) of finer types given the class, by the bundle's head."""
        head = graphs.cut(self.base, ["embedding"], [FINE]).SerializeToString()
        return run_rows(head, {"embedding": self._embeddings(records)}, [FINE])[FINE]

    def probabilities(
        self, embeddings: NDArray[np.float32], diameters: NDArray[np.float64] | None, others: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Probabilities (n, k) from `encoder`'s embeddings (n, d), `log_diameters` (n,) and `embeddings_beside` (n, d')."""
        logits = _logits(self.base, embeddings)
        if self.adjustment is not None:
            logits = self.adjustment.logits(logits, diameters)
        if self.neighbours is not None:
            logits = self.neighbours.logits(np.hstack([embeddings, others]), logits)
        return np.exp(log_softmax(logits))

    def _embeddings(self, records: list[Record]) -> NDArray[np.float32]:
        """Embeddings (n, d) by the encoder without ONNX Runtime's fusion of layers."""
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        content = self.encoder.SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return np.stack([session.run(["embedding"], {"image": record.read()[None]})[0][0] for record in records])


def embeddings_beside(
    encoders: Sequence[onnx.ModelProto], records: Sequence[Record], cache: FeatureCache | None = None
) -> NDArray[np.float32]:
    """Embeddings (n, sum of d_i) of images by further encoders, each at unit length."""
    found = [unit_length(extract(records, encoder, cache=cache).complete()) for encoder in encoders]
    return np.concatenate([np.zeros((len(records), 0)), *found], axis=1).astype(np.float32)


def adapted_to(
    base: Bundle,
    images: CellDataset,
    config: UnlabelledConfig,
    seed: int,
    *,
    cache: FeatureCache | None = None,
    beside: Sequence[onnx.ModelProto] = (),
) -> Adapted:
    """Run the configured steps in the order of `PIECES`; each sees the result of the one before.

    `cache` may hold the encoder's embeddings. `beside` are further encoders (image -> embedding) for the neighbours.
    """
    graph = _with_batch_norm(base, images, config, seed) if config.batch_norm else base.graph
    encoder = graphs.cut(graph, ["image"], ["embedding"])
    if not config.needs_logits:
        return Adapted(graph, base.graph, encoder, None)
    with track("embedding", len(images)) as progress:
        embeddings = extract(images.records, encoder, cache=cache, progress=progress).complete()
    logits, adjustment = _logits(base.graph, embeddings), None
    if config.size or config.class_bias:
        adjustment = _fit_adjustment(base, images, logits, config)
        graph = adjustment.into(graph)
    found = Adapted(graph, base.graph, encoder, adjustment)
    if not config.neighbours:
        return found
    if adjustment is not None:
        logits = adjustment.logits(logits, found.log_diameters(images.records))
    rows = np.sort(seeded(seed, "neighbours").permutation(len(images))[:MAX_IMAGES])
    records = [images.records[row] for row in rows]
    others = embeddings_beside(beside, records, FeatureCache(default_cache_dir()))
    widths = [embeddings.shape[1], *(graphs.kind_of(one, "embedding")[1][0] for one in beside)]
    joint = np.hstack([embeddings[rows], others])
    neighbours = Neighbours.fit(joint, logits[rows], widths, config.neighbour_weight)
    for one in beside:
        graph = graphs.with_beside(graph, one)
    return replace(found, graph=neighbours.into(graph), neighbours=neighbours, beside=tuple(beside))


def _logits(graph: onnx.ModelProto, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """Calibrated logits (n, k) of a graph's head."""
    head = graphs.cut(graph, ["embedding"], ["logits"]).SerializeToString()
    return run_rows(head, {"embedding": embeddings}, ["logits"])["logits"].astype(np.float64)


def _fit_adjustment(
    base: Bundle, images: CellDataset, logits: NDArray[np.float64], config: UnlabelledConfig
) -> LogitAdjustment:
    """Fit nucleus size and class bias on the head's logits (n, k) of the images."""
    found = LogitAdjustment(min(1.0, base.manifest.temperature), np.zeros(logits.shape[1]))
    extent, diameters = extent_of(base.stages), None
    if config.size and extent is not None:
        diameters = log_diameters(images.records, extent)
        typical, sizes = float(np.median(diameters)), base.manifest.nucleus_sizes
        widening = widening_of(logits * found.softening, diameters - typical, sizes)
        found = replace(found, sizes=sizes, extent=extent, typical=typical, widening=widening)
    if config.class_bias:
        # an earlier class bias contains a class prior already: remove it before fitting
        before = base.manifest.unlabelled
        held = 1.0 if before is None or before.bias is None else before.settings.get("scarce", 1.0)
        old, new = (log_class_prior(base.manifest.labels, share) for share in (held, config.scarce))
        found = replace(found, bias=class_bias(found.logits(logits, diameters) - old) - old + new)
    return found


def _with_batch_norm(base: Bundle, images: CellDataset, config: UnlabelledConfig, seed: int) -> onnx.ModelProto:
    """Re-estimate batch-norm statistics on the images, in batches drawn by `seed`."""
    order = seeded(seed, "unlabelled").permutation(len(images))
    batches = np.array_split(order, -(-len(images) // config.batch_size))
    statistics = estimate(base.graph, _pixels(base.graph, images, batches), strength=config.strength)
    return with_statistics(base.graph, statistics)


def _pixels(
    graph: onnx.ModelProto, images: CellDataset, batches: list[NDArray[np.int64]]
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Preprocessed pixels of each batch of images, in its order."""
    names = pixels_of(graph)
    runner = GraphRunner(preprocessing_of(graph).SerializeToString(), names)
    with track("batch norm", len(images)) as progress:
        for batch in batches:
            rows = []
            for _, found in runner.map(images.records[i] for i in batch):
                if isinstance(found, ImageError):
                    raise found
                rows.append(found)
                progress(1)
            yield {name: np.stack([row[name] for row in rows]) for name in names}
