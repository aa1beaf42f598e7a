"""Count the cells of slides: fields in, a differential for each slide, tables, crops, overlays and a report out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hemalens.bundle.bundle import Bundle, BundleLike, bundle_folder, open_bundle
from hemalens.bundle.detector import Detector, default_detector, open_detector
from hemalens.config import check_texts, check_whole, checked
from hemalens.datasets.tables import table_file
from hemalens.detection.fields import LEAST_SCORES
from hemalens.errors import check_seed, public
from hemalens.files import PathLike, as_path, atomic_dir, files_below, read_sealed, write_sealed
from hemalens.graphs.runtime import in_order, n_cores
from hemalens.inference.predictor import Predictor
from hemalens.inference.revision import LaterSets, revise
from hemalens.outputs import check_outside, claim_folder
from hemalens.progress import Advance, Say, track
from hemalens.report import write_report
from hemalens.runs.confusion import read_confusion
from hemalens.runs.counting.copies import count_once
from hemalens.runs.counting.decide import decide, limits_of
from hemalens.runs.counting.exhibits import Exhibits
from hemalens.runs.counting.find import FieldWorker, FoundField, observed, slide_scales
from hemalens.runs.counting.options import DEFAULTS, CountOptions, rules_of
from hemalens.runs.counting.pictures import Painter
from hemalens.runs.counting.results import Rules, SlideCounts, counts_of, report_of, shared_contents
from hemalens.runs.counting.review import rows_for_review, write_sheet
from hemalens.runs.counting.rows import CELLS_CSV, CELLS_PARQUET, Value, Write, cell_rows, cell_writer, write_slides
from hemalens.runs.counting.slides import Slide, open_slides
from hemalens.trust.domain_shift import DETECTED
from hemalens.trust.guarantee import SetGuarantee
from hemalens.trust.monitor import BatchReport, Monitor
from hemalens.trust.review import Reason, ToReview, in_words

COUNT_FILE = "count.json"
"""Names what a count has written, so that `overwrite` replaces nothing else."""


@dataclass(frozen=True, slots=True)
class CountSummary:
    """The counts of each slide, notes on the fields, and the domain shift and estimated accuracy of all white cells."""

    slides: tuple[SlideCounts, ...]
    notes: tuple[str, ...]
    trust: BatchReport
    sets: SetGuarantee | None
    """The coverage of the prediction sets, and what it rests on; None for a bundle without."""
    review: Mapping[Reason, int] | None
    """Cells that a person must look at by the reason, the most urgent first; None for a bundle without thresholds."""

    @property
    def n_fields(self) -> int:
        """All fields, unreadable ones and copies included."""
        return sum(len(counts.slide.fields) for counts in self.slides)

    @property
    def n_unreadable(self) -> int:
        """Fields that cannot be read."""
        return sum(counts.n_unreadable for counts in self.slides)


@public
def count(
    bundle: BundleLike,
    fields: PathLike,
    *,
    out: PathLike,
    detector: PathLike | None = None,
    options: CountOptions = DEFAULTS,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> CountSummary:
    """Find, classify and count the cells in `fields`, and write tables, pictures and a report into the folder `out`.

    `fields` is a folder of images, in which each folder is a slide, a table with the columns slide and field, an image, or
    a TIFF of several pages. The `detector` finds the cells, by default the package's; the `bundle` classifies the white
    cells. `out` gets cells.csv, slides.csv, crops by type, an overlay of each field, and the report. A field that cannot be
    read is a row with its error. The folder appears whole at the end, or not at all.
    """
    options = check_options(options)
    source, out = as_path(fields, "the fields"), as_path(out, "out")
    given = inputs_of(bundle, source, detector, options)
    check_outside(out, source, "--out")
    rules = read_rules(options)
    with claim_folder(out, counted_files, "a count", overwrite=overwrite, inputs=given):
        slides = open_slides(source, options, say=say)
        opened, finder = open_both(bundle, detector, rules)
        with atomic_dir(out, counted_files) as folder:
            finding = SlideFinder(opened, finder, options, rules, say=say)
            counter = Counter(opened, finder, options, rules, folder)
            n_fields = sum(len(slide.fields) for slide in slides)
            with track("counting cells", n_fields) as progress, cell_writer(folder, parquet=options.parquet) as write:
                for slide in slides:
                    found = finding.find(slide, counter.monitor, progress)
                    counts = counts_of(slide, found, rules, finding.labels)
                    counter.add(counts, found, finding.paint(slide, found, folder), write)
            return counter.finish(source)


def check_options(options: CountOptions) -> CountOptions:
    """The options; raises `InputError` for values that cannot be used."""
    options = checked(options, CountOptions)
    check_texts(options.settings, "the settings")
    check_whole(options.most_overlays, "most_overlays", least=0)
    check_seed(options.seed)
    if options.review is not None:
        check_whole(options.review, "review", least=1)
    if options.n_workers is not None:
        check_whole(options.n_workers, "the number of workers", least=1)
    return options


def inputs_of(bundle: BundleLike, source: Path, detector: PathLike | None, options: CountOptions) -> list[Path]:
    """All files and folders that a count reads, on which its output must not lie."""
    further = (detector, options.rules_file, options.confusion)
    return [
        bundle_folder(bundle),
        table_file(source)[0],
        *(as_path(path, "an input") for path in further if path is not None),
    ]


def read_rules(options: CountOptions) -> Rules:
    """The rules of counting and the known confusion that the options name."""
    return Rules(rules_of(options), None if options.confusion is None else read_confusion(options.confusion))


def open_both(bundle: BundleLike, detector: PathLike | None, rules: Rules) -> tuple[Bundle, Detector]:
    """The opened bundle, which must know the types of the confusion, and the detector."""
    opened = open_bundle(bundle)
    if rules.confusion is not None:
        rules.confusion.check_knows(opened.manifest.labels)
    return opened, default_detector() if detector is None else open_detector(as_path(detector, "the detector"))


class SlideFinder:
    """Finds and classifies the cells of slide after slide; keeps no field longer than its slide."""

    def __init__(
        self, bundle: Bundle, detector: Detector, options: CountOptions, by: Rules, *, say: Say = lambda text: None
    ) -> None:
        self.labels = bundle.manifest.labels
        self._finder, self._options, self._by = detector.finder, options, by
        needed = bundle.monitor(coverage=None).needs_embeddings
        self._predictor = Predictor(bundle, embeddings=needed, n_workers=1, runtime=options.runtime, say=say)
        self._n_workers = options.n_workers or n_cores()

    def find(self, slide: Slide, monitor: Monitor, progress: Advance) -> list[FoundField]:
        """The fields of a slide with their cells, and whether each counts, the target apart."""
        worker = FieldWorker(self._finder, self._predictor, slide_scales(self._finder, slide.fields))
        fields: list[FoundField] = []
        for _, found in in_order(worker, slide.fields, self._n_workers):
            fields.append(observed(found, monitor, self.labels))
            decide(fields[-1], self._by.rules)
            progress(1)
        count_once(fields)
        return fields

    def paint(self, slide: Slide, fields: Sequence[FoundField], folder: Path) -> list[str | None]:
        """Write the pictures of a slide whose cells are counted; the small overlay of each field, None for none."""
        options = self._options
        painter = Painter.of(folder, slide, self.labels, crops=options.crops, overlays=options.overlays)
        return [shown for _, shown in in_order(painter, fields, self._n_workers)]


class Counter:
    """Writes what is counted of slide after slide into `folder`, and the tables and the report at the end."""

    def __init__(self, bundle: Bundle, detector: Detector, options: CountOptions, by: Rules, folder: Path) -> None:
        self.bundle, self.detector, self.options, self.by = bundle, detector, options, by
        self.folder = folder
        self.monitor = bundle.monitor()
        self._counts: list[SlideCounts] = []
        self._to_review = ToReview()
        self._later_sets = LaterSets()
        self._exhibits = Exhibits(folder, most_overlays=options.most_overlays)
        self._for_review: list[dict[str, Value]] = []

    def add(self, counts: SlideCounts, fields: Sequence[FoundField], shown: Sequence[str | None], write: Write) -> None:
        """Take the next slide: its counts, its fields, and their small overlays; its rows are written."""
        slide = counts.slide
        self._counts.append(counts)
        for found, overlay in zip(fields, shown, strict=True):
            self._exhibits.add(slide, found, overlay)
            for row in cell_rows(slide, found):
                write(row)
            for cell in (*((None,) if found.error is not None else ()), *found.cells):
                self._to_review.add(*((None, None) if cell is None else (cell.review, cell.review_if_foreign)))
                self._later_sets.add(None if cell is None else cell.prediction_set_elsewhere)
        if self.options.review is not None:
            self._for_review += rows_for_review(slide, fields, self.by.rules, self.options.review, self.options.seed)

    def finish(self, source: Path) -> CountSummary:
        """Revise the tables by the domain shift of all white cells, and write the others and the report."""
        counts, labels = self._counts, self.bundle.manifest.labels
        trust = self.monitor.report()
        sets = self.monitor.guarantee(trust.shift.verdict)
        ranks = self._to_review.foreign() if trust.shift.verdict == DETECTED else ()
        for name in (CELLS_CSV, *([CELLS_PARQUET] if self.options.parquet else [])):
            later = None if sets is None or sets.at_home else self._later_sets
            revise(self.folder / name, ranks=ranks, sets=later)
        review = None if self.monitor.reviewer is None else self._to_review.counts
        notes = [note for each in counts for note in each.notes]
        notes += [*shared_contents(counts), *limits_of(labels)]
        write_slides(self.folder, counts)
        if self.options.review is not None:
            write_sheet(self.folder, self._for_review)
        pictures = self._exhibits.tables(labels, review or {})
        report = report_of(counts, source, self.settings(), pictures, [*notes, *_remarks(review)])
        write_report(report, self.folder)
        names = [*files_below(self.folder), COUNT_FILE]
        sheet = None if self.options.review is None else {"cells": self.options.review, "seed": self.options.seed}
        known = {"kind": "hemalens-count", "schema_version": 1, "files": names, "review": sheet}
        write_sealed(self.folder / COUNT_FILE, known)
        return CountSummary(tuple(counts), tuple(notes), trust, sets, review)

    def settings(self) -> dict[str, dict[str, Any]]:
        """The settings of the report: bundle, detector, and how cells are counted."""
        manifest = self.bundle.manifest
        files = {"rules_file": self.options.rules_file, "confusion": self.options.confusion}
        return {
            "count": {
                "bundle": _place(self.bundle.path),
                "method": manifest.method,
                "labels": list(manifest.labels),
                "detector": _place(self.detector.path),
                "least_scores": list(LEAST_SCORES),
                **asdict(self.options),
                **{name: None if path is None else _place(Path(path)) for name, path in files.items()},
                "rules": self.by.rules.model_dump(mode="json"),
            }
        }


def _remarks(review: Mapping[Reason, int] | None) -> list[str]:
    return [] if review is None else [f"Cells to review: {in_words(review)}."]


def _place(path: Path) -> str:
    """The last two parts of a path: a report goes to other machines, where the rest means nothing."""
    return "/".join(Path(os.path.abspath(path)).parts[-2:])


def counted_files(folder: Path) -> list[str] | None:
    """The files that `count` has written in a folder, as its own list names them; None for a folder of something else."""
    known = read_sealed(folder / COUNT_FILE)
    if known is None or known.get("kind") != "hemalens-count" or not isinstance(known.get("files"), list):
        return None
    return [str(name) for name in known["files"]]
