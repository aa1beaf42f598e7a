"""Classify images with a bundle, into a CSV or Parquet file: one row an image, in input order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hemalens.bundle.bundle import BundleLike, bundle_folder, open_bundle
from hemalens.config import check_flag, check_share
from hemalens.datasets import READERS, Record, open_dataset
from hemalens.datasets.images import plain_images
from hemalens.datasets.open import check_spec, spec_path
from hemalens.errors import OutputError, one_line, public
from hemalens.files import PathLike, as_path, atomic_path
from hemalens.graphs.runtimes import RuntimeChoice
from hemalens.imaging.segmentation import CellFound
from hemalens.inference.predictor import CellReason, Prediction, Predictor
from hemalens.inference.revision import LaterSets, revise
from hemalens.inference.rows import RowFormat, check_predictions, row_writer
from hemalens.outputs import claim_output
from hemalens.progress import Say, track
from hemalens.taxonomy import AS_LABELLED
from hemalens.trust.conformal import COVERAGE, check_coverage
from hemalens.trust.domain_shift import DETECTED
from hemalens.trust.guarantee import SetGuarantee
from hemalens.trust.monitor import BatchReport, Monitor
from hemalens.trust.review import Reason, ToReview


@dataclass(frozen=True, slots=True)
class PredictionSummary:
    """Counts of a prediction run: rows, predictions by label, abstentions, errors and images without a cell."""

    n_rows: int
    by_label: dict[str, int]
    n_abstained: int
    """Predictions below the threshold."""
    n_unreadable: int
    """Rows with an error."""
    first_error: str | None
    cell_found: dict[CellFound, int]
    """Images by what was found in them; of a bundle of whole images, those without a label alone."""
    cell_reasons: dict[CellReason, int]
    """Images in doubt, or without a cell, by the reason."""
    review: dict[Reason, int] | None
    """Cells that a person must look at by the reason, the most urgent first; None for a bundle without thresholds."""
    trust: BatchReport
    """Domain shift and estimated accuracy, without labels."""
    sets: SetGuarantee | None
    """The coverage of the prediction sets, and what it rests on; None without sets."""
    notes: tuple[str, ...]
    """What was left out of the folder or dataset, how its images were read, and where another runtime computed."""
    computed_by: str
    """The runtime, and its precision where that is not 32 bits."""


class Counts:
    """Counts the predictions of a run."""

    def __init__(self) -> None:
        self.n_rows = 0
        self.labels: Counter[str] = Counter()
        self.cells: Counter[CellFound] = Counter()
        self.reasons: Counter[CellReason] = Counter()
        self.n_abstained = 0
        self.errors = 0
        self.first_error: str | None = None
        self.review = ToReview()
        self.later_sets = LaterSets()

    def add(self, prediction: Prediction) -> None:
        """Count one."""
        self.n_rows += 1
        if prediction.error is not None:
            self.errors += 1
            self.first_error = self.first_error or prediction.error
        if prediction.cell_found is not None:
            self.cells[prediction.cell_found] += 1
        if prediction.cell_reason is not None:
            self.reasons[prediction.cell_reason] += 1
        self.review.add(prediction.review, prediction.review_if_foreign)
        self.later_sets.add(prediction.prediction_set_elsewhere)
        if prediction.label is not None:
            self.labels[prediction.label] += 1
            self.n_abstained += prediction.abstained

    def summary(
        self, predictor: Predictor, monitor: Monitor, trust: BatchReport, notes: Sequence[str]
    ) -> PredictionSummary:
        """The summary of a run of `predictor`, with its labels in order and what the `monitor` reports at the end."""
        labels = predictor.labels
        return PredictionSummary(
            self.n_rows,
            by_label={label: self.labels[label] for label in labels if self.labels[label]},
            n_abstained=self.n_abstained,
            n_unreadable=self.errors,
            first_error=self.first_error,
            cell_found=dict(self.cells),
            cell_reasons=dict(self.reasons.most_common()),
            review=None if monitor.reviewer is None else self.review.counts,
            trust=trust,
            sets=monitor.guarantee(trust.shift.verdict),
            notes=tuple(notes),
            computed_by=str(predictor.computed),
        )


@public
def predict(
    bundle: BundleLike,
    source: PathLike,
    *,
    out: PathLike,
    abstain_below: float = 0.0,
    embeddings: bool = False,
    coverage: float | None = COVERAGE,
    runtime: RuntimeChoice = "onnxruntime",
    overwrite: bool = False,
) -> PredictionSummary:
    """Predict for an image, a folder of images or a dataset ("reader:path"), and write `out` (.csv or .parquet).

    Columns: path, the box of a cell in a larger field, label, probability, abstained, review, review_rank, p_<label> of
    each class, fine_label and fine_probability of a bundle with subtypes, typicality, prediction_set, cell_found,
    cell_reason, error, and what the dataset knows of the image; with `embeddings` (Parquet only) a list column. `review` is
    why a person must look at the cell and `review_rank` its urgency, 1 the highest; both are empty for no reason, and for a
    bundle without thresholds. The typicality in (0, 1] is the
    conformal p-value of the out-of-distribution score. The prediction set holds the labels that the nominal `coverage` in
    (0, 1) needs, joined by "|"; `sets` of the summary says for which laboratories. None leaves the column out. Both are
    empty for a bundle without reference statistics. An image that cannot be read is a row with its error, one
    without a cell a row without a label. `runtime` computes the graph, as in `Predictor`. The file appears whole at the
    end, or not at all.
    """
    out = as_path(out, "out")
    if out.suffix not in (".csv", ".parquet"):
        raise OutputError(f"cannot write {one_line(out)}", expected="a name that ends in .csv or .parquet")
    check_flag(embeddings, "embeddings")
    if embeddings and out.suffix != ".parquet":
        raise OutputError("embeddings do not fit a CSV", remedy="Name an --out that ends in .parquet.")
    check_share(abstain_below, "the abstention threshold")
    if coverage is not None:
        check_coverage(coverage)
    source = check_spec(source, "the source of the images")
    inputs = [bundle_folder(bundle), spec_path(source)]
    with claim_output(out, overwrite=overwrite, inputs=inputs, check=check_predictions):
        opened = open_bundle(bundle)
        notes: list[str] = []
        images = open_images(source, say=notes.append)
        monitor = opened.monitor(coverage=coverage)
        predictor = Predictor(
            opened,
            monitor=monitor,
            abstain_below=abstain_below,
            embeddings=embeddings,
            runtime=runtime,
            say=notes.append,
        )
        with atomic_path(out) as temporary:
            counts = _written(temporary, predictor, images)
            trust = monitor.report()
            sets = monitor.guarantee(trust.shift.verdict)
            ranks = counts.review.foreign() if trust.shift.verdict == DETECTED else ()
            revise(temporary, ranks=ranks, sets=None if sets is None or sets.at_home else counts.later_sets)
        return counts.summary(predictor, monitor, trust, notes)


def _written(path: Path, predictor: Predictor, images: Sequence[Record]) -> Counts:
    """Write the table of all predictions, before the domain shift is known, and count them."""
    counts = Counts()
    with row_writer(path, RowFormat.of(predictor, images)) as write, track("predicting", len(images)) as progress:
        for prediction in predictor.predict(images):
            write(prediction)
            counts.add(prediction)
            progress(1)
    return counts


def open_images(source: str, *, say: Say) -> tuple[Record, ...]:
    """The images of a dataset ("reader:path"), a folder, or one image; raises `DatasetError` when there is none.

    `say` is given a line on each thing that was left out, and on how the images are read.
    """
    reader, separator, _ = source.partition(":")
    if separator and reader in READERS and not Path(source).exists():
        dataset = open_dataset(source, labels=AS_LABELLED)
        records, notes = dataset.records, dataset.notes
    else:
        listing = plain_images(Path(source))
        records, notes = tuple(listing.records), tuple(listing.notes)
    for note in notes:
        say(note)
    return records
