"""Images, bundles and options of `predict` and its like that give no prediction, or only some."""

from __future__ import annotations

import json

import numpy as np
from bad_input_cases import Case, Place
from PIL import Image

from fakes.bccd import write_bccd_fields

TABLE = ("answers.csv",)


def _predict(place: Place, source: object, *more: object, bundle: object = None) -> tuple[object, ...]:
    return ("predict", place.bundle() if bundle is None else bundle, source, "--out", place.folder / "answers.csv", *more)


def _pixels(place: Place, name: str, pixels: np.ndarray) -> object:
    path = place.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def _uniform(place: Place, value: int) -> object:
    return _pixels(place, "plain.png", np.full((60, 60, 3), value))


def _some_torn(place: Place) -> tuple[object, ...]:
    for number in range(3):
        place.image(f"cells/{number}.png", seed=number)
    place.file("cells/torn.png", "no image")
    return _predict(place, place.folder / "cells")


def _all_torn(place: Place) -> tuple[object, ...]:
    for number in range(3):
        place.file(f"cells/{number}.png", "no image")
    return _predict(place, place.folder / "cells")


def _named(place: Place, name: str, *, whole: bool = True) -> tuple[object, ...]:
    if whole:
        place.image(f"cells/{name}")
    else:
        place.image("cells/good.png")
        place.file(f"cells/{name}", "no image")
    return _predict(place, place.folder / "cells")


def _output_with(place: Place, suffix: str, *more: object) -> tuple[object, ...]:
    return ("predict", place.bundle(), place.image(), "--out", place.folder / f"answers{suffix}", *more)


def _with_manifest(place: Place, **values: object) -> tuple[object, ...]:
    file = place.bundle() / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return _predict(place, place.image())


def _run_folder_without_bundle(place: Place) -> tuple[object, ...]:
    (place.folder / "run" / "bundle").mkdir(parents=True)
    return _predict(place, place.image(), bundle=place.folder / "run")


def _csv(place: Place, text: str) -> tuple[object, ...]:
    place.image("cells/a.png")
    return _predict(place, f"csv:{place.file('cells/list.csv', text)}")


def _suggest_boxes(place: Place) -> tuple[object, ...]:
    spec = write_bccd_fields(place.folder / "fields", n_per_class=1)
    return ("suggest", place.bundle(), spec, "--out", place.folder / "todo.csv")


CASES = (
    Case("boxes to suggest from", _suggest_boxes, ("are boxes in larger images", "an image of its own")),
    Case("one torn image", lambda p: _predict(p, p.file("torn.png", "x")), ("torn.png", "answers.csv"), writes=TABLE),
    Case("one empty image", lambda p: _predict(p, p.file("a.png")), ("is empty", "answers.csv"), writes=TABLE),
    Case("one image too small", lambda p: _predict(p, p.image(size=(5, 9))), ("too small",), writes=TABLE),
    Case("one cut image", lambda p: _predict(p, p.file("a.png", p.image().read_bytes()[:900])), ("a.png",), writes=TABLE),
    Case("all images torn", _all_torn, ("no prediction", "0.png", "answers.csv"), writes=TABLE),
    Case("some images torn", _some_torn, ("4 rows", "unreadable: 1", "torn.png"), code=0, writes=TABLE),
    Case(
        "a white image", lambda p: _predict(p, _uniform(p, 252)), ("no prediction", "white image 1"), code=0, writes=TABLE
    ),
    Case("a black image", lambda p: _predict(p, _uniform(p, 2)), ("no prediction", "black image 1"), code=0, writes=TABLE),
    Case("a gray image", lambda p: _predict(p, _uniform(p, 130)), ("no prediction", "flat image 1"), code=0, writes=TABLE),
    Case(
        "a white image as JSON",
        lambda p: _predict(p, _uniform(p, 252), "--json"),
        ('"white image": 1', '"n_unreadable": 0'),
        code=0,
        writes=TABLE,
    ),
    Case("a name like a formula", lambda p: _named(p, "=1+1.png"), ("1 rows",), code=0, writes=TABLE),
    Case(
        "a torn image with an escape code in its name",
        lambda p: _named(p, "red \x1b[31m.png", whole=False),
        ("red \\x1b[31m.png",),
        code=0,
        writes=TABLE,
    ),
    Case(
        "a torn image with a line break in its name",
        lambda p: _named(p, "two\nlines.png", whole=False),
        ("two\\nlines.png",),
        code=0,
        writes=TABLE,
    ),
    Case("no such image", lambda p: _predict(p, p.folder / "gone.png"), ("there is no image or folder", "gone.png")),
    Case("no such reader", lambda p: _predict(p, "nonsense:cells"), ("nonsense:cells",)),
    Case("an empty source", lambda p: _predict(p, ""), ("the source of the images is no path",)),
    Case("an empty bundle name", lambda p: _predict(p, p.image(), bundle=""), ("is no bundle",)),
    Case("an output without a suffix", lambda p: _output_with(p, ""), (".csv or .parquet",)),
    Case("an output of another kind", lambda p: _output_with(p, ".xlsx"), (".csv or .parquet",)),
    Case("embeddings in a CSV", lambda p: _output_with(p, ".csv", "--embeddings"), ("embeddings do not fit a CSV",)),
    Case("a coverage of 2", lambda p: _predict(p, p.image(), "--coverage", "2"), ("coverage", "above 0, below 1", "got 2")),
    Case("a coverage of 0", lambda p: _predict(p, p.image(), "--coverage", "0"), ("coverage", "above 0, below 1")),
    Case("a coverage of nan", lambda p: _predict(p, p.image(), "--coverage", "nan"), ("coverage", "got 'nan'")),
    Case("a coverage in words", lambda p: _predict(p, p.image(), "--coverage", "high"), ("--coverage", "'high'")),
    Case("a threshold of 2", lambda p: _predict(p, p.image(), "--abstain-below", "2"), ("--abstain-below",)),
    Case("a threshold of nan", lambda p: _predict(p, p.image(), "--abstain-below", "nan"), ("--abstain-below",)),
    Case("no images given", lambda p: ("predict", p.bundle(), "--out", p.out), ("is a bundle, and no images are given",)),
    Case("images for a bundle", lambda p: _predict(p, p.image(), bundle=p.cells()), ("is no bundle",)),
    Case("a run without a bundle", _run_folder_without_bundle, ("is no bundle", "manifest.json")),
    Case("a manifest of one class", lambda p: _with_manifest(p, classes=[]), ("manifest", "classes")),
    Case("a CSV without rows", lambda p: _csv(p, "path,label\n"), ("lists no image",)),
    Case("a CSV with a path out of it", lambda p: _csv(p, "path,label\n../a.png,neutrophil\n"), ("lies outside",)),
    Case(
        "a CSV with columns of our names",
        lambda p: _csv(p, "path,label,error,cell\na.png,neutrophil,=1,x\n"),
        ("1 rows",),
        code=0,
        writes=TABLE,
    ),
)
