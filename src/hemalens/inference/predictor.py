"""Predict with a bundle, on ONNX Runtime, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hemalens.bundle.bundle import FINE, BundleLike, open_bundle
from hemalens.bundle.runtime_parity import use_runtime
from hemalens.config import check_flag, check_share, check_whole
from hemalens.datasets.base import Record
from hemalens.datasets.table_text import html_table
from hemalens.errors import ImageError, InputError
from hemalens.graphs.runtime import Outputs, check_probabilities
from hemalens.graphs.runtimes import RuntimeChoice, check_runtime
from hemalens.imaging.exposure import Exposure, exposure
from hemalens.imaging.nucleus import is_noise
from hemalens.imaging.segmentation import FOUND, CellFound, Outcome
from hemalens.inference.inputs import Images, Input, inputs_of
from hemalens.progress import Say
from hemalens.trust.monitor import Monitor
from hemalens.trust.review import DOUBTFUL, Reason

MONITORED_AT_ONCE = 256
"""Images that a monitor observes together; predictions of a monitored predictor arrive in batches of so many."""


CellReason = Literal[
    "touches border", "low score", "wide window", "another white cell",
    "no white cell", "noise", "black image", "white image", "flat image",
]  # fmt: skip
"""Why a cell is in doubt, or why there is none."""
SURELY_FOUND: tuple[CellFound | None, ...] = (None, "found")
"""Values of `cell_found` without doubt; a bundle of whole images looks for no cell."""
_EXPOSURES: dict[Exposure, CellReason] = {"black": "black image", "white": "white image", "flat": "flat image"}


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction for one image: a label with its probabilities (k,) in label order, or why there is none.

    `error` states that the image cannot be read, or that the graph gives no probabilities for it. `cell_found` says whether
    one white cell was found, beyond doubt or not, several, or none, and `cell_reason` why not one beyond doubt. An image
    without a cell gets no label, nor does one that is nearly black, white or flat. Both are None where a bundle of whole
    images looks for no cell. `abstained`: there is no label, or its probability is below the threshold; the label is the
    best guess. `fine_label` is the likeliest subtype within the class and `fine_probability` its p(class) x
    p(type | class); None where the bundle has no subtypes. `typicality` in (0, 1] is the conformal p-value of the
    out-of-distribution score. `prediction_set` has the labels that the nominal coverage needs in the bundle's own
    laboratory, `prediction_set_elsewhere` those that it needs in laboratories like the imitated ones, where a domain shift
    is detected or unknown. All are None without a monitor, or where the bundle lacks the statistics. `review` is the most
    urgent reason why a person must look at the cell, `review_if_foreign` that where the images turn out to have a domain
    shift; None for none, without a monitor, and for a bundle without thresholds.
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
    prediction_set_elsewhere: tuple[str, ...] | None = None
    review: Reason | None = None
    review_if_foreign: Reason | None = None
    cell_found: CellFound | None = None
    cell_reason: CellReason | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain Python values: the record as path, box and group, arrays as lists."""
        record = {"path": self.record.name, "box": self.record.box, "group": self.record.group}
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "record"}
        return record | {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in own.items()}

    def _repr_html_(self) -> str:
        """A small table, for notebooks."""
        sure = None if self.probabilities is None else float(self.probabilities.max())
        rows = {
            "image": self.record.name,
            "label": _with_probability(self.label, sure),
            "finest type": None
            if self.fine_label == self.label
            else _with_probability(self.fine_label, self.fine_probability),
            "abstained": "yes" if self.abstained else None,
            "typicality": None if self.typicality is None else f"{self.typicality:.3f}",
            "prediction set (own laboratory)": _joined(self.prediction_set),
            "prediction set (elsewhere)": _joined(self.prediction_set_elsewhere),
            "review": self.review,
            "cell found": self._found_in_words(),
            "error": self.error,
        }
        return html_table("Prediction", [(name, value) for name, value in rows.items() if value is not None])

    def _found_in_words(self) -> str | None:
        return f"{self.cell_found}: {self.cell_reason}" if self.cell_reason else self.cell_found


def _joined(labels: tuple[str, ...] | None) -> str | None:
    return None if labels is None else ", ".join(labels)


def _with_probability(label: str | None, probability: float | None) -> str | None:
    return label if label is None or probability is None else f"{label} ({probability:.3f})"


