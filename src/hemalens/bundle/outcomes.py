"""What the stages of a bundle find in the images of a dataset: one cell, a doubtful one, several, or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hemalens.bundle.stages import Stage
from hemalens.datasets.base import CellDataset, Record
from hemalens.errors import ImageError
from hemalens.graphs.runtime import in_order, n_cores
from hemalens.imaging.segmentation import Outcome
from hemalens.progress import track


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Outcomes of each stage, counted, and the content ids of images in which the last one does not find one sure cell."""

    counts: tuple[Mapping[Outcome, int], ...]
    doubtful: Mapping[str, Outcome]


def outcomes_of(dataset: CellDataset, stages: Sequence[Stage]) -> Outcomes:
    """The outcomes of stages, one after the other, on the images as they lie on disk; unreadable ones are not counted."""

    def work(record: Record) -> tuple[Outcome, ...]:
        found = []
        try:
            image = record.unstaged().read()
        except ImageError:
            # reported where they are tested or trained on
            return ()
        for stage in stages:
            made = stage.make(image)
            image = made.pixels
            found.append(made.outcome)
        return tuple(found)

    counts = tuple(Counter[Outcome]() for _ in stages)
    doubtful: dict[str, Outcome] = {}
    with track("cutting cells out", len(dataset)) as progress:
        for record, found in in_order(work, dataset.records, n_cores()):
            for count, outcome in zip(counts, found, strict=False):
                count[outcome] += 1
            if found and found[-1] != "cell":
                doubtful[record.content_id()] = found[-1]
            progress(1)
    return Outcomes(tuple(map(dict, counts)), doubtful)
