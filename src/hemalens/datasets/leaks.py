"""Leaks from training to test data."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from hemalens.datasets.base import CellDataset
from hemalens.errors import SplitError


def refuse_leaks(train_contents: Collection[str], target: CellDataset) -> None:
    """Raise `SplitError` when the model was trained on an image of `target`.

    `train_contents` are the content digests of the training images.
    """
    shared = [r for content, r in zip(target.contents, target.records, strict=True) if content in train_contents]
    if shared:
        first = "/".join(Path(shared[0].name).parts[-2:])
        raise SplitError(
            f"{len(shared)} image(s) of {target.name} were trained on, first: {first!r}",
            expected="test images the model has not seen",
            remedy="Use other images. `hemalens evaluate` leaves these out with --drop-seen.",
        )
