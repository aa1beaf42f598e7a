"""Imitated laboratories: no cells to draw, mixes that they cannot give, and places that are not to be replaced."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from bad_input_cases import Case, Place

Arguments = Sequence[object]


def _imitate(*more: object, n: int = 6) -> Callable[[Place], Arguments]:
    """The command on a folder of neutrophils and lymphocytes, `n` of each."""

    def make(place: Place) -> Arguments:
        place.cells(n=n)
        return ("data", "imitate", "folder:cells", *more, "--out", "out")

    return make


def _plain(*arguments: object) -> Callable[[Place], Arguments]:
    return lambda place: ("data", "imitate", *arguments)


def _over(name: str, content: str, *more: object) -> Callable[[Place], Arguments]:
    """The command, whose output holds the file `name`."""

    def make(place: Place) -> Arguments:
        place.file(f"out/{name}", content)
        return _imitate("--images", "10", *more)(place)

    return make


def _one_type(place: Place) -> Arguments:
    for image in (place.cells() / "lymphocyte").iterdir():
        image.unlink()
    (place.folder / "cells" / "lymphocyte").rmdir()
    return ("data", "imitate", "folder:cells", "--mix", "absent", "--out", "out")


def _broken(place: Place) -> Arguments:
    place.file("cells/neutrophil/a.png", "no image")
    return _imitate("--images", "10")(place) if place.cells() else ()


def _slash(place: Place) -> Arguments:
    for i in range(2):
        place.image(f"images/{i}.png", seed=i)
    place.file("cells.csv", "path,label\nimages/0.png,a/b\nimages/1.png,c\n")
    return ("data", "imitate", "csv:cells.csv", "--labels", "as_labelled", "--images", "10", "--out", "out")


CASES = (
    Case("imitate: no data", _plain("--out", "out"), ("missing argument 'SPEC'",)),
    Case("imitate: no output", _plain("folder:cells"), ("missing option '--out'",)),
    Case("imitate: no reader", _plain("cells", "--out", "out"), ("cannot read the dataset name 'cells'",)),
    Case("imitate: nowhere", _plain("folder:nowhere", "--out", "out"), ("there is no folder 'nowhere'",)),
    Case("imitate: fields", _plain("yolo:cells", "--out", "out"), ("unknown dataset 'yolo'",)),
    Case("imitate: a mix with a slip", _imitate("--mix", "blod"), ("unknown mix 'blod'", "did you mean 'blood'?")),
    Case("imitate: an empty mix", _imitate("--mix", ""), ("unknown mix ''",)),
    Case("imitate: no eosinophil", _imitate("--mix", "eosinophilic"), ("needs a cell of the type eosinophil",)),
    Case("imitate: one type, absent", _one_type, ("the mix absent needs two types",)),
    Case("imitate: no image", _imitate("--images", "0"), ("'--images'", "greater than or equal to 1")),
    Case("imitate: too few images", _imitate("--images", "9"), ("too few images for a mix of 2 types", "10 or more")),
    Case("imitate: half an image", _imitate("--images", "10.5"), ("'--images'", "a valid integer")),
    Case("imitate: a laboratory below 0", _imitate("--laboratory", "-1"), ("'--laboratory'", "greater than or equal to 0")),
    Case("imitate: a named laboratory", _imitate("--laboratory", "lab_a"), ("'--laboratory'", "a valid integer")),
    Case("imitate: a huge laboratory", _imitate("--laboratory", str(2**70)), ("laboratory", "less than or equal to")),
    Case("imitate: a seed below 0", _imitate("--seed", "-1"), ("--seed",)),
    Case("imitate: unknown strength", _imitate("--set", "blur=1"), ("unknown key 'blur'", "'blur_px'?")),
    Case("imitate: strength out of range", _imitate("--set", "haze=2"), ("key 'haze'", "0.9")),
    Case("imitate: strength NaN", _imitate("--set", "gamma=nan"), ("key 'gamma'",)),
    Case("imitate: unknown map", _imitate("--labels", "six_class"), ("six_class",)),
    Case("imitate: a broken image", _broken, ("cells/neutrophil/a.png", "not a readable image")),
    Case("imitate: a label with a slash", _slash, ("the class 'a/b' cannot be the name of a folder",)),
    Case(
        "imitate: over its input",
        lambda place: ("data", "imitate", f"folder:{place.cells()}", "--out", "cells"),
        ("would replace the input",),
    ),
    Case("imitate: over notes", _over("mine.txt", "notes"), ("'out' exists already",)),
    Case("imitate: overwrite notes", _over("mine.txt", "notes", "--overwrite"), ("holds something else than an imitated",)),
    Case(
        "imitate: an unsealed laboratory",
        _over("laboratory.json", json.dumps({"images": {"../cells/neutrophil/a.png": ""}}), "--overwrite"),
        ("holds something else than an imitated laboratory",),
    ),
    Case(
        "imitate: fewer cells than wanted",
        _imitate("--images", "200"),
        ("12 images in out", "not 200"),
        code=0,
        writes=("out",),
    ),
)