@dataclass(frozen=True, slots=True)
class _Found:
    """What a worker finds of one image: the graph's outputs, an error, or no cell to predict."""

    outputs: Outputs | None = None
    error: str | None = None
    cell_found: CellFound | None = None
    cell_reason: CellReason | None = None


class Predictor:
    """Classifies images with a bundle: one prediction an input, in input order, in bounded memory.

    `bundle` is an opened bundle or its folder. `monitor`, as from `bundle.monitor()`, fills typicality and prediction set
    and reports on all images. `abstain_below` in [0, 1] is the threshold on the highest probability; `embeddings` adds the
    embedding (d,). `n_workers` threads work at once, one a core by default. `runtime` computes the graph, "auto" the
    fastest installed one with the same predictions; `computed` names it, and `say` is given a line where it is another than
    was asked for. `stages` process images before the graph and count their outcomes. Raises `BundleError` for a graph
    that cannot run, or fails its own test, and `InputError` for other arguments.
    """

    def __init__(
        self,
        bundle: BundleLike,
        *,
        monitor: Monitor | None = None,
        abstain_below: float = 0.0,
        embeddings: bool = False,
        n_workers: int | None = None,
        runtime: RuntimeChoice = "onnxruntime",
        say: Say = lambda line: None,
    ) -> None:
        check_share(abstain_below, "the abstention threshold")
        check_flag(embeddings, "embeddings")
        if n_workers is not None:
            check_whole(n_workers, "the number of workers", least=1)
        if monitor is not None and not isinstance(monitor, Monitor):
            raise InputError("this is no monitor", expected="bundle.monitor()", got=type(monitor).__name__)
        check_runtime(runtime)
        bundle = open_bundle(bundle)
        self.bundle = bundle
        self.monitor = monitor
        self.stages = tuple(stage.once() for stage in bundle.stages)
        self.labels = bundle.manifest.labels
        self.abstain_below = float(abstain_below)
        self.embeddings = bool(embeddings)
        self.fine = bundle.manifest.fine
        embedded = embeddings or (monitor is not None and monitor.needs_embeddings)
        outputs = ["probabilities", *([FINE] if self.fine else []), *(["embedding"] if embedded else [])]
        self._runner = bundle.runner(outputs, n_workers=n_workers)
        self.computed = use_runtime(self._runner, bundle.graph_bytes, runtime, say)

    def __repr__(self) -> str:
        return f"Predictor({str(self.bundle.path)!r}, labels={self.labels})"

    def predict(self, inputs: Images) -> Iterator[Prediction]:
        """Predictions for one image or many, one each, in order; an unreadable image gives one with an error.

        An image is a path, a `Record`, an array uint8 (H, W, 3) of RGB or (H, W) of gray, a Pillow image, the bytes of a
        file, or an open binary file. A text is one path. Raises `InputError` for anything else, before the first
        prediction; of an iterator, when its turn comes.
        """
        return self._predictions(inputs_of(inputs))

    def _predictions(self, inputs: Iterable[Input]) -> Iterator[Prediction]:
        classified = (self._classified(given.record, found) for given, found in self._runner.apply(self._find, inputs))
        if self.monitor is None:
            yield from classified
            return
        for batch in _batches(classified):
            yield from self._monitored(batch, self.monitor)

    def _find(self, given: Input) -> _Found:
        """Read an image, look for its cell, and run the graph."""
        try:
            image = given.read()
            shown = exposure(image)
            if shown is not None:
                return _Found(cell_found="none", cell_reason=_EXPOSURES[shown])
            if not self.stages:
                return _Found(self._runner.run(image))
            if is_noise(image):
                return _Found(cell_found="none", cell_reason="noise")
            outcome: Outcome = "cell"
            for stage in self.stages:
                made = stage.counted(image)
                image, outcome = made.pixels, made.outcome
            found, reason = FOUND[outcome], None if outcome == "cell" else outcome
            outputs = None if found == "none" else self._runner.run(image)
            return _Found(outputs, cell_found=found, cell_reason=reason)
        except ImageError as error:
            return _Found(error=str(error))

    def _classified(self, record: Record, found: _Found) -> Prediction:
        outputs = found.outputs
        error = found.error if outputs is None else self._wrong(outputs)
        if outputs is None or error is not None:
            return Prediction(
                record, None, None, True, error=error, cell_found=found.cell_found, cell_reason=found.cell_reason
            )
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
            cell_found=found.cell_found,
            cell_reason=found.cell_reason,
        )

    def _wrong(self, outputs: Outputs) -> str | None:
        """Why the outputs for an image are no prediction; None where they are one."""
        probabilities = outputs["probabilities"]
        if probabilities.ndim != 1:
            return f"the graph gives probabilities of shape {probabilities.shape} for one image"
        wrong = check_probabilities(probabilities, len(self.labels))
        if wrong is None and self.fine:
            wrong = self._wrong_subtypes(outputs[FINE])
        if wrong is None and "embedding" in outputs and not np.isfinite(outputs["embedding"]).all():
            wrong = "the graph gives NaN or infinity in the embedding"
        return wrong

    def _wrong_subtypes(self, values: NDArray[Any]) -> str | None:
        """Why values are no probabilities of the subtypes, which sum to 1 within each class."""
        if values.shape != (len(self.fine),):
            return f"the graph gives subtypes of shape {values.shape}, not {len(self.fine)} of them"
        for label in self.labels:
            within = values[[i for i, entry in enumerate(self.fine) if entry.of == label]]
            wrong = check_probabilities(within, len(within))
            if wrong is not None:
                return f"{wrong} (subtypes of {label})"
        return None

    def _subtype(self, best: int, probability: float, outputs: Outputs) -> tuple[str | None, float | None]:
        """The likeliest subtype within the class `best` and its probability; (None, None) for a bundle without subtypes."""
        if not self.fine:
            return None, None
        within = [i for i, entry in enumerate(self.fine) if entry.of == self.labels[best]]
        finest = max(within, key=lambda i: float(outputs[FINE][i]))
        return self.fine[finest].code, probability * float(outputs[FINE][finest])

    def _monitored(self, batch: Sequence[Prediction], monitor: Monitor) -> Iterator[Prediction]:
        """The predictions with what the monitor adds; the embedding only where it is wanted."""
        for prediction in monitored(batch, monitor, self.labels):
            yield prediction if self.embeddings else replace(prediction, embedding=None)


