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
    """What all labels of the new laboratory together give on the same embeddings: the line to reach."""

    what: str
    accuracy: Estimate
    balanced_accuracy: Estimate


Against = Literal["shots", "labelled", "unlabelled"]
"""What a score stands against: labelled images of each class, labelled images in all, images without labels."""


class KShot(Part):
    """An embedder on a new laboratory of which `k` images a class are known, for several k.

    `support` says where the known images come from; `transductive` that the tested images were looked at, unlabelled.
    `against` says what k counts, 0 being the model before; `variant` how the images were chosen, or what follows them.
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
"""On which images the epoch of a training is chosen; "published-selection": on those that are then reported."""


class FractionCurve(Part):
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
