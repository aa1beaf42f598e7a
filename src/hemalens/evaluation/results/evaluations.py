"""A model on one set of test images: scores, confusion, calibration, embeddings, errors."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hemalens.evaluation.results.base import Estimate, Part
from hemalens.evaluation.results.trust import TrustCheck


class Scores(Part):
    """The scores of one evaluation, or their means over folds; all in [0, 1] but the NLL.

    `balanced_accuracy_restricted` is the balanced accuracy when predictions are restricted to the tested classes.
    """

    accuracy: Estimate
    majority_rate: float | None
    balanced_accuracy: Estimate
    macro_f1: Estimate
    balanced_accuracy_restricted: Estimate
    ece: float | None
    nll: float | None


class ClassScores(Part):
    """Precision and recall of one class with exact binomial limits; `n` true images, `n_answered` predictions."""

    label: str
    n: int
    n_answered: int
    precision: Estimate
    recall: Estimate
    f1: float | None


class ReliabilityBin(Part):
    """One bin over the highest probability."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


class ScatterPoint(Part):
    """One cell in the plane of its scatter."""

    x: float
    y: float
    label: str
    predicted: str
    domain: str


class Scatter(Part):
    """Embeddings on a plane: of their first two principal components, or of a UMAP.

    `explained` are the shares of variance of the two components; a UMAP has none. `n_total` cells, of which `points` are
    drawn. `cells` names the set that they are of, where it is not the tested one.
    """

    projection: Literal["PCA", "UMAP"] = "PCA"
    explained: tuple[float, float] | None
    n_total: int
    points: tuple[ScatterPoint, ...]
    cells: str = ""

    @model_validator(mode="after")
    def _shares_of_components_alone(self) -> Scatter:
        if (self.explained is None) is (self.projection == "PCA"):
            raise ValueError("shares of variance belong to principal components, and to these alone")
        return self


class NamedScatter(Part):
    """The cells of a source and of its targets in one plane, embedded by one model of the source."""

    method: str
    source: str
    targets: tuple[str, ...]
    scatter: Scatter


class WrongCell(Part):
    """A wrong prediction: true label, predicted label and probability; a JPEG thumbnail as base64."""

    name: str
    label: str
    predicted: str
    probability: float
    thumbnail: str


class ImageAnswers(Part):
    """Predictions of every model for every tested image, for paired comparisons of methods.

    `truth` and `answers` are indices of the evaluation's `classes`. `answers` has a row for each model, with -1 where the
    model was not tested on the image (the other folds of k-fold). `images` are the first 16 hex digits of the contents'
    ids, `units` number the groups, or the images where there are none.
    """

    images: tuple[str, ...]
    units: tuple[int, ...]
    truth: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]


class Evaluation(Part):
    """A model, or the models of several folds pooled, on one set of test images.

    `confusion` rows are `tested_classes` (true), columns `classes` (predicted). `left_out` names the classes that are
    not tested, with the reason. `transductive`: test images were seen in training, without their labels.
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
    answers: ImageAnswers | None = None
    trust: TrustCheck | None = None
    intervals: str
    """The method of the intervals, in words."""
