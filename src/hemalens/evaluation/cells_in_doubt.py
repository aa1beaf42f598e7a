"""The cells that a bundle's stage has not found beyond doubt, as a gallery, and the accuracy with and without them."""

from __future__ import annotations

from collections import Counter

import numpy as np

from hemalens.bundle.bundle import Bundle
from hemalens.evaluation import formatting
from hemalens.evaluation.evaluate import DatasetPredictions
from hemalens.evaluation.results import Picture, PictureTable
from hemalens.evaluation.thumbnails import thumbnail
from hemalens.imaging.segmentation import FOUND, CellFound, Outcome

N_SHOWN = 24
TITLE = "Cells in doubt"
GROUPS: tuple[CellFound, ...] = ("none", "several", "doubtful")
"""In the order of the gallery."""


def cells_in_doubt(bundle: Bundle, answered: DatasetPredictions, *, n: int = N_SHOWN) -> PictureTable | None:
    """Images whose cell is in doubt, at most `n` with their windows, and the accuracy with and without all of them.

    None for a bundle of whole images.
    """
    if not bundle.stages:
        return None
    labels = bundle.manifest.labels
    best = answered.probabilities.argmax(axis=1)
    right = np.array([labels[i] == record.label for i, record in zip(best, answered.records, strict=True)], bool)
    found, shown = np.empty(len(right), "<U8"), dict[int, tuple[str, tuple[str, ...]]]()
    n_seen: Counter[str] = Counter()
    for i, record in enumerate(answered.records):
        image = record.unstaged().read()
        made, pictures = image, [thumbnail(image)]
        outcome: Outcome = "cell"
        for stage in bundle.stages:
            cut = stage.make(made)
            made, outcome = cut.pixels, cut.outcome
        found[i] = FOUND[outcome]
        n_seen[found[i]] += 1
        if outcome != "cell" and n_seen[found[i]] <= n:
            shown[i] = (outcome, (*pictures, thumbnail(made)))
    rows = [
        Picture(
            name=answered.records[i].file_name,
            caption=f"{shown[i][0]}; true {formatting.label(str(answered.records[i].label))}, "
            f"predicted {formatting.label(labels[best[i]])}",
            pictures=shown[i][1],
        )
        for group in GROUPS
        for i in sorted(shown)
        if found[i] == group
    ]
    return PictureTable(title=TITLE, columns=("image", "window"), rows=tuple(rows[:n]), note=_note(found, right))


def _note(found: np.ndarray, right: np.ndarray) -> str:
    """How many cells are in doubt, and the accuracy of all cells and of those found beyond doubt."""
    counts, sure = Counter(found.tolist()), found == "found"
    if sure.all():
        return f"All {len(found):,} cells are found beyond doubt."
    told = ", ".join(f"{what} {counts[what]:,}" for what in ("doubtful", "several", "none") if counts[what])
    without = (
        f"{formatting.score(float(right[sure].mean()))} without them" if sure.any() else "no cell is left without them"
    )
    return (
        f"Of {len(found):,} cells {int((~sure).sum()):,} are in doubt ({told}). "
        f"Accuracy: {formatting.score(float(right.mean()))} of all cells, {without}."
    )
