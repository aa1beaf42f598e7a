"""Training data and settings that no detector can be trained with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bad_input_cases import Case, Place

import drawn_fields

SMALL = ("weights=none", "epochs=1", "windows_per_epoch=2", "batch_size=2", "side_px=64", "optimiser.warmup_steps=0")


def _train(place: Place, data: object, *more: object) -> Sequence[object]:
    settings = [part for setting in SMALL for part in ("--set", setting)]
    return ("train", "detector", "--train", data, "--out", place.out, *settings, *more)


def _fields(place: Place, n: int = 3, *, white: bool = True) -> str:
    return f"yolo:{drawn_fields.yolo_folder(place.folder / 'fields', n, white=white)}"


def _given(name: str, more: Sequence[object], *says: str) -> Case:
    """Good fields, and further arguments."""
    return Case(f"train detector {name}", lambda place: _train(place, _fields(place), *more), says)


def _set(name: str, setting: str, *says: str) -> Case:
    return _given(f"--set {name}", ("--set", setting), *says)


def _broken(name: str, change: Callable[[Path], object], *says: str, writes: Sequence[str] = ()) -> Case:
    """Fields with one change."""

    def make(place: Place) -> Sequence[object]:
        data = _fields(place)
        change(place.folder / "fields")
        return _train(place, data)

    return Case(f"train detector with {name}", make, says, writes=writes)


def _cut(root: Path) -> None:
    file = root / "images" / "train" / "f1.png"
    file.write_bytes(file.read_bytes()[:400])


def _copies(root: Path) -> None:
    for seed in (1, 2):
        for part, suffix in (("images", "png"), ("labels", "txt")):
            whole = (root / part / "train" / f"f0.{suffix}").read_bytes()
            (root / part / "train" / f"f{seed}.{suffix}").write_bytes(whole)


CASES = (
    _set("an unknown key", "epoch=3", "unknown key 'epoch'", "'epochs'"),
    _set("an unknown key of a part", "recolouring.red=1", "unknown key 'recolouring.red'"),
    _set("no epoch", "epochs=0", "key 'epochs'", "greater than or equal to 1"),
    _set("windows of odd sides", "side_px=100", "key 'side_px'", "multiple of 16"),
    _set("windows of few pixels", "side_px=16", "key 'side_px'", "greater than or equal to 64"),
    _set("a share above one", "strong_share=1.5", "key 'strong_share'", "less than or equal to 1"),
    _set("less than a batch", "batch_size=8", "windows_per_epoch=2 is less than batch_size=8"),
    _set("another backbone", "backbone=resnet18", "key 'backbone'", "tf_efficientnet_lite0"),
    _set("a size of images", "image_size_px=224", "side_px is that of its training windows"),
    _set("an unknown laboratory", "leave_out=nowhere", "leave_out names the laboratory 'nowhere'", "expected some of"),
    _set("a number as laboratory", "leave_out=3", "key 'leave_out'"),
    _set("weights that do not exist", "weights=gone.safetensors", "gone.safetensors"),
    _set("a wild learning rate", "optimiser.learning_rate=-1", "key 'optimiser.learning_rate'"),
    _set("a long warm-up", "optimiser.warmup_steps=100", "the warm-up is longer than the training"),
    _given("with labels", ("--labels", "two_class"), "trained on fields with boxes alone", "got labels"),
    _given("with a cell image", ("--cell-image", "centred"), "trained on fields with boxes alone", "got cell_image"),
    _given("with validation data", ("--val", "folder:cells"), "trained on fields with boxes alone", "got validation_spec"),
    _given("with a fraction of nothing", ("--test-fraction", "0.95"), "--test-fraction"),
    Case(
        "train detector on single cells",
        lambda place: _train(place, f"folder:{place.cells()}"),
        ("'folder'",),
    ),
    Case("train detector without white cells", lambda p: _train(p, _fields(p, white=False)), ("box of a white cell",)),
    Case("train detector on one field", lambda p: _train(p, _fields(p, 1)), ("cannot be split", "got 1")),
    _broken("copies of one field", _copies, "cannot be split", "got 1"),
    _broken("a field cut short", _cut, "f1.png", "--drop-unreadable"),
)
