"""From results to a report: data cards, environment, and a summary in plain words."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hemalens.artifacts import library_versions
from hemalens.datasets import CellDataset
from hemalens.evaluation.results import ComparisonTable, DataCard, Estimate, Evaluation, KShot, PictureTable, Report
from hemalens.runtime import n_cores
from hemalens.sampling import Cleaning


def data_card(dataset: CellDataset, role: str, cleaning: Cleaning | None = None, **dropped: int) -> DataCard:
    """What a report says of a dataset: counts after cleaning, and what was left out on the way."""
    return DataCard(
        role=role,
        name=dataset.name,
        n_images=len(dataset),
        class_counts=dataset.class_counts,
        excluded=cleaning.outside if cleaning else dataset.excluded_counts,
        dropped={name: n for name, n in {**(cleaning.counts() if cleaning else {}), **dropped}.items() if n},
        notes=dataset.notes,
        licence=dataset.licence,
        citation=dataset.citation,
        fingerprint=dataset.fingerprint,
        synthetic=dataset.synthetic,
    )


def environment() -> dict[str, str]:
    """Versions, machine and processor."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(n_cores()),
        **library_versions(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def command_line() -> str:
    """The command that is running, as one would type it."""
    return shlex.join([os.path.basename(sys.argv[0]) or "hemalens", *sys.argv[1:]])


def make_report(
    title: str,
    protocol: str,
    *,
    evaluations: Sequence[Evaluation] = (),
    k_shot: Sequence[KShot] = (),
    tables: Sequence[ComparisonTable] = (),
    pictures: Sequence[PictureTable] = (),
    verdicts: Sequence[str] = (),
    data: Sequence[DataCard],
    methods: Mapping[str, Mapping[str, Any]],
    seed: int,
) -> Report:
    """A report with its summary; `verdicts` are sentences that stand before what is said of each evaluation."""
    sentences = [*verdicts] + [sentence for evaluation in evaluations for sentence in summarise(evaluation)]
    for target in dict.fromkeys(result.target for result in k_shot):
        sentences += summarise_k_shot([result for result in k_shot if result.target == target])
    return Report(
        title=title,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=command_line(),
        protocol=protocol,
        summary=tuple(sentences),
        synthetic=any(card.synthetic for card in data),
        data=tuple(data),
        evaluations=tuple(evaluations),
        k_shot=tuple(k_shot),
        tables=tuple(tables),
        pictures=tuple(pictures),
        methods={name: dict(config) for name, config in methods.items()},
        environment=environment(),
        seed=seed,
    )


def summarise(evaluation: Evaluation) -> list[str]:
    """One evaluation in plain words; it says so when the model does no better than the majority answer."""
    scores = evaluation.scores
    where = f"{evaluation.method}, {evaluation.source} -> {evaluation.target}"
    folds = f", mean of {evaluation.n_folds} folds" if evaluation.n_folds > 1 else ""
    sentences = [
        f"{where}: balanced accuracy {_with_interval(scores.balanced_accuracy)} and accuracy "
        f"{_with_interval(scores.accuracy)} on {evaluation.n_images} images of "
        f"{len(evaluation.tested_classes)} classes{folds}; "
        f"always answering the most frequent class gives an accuracy of {_number(scores.majority_rate)}."
    ]
    low, high = scores.accuracy.low, scores.accuracy.high
    if low is not None and high is not None and scores.majority_rate is not None:
        if high < scores.majority_rate:
            sentences.append(f"{where}: the accuracy is worse than always answering the most frequent class.")
        elif low <= scores.majority_rate:
            sentences.append(f"{where}: the accuracy does not differ from always answering the most frequent class.")
    return sentences


MOST_SENTENCES = 3
"""More embedders than this on one target are summed up in one sentence."""


def summarise_k_shot(results: Sequence[KShot]) -> list[str]:
    """The k-shot results on one target in plain words, at the k nearest to ten; what is transductive says so."""
    if len(results) <= MOST_SENTENCES:
        return [_k_shot_sentence(result) for result in results]
    at_ten = [(result, min(result.shots, key=lambda s: abs(s.k - 10))) for result in results]
    ranked = sorted(at_ten, key=lambda entry: entry[1].balanced_accuracy.value or 0.0)
    (worst, low), (best, high) = ranked[0], ranked[-1]
    return [
        f"{best.target}: with {high.k} labelled image(s) of each of {len(best.classes)} classes the balanced accuracy of "
        f"{len(results)} embedders runs from {_with_interval(low.balanced_accuracy)} ({_named(worst)}) to "
        f"{_with_interval(high.balanced_accuracy)} ({_named(best)}); always answering the most frequent class gives an "
        f"accuracy of {_number(high.majority_rate)}."
    ]


def _named(result: KShot) -> str:
    return f"{result.method}, transductive" if result.transductive else result.method


def _k_shot_sentence(result: KShot) -> str:
    shots = min(result.shots, key=lambda s: abs(s.k - 10))
    where = f"{result.method}, {result.source} -> {result.target}"
    how = f"{result.classifier}{', transductive' if result.transductive else ''}"
    sentence = (
        f"{where}: with {shots.k} labelled image(s) of each of {len(result.classes)} classes ({how}) balanced accuracy "
        f"{_with_interval(shots.balanced_accuracy)} and accuracy {_with_interval(shots.accuracy)}, mean of "
        f"{shots.n_repeats} drawings; always answering the most frequent class gives an accuracy of "
        f"{_number(shots.majority_rate)}"
    )
    if result.supervised is not None:
        sentence += f"; {result.supervised.what} gives a balanced accuracy of "
        sentence += _with_interval(result.supervised.balanced_accuracy)
    return sentence + "."


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _with_interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return _number(estimate.value)
    return f"{_number(estimate.value)} ({estimate.low:.3f}–{estimate.high:.3f})"
