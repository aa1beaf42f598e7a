"""Tests of models in the laboratory that they were trained without, and their scores over laboratories and seeds."""

from __future__ import annotations

from pydantic import Field

from hemalens.evaluation.results.base import Estimate, Part


class FormAnswers(Part):
    """Predictions of one form of a model: as it is, or adapted. `answers` has a row for each draw of labelled cells.

    An answer is an index into the classes of the test, -1 where an image is not tested. `transductive`: the tested images
    were seen without their labels.
    """

    form: str
    transductive: bool
    answers: tuple[tuple[int, ...], ...]


class ImitatedTest(Part):
    """Balanced accuracy of each form of a model in an imitated laboratory, made of the left-out one's cells.

    `gains` are differences from the form "none" on the same images.
    """

    seed: int
    mix: str
    n_images: int
    balanced_accuracy: dict[str, float]
    gains: dict[str, float]


class LeftOutTest(Part):
    """One training without a laboratory, tested there: the predictions of each form for the same images.

    `truth` (n,) are indices into `classes`, of which the first `n_tested` are tested; `units` (n,) number the groups, or
    the images. `left_out` says why classes are not tested.
    """

    name: str
    method: str
    source: str
    laboratory: str
    seed: int
    classes: tuple[str, ...]
    n_tested: int
    truth: tuple[int, ...]
    units: tuple[int, ...]
    grouped: bool
    forms: tuple[FormAnswers, ...]
    imitated: tuple[ImitatedTest, ...] = ()
    left_out: dict[str, str] = Field(default_factory=dict)
    unreadable: dict[str, str] = Field(default_factory=dict)

    @property
    def tested_classes(self) -> tuple[str, ...]:
        """The classes that are tested."""
        return self.classes[: self.n_tested]


class LaboratoryScores(Part):
    """One form in one left-out laboratory: means over seeds, and the balanced accuracy of each seed.

    `std` of an estimate is over seeds.
    """

    laboratory: str
    n_images: int
    balanced_accuracy: Estimate
    accuracy: Estimate
    majority_rate: float
    recall: dict[str, Estimate]
    by_seed: dict[int, float]
    left_out: dict[str, str] = Field(default_factory=dict)
    unreadable: dict[str, str] = Field(default_factory=dict)


class Worst(Part):
    """The lowest balanced accuracy of all laboratories and seeds, and where it is."""

    value: float
    laboratory: str
    seed: int


class FormScores(Part):
    """One form over all left-out laboratories: each one's scores, their mean, and the worst of all trainings."""

    form: str
    transductive: bool
    laboratories: tuple[LaboratoryScores, ...]
    mean: Estimate
    accuracy: Estimate
    majority_rate: float
    worst: Worst


class ImitatedScores(Part):
    """One form over all imitated laboratories and seeds.

    `gain` is the mean difference from the form "none"; `n_harmed` counts the tests in which it is below -0.01. Both are
    None for "none" itself. `by_mix` is the mean balanced accuracy of each mix of cell types.
    """

    form: str
    n_laboratories: int
    n_tests: int
    balanced_accuracy: Estimate
    worst: Worst
    gain: Estimate | None
    n_harmed: int | None
    by_mix: dict[str, float]


class LeftOut(Part):
    """A method trained on all laboratories but one and tested on that one, each in turn, with several seeds."""

    name: str
    method: str
    laboratories: tuple[str, ...]
    seeds: tuple[int, ...]
    n_tests: int
    """Trainings that were tested; fewer than laboratories times seeds where some failed."""
    forms: tuple[FormScores, ...] = Field(min_length=1)
    imitated: tuple[ImitatedScores, ...] = ()
    intervals: str
