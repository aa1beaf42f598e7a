"""Evaluations that keep what every model answered, with scores that follow from it; no model is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemalens.evaluation import metrics
from hemalens.evaluation.results import Estimate, Evaluation, ImageAnswers, Scores

CLASSES = ("basophil", "eosinophil", "lymphocyte", "monocyte")
NO_VALUE = Estimate(value=None)


def make_answered(method: str, truth: Sequence[int], answers: Any, /, **changes: Any) -> Evaluation:
    """A method whose models gave `answers`, (models, images) with -1 where one was not asked, or (images,) of one model.

    `units` and `images` are those of the answers, all else of the evaluation.
    """
    table = np.atleast_2d(np.asarray(answers, np.int64))
    names = tuple(changes.pop("images", (f"{i:016x}" for i in range(len(truth)))))
    units = tuple(changes.pop("units", range(len(truth))))
    source, target = changes.get("source", "lab_a"), changes.get("target", "lab_b")
    return Evaluation.model_validate(
        {
            "name": f"{method}: {source} -> {target}",
            "method": method,
            "source": source,
            "target": target,
            "n_images": len(truth),
            "n_folds": len(table),
            "classes": CLASSES,
            "tested_classes": CLASSES,
            "scores": scores_of(np.asarray(truth), table),
            "per_class": (),
            "confusion": (),
            "reliability": (),
            "answers": ImageAnswers(
                images=names, units=units, truth=tuple(truth), answers=tuple(tuple(row) for row in table.tolist())
            ),
            "intervals": "",
        }
        | changes
    )


def scores_of(truth: NDArray[np.int64], answers: NDArray[np.int64]) -> Scores:
    """Means over the models, without intervals."""
    counts = [metrics.confusion(truth[row >= 0], row[row >= 0], len(CLASSES)) for row in answers]
    return Scores(
        accuracy=Estimate(value=float(np.mean([metrics.accuracy(c) for c in counts]))),
        majority_rate=float(np.mean([metrics.majority_rate(c) for c in counts])),
        balanced_accuracy=Estimate(value=float(np.mean([metrics.balanced_accuracy(c) for c in counts]))),
        macro_f1=NO_VALUE,
        balanced_accuracy_restricted=NO_VALUE,
        ece=None,
        nll=None,
    )


def drawn_answers(
    rng: np.random.Generator, truth: NDArray[np.int64], p_right: float, n_models: int = 1
) -> NDArray[np.int64]:
    """Answers (models, images) that are right with the chance `p_right`, and otherwise the next class."""
    right = rng.random((n_models, len(truth))) < p_right
    return np.where(right, truth, (truth + 1) % len(CLASSES))


def k_fold_answers(answers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Answers (models, images) of which each image keeps those of one model."""
    n_models, n_images = answers.shape
    return np.where(np.arange(n_images) % n_models == np.arange(n_models)[:, None], answers, -1)
