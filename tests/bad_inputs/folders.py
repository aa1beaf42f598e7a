"""Folders of another layout: parts of a split, images without class folders, nothing at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from bad_input_cases import Case, Place


def _parts(place: Place, *names: str) -> Path:
    """The two class folders within folders of these names, with images of their own in each."""
    for i, name in enumerate(names):
        for j, kind in enumerate(("neutrophil", "lymphocyte")):
            for n in range(4):
                place.image(f"set/{name}/{kind}/{n}.png", seed=100 * i + 10 * j + n)
    return place.folder / "set"


def _train(data: Path, place: Place, *more: object) -> tuple[object, ...]:
    return ("train", "stub", "--train", f"folder:{data}", "--out", place.out, *more)


def _split(*names: str, more: tuple[object, ...] = ()) -> Callable[[Place], tuple[object, ...]]:
    return lambda place: _train(_parts(place, *names), place, *more)


def _audited(*names: str, labels: str) -> Callable[[Place], tuple[object, ...]]:
    return lambda place: ("data", "audit", f"folder:{_parts(place, *names)}", "--labels", labels)


def _beside_a_part(place: Place) -> tuple[object, ...]:
    data = _parts(place, "train")
    place.image("set/other/a.png")
    return _train(data, place)


def _test_of_one_class(place: Place) -> tuple[object, ...]:
    data = _parts(place, "train", "test")
    shutil.rmtree(data / "test" / "lymphocyte")
    return _train(data, place)


def _flat(*verb: object) -> Callable[[Place], tuple[object, ...]]:
    def make(place: Place) -> tuple[object, ...]:
        for i in range(3):
            place.image(f"flat/{i}.png", seed=i)
        return (*verb, "folder:flat", *(("--out", place.out) if verb[0] != "data" else ()))

    return make


def _empty(place: Place) -> tuple[object, ...]:
    (place.folder / "set" / "neutrophil").mkdir(parents=True)
    return _train(place.folder / "set", place)


def _missing(place: Place) -> tuple[object, ...]:
    return _train(place.folder / "gone", place)


def _file_as_folder(place: Place) -> tuple[object, ...]:
    return _train(place.image("cell.png"), place)


def _no_reader(place: Place) -> tuple[object, ...]:
    place.cells()
    return ("train", "stub", "--train", "cells", "--out", place.out)


def _unknown_reader(name: str) -> Callable[[Place], tuple[object, ...]]:
    return lambda place: ("data", "audit", f"{name}:{place.cells()}")


def _other_layout(place: Place) -> tuple[object, ...]:
    return ("data", "audit", f"raabin:{place.cells()}")


def _suggest_elsewhere(place: Place) -> tuple[object, ...]:
    place.cells()
    (place.folder / "lists").mkdir()
    return ("suggest", place.bundle(), "cells", "--n", 3, "--out", "lists/to label.csv")


OUT = ("out",)
GIVEN = "one split: the given test part, 8 image(s)"
CASES = (
    Case("TRAIN and TEST", _split("TRAIN", "TEST"), ("parts as given: train 8, test 8", GIVEN), 0, OUT, stub=True),
    Case("train, val and test", _split("train", "val", "test"), (GIVEN, "the given validation part"), 0, OUT, stub=True),
    Case("Training and Testing", _split("Training", "Testing"), (GIVEN,), 0, OUT, stub=True),
    Case("Test-A and Test-B", _split("Train", "Test-A", "Test-B"), ("the given test part, 16",), 0, OUT, stub=True),
    Case(
        "parts as labelled",
        _split("train", "test", more=("--labels", "as_labelled")),
        (GIVEN,),
        0,
        OUT,
        stub=True,
    ),
    Case("audit of parts", _audited("train", "test", labels="five_class"), ("train 8, test 8",), 0),
    Case("audit of parts as labelled", _audited("train", "test", labels="as_labelled"), ("neutrophil 8",), 0),
    Case(
        "no test of a given part",
        _split("train", "test", more=("--test-fraction", 0)),
        ("left out the given test part, 8 image(s) (--test-fraction 0)",),
        0,
        OUT,
        stub=True,
    ),
    Case("a test part alone", _split("test"), ("one split: 20% held out",), 0, OUT, stub=True),
    Case("no training part", _split("val", "test"), ("set has no training part",), stub=True),
    Case(
        "a folder of images beside a part",
        _beside_a_part,
        ("'train' is no known cell type (a part of a split",),
        2,
        stub=True,
    ),
    Case("a test part of one class", _test_of_one_class, ("shares too few classes",), stub=True),
    Case(
        "images without class folders",
        _flat("train", "stub", "--train"),
        ("not in class folders", "predict flat"),
        stub=True,
    ),
    Case(
        "audit of images without class folders", _flat("data", "audit"), ("not in class folders", "hemalens predict flat")
    ),
    Case("a class folder without images", _empty, ("is not laid out as a folder of classes",), stub=True),
    Case("no such folder", _missing, ("there is no folder",), stub=True),
    Case("an image as folder", _file_as_folder, ("is not laid out as a folder of classes", "got a file"), stub=True),
    Case("no reader", _no_reader, ("For one folder a class: folder:cells",), stub=True),
    Case("a misspelt reader", _unknown_reader("foldr"), ("unknown dataset 'foldr'", "did you mean 'folder'")),
    Case("an unknown reader", _unknown_reader("xyz"), ("unknown dataset 'xyz'", "`hemalens data list` lists them")),
    Case("a folder of another layout", _other_layout, ("is not laid out as Raabin-WBC",)),
    Case("a list beside the images", _suggest_elsewhere, ("a folder above the images", "Use --out '")),
)
