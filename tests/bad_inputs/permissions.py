"""Files and folders that an ordinary user may not read, enter or write, and caches and outputs in the way."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from bad_input_cases import Case, Place

import trained
from ordinary import close, ordinary_user

READ_ONLY = 0o555
Make = Callable[[Place], Sequence[object]]


@contextmanager
def _reopened() -> Iterator[None]:
    """An ordinary user in a folder whose closed folders are opened again, for the cleaning."""
    folder = Path.cwd()
    with ordinary_user():
        yield
    for where, folders, _ in os.walk(folder):
        for name in folders:
            inner = Path(where) / name
            if not inner.is_symlink():
                inner.chmod(inner.stat().st_mode | 0o700)


def _refused(name: str, make: Make, *says: str, stub: bool = False) -> Case:
    return Case(name, make, says, stub=stub, around=_reopened)


@contextmanager
def _without_cache(value: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hemalens.progress._noted", set())
        patch.setenv("HEMALENS_CACHE", value)
        with _reopened():
            yield


def _goes_on(name: str, make: Make, value: str, *says: str, writes: tuple[str, ...]) -> Case:
    """The cache is of no use, and the command does its work."""
    return Case(name, make, says, code=0, writes=writes, around=lambda: _without_cache(value))


def _closed_cells(place: Place, part: str = ".") -> str:
    cells = place.cells()
    close(cells / part)
    return f"folder:{cells}"


def _train(place: Place, spec: str, out: object = "out", *more: object) -> Sequence[object]:
    return ("train", "stub", "--train", spec, "--out", out, *more)


def _predict(place: Place, bundle: Path, images: Path, out: object = "out.csv") -> Sequence[object]:
    return ("predict", bundle, images, "--out", out)


def _closed_part(name: str) -> Make:
    """A prediction by a bundle with one closed file."""

    def make(place: Place) -> Sequence[object]:
        bundle = place.bundle()
        close(bundle / name)
        return _predict(place, bundle, place.cells())

    return make


def _closed_file(place: Place, name: str, content: str = "") -> Path:
    return close(place.file(name, content))


def _closed_folder(place: Place, name: str = "closed", mode: int = 0) -> Path:
    folder = place.folder / name
    folder.mkdir()
    return close(folder, mode)


def _in_closed(place: Place) -> Path:
    """A folder of images in a closed folder."""
    cells = place.cells("closed/cells")
    close(place.folder / "closed")
    return cells


def _cached(place: Place) -> Sequence[object]:
    """A suggestion by a bundle, whose embeddings go through the cache."""
    place.file("a file", "no folder")
    _closed_folder(place, "sealed cache", READ_ONLY)
    return ("suggest", place.bundle(), place.cells(), "--n", 2, "--out", "cells.csv")


def _probe(place: Place) -> Sequence[object]:
    """A training with a backbone, whose graph and embeddings go through the cache."""
    place.file("a file", "no folder")
    settings = [word for value in trained.settings(trained.PROBE) for word in ("--set", value)]
    return ("train", "linear_probe", "--train", f"folder:{place.cells()}", *settings, "--out", "out")


NO_PERMISSION, NOT_WRITABLE = "no permission for '", "cannot write '"

CASES = (
    _refused("audit of a closed folder", lambda p: ("data", "audit", _closed_cells(p)), NO_PERMISSION, "cells'"),
    _refused(
        "audit of a closed class folder",
        lambda p: ("data", "audit", _closed_cells(p, "lymphocyte")),
        NO_PERMISSION,
        "cells/lymph",
    ),
    _refused("audit in a closed folder", lambda p: ("data", "audit", f"folder:{_in_closed(p)}"), NO_PERMISSION, "closed"),
    _refused("training on a closed folder", lambda p: _train(p, _closed_cells(p)), NO_PERMISSION, "cells'", stub=True),
    _refused(
        "training on a closed class folder",
        lambda p: _train(p, _closed_cells(p, "neutrophil")),
        NO_PERMISSION,
        "neutrophil'",
        stub=True,
    ),
    _refused(
        "training on a closed image",
        lambda p: _train(p, _closed_cells(p, f"neutrophil/{min(os.listdir(p.cells() / 'neutrophil'))}")),
        "1 of 12 images cannot be read",
        "--drop-unreadable",
        stub=True,
    ),
    _refused(
        "evaluation on a closed folder",
        lambda p: ("evaluate", p.bundle(), "--data", _closed_cells(p), "--out", "out"),
        NO_PERMISSION,
    ),
    _refused("prediction of a closed folder", lambda p: _predict(p, p.bundle(), close(p.cells())), NO_PERMISSION, "cells'"),
    _refused(
        "prediction of a folder in a closed one", lambda p: _predict(p, p.bundle(), _in_closed(p)), NO_PERMISSION, "closed"
    ),
    _refused(
        "prediction of a folder with a closed one in it",
        lambda p: _predict(p, p.bundle(), close(p.cells() / "lymphocyte").parent),
        NO_PERMISSION,
        "lymphocyte'",
    ),
    _refused(
        "suggestion from a closed folder",
        lambda p: ("suggest", p.bundle(), close(p.cells()), "--out", "s.csv"),
        NO_PERMISSION,
    ),
    _refused(
        "segmentation of a closed folder",
        lambda p: ("segment", "classical", close(p.cells()), "--out", "out"),
        NO_PERMISSION,
    ),
    _refused(
        "adaptation to a closed folder",
        lambda p: ("adapt", p.bundle(), "--support", _closed_cells(p), "--out", "out"),
        NO_PERMISSION,
    ),
    _refused("a closed bundle", lambda p: _predict(p, close(p.bundle()), p.cells()), "bundle", "ermission"),
    _refused("a bundle of a closed manifest", _closed_part("manifest.json"), "manifest", "Permission denied"),
    _refused("a bundle of a closed network", _closed_part("model.onnx"), "model.onnx", "Permission denied"),
    _refused("a bundle of a closed list", _closed_part("seen_images.txt"), "seen_images.txt", "Permission denied"),
    _refused(
        "a closed CSV", lambda p: ("data", "audit", f"csv:{_closed_file(p, 'c.csv', 'path,label')}"), "c.csv'", "ermission"
    ),
    _refused(
        "closed settings",
        lambda p: _train(p, "folder:x", "out", "--config", _closed_file(p, "s.toml")),
        "s.toml'",
        "not readable",
    ),
    _refused(
        "a closed plan",
        lambda p: ("benchmark", "--config", _closed_file(p, "b.yaml"), "--out", "out"),
        "b.yaml'",
        "not readable",
    ),
    _refused(
        "a closed file of weights",
        lambda p: (*_probe(p), "--weights", _closed_file(p, "w.safetensors", "x")),
        "w.safetensors'",
        "Permission denied",
    ),
    _refused(
        "training into a read-only folder",
        lambda p: _train(p, f"folder:{p.cells()}", _closed_folder(p, mode=READ_ONLY) / "run"),
        NOT_WRITABLE,
        "closed' is read-only",
        stub=True,
    ),
    _refused(
        "training into a closed folder",
        lambda p: _train(p, f"folder:{p.cells()}", _closed_folder(p) / "run"),
        NOT_WRITABLE,
        "Permission denied",
        stub=True,
    ),
    _refused(
        "predictions into a read-only folder",
        lambda p: _predict(p, p.bundle(), p.cells(), _closed_folder(p, mode=READ_ONLY) / "a.csv"),
        NOT_WRITABLE,
        "closed' is read-only",
    ),
    _refused(
        "predictions into a closed folder",
        lambda p: _predict(p, p.bundle(), p.cells(), _closed_folder(p) / "a.csv"),
        NOT_WRITABLE,
        "Permission denied",
    ),
    _refused(
        "drawing into a read-only folder",
        lambda p: ("data", "synthesize", _closed_folder(p, mode=READ_ONLY) / "x"),
        NOT_WRITABLE,
    ),
    _refused(
        "a download into a closed folder",
        lambda p: ("data", "download", "bloodmnist", "--out", _closed_folder(p) / "x"),
        NOT_WRITABLE,
        "Permission denied",
    ),
    _refused(
        "studies of a closed folder", lambda p: ("study", "list", "--root", _closed_folder(p)), "'--root'", "not readable"
    ),
    _goes_on(
        "a cache that is a file", _cached, "a file", "going on without the cache", "HEMALENS_CACHE", writes=("cells.csv",)
    ),
    _goes_on("a cache below a file", _cached, "a file/cache", "going on without the cache", writes=("cells.csv",)),
    _goes_on(
        "a read-only cache", _cached, "sealed cache", "going on without the cache", "Permission", writes=("cells.csv",)
    ),
    _goes_on("a cache on a device", _cached, "/dev/null", "going on without the cache", writes=("cells.csv",)),
    _goes_on(
        "a training whose cache is a file", _probe, "a file", "going on without the cache", "report:", writes=("out",)
    ),
)
