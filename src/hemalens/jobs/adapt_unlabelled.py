"""Adapt a bundle to a new laboratory with images without labels: batch norm, standardised embedding, class shares."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from hemalens import graphs
from hemalens.artifacts import DataEntry, library_versions
from hemalens.batch_norm import estimate, has_batch_norm, pixels_of, preprocessing_of, with_statistics
from hemalens.bundle import (
    FILES,
    FINE,
    MODEL,
    SEEN,
    SEEN_UNLABELLED,
    STATISTICS,
    Bundle,
    Unlabelled,
    open_bundle,
    seen_images,
    write_bundle,
)
from hemalens.cache import FeatureCache
from hemalens.datasets import READERS, CellDataset, Record, open_dataset
from hemalens.errors import BundleError, ConfigError, ImageError, InputError, one_line
from hemalens.evaluation.metrics import log_softmax
from hemalens.features import extract
from hemalens.files import claim_folder
from hemalens.inference import list_images
from hemalens.jobs.adapt import adapt
from hemalens.jobs.train import Say
from hemalens.progress import track
from hemalens.runtime import GraphRunner, run_rows
from hemalens.sampling import seeded
from hemalens.taxonomy import AS_LABELLED
from hemalens.training.export import check_parity
from hemalens.unlabelled import (
    UnlabelledConfig,
    estimate_prior,
    standardisation,
    training_prior,
    with_prior,
    with_standardisation,
)

FEWEST = 8
"""Statistics of fewer images are those of the cells that happen to be there."""
FEW = 32
"""Below this they still depend much on which cells are there, and it is said."""


def adapt_unlabelled(
    bundle_path: Path,
    spec: str,
    *,
    out: Path,
    settings: Sequence[str] = (),
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Bundle:
    """Write a bundle `out` like the one at `bundle_path`, adapted to the images of `spec` without looking at a label.

    `spec` is a dataset's name or a folder; of a folder, every image below it counts. `settings` are settings key=value of
    `UnlabelledConfig`; `seed` draws the batches. Copies and unreadable images are left out and counted. The new bundle
    counts the images as seen without labels; weights for further training are not carried along. Raises `InputError` for
    fewer than 8 images, `BundleError` for a piece that the bundle lacks what it needs for.
    """
    config = UnlabelledConfig.load(None, settings)
    claim_folder(out, FILES, "a bundle", overwrite=overwrite)
    base = open_bundle(bundle_path)
    refuse_lacking(base, config)
    given = _opened(spec)
    for note in given.notes(base):
        say(note)
    images = given.dataset.through(base.stages)
    adapted = adapted_to(base, images, config, seed)
    content = adapted.graph.SerializeToString()
    parity, _ = check_parity(
        content, images.records, adapted.reference, fine=adapted.fine_reference if base.manifest.fine else None
    )
    settled = Unlabelled(
        settings=config.model_dump(mode="json"),
        base_model_sha256=base.manifest.files[MODEL].sha256,
        n_images=len(images),
        n_unreadable=given.n_unreadable,
        fingerprint=images.fingerprint,
        prior=None if adapted.prior is None else tuple(adapted.prior.tolist()),
    )
    manifest = base.manifest.model_copy(
        update={
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "data": (*base.manifest.data, given.entry()),
            "unlabelled": settled,
            "parity": parity,
            "versions": library_versions(),
        }
    )
    files = {MODEL: content, SEEN_UNLABELLED: seen_images(base.seen_unlabelled.union(images.contents))}
    # the head is the same, and so is what it expects
    files |= {name: (base.path / name).read_bytes() for name in (SEEN, STATISTICS) if name in base.manifest.files}
    return write_bundle(
        out, manifest, files | {name: more for stage in base.stages for name, more in stage.files().items()}
    )


def adapt_to_both(
    bundle_path: Path,
    unlabelled_spec: str,
    support_spec: str,
    *,
    out: Path,
    settings: Sequence[str] = (),
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda text: None,
    **support: Any,
) -> Bundle:
    """Adapt to images without labels first, then learn the classifier anew from the labelled cells of `support_spec`.

    `support` are further arguments of `adapt`. Raises `ConfigError` for a prior, which a new classifier has no use for.
    """
    if UnlabelledConfig.load(None, settings).prior:
        raise ConfigError("the labelled cells give a new classifier: a prior has nothing to act on", expected="prior=false")
    if support.get("beside"):
        raise ConfigError("further bundles stand beside as they are", remedy="Adapt each to the unlabelled images first.")
    claim_folder(out, FILES, "a bundle", overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix="hemalens.adapt.") as folder:
        between = Path(folder) / "bundle"
        adapt_unlabelled(bundle_path, unlabelled_spec, out=between, settings=settings, seed=seed, say=say)
        return adapt(between, support_spec, out=out, overwrite=overwrite, say=say, **support)


def refuse_lacking(base: Bundle, config: UnlabelledConfig) -> None:
    """Raise `BundleError` where a piece asks for what the bundle does not have."""
    if config.batch_norm and not (has_batch_norm(base.graph) and pixels_of(base.graph)):
        raise BundleError(
            f"the bundle {one_line(base.path)} has no batch norm of its own",
            expected="a 32-bit network with batch norm, trained since bundles keep it apart",
            remedy="Train it again, or use another piece: --set batch_norm=false --set standardise=true.",
        )
    if config.standardise and base.statistics is None:
        raise BundleError(
            f"the bundle {one_line(base.path)} does not say what its head expects of an embedding",
            expected=f"{STATISTICS}, which training writes and a new classifier of a few cells takes out",
            remedy="Train it again, or say --set standardise=false.",
        )


# ---------------------------------------------------------------------------------------------------------- the images


@dataclass(frozen=True, slots=True)
class _Given:
    """Readable images, each once, with neither label nor source label; what was left out; the licence and its like."""

    dataset: CellDataset
    n_unreadable: int
    n_copies: int

    def notes(self, base: Bundle) -> list[str]:
        """What whoever adapts should know of the images."""
        n, name = len(self.dataset), self.dataset.name
        notes = [f"{name}: {n} image(s), labels not read"]
        if self.n_unreadable or self.n_copies:
            notes.append(f"{name}: left out {self.n_unreadable} unreadable image(s), {self.n_copies} spare copies")
        if n < FEW:
            notes.append(f"{name}: {n} images are few; the result depends on which cells happen to be there")
        learned = sum(content in base.seen for content in self.dataset.contents)
        if learned:
            notes.append(f"{name}: {learned} image(s) were in the bundle's training data")
        return notes

    def entry(self) -> DataEntry:
        """What the manifest says of them."""
        entry = DataEntry.of(self.dataset, "unlabelled", {"unreadable": self.n_unreadable, "copies": self.n_copies})
        return entry.model_copy(update={"class_counts": {"unlabelled": len(self.dataset)}})


def _opened(spec: str) -> _Given:
    """The images of a dataset or folder; raises `InputError` where fewer than `FEWEST` can be read."""
    reader, _, place = spec.partition(":")
    if reader == "folder" or (reader not in READERS and Path(spec).is_dir()):
        folder = Path(place if reader == "folder" else spec).expanduser()
        own = READERS["folder"]
        name = folder.resolve().name
        records = tuple(Record(path, "", domain=name) for path in list_images(folder))
        listed = CellDataset(name, records, (), AS_LABELLED, own.licence, own.citation)
    else:
        # cells that a label map leaves out are among them: nobody has said what they are
        listed = open_dataset(spec, labels=AS_LABELLED)
        bare = (replace(r, source_label="", cell_type=None, label=None, excluded=None) for r in listed.records)
        listed = replace(listed, records=tuple(bare), classes=())
    once = {content: i for i, content in reversed(list(enumerate(listed.contents)))}
    distinct = [listed.records[i] for i in sorted(once.values())]
    readable = [record for record in distinct if _can_be_read(record)]
    if len(readable) < FEWEST:
        raise InputError(
            f"{one_line(listed.name)} has too few images to adapt to",
            expected=f"at least {FEWEST} different, readable ones",
            got=str(len(readable)),
        )
    dataset = replace(listed, records=tuple(readable))
    return _Given(dataset, len(distinct) - len(readable), len(listed) - len(distinct))


def _can_be_read(record: Record) -> bool:
    try:
        record.read()
    except ImageError:
        return False
    return True


# ----------------------------------------------------------------------------------------------------------- the graph


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
