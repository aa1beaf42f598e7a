"""Predict many images on Ray: shard after shard into partitioned Parquet, with the rows that one machine gives."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hemalens.bulk.cluster import check_cluster, connected
from hemalens.bulk.folder import Work, open_work
from hemalens.bulk.image_list import ImageList, write_list
from hemalens.bulk.listing import list_images
from hemalens.bulk.observations import Observed
from hemalens.bulk.options import DEFAULTS, BulkOptions, shard_size_of
from hemalens.bulk.pool import run_units
from hemalens.bulk.remote import is_address
from hemalens.bulk.shard import ROWS, Places
from hemalens.bundle.artifact import MANIFEST as BUNDLE_MANIFEST
from hemalens.bundle.bundle import BundleLike, bundle_folder, open_bundle
from hemalens.config import check_flag, check_share, checked
from hemalens.datasets.open import check_spec, spec_path
from hemalens.errors import HemalensError, OutputError, one_line, public
from hemalens.files import PathLike, as_path, output_errors, sha256_file
from hemalens.inference.predict import Counts, PredictionSummary
from hemalens.inference.predictor import Predictor
from hemalens.inference.revision import revise
from hemalens.progress import track
from hemalens.trust.conformal import COVERAGE, check_coverage
from hemalens.trust.domain_shift import DETECTED


@public
def predict_on_ray(
    bundle: BundleLike,
    source: PathLike,
    *,
    out: PathLike,
    abstain_below: float = 0.0,
    embeddings: bool = False,
    coverage: float | None = COVERAGE,
    overwrite: bool = False,
    options: BulkOptions = DEFAULTS,
) -> PredictionSummary:
    """Predict the images of `source` on Ray, and write the folder `out`: rows/part-*.parquet and manifest.json.

    `source` is what `predict` takes, or a .tar or .parquet file with images, a folder of these, or an address such as
    s3://bucket/cells. The rows are those of `predict`, in the order of the images. The other arguments are those of
    `predict`; `options` say where Ray runs. A stopped run resumes when it is called again: finished shards are kept.
    Raises `MissingExtraError` without Ray.
    """
    out = as_path(out, "out").absolute()
    check_folder_name(out)
    check_flag(embeddings, "embeddings")
    check_share(abstain_below, "the abstention threshold")
    if coverage is not None:
        check_coverage(coverage)
    options = checked(options, BulkOptions).check()
    source = check_spec(source, "the source of the images")
    check_cluster(options)
    inputs = [bundle_folder(bundle), *([] if is_address(source) else [spec_path(source)])]
    opened = open_bundle(bundle)
    notes: list[str] = []
    predictor = Predictor(opened, n_workers=1, runtime=options.runtime, say=notes.append)
    images = list_images(source)
    size = shard_size_of(len(images), options)
    rows: dict[str, Any] = {"abstain_below": float(abstain_below), "embeddings": bool(embeddings), "coverage": coverage}
    # what computes here computes in all shards, whatever "auto" would take there
    rows["runtime"] = predictor.computed.runtime
    request = {
        "job": "predict",
        "bundle": sha256_file(opened.path / BUNDLE_MANIFEST),
        "images": images.digest(),
        "options": {**rows, "shard_size": size},
    }
    with open_work(out, request, overwrite=overwrite, inputs=inputs) as work:
        run = _Run(work, predictor, images, size)
        task = {**request, **rows, "key": work.key, "source": asdict(images.source)}
        task |= {"cwd": os.getcwd(), "folder": str(work.folder), "bundle": str(opened.path.absolute())}
        run.compute(task, options)
        summary = run.complete(coverage, notes)
        work.finish(run.manifest(source, summary), (ROWS,))
    return summary


def check_folder_name(out: Path) -> None:
    """Raise `OutputError` for the name of a table, of which a run on Ray writes many."""
    if out.suffix in (".csv", ".parquet"):
        raise OutputError(f"{one_line(out.name)} is the name of a file", expected="a folder as --out, with --engine ray")


class _Run:
    """A run at work: which shards are missing, and how the finished ones become the output."""

    def __init__(self, work: Work, predictor: Predictor, images: ImageList, shard_size: int) -> None:
        self._work, self._predictor, self._images, self._size = work, predictor, images, shard_size
        self._bundle = predictor.bundle
        self._places = Places(work.folder)
        self._n_shards = -(-len(images) // shard_size)
        self._unreadable: list[int] = []

    def n_rows(self, number: int) -> int:
        """Rows of a shard."""
        return min(self._size, len(self._images) - number * self._size)

    def _finished(self, number: int) -> Observed | None:
        return self._places.finished(number, self.n_rows(number), self._work.key)

    def compute(self, task: Mapping[str, Any], options: BulkOptions) -> None:
        """Compute the missing shards on Ray."""
        missing = [number for number in range(self._n_shards) if self._finished(number) is None]
        if not missing:
            return
        with output_errors(self._places.images):
            write_list(self._places.images, self._images, self._size)
        with track("predicting", len(self._images)) as progress, connected(options) as ray:
            progress(len(self._images) - sum(map(self.n_rows, missing)))
            run_units(ray, task, missing, n_actors=options.n_actors, advance=progress)

    def complete(self, coverage: float | None, notes: Sequence[str]) -> PredictionSummary:
        """Find the domain shift of all images together, and revise the shards by it, as one machine revises its table.

        Each shard is replaced whole, and by the same rows again where a stop comes between.
        """
        monitor, counts = self._bundle.monitor(coverage=coverage), Counts()
        for number in range(self._n_shards):
            observed = self._observed(number)
            self._unreadable.append(observed.n_unreadable)
            observed.add_to(counts, monitor)
        trust = monitor.report()
        sets = monitor.guarantee(trust.shift.verdict)
        ranks: Sequence[int] = counts.review.foreign() if trust.shift.verdict == DETECTED else ()
        for number in range(self._n_shards):
            first = number * self._size
            later = None if sets is None or sets.at_home else self._observed(number).later_sets
            revise(self._places.rows(number), ranks=ranks[first : first + self.n_rows(number)], sets=later)
        return counts.summary(self._predictor, monitor, trust, [*self._images.notes, *notes])

    def _observed(self, number: int) -> Observed:
        found = self._finished(number)
        if found is None:
            raise HemalensError(
                f"shard {number} is not in {one_line(self._places.folder)}, though a worker has written it",
                expected="a disk that all machines of the cluster share",
                remedy="Name a shared folder with --out.",
            )
        return found

    def manifest(self, source: str, summary: PredictionSummary) -> dict[str, Any]:
        """What the manifest says of the output."""
        shards = [
            {"file": self._places.rows(number).name, "rows": self.n_rows(number), "unreadable": unreadable}
            for number, unreadable in enumerate(self._unreadable)
        ]
        trust = {"domain_shift": summary.trust.shift.verdict, "lines": list(summary.trust.lines)}
        sets = None if summary.sets is None else summary.sets.text
        return {
            "source": source,
            "method": self._bundle.manifest.method,
            "labels": list(self._bundle.manifest.labels),
            "n_images": len(self._images),
            "n_unreadable": summary.n_unreadable,
            "trust": trust,
            "prediction_sets": sets,
            "notes": list(summary.notes),
            "shards": shards,
        }
