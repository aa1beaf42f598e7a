"""Predict with a bundle, on ONNX Runtime, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemalens.bundle.bundle import FINE, Bundle
from hemalens.datasets.base import Record, is_image_name
from hemalens.errors import BundleError, DatasetError, ImageError, one_line
from hemalens.files import walk_files
from hemalens.graphs.runtime import GraphRunner, Outputs


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one image: a label with its probabilities in label order, or the error of an unreadable one.

    `abstained` means that the best probability lies under the threshold; the label is then given all the same, as the
    model's best guess. `fine_label` is the likeliest finer type within the answered class, `fine_probability` its own,
    p(class) x p(type | class), in [0, 1]; both are None for a bundle that tells no finer types.
    """

    record: Record
    label: str | None
    probabilities: NDArray[np.float32] | None
    abstained: bool = False
    embedding: NDArray[np.float32] | None = None
    error: str | None = None
    fine_label: str | None = None
    fine_probability: float | None = None


class Predictor:
    """Classifies images with a bundle: one prediction an input, in input order, memory bounded.

    `abstain_below` in [0, 1] is the threshold on the best probability; `embeddings` adds the embedding (d,). `stages` are
    what images go through before the graph, and count what came out.
    """

    def __init__(
        self, bundle: Bundle, *, abstain_below: float = 0.0, embeddings: bool = False, n_workers: int | None = None
    ) -> None:
        self.bundle = bundle
        self.stages = tuple(stage.once() for stage in bundle.stages)
        self.labels = bundle.manifest.labels
        self.abstain_below = abstain_below
        self.embeddings = embeddings
        self.fine = bundle.manifest.fine
        outputs = ["probabilities", *([FINE] if self.fine else []), *(["embedding"] if embeddings else [])]
        try:
            self._runner = GraphRunner(bundle.graph_bytes, outputs, n_workers=n_workers)
        except Exception as error:
            # ONNX Runtime has a class of its own for each kind of foreign graph
            raise BundleError(f"the graph in {one_line(bundle.path)} cannot be run", got=str(error)[:120]) from error
        if self.fine and FINE not in self._runner.given:
            raise BundleError(
                f"the graph in {one_line(bundle.path)} tells no finer types",
                expected=f"the output {FINE}, as its manifest says",
                got=", ".join(self._runner.given),
            )

    def predict(self, inputs: Iterable[Path | Record]) -> Iterator[Prediction]:
        """Predictions for image paths or records, one each, in order; an unreadable image gives one with an error."""
        stages = self.stages
        given = (i if isinstance(i, Record) else Record(i, source_label="", domain="") for i in inputs)
        records = (record if record.before == stages else replace(record, before=stages) for record in given)
        for record, answer in self._runner.map(records):
            if isinstance(answer, ImageError):
                yield Prediction(record, None, None, error=str(answer))
                continue
            probabilities = answer["probabilities"]
            best = int(probabilities.argmax())
            fine_label, fine_probability = self._finest(best, float(probabilities[best]), answer)
            yield Prediction(
                record,
                self.labels[best],
                probabilities,
                abstained=bool(probabilities[best] < self.abstain_below),
                embedding=answer.get("embedding"),
                fine_label=fine_label,
                fine_probability=fine_probability,
            )

    def _finest(self, best: int, probability: float, answer: Outputs) -> tuple[str | None, float | None]:
        """The likeliest finer type within the class `best`, and its probability; (None, None) where none are told."""
        if not self.fine:
            return None, None
        within = [i for i, entry in enumerate(self.fine) if entry.of == self.labels[best]]
        finest = max(within, key=lambda i: float(answer[FINE][i]))
        return self.fine[finest].code, probability * float(answer[FINE][finest])


def list_images(path: Path) -> list[Path]:
    """The image at `path`, or every entry below the folder `path` with an image's name, sorted.

    A folder with an image's name is listed too, so that it shows as an unreadable row. Raises `DatasetError` when
    there is nothing.
    """
    if not path.exists():
        raise DatasetError(f"there is no image or folder {one_line(path)}")
    if path.is_file():
        return [path]
    folders = [entry for entry in path.rglob("*") if entry.is_dir() and is_image_name(entry)]
    found = [p for p in walk_files(path) if is_image_name(p) and not any(f in p.parents for f in folders)]
    images = sorted([*found, *folders])
    if not images:
        raise DatasetError(f"no image in {one_line(path)}", expected="files named *.jpg, *.png, *.bmp or *.tif")
    return images
