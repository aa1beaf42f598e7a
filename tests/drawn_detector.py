"""Fields of coloured discs in a YOLO folder, and a detector of a few hundred weights that finds such discs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fake_fields import write_drawn
from hemalens.bundle.bundle import SEEN, seen_images
from hemalens.bundle.detector import DETECTOR, Detector, DetectorManifest, write_detector
from hemalens.graphs.build import make_model
from hemalens.imaging.reading import Preprocessing

RADII = (18, 12, 6)
COLOURS = ((128, 0, 128), (220, 100, 100), (0, 0, 255))
"""Of white cells, red cells and platelets, in pixels of a field with a longer side of 512."""
WIDTH, HEIGHT = 512, 384
Disc = tuple[int, int, int]
"""Kind, and centre (x, y)."""


def discs_of(number: int) -> list[Disc]:
    """One white cell, four red cells and two platelets, at places of their own for each field."""
    rng = np.random.default_rng(number)
    places = [(x, y) for x in range(50, WIDTH - 40, 64) for y in range(50, HEIGHT - 40, 64)]
    chosen = rng.permutation(len(places))[:7]
    return [(kind, *places[i]) for kind, i in zip((0, 1, 1, 1, 1, 2, 2), chosen, strict=True)]


def draw(discs: list[Disc]) -> np.ndarray:
    """A field uint8 (HEIGHT, WIDTH, 3)."""
    image = np.full((HEIGHT, WIDTH, 3), 240, np.uint8)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    for kind, x, y in discs:
        image[(columns - x) ** 2 + (rows - y) ** 2 <= RADII[kind] ** 2] = COLOURS[kind]
    return image


def write_fields(root: Path, n: int = 4, *, first: int = 0) -> str:
    """Write `n` fields with their boxes below `root`; return the name for `open_fields`."""
    drawn = {}
    for i in range(first, first + n):
        discs = discs_of(i)
        corners = np.array([(x - RADII[k], y - RADII[k], x + RADII[k], y + RADII[k]) for k, x, y in discs], float)
        drawn[f"field_{i}"] = draw(discs), [kind for kind, _, _ in discs], corners
    return write_drawn(root, drawn)


def write_disc_detector(path: Path, *, seen: list[str] | None = None) -> Detector:
    """A detector of the discs at `path`; `seen` are the contents of its training images."""
    manifest = DetectorManifest(
        created="2026-01-01T00:00:00+00:00",
        method="detector",
        config={"epochs": 1},
        preprocessing=Preprocessing(size_px=64, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear"),
        n_fields=3,
        n_boxes={"white cell": 3, "red cell": 12, "platelet": 6},
        n_parameters=4800,
        data=(),
        parity=0.0,
        versions={},
    )
    files = {DETECTOR: _graph().SerializeToString()}
    return write_detector(path, manifest, files | ({SEEN: seen_images(seen)} if seen is not None else {}))


def _graph() -> onnx.ModelProto:
    """Scores of 0.9 where a disc of a colour lies centred, from a template of each kind; distances of its radius."""
    # in blocks of 4 px, as the maps are: a template of single pixels takes 16 times as long
    template = np.zeros((3, 1, 11, 11), np.float32)
    rows, columns = np.mgrid[:44, :44] - 21.5
    for kind, radius in enumerate(RADII):
        disc = (columns**2 + rows**2 <= radius**2).reshape(11, 4, 11, 4).sum(axis=(1, 3))
        template[kind, 0] = 0.9 * disc / disc.sum()
    values = {
        "template": template,
        "colours": np.array(COLOURS, np.float32).reshape(1, 1, 1, 3, 3),
        "near": np.float32(8),
        "axes": np.array([3], np.int64),
        "last": np.array([4], np.int64),
        "half": np.float32(0.5),
        "radii": np.array(RADII, np.float32).reshape(1, 3, 1, 1),
        "channel": np.array([1], np.int64),
        "pads": np.array([0, 0, 0, 0, 0, 1, 0, 0], np.int64),
        "four": np.array([1, 4, 1, 1], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["pixels", "axes"], ["one"]),
        node("Sub", ["one", "colours"], ["apart"]),
        node("Abs", ["apart"], ["far"]),
        node("ReduceSum", ["far", "last"], ["distance"], keepdims=0),
        node("Less", ["distance", "near"], ["alike"]),
        node("Cast", ["alike"], ["masks"], to=TensorProto.FLOAT),
        node("Transpose", ["masks"], ["by_kind"], perm=[0, 3, 1, 2]),
        node("AveragePool", ["by_kind"], ["blocks"], kernel_shape=[4, 4], strides=[4, 4]),
        node("Conv", ["blocks", "template"], ["found"], pads=[5, 5, 5, 5], group=3),
        node("Pad", ["found", "pads"], ["with_nucleus"]),
        node("Transpose", ["with_nucleus"], ["scores"], perm=[0, 2, 3, 1]),
        node("Greater", ["found", "half"], ["sure"]),
        node("Cast", ["sure"], ["places"], to=TensorProto.FLOAT),
        node("Mul", ["places", "radii"], ["reach"]),
        node("ReduceMax", ["reach", "channel"], ["widest"], keepdims=1),
        node("Tile", ["widest", "four"], ["sides"]),
        node("Transpose", ["sides"], ["distances"], perm=[0, 2, 3, 1]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "h", "w", 3])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", None, None, 4]) for name in ("scores", "distances")
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    return make_model(nodes, [image], outputs, tensors)
