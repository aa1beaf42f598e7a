"""Scores against a number of images: k-shot curves, and fractions of a training part."""

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
    """The scores with all labels of the target laboratory on the same embeddings, as a reference."""

    what: str
    accuracy: Estimate
    balanced_accuracy: Estimate


Against = Literal["shots", "labelled", "unlabelled"]
"""The meaning of k: labelled images of each class, labelled images in all, images without labels."""


class KShot(Part):
    """An embedder on a target laboratory with `k` images, for several k.

    `support` names the source of the support set; `transductive`: the test images were seen without labels. `against` is
    the meaning of k, with 0 for the unchanged model; `variant` names the strategy or the adapted components.
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
"""The images on which the epoch is chosen; "published-selection": the test images."""


class FractionCurve(Part):
    """A method trained on several fractions of the same training part and tested on the same images.

    With `selection` "published-selection" the epoch is chosen on the test images: the scores are optimistic.
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
