"""What each piece of adapting without labels makes of a bundle's graph, and the same computed in another way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from hemalens.adaptation.logit_adjustment import Evidence, class_bias
from hemalens.adaptation.neighbours import MOST_IMAGES, Neighbours
from hemalens.adaptation.unlabelled_config import (
    FEWEST_OF_CLASS,
    UNTAUGHT,
    UnlabelledConfig,
    balanced_weights,
    estimate_prior,
    log_usual_shares,
    pseudo_labels,
    standardisation,
    training_prior,
    with_prior,
    with_standardisation,
    with_taught_head,
)
from hemalens.bundle.bundle import FINE, Bundle
from hemalens.bundle.nucleus_size import extent_of, log_diameters, widening_of
from hemalens.cache import FeatureCache
from hemalens.classifiers.calibration import log_softmax, temperature_of_certainty
from hemalens.classifiers.few_shot import FewShotConfig, PrototypeClassifier, few_shot_graph, unit_length
from hemalens.datasets import CellDataset, Record
from hemalens.datasets.splits import seeded, units
from hemalens.errors import ImageError, InputError
from hemalens.files import default_cache_dir
from hemalens.graphs import build as graphs
from hemalens.graphs.batch_norm import estimate, pixels_of, preprocessing_of, with_statistics
from hemalens.graphs.features import extract
from hemalens.graphs.runtime import GraphRunner, run_rows
from hemalens.progress import track

TEACHING = FewShotConfig(rule="base")
"""Pseudo-labels teach as labelled cells do by default."""

N_ROUNDS = 2
"""Answers after the first round of balanced batch norm are better ones to balance by."""
FEWEST_BATCHES = 12
"""Drawn images repeat, and so many batches even out which ones do."""


@dataclass(frozen=True, slots=True)
class Taught:
    """A classifier taught by pseudo-labels on top of the head, the temperature of its logits, and how many taught each
    class (k,).
    """

    classifier: PrototypeClassifier
    temperature: float
    counts: tuple[int, ...]

    def logits(self, embeddings: NDArray[np.floating], before: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logits (n, k) of embeddings (n, d) of which the head said `before` (n, k)."""
        wide = np.asarray(embeddings, np.float64)
        return np.asarray(self.classifier.decision_function(wide, before) / self.temperature)


