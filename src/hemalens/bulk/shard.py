"""One shard: predict its images, write its rows, and what the end of the run needs to know of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hemalens.bulk.image_list import read_shard
from hemalens.bulk.inputs import inputs_of_shard
from hemalens.bulk.node import check_node
from hemalens.bulk.observations import Observed, Recorder
from hemalens.bundle.bundle import open_bundle
from hemalens.files import atomic_path
from hemalens.inference.predictor import Predictor
from hemalens.inference.rows import RowFormat, Source, row_writer

if TYPE_CHECKING:
    from collections.abc import Mapping

ROWS, OBSERVED, IMAGES = "rows", "observed", "images.parquet"


@dataclass(frozen=True, slots=True)
class Places:
    """The files of a run in its folder."""

    folder: Path

    @property
    def images(self) -> Path:
        """The list of images, with a row group a shard."""
        return self.folder / IMAGES

    def rows(self, number: int) -> Path:
        """The rows of a shard."""
        return self.folder / ROWS / f"part-{number:05d}.parquet"

    def observed(self, number: int) -> Path:
        """What the end of the run needs to know of a shard."""
        return self.folder / OBSERVED / f"{number:05d}.npz"

    def finished(self, number: int, n_rows: int, key: str) -> Observed | None:
        """What is known of a shard of `n_rows` rows that is done; None for one that is missing or damaged."""
        from pyarrow import lib, parquet

        observed = Observed.read(self.observed(number), key)
        if observed is None or observed.n_rows != n_rows:
            return None
        try:
            whole = parquet.read_metadata(self.rows(number)).num_rows == n_rows
        except (OSError, lib.ArrowException):
            return None
        return observed if whole else None


class ShardPredictor:
    """Predicts shard after shard with one thread; an actor of Ray has one.

    `task` holds plain values: the folders of run, bundle and user, the options that change rows, and the run's key.
    """

    def __init__(self, task: Mapping[str, Any]) -> None:
        check_node(task)
        self._key = str(task["key"])
        self._places = Places(Path(task["folder"]))
        bundle = open_bundle(task["bundle"])
        self._monitor = bundle.monitor(coverage=task["coverage"]).keep_all()
        self._predictor = Predictor(
            bundle,
            monitor=self._monitor,
            abstain_below=task["abstain_below"],
            embeddings=task["embeddings"],
            n_workers=1,
            runtime=task["runtime"],
        )
        known = task["source"]
        source = Source(known["boxes"], tuple(known["fields"]), tuple(known["extra"]))
        labels, fine = self._predictor.labels, bool(self._predictor.fine)
        self._rows = RowFormat(labels, fine, task["coverage"] is not None, task["embeddings"], source)

    def run(self, number: int) -> int:
        """Write a shard, which appears whole; returns its number of rows."""
        recorder = Recorder()
        self._monitor.hand_over()  # what is left of a shard that failed
        inputs = inputs_of_shard(read_shard(self._places.images, number))
        with atomic_path(self._places.rows(number)) as temporary:
            with row_writer(temporary, self._rows) as write:
                for prediction in self._predictor.predict(inputs):
                    write(prediction)
                    recorder.add(prediction)
            # first: a shard with rows is done
            recorder.save(self._places.observed(number), self._monitor.hand_over(), self._key)
        return recorder.counts.n_rows
