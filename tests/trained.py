"""Small trained things that several test modules share: made once a session, in the session's temporary folder.

Synthetic cells of four types, and bundles of networks with a few thousand weights: seconds in all.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from fakes import FAKES
from hemalens.bundle.artifact import DataEntry
from hemalens.bundle.bundle import Bundle, Manifest, class_entries, write_bundle
from hemalens.bundle.seen import seen_images
from hemalens.bundle.segmenter import TrainedSegmenter, open_trained_segmenter
from hemalens.config import StrictConfig
from hemalens.datasets import CellDataset, open_dataset
from hemalens.datasets.splits import hold_out
from hemalens.datasets.synthetic import synthesize
from hemalens.detection.finder import CellFinder
from hemalens.files import write_sealed
from hemalens.graphs.build import cut, float_value, join, make_model, resize_graph, temperature_graph
from hemalens.imaging.reading import Preprocessing
from hemalens.methods import Method, find_method
from hemalens.taxonomy import AS_LABELLED

CELL_TYPES = ("neutrophil", "eosinophil", "lymphocyte", "monocyte")
N_PER_CLASS = 8
PROBE = {"backbone": "test_resnet", "weights": "none", "image_size_px": 64}
FINETUNE = {**PROBE, "image_size_px": 32, "epochs": 3, "batch_size": 8, "precision": "fp32", "patience": 9}
BLOODSHOT = {**PROBE, "image_size_px": 32, "epochs": 3, "batch_size": 8, "precision": "fp32"}
PRETRAINING = {"epochs": 1, "batch_size": 8}
MASK_AUGMENTATION = {**FINETUNE, "epochs": 2, "masks": {"copies": 1}, "pretraining": PRETRAINING}
COMBINED_NETWORK = {
    **FINETUNE,
    "epochs": 2,
    "pretraining": {**PRETRAINING, "frozen_blocks": 1, "masked_inputs": True},
    "autoencoder": {"latent_size": 8, "width": 2, "tile_px": 64, "epochs": 1, "batch_size": 8, "precision": "fp32"},
}
MOBILEVIT = {name: value for name, value in FINETUNE.items() if name != "patience"} | {"accumulate": 2}
ROBUST = {**MOBILEVIT, "epochs": 2, "images_per_epoch": 16, "views": 2, "outline": False, "white_balance": False}
SETTINGS = {
    "bloodshot": BLOODSHOT,
    "combined_network": COMBINED_NETWORK,
    "finetune": FINETUNE,
    "linear_probe": PROBE,
    "mask_augmentation": MASK_AUGMENTATION,
    "mobilevit": MOBILEVIT,
    "robust": ROBUST,
}
"""Method -> settings that make it small."""


def settings(values: dict[str, object]) -> list[str]:
    """A method's settings as the command line takes them."""
    return [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items()]


def cells(temporary: pytest.TempPathFactory) -> Path:
    """The folder of lab_a and lab_b: 8 cells of each of 4 types in each."""
    return _cells(temporary.getbasetemp())


@functools.cache
def _cells(base: Path) -> Path:
    folder = base / "shared cells"
    synthesize(folder, n_per_class=N_PER_CLASS, seed=5, cell_types=CELL_TYPES)
    return folder


def laboratory(temporary: pytest.TempPathFactory, name: str = "lab_a") -> CellDataset:
    """The cells of one laboratory under the five classes."""
    return _laboratory(temporary.getbasetemp(), name)


@functools.cache
def _laboratory(base: Path, name: str) -> CellDataset:
    return open_dataset(f"synthetic:{_cells(base) / name}")


def tissue(temporary: pytest.TempPathFactory, name: str) -> CellDataset:
    """Drawn tissue in the layout of "cam16" or "prcc": 12 images of two kinds, labelled as their folders say."""
    return _tissue(temporary.getbasetemp(), name)


@functools.cache
def _tissue(base: Path, name: str) -> CellDataset:
    settings = {"cam16": {"n_per_class": 2, "side_px": 64}, "prcc": {"n_per_class": 6, "side_px": 96}}[name]
    return open_dataset(FAKES[name](base / f"shared {name}", **settings), labels=AS_LABELLED)


@dataclass(frozen=True)
class Fitted:
    """What a fit was given and what it gave."""

    method: Method
    config: StrictConfig
    train: CellDataset
    validation: CellDataset
    run_dir: Path
    bundle: Bundle
    auxiliary: Mapping[str, CellDataset] = field(default_factory=dict)


def fitted(temporary: pytest.TempPathFactory, method_name: str) -> Fitted:
    """A method fitted on three quarters of lab_a, calibrated on the rest; of each method one a session.

    A method that needs further sets gets tissue.
    """
    return _fitted(temporary.getbasetemp(), method_name)


