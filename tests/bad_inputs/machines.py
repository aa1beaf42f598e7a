"""Trainings that ask for devices or a precision that the machine does not have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from bad_input_cases import Case, Place

import trained

SMALL = {**trained.FINETUNE, "epochs": 1}


def _train(place: Place, *more: object) -> tuple[object, ...]:
    settings = [word for text in trained.settings(SMALL) for word in ("--set", text)]
    return ("train", "finetune", "--train", f"folder:{place.cells(n=12)}", "--out", place.out, *settings, *more)


@contextmanager
def _machine(**values: object) -> Iterator[None]:
    """A machine of these functions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cuda.is_available", lambda: False)
        for name, value in values.items():
            patch.setattr(f"hemalens.training.{name.replace('__', '.')}", lambda value=value: value)
        yield


def _case(name: str, says: tuple[str, ...], *more: object, **machine: object) -> Case:
    return Case(name, lambda place: _train(place, *more), says, around=lambda: _machine(**machine))


CASES = (
    _case("no device", ("key 'devices'", "greater than or equal to 1", "got 0"), "--devices", 0),
    _case("fewer than no device", ("key 'devices'", "greater than or equal to 1", "got -2"), "--devices", -2),
    _case("half a device", ("--devices", "a valid integer"), "--devices", 0.5),
    _case("devices by name", ("--devices", "a valid integer"), "--devices", "all"),
    _case("a setting of no device", ("key 'devices'", "greater than or equal to 1", "got 0"), "--set", "devices=0"),
    _case(
        "more devices than cores",
        ("more devices than this machine has", "devices of 1 to 4", "got devices=8", "--devices"),
        "--devices",
        8,
        processes__n_cores=4,
    ),
    _case(
        "a batch that three cannot share",
        ("cannot share a batch equally", "a batch_size that 3 divides", "got batch_size=8", "--set batch_size=9"),
        "--devices",
        3,
        processes__n_cores=4,
    ),
    _case(
        "bf16 without the hardware",
        ("does not multiply in bfloat16", "got precision=bf16", "--set precision=fp32"),
        "--set",
        "precision=bf16",
        trainer__has_bf16=False,
    ),
    _case("a precision of 8 bits", ("key 'precision'", "'fp32'", "got 'int8'"), "--set", "precision=int8"),
)
