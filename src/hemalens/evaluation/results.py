"""What a report is drawn from: every number, with its interval, as plain data that goes to `report.json` and back."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# the first bytes of a JPEG or a PNG file, in base64
_PICTURE = re.compile(r"(?:/9j/|iVBORw0KGgo)[A-Za-z0-9+/]*={0,2}")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(_Part):
    """A value with its 95 % interval; None where it cannot be had (no images). `std` is over folds or repeats, n - 1."""

    value: float | None
    low: float | None = None
    high: float | None = None
    std: float | None = None


class Scores(_Part):
    """The scores of one evaluation, or their means over folds; all in [0, 1] but the NLL.

    `balanced_accuracy_restricted` is the balanced accuracy when the model may choose among the tested classes only.
    """

    accuracy: Estimate
    majority_rate: float | None
    balanced_accuracy: Estimate
    macro_f1: Estimate
    balanced_accuracy_restricted: Estimate
    ece: float | None
    nll: float | None


class ClassScores(_Part):
    """Precision and recall of one class with exact binomial limits; `n` true images, `n_answered` answers."""

    label: str
    n: int
    n_answered: int
    precision: Estimate
    recall: Estimate
    f1: float | None


class ReliabilityBin(_Part):
    """One bin over the best probability."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


class ScatterPoint(_Part):
    """One cell in the plane of the first two principal components."""

    x: float
    y: float
    label: str
    predicted: str
    domain: str


class Scatter(_Part):
    """Embeddings on their first two principal components; `explained` are the shares of variance of the two."""

    explained: tuple[float, float]
    n_total: int
    points: tuple[ScatterPoint, ...]


class WrongCell(_Part):
    """A cell the model got wrong: what it is, what it was called, how confidently; a JPEG thumbnail as base64."""

    name: str
    label: str
    predicted: str
    probability: float
    thumbnail: str


class Evaluation(_Part):
    """A model, or the models of several folds pooled, on one set of test images.

    `confusion` rows are `tested_classes` (true), columns `classes` (predicted). `left_out` names the classes that are
    not tested, with the reason. `transductive`: tested images were seen in training, without their labels.
    """

    name: str
    method: str
    source: str
    target: str
    transductive: bool = False
    n_images: int
    n_folds: int = 1
    classes: tuple[str, ...]
    tested_classes: tuple[str, ...]
    left_out: dict[str, str] = Field(default_factory=dict)
    unreadable: dict[str, str] = Field(default_factory=dict)
    scores: Scores
    per_class: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    reliability: tuple[ReliabilityBin, ...]
    scatter: Scatter | None = None
    most_confident_errors: tuple[WrongCell, ...] = ()
    intervals: str
    """How the intervals were made, in words."""


class Shots(_Part):
    """Scores with `k` labelled images a class: means over repeats, each with its own support."""

    k: int
    n_repeats: int
    accuracy: Estimate
    majority_rate: float
    balanced_accuracy: Estimate
    macro_f1: Estimate
    f1: dict[str, Estimate]
    """F1 of each class."""


class Supervised(_Part):
    """What all labels of the new laboratory together give on the same embeddings: the line to reach."""

    what: str
    accuracy: Estimate
    balanced_accuracy: Estimate


class KShot(_Part):
    """An embedder on a new laboratory of which `k` images a class are known, for several k.

    `support` says where the known images come from; `transductive` that the tested images were looked at, unlabelled.
    """

    name: str
    method: str
    source: str
    target: str
    support: str
    classifier: str
    replacement: bool
    transductive: bool
    n_images: int
    classes: tuple[str, ...]
    left_out: dict[str, str] = Field(default_factory=dict)
    unreadable: dict[str, str] = Field(default_factory=dict)
    shots: tuple[Shots, ...]
    supervised: Supervised | None = None
    scatter: Scatter | None = None
    intervals: str


class FractionScores(_Part):
    """Scores of the models trained on one fraction of the training part: means over `n_seeds` draws of that fraction.

    `n_train` images, of which `n_masks` have a mask, in `class_counts` of each class.
    """

    fraction: float = Field(gt=0, le=1)
    n_train: int
    n_masks: int
    class_counts: dict[str, int]
    n_seeds: int
    accuracy: Estimate
    majority_rate: float
    balanced_accuracy: Estimate
    macro_f1: Estimate
    recall: dict[str, Estimate]
    """Recall of each tested class."""


Selection = Literal["validation", "published-selection"]
"""On which images the epoch of a training is chosen; "published-selection": on those that are then reported."""


