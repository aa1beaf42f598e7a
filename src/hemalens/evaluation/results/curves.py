"""Scores against the number of labelled images: k-shot, and fractions of a training part."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hemalens.evaluation.results.base import Estimate, Part
from hemalens.evaluation.results.evaluations import Scatter


class Shots(Part):
    """Scores with `k` labelled images a class: means over repeats, each with its own support."""

    k: int
    n_repeats: int
    accuracy: Estimate
    majority_rate: float
    balanced_accuracy: Estimate
    macro_f1: Estimate
    f1: dict[str, Estimate]
    """F1 of each class."""


class Supervised(Part):
    """Scores with all labels of the new laboratory on the same embeddings, as the reference."""

    what: str
    accuracy: Estimate
    balanced_accuracy: Estimate


Against = Literal["shots", "labelled", "unlabelled"]
"""What k counts: labelled images a class, labelled images in all, or unlabelled images."""


class KShot(Part):
    """Scores of an embedder on a new laboratory with `k` known images, for several k.

    `support` names the source of the known images; `transductive`: tested images were seen without their labels. `against`
    names what k counts, 0 being the model before adaptation; `variant` is the strategy or the components of adaptation.
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
    against: Against = "shots"
    variant: str = ""


class FractionScores(Part):
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
"""The images that choose the epoch of a training; "published-selection": the test images."""


class FractionCurve(Part):
    """A method trained on several fractions of the same training part, always tested on the same images.

    `selection` "published-selection" means that the epoch was chosen on the tested images, and the scores are optimistic.
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
