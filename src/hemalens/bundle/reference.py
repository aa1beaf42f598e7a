"""What a new bundle keeps of its home laboratory: measured on the finished graph, without torch."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from hemalens.cache import FeatureCache
from hemalens.datasets.base import CellDataset
from hemalens.graphs import build as graphs
from hemalens.graphs.features import extract
from hemalens.graphs.runtime import run_rows
from hemalens.trust.reference import HOME, MOST_HELD, Geometry, evenly, fit_reference, reference_bytes

MOST_TRAINING = 512
"""Training images, evenly spaced within each class, that give class means and covariances."""


def reference_files(
    train: CellDataset, validation: CellDataset | None, graph: onnx.ModelProto, cache: FeatureCache | None
) -> dict[str, bytes]:
    """The file `HOME` of a bundle's `graph`; none without validation images.

    Means and covariances are those of training images. Scores, probabilities and classes, which everything is calibrated
    on, are of validation images alone: on images that the weights have learned from, an answer is surer and closer to its
    class than on any other.
    """
    held = None if validation is None else validation.under(train.classes)
    if held is None or not len(held):
        return {}
    held = held.subset(evenly(len(held), MOST_HELD).tolist())
    encoder = graphs.cut(graph, ["image"], ["embedding"])
    learned = _per_class(train)
    known = extract([train.records[i] for i in learned], encoder, cache=cache).complete()
    embeddings = extract(held.records, encoder, cache=cache).complete()
    head = graphs.cut(graph, ["embedding"], ["probabilities"]).SerializeToString()
    probabilities = run_rows(head, {"embedding": embeddings}, ["probabilities"])["probabilities"]
    geometry = Geometry.of(known, train.targets[learned], len(train.classes))
    return {HOME: reference_bytes(fit_reference(geometry, embeddings, probabilities, held.targets))}


def _per_class(dataset: CellDataset) -> NDArray[np.int64]:
    """Places of at most `MOST_TRAINING` images: of each class by its share, at least 16 as far as there are."""
    chosen = []
    for i in range(len(dataset.classes)):
        members = np.flatnonzero(dataset.targets == i)
        chosen.append(members[evenly(len(members), max(16, MOST_TRAINING * len(members) // len(dataset)))])
    return np.sort(np.concatenate(chosen))