@dataclass(frozen=True, slots=True)
class Adapted:
    """The new graph, and its probabilities (n, k) computed in another way.

    `encoder` gives the network's embedding, which neither size nor standardising has touched. Behind it: what was taught,
    the estimated prior (k,), and what is added to the logits. `beside` are encoders image -> embedding whose embeddings
    stand behind it.
    """

    graph: onnx.ModelProto
    base: onnx.ModelProto
    encoder: onnx.ModelProto
    affine: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    taught: Taught | None
    prior: NDArray[np.float64] | None
    log_ratio: NDArray[np.float64]
    evidence: Evidence | None
    neighbours: Neighbours | None = None
    beside: tuple[onnx.ModelProto, ...] = ()

    def reference(self, records: list[Record]) -> NDArray[np.float64]:
        """The base bundle's head on embeddings computed in another way, and behind it all that follows."""
        others = embeddings_beside(self.beside, records)
        return self.probabilities(self._embeddings(records), self.log_diameters(records), others)

    def log_diameters(self, records: Sequence[Record]) -> NDArray[np.float64] | None:
        """The log diameters of the nuclei (n,), where they count; otherwise None."""
        if self.evidence is None or not self.evidence.sizes:
            return None
        return log_diameters(records, self.evidence.extent)

    def fine_reference(self, records: list[Record]) -> NDArray[np.float32]:
        """Probabilities (n, f) of finer types given the class, by the base bundle's head; no prior touches them."""
        head = graphs.cut(self.base, ["embedding"], [FINE]).SerializeToString()
        return run_rows(head, {"embedding": self._standardised(self._embeddings(records))}, [FINE])[FINE]

    def probabilities(
        self, embeddings: NDArray[np.float32], diameters: NDArray[np.float64] | None, others: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Probabilities (n, k) of embeddings (n, d) that the encoder gave, and `log_diameters` (n,) of the same images.

        `others` (n, d') is what `embeddings_beside` gives of them.
        """
        points = self._standardised(embeddings)
        logits = _logits(self.base, points)
        if self.taught is not None:
            logits = self.taught.logits(points, logits)
        logits = logits + self.log_ratio
        logits = logits if self.evidence is None else self.evidence.logits(logits, diameters)
        if self.neighbours is not None:
            logits = self.neighbours.logits(np.hstack([points, others]), logits)
        return np.exp(log_softmax(logits))

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
    """The pieces one after the other, each on what the one before made; `cache` may know the encoder's embeddings.

    `beside` are encoders image -> embedding that help to find neighbours. Raises `InputError` where pseudo-labels are asked
    for and fewer than two classes have enough of them.
    """
    graph = _with_batch_norm(base, images, config, seed) if config.batch_norm else base.graph
    encoder = graphs.cut(graph, ["image"], ["embedding"])
    embeddings = np.zeros((0, 0), np.float32)
    if config.standardise or config.answers:
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
    logits = _logits(base.graph, embeddings) if config.answers else np.zeros((0, k))
    taught = None
    if config.pseudo_labels:
        taught = _taught(base, images, embeddings, logits)
        graph = with_taught_head(graph, few_shot_graph(taught.classifier), taught.temperature)
        logits = taught.logits(embeddings, logits)
    prior, log_ratio = None, np.zeros(k)
    if config.prior:
        # pseudo-labels weigh all classes alike
        old = np.full(k, 1 / k) if taught is not None else training_prior(base.manifest)
        # a class of which nothing was seen counts as half an image: it may still come
        prior = np.maximum(estimate_prior(np.exp(log_softmax(logits)), old), 0.5 / len(images))
        prior /= prior.sum()
        log_ratio = np.log(prior / old)
        graph = with_prior(graph, log_ratio)
    evidence, logits = None, logits + log_ratio
    if config.size or config.class_bias:
        evidence = _evidence(base, images, logits, config)
        graph = evidence.into(graph)
    found = Adapted(graph, base.graph, encoder, affine, taught, prior, log_ratio, evidence)
    if not config.neighbours:
        return found
    before = logits if evidence is None else evidence.logits(logits, found.log_diameters(images.records))
    # the graph holds the images that count: not more of them than it should
    rows = np.sort(seeded(seed, "neighbours").permutation(len(images))[:MOST_IMAGES])
    records = [images.records[row] for row in rows]
    return _leaning(found, (embeddings[rows], before[rows]), records, config.neighbour_weight, beside)


def _leaning(
    adapted: Adapted,
    known: tuple[NDArray[np.float32], NDArray[np.float64]],
    records: list[Record],
    weight: float,
    beside: Sequence[onnx.ModelProto],
) -> Adapted:
    """What was adapted, its answers leaning on those of these images, `known` by embeddings (m, d) and logits (m, k)."""
    embeddings, logits = known
    others = embeddings_beside(beside, records, FeatureCache(default_cache_dir()))
    widths = [embeddings.shape[1], *(graphs.kind_of(one, "embedding")[1][0] for one in beside)]
    neighbours = Neighbours.among(np.hstack([embeddings, others]), logits, widths, weight)
    graph = adapted.graph
    for one in beside:
        graph = graphs.with_beside(graph, one)
    return replace(adapted, graph=neighbours.into(graph), neighbours=neighbours, beside=tuple(beside))


def _evidence(base: Bundle, images: CellDataset, logits: NDArray[np.float64], config: UnlabelledConfig) -> Evidence:
    """What sizes of nuclei and a bias add to the head's logits (n, k) of these images."""
    found = Evidence(min(1.0, base.manifest.temperature), np.zeros(logits.shape[1]))
    extent, diameters = extent_of(base.stages), None
    if config.size and extent is not None:
        diameters = log_diameters(images.records, extent)
        typical, sizes = float(np.median(diameters)), base.manifest.nucleus_sizes
        widening = widening_of(logits * found.softening, diameters - typical, sizes)
        found = replace(found, sizes=sizes, extent=extent, typical=typical, widening=widening)
    if config.class_bias:
        # a bias that was there holds a share already: all types count alike again before the new one is found
        before = base.manifest.unlabelled
        held = 1.0 if before is None or before.bias is None else before.settings.get("scarce", 1.0)
        alike, usual = (log_usual_shares(base.manifest.labels, share) for share in (held, config.scarce))
        bias = class_bias(found.logits(logits, diameters) - alike)
        found = replace(found, bias=bias - alike + usual)
    return found


def _taught(base: Bundle, images: CellDataset, embeddings: NDArray[np.float32], logits: NDArray[np.float64]) -> Taught:
    """The head with logits (n, k) taught by its own most certain answers, and no surer of its answers than before."""
    labels = base.manifest.labels
    found = pseudo_labels(logits)
    chosen = np.flatnonzero(found != UNTAUGHT)
    counts = np.bincount(found[chosen], minlength=len(labels))
    if np.count_nonzero(counts) < 2:
        answers = np.bincount(logits.argmax(axis=1), minlength=len(labels))
        raise InputError(
            "the bundle's answers teach fewer than two classes",
            expected=f"at least {FEWEST_OF_CLASS} images answered so, of each of two classes",
            got=", ".join(f"{label} ({n})" for label, n in zip(labels, answers, strict=True) if n),
            remedy="Give more images, or say --set pseudo_labels=false.",
        )
    points, unit = embeddings.astype(np.float64), units(images)
    parts = base.manifest.embedding_parts
    classifier = TEACHING.make().fit(points[chosen], found[chosen], base=logits[chosen], unit=unit[chosen], parts=parts)
    certainty = float(np.exp(log_softmax(logits)).max(axis=1).mean())
    temperature = temperature_of_certainty(classifier.decision_function(points, logits), certainty)
    return Taught(classifier, temperature, tuple(counts.tolist()))


# ---------------------------------------------------------------------------------------------------------- batch norm


def _with_batch_norm(base: Bundle, images: CellDataset, config: UnlabelledConfig, seed: int) -> onnx.ModelProto:
    """The bundle's graph with batch norm estimated anew, on each image once or on images drawn so that classes balance."""
    n_batches = -(-len(images) // config.batch_size)
    if not config.class_balance:
        order = seeded(seed, "unlabelled").permutation(len(images))
        return _estimated(base.graph, images, np.array_split(order, n_batches), config.strength)
    rng, graph = seeded(seed, "unlabelled", "class_balance"), base.graph
    shape = max(n_batches, FEWEST_BATCHES), config.batch_size
    for _ in range(N_ROUNDS):
        with track("answers", len(images)) as progress:
            found = extract(images.records, graph, cache=None, output="probabilities", progress=progress).complete()
        drawn = rng.choice(len(images), shape, p=balanced_weights(found))
        # from the bundle each time, so that `strength` counts once
        graph = _estimated(base.graph, images, list(drawn), config.strength)
    return graph


def _estimated(
    graph: onnx.ModelProto, images: CellDataset, batches: list[NDArray[np.int64]], strength: float
) -> onnx.ModelProto:
    """A graph with batch norm estimated on batches of the images at these indices."""
    return with_statistics(graph, estimate(graph, _pixels(graph, images, batches), strength=strength))


def _pixels(
    graph: onnx.ModelProto, images: CellDataset, batches: list[NDArray[np.int64]]
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Pixels of the images of each batch, in its order; an image that comes twice in a batch is read once."""
    names = pixels_of(graph)
    runner = GraphRunner(preprocessing_of(graph).SerializeToString(), names)
    parts = [np.unique(batch, return_inverse=True) for batch in batches]
    with track("batch norm", sum(len(once) for once, _ in parts)) as progress:
        for once, places in parts:
            rows = []
            for _, answer in runner.map(images.records[i] for i in once):
                if isinstance(answer, ImageError):
                    raise answer
                rows.append(answer)
                progress(1)
            yield {name: np.stack([rows[place][name] for place in places]) for name in names}
