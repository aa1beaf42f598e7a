"""Builds a report: data cards, method cards, environment, results and their summary."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from hemalens.bundle.artifact import library_versions
from hemalens.datasets import CellDataset
from hemalens.datasets.fields.base import FieldDataset
from hemalens.datasets.file_checks import file_checks
from hemalens.datasets.splits import Cleaning
from hemalens.evaluation.results import (
    Comparison,
    ComparisonTable,
    CountComparison,
    DataCard,
    Detection,
    Efficiency,
    Evaluation,
    Failure,
    FractionCurve,
    KShot,
    MethodCard,
    NamedScatter,
    PictureTable,
    Report,
    ReviewCheck,
    SlideResult,
    TrainingCurve,
)
from hemalens.graphs.runtime import n_cores
from hemalens.report import count_comparisons, detection, review
from hemalens.report.slides import summarise_slides
from hemalens.report.summary import (
    summarise_efficiency,
    summarise_evaluations,
    summarise_failures,
    summarise_fractions,
    summarise_k_shot,
)


def data_card(dataset: CellDataset, role: str, cleaning: Cleaning | None = None, **dropped: int) -> DataCard:
    """The card of a dataset: counts after cleaning, what was dropped and why, and with a `cleaning` the file checks."""
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
        audit=file_checks(dataset, cleaning) if cleaning else {},
    )


def field_card(dataset: FieldDataset, role: str, dropped: Mapping[str, int] | None = None) -> DataCard:
    """The card of fields with boxes: how many boxes of each kind, and what was left out."""
    return DataCard(
        role=role,
        name=dataset.name,
        n_images=len(dataset),
        class_counts={str(kind): n for kind, n in dataset.counts.items()},
        counted="boxes",
        dropped={**dict(dataset.dropped), **(dropped or {})},
        notes=dataset.notes,
        licence=dataset.licence,
        citation=dataset.citation,
        fingerprint=dataset.fingerprint,
        synthetic=dataset.synthetic,
    )


class _Described(Protocol):
    """What the card of a method needs."""

    @property
    def name(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def publication(self) -> str: ...


def method_card(method: _Described, name: str, cards: Sequence[DataCard]) -> MethodCard:
    """The card of a method that a report calls `name`, with its training data."""
    lines = tuple(f"{card.name} ({card.role}), {card.n_images:,} images" for card in cards)
    return MethodCard(
        name=name, method=method.name, what=method.summary, publication=method.publication, learned_from=lines
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
    """The running command, as typed."""
    return shlex.join([os.path.basename(sys.argv[0]) or "hemalens", *sys.argv[1:]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The results of a report, each kind in its order.

    `remarks` are sentences that precede those on evaluations; `differences` those on what a study does otherwise than its
    paper.
    """

    evaluations: Sequence[Evaluation] = ()
    slides: Sequence[SlideResult] = ()
    count_comparisons: Sequence[CountComparison] = ()
    detections: Sequence[Detection] = ()
    k_shot: Sequence[KShot] = ()
    fractions: Sequence[FractionCurve] = ()
    efficiency: Sequence[Efficiency] = ()
    comparisons: Sequence[Comparison] = ()
    failures: Sequence[Failure] = ()
    scatters: Sequence[NamedScatter] = ()
    tables: Sequence[ComparisonTable] = ()
    pictures: Sequence[PictureTable] = ()
    review: ReviewCheck | None = None
    curves: Sequence[TrainingCurve] = ()
    remarks: Sequence[str] = ()
    differences: Sequence[str] = ()

    def summary(self) -> tuple[str, ...]:
        """The results as sentences."""
        sentences = [*summarise_failures(self.failures), *summarise_efficiency(self.efficiency), *self.remarks]
        sentences += [*summarise_slides(self.slides), *map(count_comparisons.sentence, self.count_comparisons)]
        sentences += detection.sentences(self.detections)
        sentences += summarise_evaluations(self.evaluations, self.comparisons)
        sentences += [] if self.review is None else [review.sentence(self.review)]
        for place in dict.fromkeys((result.target, result.against) for result in self.k_shot):
            sentences += summarise_k_shot([result for result in self.k_shot if (result.target, result.against) == place])
        return (*sentences, *summarise_fractions(self.fractions))


def make_report(
    title: str,
    protocol: str,
    results: Results,
    *,
    data: Sequence[DataCard],
    methods: Mapping[str, Mapping[str, Any]],
    method_cards: Sequence[MethodCard] = (),
    seed: int,
) -> Report:
    """A report with its summary; `methods` holds the configuration of each by name."""
    return Report(
        title=title,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=command_line(),
        protocol=protocol,
        summary=results.summary(),
        differences=tuple(results.differences),
        synthetic=any(card.synthetic for card in data),
        data=tuple(data),
        methods={name: dict(config) for name, config in methods.items()},
        method_cards=tuple(method_cards),
        environment=environment(),
        seed=seed,
        evaluations=tuple(results.evaluations),
        slides=tuple(results.slides),
        count_comparisons=tuple(results.count_comparisons),
        detections=tuple(results.detections),
        k_shot=tuple(results.k_shot),
        fractions=tuple(results.fractions),
        efficiency=tuple(results.efficiency),
        comparisons=tuple(results.comparisons),
        failures=tuple(results.failures),
        scatters=tuple(results.scatters),
        tables=tuple(results.tables),
        pictures=tuple(results.pictures),
        review=results.review,
        curves=tuple(results.curves),
    )
