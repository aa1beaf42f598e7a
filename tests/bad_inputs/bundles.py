"""Bundles and segmenters that were edited, exchanged or damaged: all are refused in one line, in every verb."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from bad_input_cases import Case, Place
from onnx import TensorProto, helper, numpy_helper

import trained
from hemalens.bundle.segmenter import SegmenterManifest, write_segmenter
from hemalens.imaging.reading import Preprocessing

Change = Callable[[Path], object]
Arguments = Sequence[object]
Verb = Callable[[Place, Path], Arguments]
MISFIT = "does not fit its graph"


def _predict(place: Place, bundle: Path) -> Arguments:
    return ("predict", bundle, place.image(), "--out", place.folder / "out.csv")


def _evaluate(place: Place, bundle: Path) -> Arguments:
    for i in range(3):  # which the bundle has not seen
        place.image(f"unseen/neutrophil/{i}.png", seed=i)
        place.image(f"unseen/lymphocyte/{i}.png", seed=9 + i)
    return ("evaluate", bundle, "--data", f"folder:{place.folder / 'unseen'}", "--out", place.out)


def _adapt(place: Place, bundle: Path) -> Arguments:
    return ("adapt", bundle, "--support", f"folder:{place.cells()}", "--out", place.out)


def _unlabelled(place: Place, bundle: Path) -> Arguments:
    given = ("--unlabelled", f"folder:{place.cells()}")
    return ("adapt", bundle, *given, "--out", place.out)


def _suggest(place: Place, bundle: Path) -> Arguments:
    return ("suggest", bundle, place.cells(), "--out", place.folder / "out.csv")


def _quantize(place: Place, bundle: Path) -> Arguments:
    return ("quantize", bundle, "--calibrate", f"folder:{place.cells()}", "--out", place.out)


def _case(name: str, change: Change, says: Sequence[str], verb: Verb = _predict) -> Case:
    def make(place: Place) -> Arguments:
        bundle = place.bundle()
        change(bundle)
        return verb(place, bundle)

    return Case(f"{name}, {verb.__name__.strip('_')}", make, says)


# ------------------------------------------------------------------------------------------------------------- manifest


def _manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


def _write(folder: Path, manifest: dict[str, Any]) -> None:
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _set(**changes: Any) -> Change:
    """Other values of the manifest's fields; a function is given the old value."""

    def change(folder: Path) -> None:
        manifest = _manifest(folder)
        for name, value in changes.items():
            manifest[name] = value(manifest[name]) if callable(value) else value
        _write(folder, manifest)

    return change


def _fitted(folder: Path, *names: str) -> None:
    """Digests in the manifest of the files as they are."""
    manifest = _manifest(folder)
    for name in names:
        content = (folder / name).read_bytes()
        manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "n_bytes": len(content)}
    _write(folder, manifest)


def _file(name: str, content: bytes) -> Change:
    """Another content of a file, with a digest that fits it."""

    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)
        _fitted(folder, name)

    return change


def _unlisted(name: str) -> Change:
    def change(folder: Path) -> None:
        manifest = _manifest(folder)
        del manifest["files"][name]
        _write(folder, manifest)

    return change


def _raw(content: bytes) -> Change:
    return lambda folder: (folder / "manifest.json").write_bytes(content)


def _grown(folder: Path) -> None:
    with open(folder / "manifest.json", "ab") as file:
        file.truncate(17_000_000)


def _renamed(classes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**classes[0], "code": "blast_cell"}, *classes[1:]]


REVERSED = ("neutrophil, eosinophil, lymphocyte, monocyte", "monocyte, lymphocyte, eosinophil, neutrophil")
SMALLER = {"size_px": 32, "mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bilinear", "antialias": True}
CENTRED = [{"kind": "centred_crop", "detector": "detector.onnx", "config": {"extent": 2.0, "size_px": None}}]
FINE = [
    {"code": code, "name": code, "loinc": None, "of": code}
    for code in ("neutrophil", "eosinophil", "lymphocyte", "monocyte")
]
TWICE = {"code": "neutrophil", "name": "neutrophil", "loinc": None}
SIZES = [{"centre": 0.0, "scale": 1.0}] * 4