def monitored(batch: Sequence[Prediction], monitor: Monitor, labels: Sequence[str]) -> list[Prediction]:
    """The predictions with typicality, prediction set and the reason for a review; the monitor observes them."""
    made = [each if each.label is not None else _without_label(each, monitor) for each in batch]
    known = [i for i, each in enumerate(made) if each.probabilities is not None]
    if not known:
        return made
    probabilities = np.stack([each for each in (made[i].probabilities for i in known) if each is not None])
    embeddings = [each for each in (made[i].embedding for i in known) if each is not None]
    embedded = np.stack(embeddings) if monitor.needs_embeddings else None
    seen = monitor.observe(embedded, probabilities)
    reasons: Sequence[tuple[Reason | None, Reason | None]] = [(None, None)] * len(known)
    if monitor.reviewer is not None:
        doubtful = np.array([made[i].cell_found not in SURELY_FOUND for i in known], bool)
        reasons = monitor.reviewer.reasons(probabilities, embedded, doubtful, seen.typicality)
    names = np.array(labels)
    for row, i in enumerate(known):
        made[i] = replace(
            made[i],
            typicality=None if seen.typicality is None else float(seen.typicality[row]),
            prediction_set=_set_of(names, seen.members, row),
            prediction_set_elsewhere=_set_of(names, seen.members_elsewhere, row),
            review=reasons[row][0],
            review_if_foreign=reasons[row][1],
        )
    return made


def _set_of(names: NDArray[np.str_], members: NDArray[np.bool_] | None, row: int) -> tuple[str, ...] | None:
    return None if members is None else tuple(names[members[row]].tolist())


def _without_label(prediction: Prediction, monitor: Monitor) -> Prediction:
    """An image in which no cell is found, with the reason to look at it; an unreadable one shows nothing."""
    if monitor.reviewer is None or prediction.error is not None or prediction.cell_found != "none":
        return prediction
    return replace(prediction, review=DOUBTFUL, review_if_foreign=DOUBTFUL)


def _batches(predictions: Iterable[Prediction]) -> Iterator[list[Prediction]]:
    batch: list[Prediction] = []
    for prediction in predictions:
        batch.append(prediction)
        if len(batch) == MONITORED_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
