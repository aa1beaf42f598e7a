"""Files that others made: weights, checkpoints, segmenters, arrays, benchmarks as YAML, reports and runs."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from bad_input_cases import Case, Place

import trained
from hemalens.trust.reference import REFERENCE_FILE

SMALL = {"backbone": "test_resnet", "image_size_px": 32}


class _Runs:
    """What runs a command when a pickle of it is read."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (self.command,))


def _train(place: Place, *more: object, method: str = "linear_probe") -> tuple[object, ...]:
    settings = [word for setting in trained.settings(SMALL) for word in ("--set", setting)]
    return ("train", method, "--train", f"folder:{place.cells()}", *settings, *more, "--out", place.out)


# --------------------------------------------------------------------------------------------------------------- weights


def _code(file: Path) -> None:
    file.write_bytes(pickle.dumps({"w": _Runs(f"touch {file.parent / 'ran'}")}))


def _code_in_torch(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"w": _Runs(f"touch {file.parent / 'ran'}")}, protocol=2))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


def _safetensors(header: bytes, content: bytes = b"") -> Callable[[Path], object]:
    return lambda file: file.write_bytes(len(header).to_bytes(8, "little") + header + content)


def _bomb(file: Path) -> None:
    """Tensors of a thousand billion numbers, in a hundred bytes."""
    import torch

    torch.save({"w": torch.zeros(1).expand(1000, 1000, 1000, 1000)}, file)


WEIGHTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "empty": ("w.pth", lambda file: file.write_bytes(b""), "cannot read the weights in"),
    "a text": ("w.pth", lambda file: file.write_text("weights"), "cannot read the weights in"),
    "a pickle that runs a command": ("w.pth", _code, "cannot read the weights in"),
    "a torch file that runs a command": ("w.pth", _code_in_torch, "other objects than tensors and plain containers"),
    "a torch file that claims a huge tensor": ("w.pth", _bomb, "dense tensors, each no larger than the file"),
    "a checkpoint that is a text": ("w.ckpt", lambda file: file.write_text("weights"), "cannot read the weights in"),
    "safetensors with a header beyond its end": (
        "w.safetensors",
        lambda file: file.write_bytes((10**12).to_bytes(8, "little") + b"{}"),
        "cannot read the weights in",
    ),
    "safetensors with a header that is no JSON": ("w.safetensors", _safetensors(b"{]"), "cannot read the weights in"),
    "safetensors with offsets outside": (
        "w.safetensors",
        _safetensors(b'{"w":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}', b"\0" * 4),
        "cannot read the weights in",
    ),
    "safetensors without a tensor": ("w.safetensors", _safetensors(b"{}"), "do not fit 'test_resnet'"),
    "an array": ("w.npy", lambda file: np.save(file, np.zeros(3)), "cannot read the weights in"),
    "a folder without weights": ("w", lambda file: file.mkdir(), "there is no weights file"),
    "a link to nowhere": ("w.pth", lambda file: file.symlink_to("gone"), "there is no weights file"),
    "a named pipe": ("w.pth", os.mkfifo, "there is no weights file"),
    "a name of 5,000 letters": ("w" * 5000, lambda file: None, "there is no weights file"),
}


def _weights(name: str, harm: Callable[[Path], object], place: Place) -> tuple[object, ...]:
    harm(place.folder / name)
    return _train(place, "--weights", name)


def _weights_cases() -> Iterator[Case]:
    for kind, (name, harm, says) in WEIGHTS.items():
        # the run has begun: the same command resumes it with whole weights
        yield Case(f"weights: {kind}", partial(_weights, name, harm), (says,), writes=("out",))


# ---------------------------------------------------------------------------------------------------- segmenters, bundles


def _segmenter(harm: Callable[[Path], object], place: Place) -> tuple[object, ...]:
    folder = place.folder / "segmenter"
    shutil.copytree(trained.segmenter(place.temporary).path, folder)
    harm(folder)
    return ("segment", folder, place.cells(), "--out", place.out)


