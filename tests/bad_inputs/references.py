"""Reference statistics whose images of imitated laboratories are damaged: all are refused in one line, in every verb."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from bad_input_cases import Case, Place

from hemalens.bundle.bundle import Bundle, open_bundle, write_bundle
from hemalens.trust.reference import MOST_IMITATED, ImitatedImages, ReferenceStatistics, reference_bytes

Arrays = Mapping[str, Any]
UNREADABLE = ("home.npz cannot be read", "Train or adapt the bundle again")


def _bundle(place: Place, changed: Arrays) -> Bundle:
    """A bundle with ten images of imitated laboratories, some arrays of which are changed, or None left out."""
    base = open_bundle(place.bundle())
    k = len(base.manifest.labels)
    shown = ImitatedImages(np.full((10, k), 1 / k), np.arange(10) % k, np.arange(10) // 5)
    content = reference_bytes(ReferenceStatistics(shown.probabilities, shown.targets, imitated=shown))
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files} | dict(changed)
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.asarray(value) for name, value in arrays.items() if value is not None})
    files = {name: (base.path / name).read_bytes() for name in base.manifest.files} | {"home.npz": buffer.getvalue()}
    return write_bundle(place.folder / "made", base.manifest, files)


def _case(name: str, changed: Arrays, says: str, *, verb: str = "predict") -> Case:
    def make(place: Place) -> Sequence[object]:
        made = _bundle(place, changed)
        if verb == "adapt":
            return ("adapt", made.path, "--support", f"folder:{place.cells()}", "--out", place.out)
        if verb == "count":
            place.image("fields/a.png")
            return ("count", place.folder / "fields", "--bundle", made.path, "--out", place.out)
        return ("predict", made.path, place.image(), "--out", place.folder / "out.csv")

    return Case(f"{name}, {verb}", make, (*UNREADABLE, says))


def _n(n: int, k: int = 2) -> Arrays:
    return {
        "imitated_probabilities": np.full((n, k), 1 / k, np.float32),
        "imitated_targets": np.zeros(n, np.int32),
        "imitated_laboratories": np.zeros(n, np.int32),
    }


CASES = (
    _case("a later version", {"version": 3}, "version 3"),
    _case("a later version", {"version": 3}, "version 3", verb="adapt"),
    _case("a later version", {"version": 3}, "version 3", verb="count"),
    _case("version 0", {"version": 0}, "version 0"),
    _case("imitated images in version 1", {"version": 1}, "arrays"),
    _case("no imitated targets", {"imitated_targets": None}, "imitated_targets"),
    _case("no imitated laboratories", {"imitated_laboratories": None}, "imitated_laboratories"),
    _case("no imitated probabilities", {"imitated_probabilities": None}, "imitated_probabilities"),
    _case("no imitated image", _n(0), "0 images"),
    _case("too many imitated images", _n(MOST_IMITATED + 1), "4,097 images"),
    _case("fewer imitated targets", {"imitated_targets": np.zeros(9, np.int32)}, "imitated_probabilities of shape"),
    _case("imitated targets as a table", {"imitated_targets": np.zeros((10, 2), np.int32)}, "imitated_targets of shape"),
    _case("imitated targets below 0", {"imitated_targets": np.full(10, -1)}, "class index out of range"),
    _case("imitated targets of an unknown class", {"imitated_targets": np.full(10, 99)}, "class index out of range"),
    _case("imitated targets as text", {"imitated_targets": np.full(10, "monocyte")}, "imitated_targets"),
    _case("imitated probabilities of one class", _n(10, 1), "imitated_probabilities of shape (10, 1)"),
    _case("imitated laboratories by name", {"imitated_laboratories": np.full(10, "a")}, "imitated_laboratories"),
    _case("fewer imitated laboratories", {"imitated_laboratories": np.zeros(3)}, "imitated_laboratories of shape"),
    _case("infinite imitated laboratories", {"imitated_laboratories": np.full(10, np.inf)}, "NaN or infinity"),
)
