"""The cells of a test that a person must look at: why, how many errors they hold, and the most urgent ones as a gallery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hemalens.bundle.bundle import Bundle
from hemalens.bundle.review import roles_of
from hemalens.bundle.stages import cut_by
from hemalens.datasets.base import Record
from hemalens.evaluation import formatting
from hemalens.evaluation.activation import COLOURS, drawn
from hemalens.evaluation.evaluate import DatasetPredictions
from hemalens.evaluation.results import Picture, PictureTable, ReasonCount, ReviewCheck, TypeCount
from hemalens.evaluation.thumbnails import THUMBNAIL_PX, thumbnail
from hemalens.imaging.segmentation import Outcome
from hemalens.inference.explain import Explainer
from hemalens.trust.domain_shift import DETECTED
from hemalens.trust.review import DOUBTFUL, REASONS, UNKNOWN, URGENT, Reason

N_SHOWN = 24
TITLE = "The most urgent cells"


def cells_to_review(
    bundle: Bundle,
    answered: DatasetPredictions,
    *,
    doubtful: Mapping[str, Outcome],
    verdict: str = "",
    explainer: Explainer | None = None,
    n: int = N_SHOWN,
) -> ReviewCheck | None:
    """The cells to review, at most `n` of them with their pictures, compared with the labels.

    `doubtful` are the outcomes of images without one sure cell, by content id (`bundle.outcomes`).
    `verdict` on the domain shift: where it is detected, atypical cells are reviewed too. A bundle without thresholds knows
    doubtful cells alone. None for one that takes whole images besides. `explainer` adds a map of the evidence.
    """
    if bundle.reviewer is None and not bundle.stages:
        return None
    labels = bundle.manifest.labels
    outcomes = [doubtful.get(record.content_id(), "cell") for record in answered.records]
    reasons = _reasons(bundle, answered, np.array([outcome != "cell" for outcome in outcomes], bool), verdict)
    best = answered.probabilities.argmax(axis=1)
    truth = np.array([labels.index(str(record.label)) for record in answered.records], np.int64)
    wrong, mature = best != truth, roles_of(labels).mature[truth]
    alarms = np.array([reason in (URGENT, UNKNOWN) for reason in reasons], bool)
    thresholds = bundle.manifest.review
    sure = answered.probabilities.max(axis=1)
    chosen = sorted(
        (i for i, reason in enumerate(reasons) if reason is not None), key=lambda i: (REASONS.index(reasons[i]), sure[i])
    )
    rows = [
        Picture(
            name=answered.records[i].file_name,
            caption=f"{_why(reasons[i], outcomes[i])}; true {formatting.label(labels[truth[i]])}, "
            f"predicted {formatting.label(labels[best[i]])}, {formatting.probability(float(sure[i]))}",
            pictures=_pictures(bundle, answered.records[i], explainer),
        )
        for i in chosen[:n]
    ]
    note = _note(len(rows), len(chosen), explained=explainer is not None)
    columns = ("image", *(["window"] if bundle.stages else []), *(["evidence"] if explainer else []))
    return ReviewCheck(
        n_cells=len(truth),
        n_wrong=int(wrong.sum()),
        reasons=tuple(_counted(reason, reasons, wrong) for reason in REASONS),
        n_mature=int(mature.sum()),
        n_false_alarms=int((mature & alarms).sum()),
        stated=None if thresholds is None else thresholds.false_alarms,
        types=_by_type(labels, truth, wrong=wrong, alarms=alarms, marked=np.array([each is not None for each in reasons])),
        cells=PictureTable(
            title=TITLE,
            columns=columns,
            rows=tuple(rows),
            note=note,
        ),
    )


def _reasons(
    bundle: Bundle, answered: DatasetPredictions, doubtful: NDArray[np.bool_], verdict: str
) -> list[Reason | None]:
    """The reason for a review of each cell, as `predict` finds it."""
    reviewer = bundle.reviewer
    if reviewer is None:
        return [DOUBTFUL if each else None for each in doubtful]
    typicality, *_ = bundle.monitor().observe(answered.embeddings, answered.probabilities)
    found = reviewer.reasons(answered.probabilities, answered.embeddings, doubtful, typicality)
    return [if_foreign if verdict == DETECTED else why for why, if_foreign in found]


def _pictures(bundle: Bundle, record: Record, explainer: Explainer | None) -> tuple[str, ...]:
    """Small copies of an image and, for a bundle with stages, of what they make of it; and the map of its evidence."""
    image = record.unstaged().read()
    window = cut_by(bundle.stages, image).pixels
    shown = [image, window] if bundle.stages else [image]
    evidence = [drawn(window, explainer(window), THUMBNAIL_PX)] if explainer else []
    return (*map(thumbnail, shown), *evidence)


def _counted(reason: Reason, reasons: list[Reason | None], wrong: NDArray[np.bool_]) -> ReasonCount:
    has = np.array([each == reason for each in reasons], bool)
    return ReasonCount(reason=reason, n=int(has.sum()), n_wrong=int((has & wrong).sum()))


def _by_type(
    labels: Sequence[str],
    truth: NDArray[np.int64],
    *,
    wrong: NDArray[np.bool_],
    alarms: NDArray[np.bool_],
    marked: NDArray[np.bool_],
) -> tuple[TypeCount, ...]:
    """The counts of each true type that is there, in the order of the labels."""
    found = []
    for c in np.unique(truth):
        own = truth == c
        found.append(
            TypeCount(
                type=labels[c],
                n=int(own.sum()),
                n_right=int((own & ~wrong).sum()),
                n_urgent=int((own & alarms).sum()),
                n_to_review=int((own & marked).sum()),
                n_missed=int((own & wrong & ~marked).sum()),
            )
        )
    return tuple(found)


def _why(reason: Reason | None, outcome: Outcome) -> str:
    """The reason, of a doubtful cell with what was found."""
    return f"{reason}: {outcome}" if reason == DOUBTFUL else str(reason)


def _note(n: int, of: int, *, explained: bool) -> str:
    note = f"The {n} most urgent of {of:,}." if of > n else "The most urgent first."
    return f"{note} {COLOURS}" if explained else note