EDITED = (
    *(
        _case("classes reversed", _set(classes=lambda old: old[::-1]), (MISFIT, *REVERSED), verb)
        for verb in (_predict, _evaluate, _adapt, _unlabelled, _suggest, _quantize)
    ),
    _case("a class renamed", _set(classes=_renamed), (MISFIT, "blast_cell")),
    _case("a class twice", _set(classes=lambda old: [TWICE, *old]), ("every class and subtype once",)),
    _case("a class less", _set(classes=lambda old: old[:-1]), (MISFIT, "classes")),
    _case("another temperature", _set(temperature=0.25), (MISFIT, "temperature: 1.0", "got 0.25")),
    _case("another preprocessing", _set(preprocessing=SMALLER), (MISFIT, "preprocessing")),
    _case(
        "a centred window without a detector",
        _set(before_graph=[{"kind": "centred_crop", "config": {"extent": 2.0, "size_px": None}}]),
        ("is older than this program", "a detector in the bundle", "Train or adapt it again"),
    ),
    _case("stages that were not there", _set(before_graph=CENTRED), (MISFIT, "before_graph: []", "detector.onnx")),
    _case("subtypes that were not there", _set(fine=FINE), (MISFIT, "fine: []", "got neutrophil")),
    _case("an embedding of another size", _set(embedding_size=5), (MISFIT, "embedding_size: 3", "got 5")),
    _case("embedding parts", _set(embedding_parts=[2, 1]), (MISFIT, "embedding_parts: []", "got [2, 1]")),
    _case("parts of another sum", _set(embedding_parts=[2, 2]), ("parts that make up the embedding",)),
    _case("another label map", _set(label_map="as_labelled"), (MISFIT, "label_map: five_class")),
    _case("nucleus sizes", _set(nucleus_sizes=SIZES), (MISFIT, "nucleus_sizes")),
    _case("nucleus sizes of two classes", _set(nucleus_sizes=SIZES[:2]), ("nucleus sizes of every class",)),
    _case("no training data", _set(data=[]), (MISFIT, "data"), _evaluate),
    _case("better metrics", _set(metrics={"accuracy": 1.0}), (MISFIT, "metrics")),
    _case("another method", _set(method="robust"), (MISFIT, "method")),
    _case("another setting", _set(config={"scale": 1.0}), (MISFIT, "config")),
    _case("another test image", _set(self_test=lambda old: {**old, "seed": 1}), (MISFIT, "self_test")),
    _case("a wide tolerance", _set(self_test=lambda old: {**old, "tolerance": 0.5}), (MISFIT, "self_test")),
    _case("no test image", _set(self_test=None), (MISFIT, "self_test")),
    _case("a list of images emptied", _file("seen_images.txt", b""), (MISFIT, "seen_images.txt"), _evaluate),
    _case("a list of images cut", _file("seen_images.txt", b"0" * 64 + b"\n"), (MISFIT, "seen_images.txt"), _evaluate),
    _case("a list of images unlisted", _unlisted("seen_images.txt"), (MISFIT, "seen_images.txt", "got nothing"), _evaluate),
    _case("a file put in", _file("home.npz", b"more"), (MISFIT, "home.npz"), _predict),
    _case("a path out of the bundle", _set(files=lambda old: {**old, "../cell.png": old["model.onnx"]}), ("is missing",)),
    _case("an absolute path", _set(files=lambda old: {**old, "/etc/passwd": old["model.onnx"]}), ("is missing",)),
    _case(
        "an older adaptation",
        _set(unlabelled={"settings": {}, "base_model_sha256": "0" * 64, "n_images": 9, "bias": [0.0]}),
        ("is older than this program", "an adaptation to unlabelled images", "Train or adapt it again"),
    ),
    _case("an older schema", _set(schema_version=1), ("is older than this program", "Train or adapt it again")),
    _case("a newer schema", _set(schema_version=3), ("is newer than this program", "Upgrade hemalens")),
    _case("nested deep", _raw(b'{"kind": ' + b"[" * 100_000), ("the manifest of", "is damaged")),
    _case("an empty manifest", _raw(b""), ("the manifest of", "is damaged")),
    _case("a manifest of 17 MB", _grown, ("is no bundle", "expected a manifest.json")),
)


# ---------------------------------------------------------------------------------------------------------------- graph


def _graph(edit: Callable[[onnx.GraphProto], object]) -> Change:
    """Another graph, with the statement of the old one and a digest that fits it: what only a look at it or a run shows."""

    def change(folder: Path) -> None:
        model = onnx.load_model(folder / "model.onnx")
        edit(model.graph)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        _fitted(folder, "model.onnx")

    return change