class FractionCurve(_Part):
    """A method trained on several fractions of the same training part, always tested on the same images.

    `selection` "published-selection" means that the epoch was chosen on the tested images: the scores flatter.
    """

    name: str
    method: str
    source: str
    target: str
    selection: Selection
    transductive: bool = False
    n_images: int
    n_validation: int
    classes: tuple[str, ...]
    left_out: dict[str, str] = Field(default_factory=dict)
    unreadable: dict[str, str] = Field(default_factory=dict)
    fractions: tuple[FractionScores, ...] = Field(min_length=1)
    """Largest fraction first."""
    intervals: str


class Timing(_Part):
    """How fast a network runs: `latency_ms` of one image, `images_per_s` in batches of 32; medians with 95 % of the rounds.

    `device` is "cpu" or a GPU's name. `peak_memory_mb`: of a process of its own, in megabytes (10^6 bytes).
    """

    runtime: Literal["torch", "onnxruntime"]
    device: str
    precision: Literal["fp32", "bf16", "int8"]
    n_threads: int
    latency_ms: Estimate
    images_per_s: Estimate
    peak_memory_mb: float | None = None


class Efficiency(_Part):
    """What a network costs, and what it scores: counts for one image of `input_px`, weights on disk, times.

    `flops` are twice the multiply-adds `macs` of convolutions and matrix products. The scores are those of a bundle on the
    images of `tested_on`, None where nothing was tested.
    """

    name: str
    kind: Literal["backbone", "bundle"]
    input_px: int
    parameters: int
    parameters_without_head: int | None
    macs: int
    flops: int
    weights_mb: float
    timings: tuple[Timing, ...] = ()
    tested_on: str = ""
    n_images: int = 0
    accuracy: Estimate | None = None
    balanced_accuracy: Estimate | None = None
    majority_rate: float | None = None


class ComparisonTable(_Part):
    """A table of a study, ours beside the published numbers; a cell is a text or a number, None where there is none."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]
    note: str = ""

    @model_validator(mode="after")
    def _as_many_cells_as_columns(self) -> ComparisonTable:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"a row of {len(wrong[0])} cells in a table of {len(self.columns)} columns")
        return self


class Picture(_Part):
    """One cell in several pictures, such as the image and the image with an outline, and what is to be said of it.

    `pictures` are JPEG or PNG files as base64, without the head of a data URI; an empty text where there is none.
    """

    name: str
    caption: str = ""
    pictures: tuple[str, ...]

    @model_validator(mode="after")
    def _base64_of_known_files(self) -> Picture:
        if not all(text == "" or _PICTURE.fullmatch(text) for text in self.pictures):
            raise ValueError("a picture that is not the base64 text of a JPEG or PNG file")
        return self


class PictureTable(_Part):
    """Pictures of several cells, a row each; `columns` say what every picture of a row shows."""

    title: str
    columns: tuple[str, ...] = Field(min_length=1)
    rows: tuple[Picture, ...]
    note: str = ""

    @model_validator(mode="after")
    def _as_many_pictures_as_columns(self) -> PictureTable:
        wrong = [row for row in self.rows if len(row.pictures) != len(self.columns)]
        if wrong:
            raise ValueError(f"a row of {len(wrong[0].pictures)} pictures in a table of {len(self.columns)} columns")
        return self


class DataCard(_Part):
    """One dataset of a report."""

    role: str
    name: str
    n_images: int
    class_counts: dict[str, int]
    excluded: dict[str, int] = Field(default_factory=dict)
    dropped: dict[str, int] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    licence: str
    citation: str
    fingerprint: str
    synthetic: bool


class Report(_Part):
    """Everything a report shows. `summary` are whole sentences in plain words; `evaluations` in the order of the table."""

    kind: Literal["hemalens-report"] = "hemalens-report"
    schema_version: Literal[1] = 1
    title: str
    created: str
    command: str
    protocol: str
    summary: tuple[str, ...]
    synthetic: bool
    data: tuple[DataCard, ...]
    evaluations: tuple[Evaluation, ...]
    k_shot: tuple[KShot, ...] = ()
    fractions: tuple[FractionCurve, ...] = ()
    efficiency: tuple[Efficiency, ...] = ()
    tables: tuple[ComparisonTable, ...] = ()
    pictures: tuple[PictureTable, ...] = ()
    methods: dict[str, dict[str, Any]]
    environment: dict[str, str]
    seed: int
