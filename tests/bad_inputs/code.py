"""Files that hold code: pickled arrays and weights; nothing of them is run, and each is one line."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from bad_input_cases import Case, Place

import trained
from hemalens.bundle.bundle import open_bundle, write_bundle

Arguments = Sequence[object]


class _Code:
    """Makes a folder when it is unpickled: the table finds it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.folder),))


def _pickled(place: Place) -> bytes:
    return pickle.dumps({"weight": _Code(place.folder / "code was run")})


def _npz(place: Place) -> bytes:
    """Reference statistics with an array of objects."""
    buffer = io.BytesIO()
    np.savez(buffer, version=np.array([_Code(place.folder / "code was run")], object))
    return buffer.getvalue()


def _archive(place: Place) -> bytes:
    """A file as torch writes it, with code in its pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", _pickled(place))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return buffer.getvalue()


def _weights(name: str, content: Callable[[Place], bytes]) -> Callable[[Place], Arguments]:
    def make(place: Place) -> Arguments:
        file = place.file(name, content(place))
        settings = trained.settings({**trained.PROBE, "weights": file})
        given = [part for setting in settings for part in ("--set", setting)]
        return ("train", "linear_probe", "--train", f"folder:{place.cells()}", "--out", place.out, *given)

    return make


def _reference(place: Place) -> Arguments:
    base = open_bundle(place.bundle())
    files = {name: (base.path / name).read_bytes() for name in base.manifest.files}
    made = write_bundle(place.folder / "made", base.manifest, {**files, "home.npz": _npz(place)})
    return ("predict", made.path, place.image(), "--out", place.folder / "out.csv")


def _pickle_as(name: str) -> Callable[[Place], Arguments]:
    """A bundle in which a file is a pickle, whatever its name says."""

    def make(place: Place) -> Arguments:
        (place.bundle() / name).write_bytes(_pickled(place))
        return ("predict", place.bundle(), place.image(), "--out", place.folder / "out.csv")

    return make


REFUSED = ("cannot read the weights in",)
CASES = (
    Case("reference statistics with objects, predict", _reference, ("home.npz cannot be read",)),
    Case("a pickle as graph, predict", _pickle_as("model.onnx"), ("'model.onnx'", "is damaged")),
    Case("a pickle as manifest, predict", _pickle_as("manifest.json"), ("the manifest of", "is damaged")),
    Case("a pickle as list of images, predict", _pickle_as("seen_images.txt"), ("'seen_images.txt'", "is damaged")),
    Case("weights with code, .pth", _weights("w.pth", _pickled), REFUSED, writes=("out",)),
    Case("weights with code in an archive, .pth", _weights("w.pth", _archive), REFUSED, writes=("out",)),
    Case("weights with code in an archive, .bin", _weights("w.bin", _archive), REFUSED, writes=("out",)),
    Case("a checkpoint with code, .ckpt", _weights("w.ckpt", _archive), ("w.ckpt",), writes=("out",)),
    Case("a pickle as .safetensors", _weights("w.safetensors", _pickled), REFUSED, writes=("out",)),
)
