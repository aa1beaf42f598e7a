"""Folders, bundles and images that maps of the evidence cannot be written into, of or from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from bad_input_cases import Case, Place
from PIL import Image

import trained

WRITES = ("answers.csv", "evidence")
TABLE = ("answers.csv",)


def _linear(place: Place) -> Path:
    """A fresh copy of a small bundle with an exact map."""
    folder = place.folder / "linear"
    if not folder.exists():
        shutil.copytree(trained.fitted(place.temporary, "linear_probe").bundle.path, folder)
    return folder


def _explain(place: Place, source: object, *more: object, into: object = None, bundle: object = None) -> Sequence[object]:
    model = _linear(place) if bundle is None else bundle
    folder = place.folder / "evidence" if into is None else into
    return ("predict", model, source, "--out", place.folder / "answers.csv", "--explain", folder, *more)


def _over(make: Callable[[Place, Path], object], *more: object) -> Callable[[Place], Sequence[object]]:
    """A folder that is there already, filled by `make`."""

    def made(place: Place) -> Sequence[object]:
        make(place, place.folder / "evidence")
        return _explain(place, place.image(), *more)

    return made


def _file(place: Place, at: Path) -> None:
    at.write_text("mine")


def _foreign(place: Place, at: Path) -> None:
    at.mkdir()
    (at / "notes.txt").write_text("mine")


def _index(text: str, *pictures: str) -> Callable[[Place, Path], None]:
    def make(place: Place, at: Path) -> None:
        at.mkdir()
        (at / "explanations.csv").write_text(text)
        for name in pictures:
            (at / name).write_bytes(b"a picture")

    return make


HEAD = "path,picture,label,probability,evidence,evidence_for,evidence_against,error\n"


def _among_images(place: Place) -> Sequence[object]:
    cells = place.image("cells/a.png").parent
    return _explain(place, cells, into=cells / "evidence")


def _on_the_images(place: Place) -> Sequence[object]:
    cells = place.image("cells/a.png").parent
    return _explain(place, cells, "--overwrite", into=cells)


def _on_the_bundle(place: Place) -> Sequence[object]:
    return _explain(place, place.image(), "--overwrite", into=_linear(place))


def _below_a_file(place: Place) -> Sequence[object]:
    return _explain(place, place.image(), into=place.file("notes.txt", "mine") / "evidence")


def _some_torn(place: Place) -> Sequence[object]:
    place.image("cells/a.png")
    place.file("cells/torn.png", "no image")
    return _explain(place, place.folder / "cells")


def _all_torn(place: Place) -> Sequence[object]:
    place.file("cells/torn.png", "no image")
    return _explain(place, place.folder / "cells")


def _uniform(value: int) -> Callable[[Place], Sequence[object]]:
    def make(place: Place) -> Sequence[object]:
        Image.fromarray(np.full((50, 50, 3), value, np.uint8)).save(place.folder / "plain.png")
        return _explain(place, place.folder / "plain.png")

    return make


def _damaged(place: Place) -> Sequence[object]:
    file = _linear(place) / "model.onnx"
    file.write_bytes(file.read_bytes()[:-100])
    return _explain(place, place.image())


def _evaluated(*more: object) -> Callable[[Place], Sequence[object]]:
    def make(place: Place) -> Sequence[object]:
        return ("evaluate", place.bundle(), "--data", f"folder:{place.cells()}", "--out", place.out, *more)

    return make


MINE = "holds something else than explanations"

CASES = (
    Case(
        "explanations of a bundle without an exact map",
        lambda p: _explain(p, p.image(), bundle=p.bundle()),
        ("this model has no exact map of its evidence", "--explain occlusion"),
    ),
    Case("explanations of a damaged bundle", _damaged, ("linear", "model.onnx")),
    Case(
        "explanations of no bundle",
        lambda p: _explain(p, p.image(), bundle=p.folder / "nothing"),
        ("there is no", "nothing"),
    ),
    Case("explanations into a file", _over(_file, "--overwrite"), ("is a file", "expected the name of a folder")),
    Case("explanations into a folder of something else", _over(_foreign), ("exists already", "--overwrite")),
    Case("explanations over a folder of something else", _over(_foreign, "--overwrite"), (MINE,)),
    Case("explanations over a table of another kind", _over(_index("a,b\n1,2\n"), "--overwrite"), (MINE,)),
    Case("explanations over an empty table", _over(_index(""), "--overwrite"), (MINE,)),
    Case("explanations over others", _over(_index(HEAD)), ("exists already", "--overwrite")),
    Case(
        "explanations over others with a file besides",
        _over(_index(f"{HEAD}a.png,0_a.png,,,,,,\n", "0_a.png", "mine.png"), "--overwrite"),
        ("holds 'mine.png' besides explanations", "choose another --explain"),
    ),
    Case("explanations among the images", _among_images, ("would lie among the images", "--explain")),
    Case("explanations over the images", _on_the_images, ("would replace the input", "Choose another --explain")),
    Case("explanations over the bundle", _on_the_bundle, ("would replace the input", "Choose another --explain")),
    Case("explanations below a file", _below_a_file, ("cannot write", "notes.txt")),
    Case(
        "explanations of a place without images",
        lambda p: _explain(p, p.folder / "nowhere"),
        ("nowhere",),
    ),
    Case(
        "explanations where one image is torn", _some_torn, ("pictures of the evidence: 1 in ", "unreadable: 1"), 0, WRITES
    ),
    Case("explanations where every image is torn", _all_torn, ("no prediction",), 2, WRITES),
    Case("explanations of a black image", _uniform(0), ("pictures of the evidence: 0 in ",), 0, WRITES),
    Case("explanations of a white image", _uniform(255), ("pictures of the evidence: 0 in ",), 0, WRITES),
    Case("maps of another kind", _evaluated("--explain", "saliency"), ("--explain", "'activation', 'occlusion', 'none'")),
    Case("maps of no kind", _evaluated("--explain", ""), ("--explain", "'activation', 'occlusion', 'none'")),
    Case("the number of maps", _evaluated("--occlusion", "4"), ("--occlusion",)),
)
