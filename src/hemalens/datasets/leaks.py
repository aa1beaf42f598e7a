"""Leaks from training to test data: the same image, or an image and what is cut out of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemalens.datasets.base import CellDataset, Record
from hemalens.errors import SplitError
from hemalens.files import sha256_text


def whole_content(record: Record) -> str:
    """The content digest of the whole image that a record's box is cut out of; empty for an unreadable file."""
    try:
        return replace(record, box=None).content_id()
    except OSError:
        return ""


def _cut_from(content: str) -> str:
    """The trace of a whole image of which a part was trained on."""
    return sha256_text("a part of", content)


def traces(dataset: CellDataset) -> frozenset[str]:
    """Digests by which the images of a training set are known again: of each image, and of each that a box is part of."""
    cut = [_cut_from(whole_content(record)) for record in dataset.records if record.box is not None]
    return frozenset([*dataset.contents, *cut])


def seen_among(dataset: CellDataset, seen: Collection[str]) -> NDArray[np.bool_]:
    """Which images of a dataset (n,) were trained on, by the `traces` of the training images.

    These are the same images, parts of an image that was trained on, and whole images of which a part was trained on.
    Other parts of the same image do not count: their group keeps them together within a split.
    """
    related = (
        _cut_from(content) if record.box is None else whole_content(record)
        for content, record in zip(dataset.contents, dataset.records, strict=True)
    )
    pairs = zip(dataset.contents, related, strict=True)
    return np.array([content in seen or other in seen for content, other in pairs], bool)


def refuse_leaks(seen: Collection[str], target: CellDataset) -> None:
    """Raise `SplitError` when the model was trained on an image of `target`; `seen` are the `traces` of its images."""
    shared = np.flatnonzero(seen_among(target, seen))
    if len(shared):
        first = "/".join(Path(target.records[shared[0]].name).parts[-2:])
        raise SplitError(
            f"{len(shared)} image(s) of {target.name} were trained on, first: {first!r}",
            expected="test images the model has not seen",
            remedy="Use other images. `hemalens evaluate` leaves these out with --drop-seen.",
        )
