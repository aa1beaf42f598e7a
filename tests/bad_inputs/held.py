"""What every verb withstands: damaged images, models from elsewhere, paths that lead out, outputs that exist."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bad_input_cases import Case, Place
from PIL import Image

import trained

# ----------------------------------------------------------------------------------------------------------------- verbs


def _lab(place: Place, name: str = "cells", n: int = 4) -> Path:
    """Fresh cells of four types from the laboratory that the bundle has not seen."""
    folder = place.folder / name
    for kind in trained.CELL_TYPES:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for image in sorted((trained.cells(place.temporary) / "lab_b" / "images" / kind).iterdir())[:n]:
            shutil.copy(image, folder / kind / image.name)
    return folder


def _verb(verb: str, place: Place, spec: object, bundle: Path | None = None) -> tuple[object, ...]:
    """The arguments of a verb over a dataset, with a bundle where it takes one."""
    made = bundle or (None if verb in WITHOUT_BUNDLE else place.bundle())
    out = place.out.with_suffix(".csv") if verb in ("predict", "suggest") else place.out
    path = str(spec).partition(":")[2] if str(spec).startswith("folder:") else spec
    return {
        "train": ("train", "stub", "--train", spec, "--out", out),
        "predict": ("predict", made, path, "--out", out),
        "evaluate": ("evaluate", made, "--data", spec, "--explain", "none", "--out", out),
        "adapt": ("adapt", made, "--support", spec, "--out", out),
        "adapt to images": ("adapt", made, "--unlabelled", spec, "--out", out),
        "suggest": ("suggest", made, path, "--n", 2, "--out", out),
        "segment": ("segment", "classical", path, "--out", out),
        "quantize": ("quantize", made, "--calibrate", spec, "--precision", "fp16", "--out", out),
        "benchmark": ("benchmark", "--methods", "linear_probe", "--source", spec, "--protocol", "k-fold", "--out", out),
        "k-shot": ("benchmark", "--bundle", made, "--protocol", "k-shot", "--target", spec, "--out", out),
        "efficiency": ("benchmark", "--bundle", made, "--protocol", "efficiency", "--target", spec, "--out", out),
        "study": ("study", "mobilevit", "--data", f"cells={spec}", "--set", "n_images=0", "--out", out),
        "audit": ("data", "audit", spec),
    }[verb]


WITHOUT_BUNDLE = ("train", "segment", "benchmark", "study", "audit")
WITH_BUNDLE = ("predict", "evaluate", "adapt", "adapt to images", "suggest", "quantize", "k-shot", "efficiency")
ALL = (*WITHOUT_BUNDLE, *WITH_BUNDLE)
REFUSED = {
    "train": "1 of 24 images cannot be read, first: ",
    "adapt": "1 of 24 images cannot be read, first: ",
    "quantize": "1 of 24 images cannot be read, first: ",
    "benchmark": "1 of 24 images cannot be read, first: ",
    "study": "1 of 18 images cannot be read, first: ",
}
TOLD = {
    "segment": "unreadable: 1, first: ",
    "audit": "unreadable: 1",
    "predict": "unreadable: 1, first: ",
    "evaluate": "left out 1 unreadable image(s), first: ",
    "adapt to images": "left out 1 unreadable image(s)",
    "suggest": "left out 1 unreadable image(s), first: ",
}
"""Verbs that refuse a dataset for an unreadable image, and those that go on without it and say so."""

Make = Callable[[Place], tuple[object, ...]]


# ---------------------------------------------------------------------------------------------------------------- images


def _huge_png(path: Path) -> None:
    """A PNG whose header says 20,000 x 20,000 px, in a hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (_truncated, "is damaged or truncated"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "a decompression bomb": (_huge_png, "is too large"),
}


def _broken(verb: str, harm: Callable[[Path], object], place: Place) -> tuple[object, ...]:
    cells = _lab(place, n=6)
    harm(cells / "lymphocyte" / "lymphocyte_0000.png")
    return _verb(verb, place, f"folder:{cells}")


def _images() -> Iterator[Case]:
    for kind, (harm, words) in BROKEN.items():
        for verb, told in (REFUSED | TOLD).items():
            refused = verb in REFUSED
            if refused and kind == "truncated":
                # the header is whole: verbs that learn find it when they read the pixels
                continue
            says = (told,) if verb in ("audit", "adapt to images") else (told, words)
            name = f"{verb}: an image that is {kind}"
            yield Case(name, partial(_broken, verb, harm), says, 2 if refused else 0, ("out", "out.csv"), stub=True)
    for verb in ("train", "adapt"):
        says = ("cannot be read, first: ", "is damaged or truncated") if verb == "adapt" else ("is damaged or truncated",)
        yield Case(f"{verb}: truncated images", partial(_truncated_support, verb), says, writes=("out",), stub=True)


def _truncated_support(verb: str, place: Place) -> tuple[object, ...]:
    cells = _lab(place, n=6)
    for image in sorted((cells / "lymphocyte").iterdir()):
        _truncated(image)
    return _verb(verb, place, f"folder:{cells}")


