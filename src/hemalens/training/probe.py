"""Train a classical head on the embeddings of an encoder's graph and export both as a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hemalens.bundle.bundle import Bundle
from hemalens.bundle.export import Trained, export_bundle
from hemalens.cache import FeatureCache
from hemalens.classifiers.calibration import fit_temperature, log_softmax
from hemalens.classifiers.heads import ClassWeights, Head, make_head
from hemalens.config import StrictConfig
from hemalens.datasets.base import CellDataset, Record
from hemalens.datasets.splits import balanced_weights
from hemalens.errors import SplitError
from hemalens.files import default_cache_dir
from hemalens.graphs.build import join
from hemalens.graphs.features import extract
from hemalens.imaging.reading import Preprocessing


def fit_head(
    name: str,
    embeddings: NDArray[np.float32],
    dataset: CellDataset,
    *,
    seed: int,
    class_weights: ClassWeights = "none",
) -> Head:
    """A head fitted on the embeddings (n, d) of a dataset; raises `SplitError` for too few images.

    `class_weights` "balanced": an image weighs inversely to the number of images of its class, 1 on average. Repeated
    images instead of weights would put copies on both sides of the inner folds of some heads.
    """
    head = make_head(name, seed=seed)
    weights = len(dataset) * balanced_weights(dataset.targets) if class_weights == "balanced" else None
    try:
        # on matrix products this small one thread is twice as fast as two, more so on a busy machine
        with threadpool_limits(1, user_api="blas"):
            head.fit(embeddings, dataset.targets, weights)
    except ValueError as error:
        # heads with inner folds or a validation part need several images of each class
        raise SplitError(
            f"the head {name!r} cannot learn from {len(dataset)} images of {len(dataset.classes)} classes",
            got=str(error),
            remedy="Add images, or use another head, as in --set head=lr.",
        ) from error
    return head


@dataclass(frozen=True, slots=True)
class Encoded:
    """A dataset with its embeddings (n, d)."""

    dataset: CellDataset
    embeddings: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Probe:
    """The encoder below a head, the graph from image to embedding, and the method that both belong to."""

    method: str
    config: StrictConfig
    head: str
    class_weights: ClassWeights
    encoder: onnx.ModelProto
    preprocessing: Preprocessing
    frozen_backbone: bool


def export_probe(
    probe: Probe,
    train: Encoded,
    validation: Encoded | None,
    *,
    seed: int,
    run_dir: Path,
    auxiliary: Sequence[CellDataset] = (),
    extra_files: dict[str, bytes] | None = None,
) -> Bundle:
    """Fit the head on `train`, calibrate it on `validation`, and write `run_dir`/bundle."""
    head = fit_head(probe.head, train.embeddings, train.dataset, seed=seed, class_weights=probe.class_weights)
    temperature = 1.0
    if validation is not None:
        temperature = fit_temperature(head.logits(validation.embeddings), validation.dataset.targets)

    def reference(records: list[Record]) -> NDArray[np.float64]:
        cache = FeatureCache(default_cache_dir()) if probe.frozen_backbone else None
        logits = head.logits(extract(records, probe.encoder, cache=cache).complete())
        return np.exp(log_softmax(logits / temperature))

    trained = Trained(
        method=probe.method,
        config=probe.config,
        train=train.dataset,
        validation=validation.dataset if validation else None,
        graph=join(probe.encoder, head.graph(), keep=("embedding",)),
        preprocessing=probe.preprocessing,
        temperature=temperature,
        frozen_backbone=probe.frozen_backbone,
        reference=reference,
        auxiliary=tuple(auxiliary),
    )
    return export_bundle(trained, run_dir / "bundle", extra_files=extra_files)
