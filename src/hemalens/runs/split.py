"""Training, validation and test parts of the data of a run: as they are given, or drawn."""

from __future__ import annotations

from dataclasses import dataclass

from hemalens.datasets import CellDataset
from hemalens.datasets.leaks import refuse_leaks, traces
from hemalens.datasets.parts import given_part, hold_out_part, n_drawn, shared_groups, without
from hemalens.datasets.splits import check_classes, seeded
from hemalens.errors import SplitError
from hemalens.evaluation.evaluate import plan_test

Parts = tuple[CellDataset, CellDataset, CellDataset | None]
"""(training, validation, test)."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """How the parts came about, in a sentence, and notes on it."""

    text: str
    notes: tuple[str, ...]


def split(
    dataset: CellDataset,
    held: CellDataset | None,
    *,
    test_fraction: float,
    validation_fraction: float,
    seed: int,
) -> tuple[Parts, Protocol]:
    """(training, validation, test) and the protocol; no image in two of them, and no group but across given parts.

    Given parts are kept: the test part is tested, or with a `test_fraction` of 0 left out; the validation part validates,
    or beside the validation set `held` is left out. What is not given is drawn. Raises `SplitError` and `DatasetError`.
    """
    notes: list[str] = []
    if not test_fraction:
        dataset = _leave_out(dataset, "test", "--test-fraction 0", notes)
    if held is not None:
        dataset = _leave_out(dataset, "validation", "--val", notes)
    drawn = [bool(test_fraction and n_drawn(dataset, "test")), held is None and bool(n_drawn(dataset, "validation"))]
    _check(dataset, n_units=1 + sum(drawn))
    test, text = None, "no test part"
    if test_fraction:
        text = _describe(dataset, "test", test_fraction)
        dataset, test = hold_out_part(dataset, "test", test_fraction, seeded(seed, "test"))
    dataset = _trained_classes(dataset, notes)
    if held is not None:
        learn, validation = dataset, _checked(dataset, held, test)
    else:
        if given_part(dataset, "validation"):
            text += f"; validation: {_describe(dataset, 'validation', validation_fraction)}"
        learn, validation = hold_out_part(dataset, "validation", validation_fraction, seeded(seed, "validation"))
    if test is not None:
        plan_test(learn.classes, test)
        if n := shared_groups(dataset, test):
            notes.append(
                f"{dataset.name}: {n} group(s) lie in the training and the test part as given: the scores are too high"
            )
    return (learn, validation, test), Protocol(f"one split: {text}" if test is not None else text, tuple(notes))


def _leave_out(dataset: CellDataset, part: str, option: str, notes: list[str]) -> CellDataset:
    """The dataset without its given part; a note names the option that asks for it."""
    given = given_part(dataset, part)
    if given:
        notes.append(f"{dataset.name}: left out the given {part} part, {len(given)} image(s) ({option})")
    return without(dataset, given)


def _check(dataset: CellDataset, *, n_units: int) -> None:
    """Raise unless the images to learn from have two classes, each of `n_units` independent images or groups."""
    learn = without(dataset, given_part(dataset, "test") | given_part(dataset, "validation"))
    if not len(learn):
        raise SplitError(f"{dataset.name} has no training part", expected="images apart from its test and validation part")
    check_classes(learn.only_classes([name for name, n in learn.class_counts.items() if n]), n_units=n_units)


def _trained_classes(dataset: CellDataset, notes: list[str]) -> CellDataset:
    """The classes with an image to learn from; a note names each other one."""
    learn = without(dataset, given_part(dataset, "validation"))
    present = [name for name, n in learn.class_counts.items() if n]
    notes += [
        f"{dataset.name}: left out {name}, which has no training image" for name in dataset.classes if name not in present
    ]
    return dataset if len(present) == len(dataset.classes) else dataset.only_classes(present)


def _describe(dataset: CellDataset, part: str, fraction: float) -> str:
    """Where a held-out part comes from."""
    drawn = f"{fraction:.0%} held out for the {part}"
    given = len(given_part(dataset, part))
    if not given:
        return drawn
    more = f", of sets without one {drawn}" if n_drawn(dataset, part) else ""
    return f"the given {part} part, {given} image(s){more}"


def _checked(dataset: CellDataset, held: CellDataset, test: CellDataset | None) -> CellDataset:
    """The validation set under the classes of `dataset`; raises `SplitError` where it shares an image, or no class."""
    refuse_leaks(traces(dataset), held)
    if test is not None:
        refuse_leaks(traces(held), test)
    validation = held.under(dataset.classes)
    if not len(validation):
        raise SplitError(
            f"the validation data {validation.name} shares no class with the training data",
            expected=", ".join(dataset.classes),
            got=", ".join(held.classes),
        )
    return validation