@functools.cache
def _fitted(base: Path, method_name: str) -> Fitted:
    method = find_method(method_name)
    train, validation = hold_out(_laboratory(base, "lab_a"), 0.25, np.random.default_rng(0))
    config = method.config.from_mapping(SETTINGS[method_name])
    run_dir = base / f"shared {method_name}"
    auxiliary = {role.name: _tissue(base, role.name) for role in method.roles if role.required}
    bundle = method.fit(
        train, validation=validation, auxiliary=auxiliary, config=config, rng=np.random.default_rng(1), run_dir=run_dir
    )
    return Fitted(method, config, train, validation, run_dir, bundle, auxiliary)


class StubConfig(StrictConfig):
    """The stub's one setting, so that requests can differ."""

    scale: float = 50.0


Colour = tuple[int, int, int]


def colour_cells(
    folder: Path, colours: Mapping[str, Colour], n: int | Mapping[str, int], *, seed: int, noise: float = 4
) -> Path:
    """Images of one colour a class, each a little off by `noise`, in one folder a class: fit for `colour_bundle`."""
    rng = np.random.default_rng(seed)
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True)
        for i in range(n if isinstance(n, int) else n[name]):
            pixels = np.asarray(colour) + rng.normal(0, noise, 3) + rng.normal(0, 8, (20, 20, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{name} {i}.png")
    return folder


def colour_bundle(
    path: Path, train: CellDataset, *, validation: CellDataset | None = None, scale: float = 50.0, temperature: float = 1.0
) -> Bundle:
    """The nearest mean colour as a bundle, without training: the embedding is the mean RGB of the image in [0, 1].

    Logits are -scale * squared distance to the mean embedding of each class.
    """
    embeddings = np.stack([record.read().mean(axis=(0, 1)) / 255 for record in train.records])
    centres = np.stack([embeddings[train.targets == i].mean(axis=0) for i in range(len(train.classes))])
    graph = join(_colour_graph(centres, scale), temperature_graph(len(train.classes), temperature))
    manifest = Manifest(
        created="2026-01-01T00:00:00+00:00",
        method="nearest_colour",
        config={"scale": scale},
        label_map=train.label_map,
        classes=class_entries(train.classes),
        preprocessing=Preprocessing(size_px=16),
        embedding_size=3,
        frozen_backbone=True,
        temperature=temperature,
        data=(DataEntry.of(train, "train"), *([DataEntry.of(validation, "validation")] if validation else [])),
        parity=0.0,
        versions={},
    )
    seen = seen_images([*train.contents, *(validation.contents if validation else ())])
    return write_bundle(path, manifest, {"model.onnx": graph.SerializeToString(), "seen_images.txt": seen})


def _colour_graph(centres: np.ndarray, scale: float) -> onnx.ModelProto:
    k = len(centres)
    constants = {
        "c255": np.array([255.0], np.float32),
        "centres": centres[None].astype(np.float32),
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
        "pixels_axes": np.array([1, 2], np.int64),
        "scale": np.array([-scale], np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["image_float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["image_float", "pixels_axes"], ["mean_colour"], keepdims=0),
        helper.make_node("Div", ["mean_colour", "c255"], ["embedding"]),
        helper.make_node("Unsqueeze", ["embedding", "one"], ["row"]),
        helper.make_node("Sub", ["row", "centres"], ["difference"]),
        helper.make_node("ReduceSumSquare", ["difference", "two"], ["distance"], keepdims=0),
        helper.make_node("Mul", ["distance", "scale"], ["raw_logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "height", "width", 3])
    outputs = [
        helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 3]),
        helper.make_tensor_value_info("raw_logits", TensorProto.FLOAT, ["n", k]),
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return make_model(nodes, [image], outputs, weights)


def dark_graph(side: int = 16, *, limit: float = 180.0) -> onnx.ModelProto:
    """A segmenter's graph without training: what absorbs green is the cell.

    image -> full_map (n, 3, side, side), the image scaled down, and cell_probability (n, side, side), sigmoid of the
    distance of its green below `limit`.
    """
    resize = resize_graph(Preprocessing(size_px=side))
    constants = {
        "green": np.array([1], np.int64),
        "limit": np.array([limit], np.float32),
        "one": np.array([1], np.int64),
        "slope": np.array([0.1], np.float32),
    }
    nodes = [
        helper.make_node("Identity", ["resized"], ["full_map"]),
        helper.make_node("Gather", ["resized", "green"], ["green_map"], axis=1),
        helper.make_node("Squeeze", ["green_map", "one"], ["green_plane"]),
        helper.make_node("Sub", ["limit", "green_plane"], ["below"]),
        helper.make_node("Mul", ["below", "slope"], ["evidence"]),
        helper.make_node("Sigmoid", ["evidence"], ["cell_probability"]),
    ]
    outputs = [
        float_value("full_map", ["n", 3, side, side]),
        float_value("cell_probability", ["n", side, side]),
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return join(resize, make_model(nodes, [float_value("resized", ["n", 3, side, side])], outputs, weights))


def stub_method(on_fit: Callable[[CellDataset, CellDataset | None, Path], None] = lambda *given: None) -> Method:
    """`colour_bundle` as a method; `on_fit` is told of every fit before it begins."""

    def fit(train: CellDataset, *, validation: CellDataset | None, config: Any, run_dir: Path, **more: object) -> Bundle:
        on_fit(train, validation, run_dir)
        return colour_bundle(run_dir / "bundle", train, validation=validation, scale=config.scale)

    return Method("nearest_colour", "the nearest mean colour", StubConfig, fit)


@contextmanager
def undrawn() -> Iterator[None]:
    """Reports with empty figures: drawing takes longer than training something tiny. tests/report draws them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hemalens.report.figures.Drawing.svg", lambda drawing: '<svg aria-hidden="true"></svg>')
        yield


def stop_again(out: Path) -> None:
    """Make a finished run one that was stopped before its end."""
    entries, new = list(out.iterdir()), out / ".new"
    new.mkdir()
    for entry in entries:
        entry.rename(new / entry.name)
    run = json.loads((new / "run.json").read_text())
    write_sealed(new / "run.json", {**run, "finished": False})


@contextmanager
def two_layers() -> Iterator[None]:
    """SAM's small network with two layers instead of four: what takes the time is the export."""
    from hemalens.models import sam

    small = replace(sam.SMALL, n_layers=2, global_layers=(1,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sam, "ARCHITECTURES", {**sam.ARCHITECTURES, "small": small})
        yield


def segmenter(temporary: pytest.TempPathFactory) -> TrainedSegmenter:
    """A tiny one, of random weights and a few masks; made once a session."""
    from hemalens.methods.bc_sam_segmenter import SegmenterConfig, fit_segmenter

    run_dir = temporary.getbasetemp() / "shared segmenter"
    if (run_dir / "segmenter").is_dir():
        return open_trained_segmenter(run_dir / "segmenter")
    config = SegmenterConfig(
        architecture="small", weights="none", rank=0, image_size_px=32, epochs=1, batch_size=4, precision="fp32"
    )
    with two_layers():
        return fit_segmenter(laboratory(temporary).subset([0, 9, 18, 27]), config=config, run_dir=run_dir)


def small_imagenet(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    """The encoder of a small bundle in place of the ImageNet network with its millions of weights."""
    encoder = cut(bundle.graph, ["image"], ["embedding"])
    monkeypatch.setattr("hemalens.models.backbone.frozen_graph", lambda config, cache_dir: encoder)


def finder(*, limit: float = 120.0, sharpness: float = 0.2) -> CellFinder:
    """A detector without training: what absorbs green is a nucleus, and a white cell lies around the middle of each."""
    radius = np.hypot(*np.mgrid[-6:7, -6:7])
    bell = np.exp(-(radius**2) / 18)
    constants = {
        "green": np.array([1], np.int64),
        "limit": np.array([limit], np.float32),
        "slope": np.array([sharpness], np.float32),
        "bell": (bell / bell.sum()).astype(np.float32)[None, None],
        "zero": np.array([0], np.float32),
        "far": np.array([26], np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["channels"], perm=[0, 3, 1, 2]),
        helper.make_node("Gather", ["channels", "green"], ["plane"], axis=1),
        helper.make_node("AveragePool", ["plane"], ["coarse"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Sub", ["limit", "coarse"], ["below"]),
        helper.make_node("Mul", ["below", "slope"], ["evidence"]),
        helper.make_node("Sigmoid", ["evidence"], ["nucleus"]),
        helper.make_node("Conv", ["nucleus", "bell"], ["share"], pads=[6, 6, 6, 6]),
        helper.make_node("Sqrt", ["share"], ["white"]),
        helper.make_node("Mul", ["nucleus", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "far"], ["side"]),
        helper.make_node("Concat", ["white", "nothing", "nothing", "nucleus"], ["scores_first"], axis=1),
        helper.make_node("Concat", ["side"] * 4, ["distances_first"], axis=1),
        helper.make_node("Transpose", ["scores_first"], ["scores"], perm=[0, 2, 3, 1]),
        helper.make_node("Transpose", ["distances_first"], ["distances"], perm=[0, 2, 3, 1]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "height", "width", 3])
    outputs = [float_value(name, ["n", "rows", "columns", 4]) for name in ("scores", "distances")]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return CellFinder(make_model(nodes, [image], outputs, weights).SerializeToString())


def stand_in_detector(monkeypatch: pytest.MonkeyPatch, *, limit: float = 120.0) -> CellFinder:
    """The detector without training in place of the package's, while a bundle is trained; `limit` as in `finder`."""
    made = finder(limit=limit)
    stand_in = SimpleNamespace(finder=made, check_test=lambda: None)
    monkeypatch.setattr("hemalens.bundle.segmenter.default_detector", lambda: stand_in)
    return made
