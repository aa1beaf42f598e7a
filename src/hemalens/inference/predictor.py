"""Predict with a bundle, on ONNX Runtime, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemalens.bundle.bundle import FINE, Bundle
from hemalens.datasets.base import Record
from hemalens.errors import BundleError, ImageError, one_line
from hemalens.graphs.runtime import GraphRunner, Outputs
from hemalens.trust.monitor import Monitor

MONITORED_AT_ONCE = 256
"""Images that a monitor observes together; predictions of a monitored predictor arrive in batches of so many."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction for one image: a label with its probabilities (k,) in label order, or the error of reading it.

    `abstained`: the highest probability is below the threshold; the label is the best guess. `fine_label` is the likeliest
    subtype within the class and `fine_probability` its p(class) x p(type | class); None where the bundle has no subtypes.
    `typicality` in (0, 1] is the conformal p-value of the out-of-distribution score and `prediction_set` the labels that
    the nominal coverage needs; None without a monitor or without reference statistics.
    """

    record: Record
    label: str | None
    probabilities: NDArray[np.float32] | None
    abstained: bool = False
    embedding: NDArray[np.float32] | None = None
    error: str | None = None
    fine_label: str | None = None
    fine_probability: float | None = None
    typicality: float | None = None
    prediction_set: tuple[str, ...] | None = None


class Predictor:
    """Classifies images with a bundle: one prediction an input, in input order, in bounded memory.

    `monitor`, as from `bundle.monitor()`, fills typicality and prediction set and reports on all images. `abstain_below` in
    [0, 1] is the threshold on the highest probability; `embeddings` adds the embedding (d,). `stages` process images before
    the graph and count their outcomes. Raises `BundleError` for a graph that cannot run.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        monitor: Monitor | None = None,
        abstain_below: float = 0.0,
        embeddings: bool = False,
        n_workers: int | None = None,
    ) -> None:
        self.bundle = bundle
        self.monitor = monitor
        self.stages = tuple(stage.once() for stage in bundle.stages)
        self.labels = bundle.manifest.labels
        self.abstain_below = abstain_below
        self.embeddings = embeddings
        self.fine = bundle.manifest.fine
        embedded = embeddings or (monitor is not None and monitor.needs_embeddings)
        outputs = ["probabilities", *([FINE] if self.fine else []), *(["embedding"] if embedded else [])]
        try:
            self._runner = GraphRunner(bundle.graph_bytes, outputs, n_workers=n_workers)
        except Exception as error:
            # ONNX Runtime has its own class for each kind of invalid graph
            raise BundleError(f"the graph in {one_line(bundle.path)} cannot be run", got=str(error)[:120]) from error
        if self.fine and FINE not in self._runner.given:
            raise BundleError(
                f"the graph in {one_line(bundle.path)} has no subtypes",
                expected=f"the output {FINE}, as in its manifest",
                got=", ".join(self._runner.given),
            )

    def predict(self, inputs: Iterable[Path | Record]) -> Iterator[Prediction]:
        """Predictions for image paths or records, one each, in order; an unreadable image gives one with an error."""
        stages = self.stages
        given = (i if isinstance(i, Record) else Record(i, source_label="", domain="") for i in inputs)
        records = (record if record.before == stages else replace(record, before=stages) for record in given)
        classified = (self._classified(record, outputs) for record, outputs in self._runner.map(records))
        if self.monitor is None:
            yield from classified
            return
        for batch in _batches(classified):
            yield from self._monitored(batch, self.monitor)

    def _classified(self, record: Record, outputs: Outputs | ImageError) -> Prediction:
        if isinstance(outputs, ImageError):
            return Prediction(record, None, None, error=str(outputs))
        probabilities = outputs["probabilities"]
        best = int(probabilities.argmax())
        fine_label, fine_probability = self._subtype(best, float(probabilities[best]), outputs)
        return Prediction(
            record,
            self.labels[best],
            probabilities,
            abstained=bool(probabilities[best] < self.abstain_below),
            embedding=outputs.get("embedding"),
            fine_label=fine_label,
            fine_probability=fine_probability,
        )

    def _subtype(self, best: int, probability: float, outputs: Outputs) -> tuple[str | None, float | None]:
        """The likeliest subtype within the class `best` and its probability; (None, None) for a bundle without subtypes."""
        if not self.fine:
            return None, None
        within = [i for i, entry in enumerate(self.fine) if entry.of == self.labels[best]]
        finest = max(within, key=lambda i: float(outputs[FINE][i]))
        return self.fine[finest].code, probability * float(outputs[FINE][finest])

    def _monitored(self, batch: Sequence[Prediction], monitor: Monitor) -> Iterator[Prediction]:
        """The predictions with typicality and prediction set; the embedding only where it is wanted."""
        probabilities = [p.probabilities for p in batch if p.probabilities is not None]
        embeddings = [p.embedding for p in batch if p.embedding is not None]
        if not probabilities:
            yield from batch
            return
        typicality, members = monitor.observe(
            np.stack(embeddings) if monitor.needs_embeddings else None, np.stack(probabilities)
        )
        labels, row = np.array(self.labels), 0
        for prediction in batch:
            if prediction.probabilities is None:
                yield prediction
                continue
            yield replace(
                prediction,
                embedding=prediction.embedding if self.embeddings else None,
                typicality=None if typicality is None else float(typicality[row]),
                prediction_set=None if members is None else tuple(labels[members[row]].tolist()),
            )
            row += 1


def _batches(predictions: Iterable[Prediction]) -> Iterator[list[Prediction]]:
    batch: list[Prediction] = []
    for prediction in predictions:
        batch.append(prediction)
        if len(batch) == MONITORED_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