def _weight(name: str, value: Callable[[np.ndarray], np.ndarray]) -> Callable[[onnx.GraphProto], None]:
    def edit(graph: onnx.GraphProto) -> None:
        tensor = next(t for t in graph.initializer if t.name.endswith(name))
        tensor.CopyFrom(numpy_helper.from_array(value(numpy_helper.to_array(tensor)).astype(np.float32), tensor.name))

    return edit


def _renamed_input(graph: onnx.GraphProto) -> None:
    graph.input[0].name = "picture"
    for node in graph.node:
        node.input[:] = ["picture" if name == "image" else name for name in node.input]


def _further_input(graph: onnx.GraphProto) -> None:
    graph.input.append(helper.make_tensor_value_info("size", TensorProto.FLOAT, [1]))


def _without(output: str) -> Callable[[onnx.GraphProto], None]:
    def edit(graph: onnx.GraphProto) -> None:
        kept = [value for value in graph.output if value.name != output]
        del graph.output[:]
        graph.output.extend(kept)

    return edit


def _through(output: str, op: str, *constants: Any, shape: Sequence[int | str] | None = None) -> Callable[..., None]:
    """An output that passes one more operator."""

    def edit(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            node.output[:] = [f"{output}_inner" if name == output else name for name in node.output]
            node.input[:] = [f"{output}_inner" if name == output else name for name in node.input]
        names = [f"more_{i}" for i in range(len(constants))]
        graph.initializer.extend(numpy_helper.from_array(np.asarray(c), n) for c, n in zip(constants, names, strict=True))
        graph.node.append(helper.make_node(op, [f"{output}_inner", *names], [output]))
        if shape is not None:
            value = next(value for value in graph.output if value.name == output)
            value.CopyFrom(helper.make_tensor_value_info(output, TensorProto.FLOAT, list(shape)))

    return edit


def _external(graph: onnx.GraphProto) -> None:
    tensor = graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")


def _chain(graph: onnx.GraphProto) -> None:
    for i in range(10_000):
        graph.node.append(helper.make_node("Identity", [f"chain_{i - 1}" if i else "embedding"], [f"chain_{i}"]))


def _another(folder: Path) -> None:
    content = trained.dark_graph().SerializeToString()
    _file("model.onnx", content)(folder)


def _bare(folder: Path) -> None:
    model = onnx.load_model(folder / "model.onnx")
    del model.metadata_props[:]
    _file("model.onnx", model.SerializeToString())(folder)


def _odd_statement(folder: Path) -> None:
    model = onnx.load_model(folder / "model.onnx")
    model.metadata_props[0].value = "[" * 5000
    _file("model.onnx", model.SerializeToString())(folder)


def _many_nodes(place: Place) -> Arguments:
    _graph(_chain)(place.bundle())
    return _predict(place, place.bundle())


OWN_TEST = "fails its own test"
GRAPHS = (
    _case("another graph", _another, ("does not name its manifest",)),
    _case("a graph without its statement", _bare, ("does not name its manifest", "got nothing")),
    _case("a statement nested deep", _odd_statement, ("does not name its manifest", "something else")),
    _case("no graph", _file("model.onnx", b"this is no graph"), ("cannot be parsed",)),
    *(
        _case("NaN weights", _graph(_weight("centres", lambda v: v * np.nan)), (OWN_TEST, "NaN or infinity"), verb)
        for verb in (_predict, _evaluate, _adapt, _unlabelled, _suggest, _quantize)
    ),
    _case("weights exchanged", _graph(_weight("centres", lambda v: v[:, ::-1])), (OWN_TEST, "for its test image")),
    _case("another scale", _graph(_weight("scale", lambda v: v * 2)), (OWN_TEST, "for its test image"), _evaluate),
    _case("another temperature in it", _graph(_weight("temperature", lambda v: v * 2)), ("the temperature 2, not 1",)),
    _case(
        "probabilities of 9 and -4",
        _graph(_through("probabilities", "Mul", np.float32(-9))),
        (OWN_TEST, "probabilities -"),
    ),
    _case("another input name", _graph(_renamed_input), ("does not fit its manifest", "the input picture")),
    _case("a further input", _graph(_further_input), ("does not fit its manifest", "the input image, size")),
    _case("no probabilities", _graph(_without("probabilities")), ("does not fit its manifest", "no output probabilities")),
    _case("no embedding", _graph(_without("embedding")), ("does not fit its manifest", "no output embedding"), _suggest),
    _case(
        "probabilities of another shape",
        _graph(_through("probabilities", "Unsqueeze", np.array([2]), shape=["n", 4, 1])),
        ("does not fit its manifest", "(?, 4, 1)"),
    ),
    _case(
        "a shape other than declared",
        _graph(_through("probabilities", "Unsqueeze", np.array([2]))),
        (OWN_TEST, "probabilities of shape (4, 1)"),
    ),
    _case("weights in another file", _graph(_external), ("does not fit its manifest", "weights in another file")),
    Case(
        "a graph with 10,000 more nodes, predict",
        _many_nodes,
        ("out.csv: monocyte 1", "unreadable: 0"),
        code=0,
        writes=("out.csv",),
    ),
)


# ---------------------------------------------------------------------------------------------------------------- files


def _folder_for(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def _fifo_for(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def _loop(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to("model.onnx")


FILES = (
    _case("no graph file", lambda folder: (folder / "model.onnx").unlink(), ("'model.onnx'", "is missing")),
    _case("no list of images", lambda folder: (folder / "seen_images.txt").unlink(), ("'seen_images.txt'", "is missing")),
    _case("no manifest", lambda folder: (folder / "manifest.json").unlink(), ("is no bundle",)),
    _case("a folder for the graph", _folder_for("model.onnx"), ("'model.onnx'", "is missing")),
    _case("a folder for the manifest", _folder_for("manifest.json"), ("is no bundle",)),
    _case("a named pipe for the graph", _fifo_for("model.onnx"), ("'model.onnx'", "is missing")),
    _case("a named pipe for the manifest", _fifo_for("manifest.json"), ("is no bundle",)),
    _case("a link to itself", _loop, ("'model.onnx'", "is missing")),
    _case("a graph cut off", lambda f: os.truncate(f / "model.onnx", 100), ("'model.onnx'", "is damaged"), _evaluate),
)


# ----------------------------------------------------------------------------------------------------------- segmenters


def _segmenter(change: Change) -> Callable[[Place], Arguments]:
    def make(place: Place) -> Arguments:
        manifest = SegmenterManifest(
            created="2026-01-01T00:00:00+00:00",
            method="by_hand",
            config={},
            architecture="small",
            from_scratch=True,
            preprocessing=Preprocessing(size_px=16),
            n_masks=3,
            n_parameters=10,
            n_trained_parameters=4,
            data=(),
            parity=0.0,
            versions={},
        )
        files = {"segmenter.onnx": trained.dark_graph().SerializeToString()}
        folder = write_segmenter(place.folder / "segmenter", manifest, files).path
        change(folder)
        place.image("cells/a.png")
        return ("segment", folder, place.folder / "cells", "--out", place.out)

    return make


def _nan_masks(folder: Path) -> None:
    model = onnx.load_model(folder / "segmenter.onnx")
    _weight("limit", lambda value: value * np.nan)(model.graph)
    (folder / "segmenter.onnx").write_bytes(model.SerializeToString())
    _fitted(folder, "segmenter.onnx")


def _bundle_as_segmenter(place: Place) -> Arguments:
    place.image("cells/a.png")
    return ("segment", place.bundle(), place.folder / "cells", "--out", place.out)


def _segmenter_as_bundle(place: Place) -> Arguments:
    arguments = _segmenter(lambda folder: None)(place)
    shutil.rmtree(place.folder / "cells")
    return _predict(place, Path(str(arguments[1])))


SEGMENTERS = (
    Case("a segmenter of another preprocessing", _segmenter(_set(preprocessing=SMALLER)), (MISFIT, "preprocessing")),
    Case("a segmenter from scratch or not", _segmenter(_set(from_scratch=False)), (MISFIT, "from_scratch")),
    Case("a segmenter of NaN", _segmenter(_nan_masks), (OWN_TEST, "NaN or infinity")),
    Case("a segmenter of an older schema", _segmenter(_set(schema_version=1)), ("is older than this program",)),
    Case("a bundle as segmenter", _bundle_as_segmenter, ("is no hemalens segmenter",)),
    Case("a segmenter as bundle", _segmenter_as_bundle, ("is no hemalens bundle",)),
)

CASES = (*EDITED, *GRAPHS, *FILES, *SEGMENTERS)
