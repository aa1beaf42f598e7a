"""Compute the reference statistics of a new bundle on its finished graph, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray

from hemalens.cache import FeatureCache
from hemalens.datasets.base import CellDataset
from hemalens.graphs import build as graphs
from hemalens.graphs.features import extract
from hemalens.graphs.runtime import run_rows
from hemalens.trust.reference import MOST_HELD, Geometry, ImitatedImages, ReferenceStatistics, evenly, fit_reference

MOST_TRAINING = 512
"""Training images, evenly spaced within each class, for class means and covariances."""


def reference_of(
    train: CellDataset,
    validation: CellDataset | None,
    graph: onnx.ModelProto,
    cache: FeatureCache | None,
    *,
    imitated: Sequence[CellDataset] = (),
) -> ReferenceStatistics | None:
    """The reference statistics of a bundle's `graph`; None without validation images.

    Means and covariances come from training images, calibration from validation images alone: predictions on training
    images are too confident and too close to their class. `imitated` are validation images as imitated laboratories show
    them.
    """
    held = None if validation is None else validation.under(train.classes)
    if held is None or not len(held):
        return None
    held = held.subset(evenly(len(held), MOST_HELD).tolist())
    encoder = graphs.cut(graph, ["image"], ["embedding"])
    learned = _per_class(train)
    known = extract([train.records[i] for i in learned], encoder, cache=cache).complete()
    embeddings = extract(held.records, encoder, cache=cache).complete()
    head = graphs.cut(graph, ["embedding"], ["probabilities"]).SerializeToString()
    probabilities = run_rows(head, {"embedding": embeddings}, ["probabilities"])["probabilities"]
    geometry = Geometry.fit(known, train.targets[learned], len(train.classes))
    found = fit_reference(geometry, embeddings, probabilities, held.targets)
    return replace(found, imitated=_imitated(imitated, train.classes, graphs.cut(graph, ["image"], ["probabilities"])))


def _imitated(sets: Sequence[CellDataset], classes: tuple[str, ...], graph: onnx.ModelProto) -> ImitatedImages | None:
    """Predictions on the images of imitated laboratories; an image that a laboratory spoils is left out."""
    parts = []
    for number, dataset in enumerate(each.under(classes) for each in sets):
        found = extract(dataset.records, graph, cache=None, output="probabilities")
        if len(found.readable):
            parts.append((found.embeddings, dataset.targets[found.readable], np.full(len(found.readable), number)))
    if not parts:
        return None
    return ImitatedImages(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _per_class(dataset: CellDataset) -> NDArray[np.int64]:
    """Indices of about `MOST_TRAINING` images in proportion to the classes, at least 16 of each where it has them."""
    chosen = []
    for i in range(len(dataset.classes)):
        members = np.flatnonzero(dataset.targets == i)
        chosen.append(members[evenly(len(members), max(16, MOST_TRAINING * len(members) // len(dataset)))])
    return np.sort(np.concatenate(chosen))
