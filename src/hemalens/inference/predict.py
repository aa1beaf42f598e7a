"""Classify images with a bundle, into a CSV or Parquet file: one row an image, in input order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hemalens.bundle.bundle import open_bundle
from hemalens.datasets import READERS, Record, open_dataset
from hemalens.datasets.images import plain_images
from hemalens.datasets.open import spec_path
from hemalens.errors import InputError, OutputError, one_line, public
from hemalens.files import atomic_path
from hemalens.imaging.segmentation import Outcome
from hemalens.inference.predictor import Predictor
from hemalens.inference.rows import RowFormat, row_writer
from hemalens.outputs import claim_output
from hemalens.progress import Say, track
from hemalens.taxonomy import AS_LABELLED
from hemalens.trust.conformal import COVERAGE
from hemalens.trust.monitor import BatchReport


@dataclass(frozen=True, slots=True)
class PredictionSummary:
    """Counts of a prediction run: rows, predictions by label, abstentions and unreadable images."""

    n_rows: int
    by_label: dict[str, int]
    n_abstained: int
    n_unreadable: int
    first_error: str | None
    cell_images: dict[Outcome, int]
    """Outcomes of cutting the cells out; empty for a bundle of whole images."""
    trust: BatchReport
    """Domain shift and estimated accuracy, without labels."""
    notes: tuple[str, ...]
    """What was left out of the folder or dataset, and how its images were read."""


@public
def predict(
    bundle_path: Path,
    source: str,
    *,
    out: Path,
    abstain_below: float = 0.0,
    embeddings: bool = False,
    coverage: float | None = COVERAGE,
    overwrite: bool = False,
) -> PredictionSummary:
    """Predict for an image, a folder of images or a dataset ("reader:path"), and write `out` (.csv or .parquet).

    Columns: path, label, probability, abstained, p_<label> of each class, fine_label and fine_probability of a bundle with
    subtypes, typicality, prediction_set, error; with `embeddings` (Parquet only) a list column. The typicality in (0, 1] is
    the conformal p-value of the out-of-distribution score. The prediction set holds the labels that the nominal
    `coverage` in (0, 1) needs, joined by "|"; None leaves the column out. Both are empty for a bundle without reference
    statistics. An unreadable image is a row with its error. The file appears whole at the end, or not at all.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise OutputError(f"cannot write {one_line(out)}", expected="a name that ends in .csv or .parquet")
    if embeddings and out.suffix != ".parquet":
        raise OutputError("embeddings do not fit a CSV", remedy="Name an --out that ends in .parquet.")
    if not 0 <= abstain_below <= 1:
        raise InputError("the abstention threshold is out of range", expected="0 to 1", got=str(abstain_below))
    with claim_output(out, overwrite=overwrite, inputs=[bundle_path, spec_path(source)]):
        bundle = open_bundle(bundle_path)
        notes: list[str] = []
        images = open_images(source, say=notes.append)
        monitor = bundle.monitor(coverage=coverage)
        predictor = Predictor(bundle, monitor=monitor, abstain_below=abstain_below, embeddings=embeddings)
        counts: Counter[str] = Counter()
        n_abstained = n_unreadable = 0
        first_error = None
        with (
            atomic_path(out) as temporary,
            row_writer(temporary, RowFormat.of(predictor)) as write,
            track("predicting", len(images)) as progress,
        ):
            for prediction in predictor.predict(images):
                write(prediction)
                n_abstained += prediction.abstained
                if prediction.label is not None:
                    counts[prediction.label] += 1
                else:
                    n_unreadable += 1
                    first_error = first_error or prediction.error
                progress(1)
        by_label = {label: counts[label] for label in predictor.labels if counts[label]}
        cells = dict(sum((stage.seen for stage in predictor.stages), Counter[Outcome]()))
        told = tuple(notes)
        return PredictionSummary(
            len(images), by_label, n_abstained, n_unreadable, first_error, cells, monitor.report(), told
        )


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