def _signed(folder: Path, name: str, content: bytes) -> None:
    """Replace a file, and its digest in the manifest."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "n_bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def _other_kind(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps(manifest | {"kind": "hemalens-bundle"}), encoding="utf-8")


SEGMENTERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "whose graph is cut": (lambda f: (f / "segmenter.onnx").write_bytes(b"\x08\x07"), "is damaged"),
    "whose graph is a text": (lambda f: _signed(f, "segmenter.onnx", b"no graph"), "the graph in"),
    "without a graph": (lambda f: (f / "segmenter.onnx").unlink(), "is missing"),
    "of another kind": (_other_kind, "is no hemalens segmenter"),
    "whose manifest is a list": (lambda f: (f / "manifest.json").write_text("[]"), "is no hemalens segmenter"),
}


def _external(place: Place) -> tuple[object, ...]:
    """A graph whose weights lie in another file of the machine."""
    place.file("secret.bin", bytes(4096))
    bundle = place.bundle()
    graph = onnx.load_model(bundle / "model.onnx")
    tensor = next(weight for weight in graph.graph.initializer if weight.name == "centres")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../secret.bin"), ("offset", "0"), ("length", "48")):
        tensor.external_data.add(key=key, value=value)
    _signed(bundle, "model.onnx", graph.SerializeToString())
    return ("predict", bundle, place.cells(), "--out", place.folder / "a.csv")


def _pickled_reference(place: Place) -> tuple[object, ...]:
    """Reference statistics with an object, which would run a command when it is read."""
    bundle = place.bundle()
    with open(place.folder / "r.npz", "wb") as file:
        np.savez(file, probabilities=np.array([_Runs(f"touch {place.folder / 'ran'}")], dtype=object))
    content = (place.folder / "r.npz").read_bytes()
    (place.folder / "r.npz").unlink()
    _signed(bundle, REFERENCE_FILE, content)
    return ("predict", bundle, place.cells(), "--out", place.folder / "a.csv")


def _bundles() -> Iterator[Case]:
    for kind, (harm, says) in SEGMENTERS.items():
        yield Case(f"a segmenter {kind}", partial(_segmenter, harm), (says,))
    yield Case("a graph with weights outside the bundle", _external, ("bundle",))
    yield Case("reference statistics with a pickled object", _pickled_reference, ("bundle",))


# ------------------------------------------------------------------------------------------------------ arrays and tables


def _pickled_set(place: Place) -> tuple[object, ...]:
    """A published set as an archive of arrays, one of which is an object that runs a command."""
    np.savez(place.folder / "bloodmnist.npz", train_images=np.array([_Runs(f"touch {place.folder / 'ran'}")], dtype=object))
    return ("data", "audit", f"bloodmnist:{place.folder / 'bloodmnist.npz'}")


def _benchmark(text: str | bytes, place: Place) -> tuple[object, ...]:
    return ("benchmark", "--config", place.file("benchmark.yaml", text), "--out", place.out)


YAML: dict[str, tuple[str | bytes, str]] = {
    "that runs a command": ("methods: !!python/object/apply:os.system ['touch ran']\n", "is not valid YAML"),
    "with a tag of its own": ("methods: !method linear_probe\n", "is not valid YAML"),
    "that is a list": ("- linear_probe\n", "is no benchmark"),
    "that is empty": ("", "is no benchmark"),
    "that is an image": (b"\x89PNG\r\n\x1a\n\0\0", "is not valid YAML"),
    "with a key misspelt": ("methods: [linear_probe]\nsources: [x]\nprotocol: k-fold\n", "unknown key 'protocol'"),
    "with a text for a number": ("methods: [linear_probe]\nsources: [x]\nseed: two\n", "key 'seed'"),
    "with a number for a method": ("methods: [3]\nsources: [x]\n", "key 'methods"),
    "with two methods of one name": (
        "methods: [{method: robust}, robust]\nsources: [x]\ntargets: [y]\n",
        "two methods are called",
    ),
    "with a reader that is unknown": ("methods: [linear_probe]\nsources: ['foldr:x']\ntargets: ['folder:y']\n", "'foldr'"),
}


def _others() -> Iterator[Case]:
    yield Case("a set with a pickled array", _pickled_set, ("bloodmnist.npz",))
    for kind, (text, says) in YAML.items():
        yield Case(f"a benchmark {kind}", partial(_benchmark, text), (says,))
    yield Case(
        "a method's file of settings that is a folder", lambda p: _train(p, "--config", p.cells("c")), ("cannot read",)
    )
    yield Case(
        "a method's file of settings that is no TOML",
        lambda p: _train(p, "--config", p.file("a.toml", "seed = = 3")),
        ("is not valid TOML",),
    )
    yield Case(
        "a method's file of settings with another method's key",
        lambda p: _train(p, "--config", p.file("a.toml", "patience = 3")),
        ("unknown key 'patience'",),
    )
    yield Case("a run that is a text", _run_text, ("is not a run folder",), stub=True)
    yield Case("a run of another program", _run_of_another, ("is not a run folder",), stub=True)


def _run_text(place: Place) -> tuple[object, ...]:
    place.file("out/run.json", "finished")
    return ("train", "stub", "--train", f"folder:{place.cells()}", "--overwrite", "--out", place.out)


def _run_of_another(place: Place) -> tuple[object, ...]:
    place.file("out/run.json", '{"kind": "mlflow", "finished": true, "files": ["/etc/passwd"]}')
    return ("train", "stub", "--train", f"folder:{place.cells()}", "--overwrite", "--out", place.out)


CASES = (*_weights_cases(), *_bundles(), *_others())