def _saved(mode: str, suffix: str, verb: str, place: Place) -> tuple[object, ...]:
    cells = _lab(place, n=6)
    for image in sorted(cells.rglob("*.png")):
        with Image.open(image) as opened:
            opened.convert("L" if mode == "I;16" else mode).convert(mode).save(image.with_suffix(suffix))
        if image.suffix != suffix:
            image.unlink()
    return _verb(verb, place, f"folder:{cells}")


def _modes() -> Iterator[Case]:
    for mode, suffix in (
        ("CMYK", ".jpg"),
        ("P", ".bmp"),
        ("RGBA", ".tif"),
        ("LA", ".png"),
        ("I;16", ".tif"),
        ("1", ".png"),
    ):
        make = partial(_saved, mode, suffix, "predict")
        yield Case(f"predict: images in mode {mode}", make, ("24 rows", "unreadable: 0"), 0, ("out.csv",))


# ---------------------------------------------------------------------------------------------------------------- models


def _damaged(path: Path) -> None:
    model = path / "model.onnx"
    model.write_bytes(model.read_bytes()[:-20] + bytes(20))


def _cut(path: Path) -> None:
    model = path / "model.onnx"
    model.write_bytes(model.read_bytes()[:100])


def _linked_out(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    shutil.copy(path / "seen_images.txt", path.parent / "elsewhere.txt")
    manifest["files"]["../elsewhere.txt"] = manifest["files"]["seen_images.txt"]
    (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def _newer(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    (path / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 99}), encoding="utf-8")


def _nested(path: Path) -> None:
    (path / "manifest.json").write_text("[" * 100_000, encoding="utf-8")


MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "is damaged": (_damaged, "'model.onnx' of the bundle"),
    "is cut": (_cut, "is damaged"),
    "names a file outside": (_linked_out, "'../elsewhere.txt' of the bundle"),
    "is of a later version": (_newer, "Upgrade hemalens."),
    "has a manifest nested 100,000 deep": (_nested, "the manifest of"),
    "has no graph": (lambda path: (path / "model.onnx").unlink(), "is missing"),
    "has no manifest": (lambda path: (path / "manifest.json").unlink(), "expected a manifest.json in it"),
    "is not there": (shutil.rmtree, "there is no bundle folder"),
}


def _model(verb: str, harm: Callable[[Path], object], place: Place) -> tuple[object, ...]:
    bundle = place.bundle()
    harm(bundle)
    return _verb(verb, place, f"folder:{_lab(place)}", bundle)


def _models() -> Iterator[Case]:
    for i, (kind, (harm, words)) in enumerate(MODELS.items()):
        # each kind with three verbs in turn, the first with all of them
        verbs = WITH_BUNDLE if i == 0 else [WITH_BUNDLE[(i * 3 + j) % len(WITH_BUNDLE)] for j in range(3)]
        for verb in verbs:
            yield Case(f"{verb}: a bundle that {kind}", partial(_model, verb, harm), (words,))


# ----------------------------------------------------------------------------------------------------------------- paths


def _leading_out(verb: str, path: str, place: Place) -> tuple[object, ...]:
    place.image("secret.png")
    table = place.file("set/table.csv", f"path,label\n{path},neutrophil\n")
    return _verb(verb, place, f"csv:{table}")


def _paths() -> Iterator[Case]:
    for i, verb in enumerate(ALL):
        path = ("../secret.png", "/etc/hostname", "a/../../secret.png")[i % 3]
        says = ("outside the CSV's folder",)
        yield Case(f"{verb}: a CSV that names {path}", partial(_leading_out, verb, path), says, stub=True)


def _taken(verb: str, place: Place) -> tuple[object, ...]:
    place.file("out/notes.txt", "mine")
    place.file("out.csv", "mine")
    return _verb(verb, place, f"folder:{_lab(place, n=6)}")


def _outputs() -> Iterator[Case]:
    for verb in (verb for verb in ALL if verb not in ("audit", "study")):
        runs = ("train", "benchmark", "efficiency")
        says = ("is not a run folder",) if verb in runs else ("exists already", "--overwrite")
        if verb in ("predict", "suggest"):
            says = ("holds something else", "not overwritten")
        yield Case(f"{verb}: an output that holds something else", partial(_taken, verb), says, stub=True)


# ----------------------------------------------------------------------------------------------------------------- names


def _near(verb: str, place: Place) -> tuple[object, ...]:
    return _verb(verb, place, f"foldr:{_lab(place)}")


def _labels(place: Place) -> tuple[object, ...]:
    cells = _lab(place)
    (cells / "neutrophil").rename(cells / "neutrophill")
    return (*_verb("train", place, f"folder:{cells}"), "--strict")


def _names() -> Iterator[Case]:
    for verb in ALL:
        yield Case(f"{verb}: a reader's name misspelt", partial(_near, verb), ("'foldr", "folder"), stub=True)
    yield Case("train: a cell type misspelt", _labels, ("did you mean 'neutrophil'",), stub=True)


CASES = (*_images(), *_modes(), *_models(), *_paths(), *_outputs(), *_names())
