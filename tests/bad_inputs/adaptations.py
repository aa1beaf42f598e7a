"""Images and labelled cells that a bundle cannot be adapted to, or that give no ground for a change."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from bad_input_cases import Case, Place

USED = "no piece is used, the bundle predicts as before"


def _images(n: int, copies: int = 1, *, more: tuple[object, ...] = ()) -> Callable[[Place], tuple[object, ...]]:
    """Adapt to `n` different images of noise, `copies` of each."""

    def make(place: Place) -> tuple[object, ...]:
        for i in range(n):
            image = place.image(f"images/{i}_0.png", seed=i)
            for j in range(1, copies):
                shutil.copy(image, image.with_name(f"{i}_{j}.png"))
        return ("adapt", place.bundle(), "--unlabelled", place.folder / "images", "--out", place.out, *more)

    return make


def _one_type(place: Place) -> tuple[object, ...]:
    cells = place.cells(n=12)
    return ("adapt", place.bundle(), "--unlabelled", cells / "lymphocyte", "--out", place.out)


def _twice(place: Place) -> tuple[object, ...]:
    from hemalens.adaptation.adapt import adapt

    cells = place.cells(n=12)
    adapt(place.bundle(), out=place.folder / "first", unlabelled=f"folder:{cells}")
    return ("adapt", place.folder / "first", "--unlabelled", cells, "--out", place.out)


def _eight_types(place: Place) -> tuple[object, ...]:
    cells = place.cells()
    for name in ("platelet", "erythroblast", "promyelocyte", "blast"):
        for i in range(2):
            place.image(f"cells/{name}/{i}.png", seed=i + len(name))
    return ("adapt", place.bundle(), "--support", f"folder:{cells}", "--out", place.out)


def _text(place: Place) -> tuple[object, ...]:
    for i in range(12):
        place.file(f"images/{i}.png", f"no image {i}")
    return ("adapt", place.bundle(), "--unlabelled", place.folder / "images", "--out", place.out)


def _set(setting: str) -> Case:
    name, _, _ = setting.partition("=")
    return Case(f"the setting {name}, which is none", _images(9, more=("--set", setting)), (f"unknown key {name!r}",))


CASES = (
    Case("one image", _images(1), ("too few images", "at least 8 different", "got 1")),
    Case("many copies of one image", _images(1, copies=60), ("too few images", "at least 8 different", "got 1")),
    Case("copies of seven images", _images(7, copies=4), ("too few images", "got 7")),
    Case("files that are no images", _text, ("too few images", "got 0")),
    Case("images of no cell", _images(30), (USED,), code=0, writes=("out",)),
    Case("lymphocytes only", _one_type, (USED,), code=0, writes=("out",)),
    Case("an adapted bundle", _twice, ("adapted to unlabelled images already", "original bundle"), writes=("first",)),
    Case("labels of eight types", _eight_types, ("unknown to the bundle", "platelet (2)", "--allow-new")),
    Case("no piece", _images(9, more=sum((("--set", f"{p}=false") for p in ("size", "neighbours", "class_means")), ())),
         ("every piece is off",)),
    Case("a second encoder for images", _images(9, more=("--beside", "imagenet")), ("--beside needs --support",)),
    Case("sizes of a bundle without them", _images(9, more=("--set", "size=true")), ("without nucleus sizes", "size=false")),
    *(_set(setting) for setting in ("batch_norm=false", "class_bias=true", "scarce=1", "strength=1", "neighbour_weight=3")),
)  # fmt: skip
