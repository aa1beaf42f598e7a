"""Any bytes, any table, any setting: success, or one line of ours. No traceback, no warning, no file left behind.

hypothesis changes valid files at random and draws texts and values; `pyproject.toml` turns every warning into an error.
Many more examples: `pytest tests/bad_inputs/test_fuzz.py --hypothesis-profile long`.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import inspect
import io
import json
import pkgutil
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import BaseModel

import hemalens
import trained
from command import Command
from hemalens.benchmark.config import BenchmarkConfig
from hemalens.bundle.bundle import open_bundle
from hemalens.config import StrictConfig
from hemalens.datasets import open_dataset
from hemalens.datasets.splits import clean
from hemalens.errors import HemalensError
from hemalens.imaging.reading import image_size, read_image, read_mask
from hemalens.inference.predictor import Predictor

LONGEST_LINE = 900
"""Characters of an error: two paths, three sentences and what a library says."""


def _held(call: Callable[[], object]) -> object:
    """What `call` gives, or its error, which must be ours and one line."""
    try:
        return call()
    except HemalensError as error:
        text = str(error)
        # spaces of other widths are visible
        assert all(c.isprintable() or unicodedata.category(c) == "Zs" for c in text), text
        assert len(text) <= LONGEST_LINE, text
        return error


# --------------------------------------------------------------------------------------------------------------- changes

WORDS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0", b"[" * 300, b"{" * 300)


@st.composite
def changed(draw: st.DrawFn, contents: tuple[bytes, ...]) -> bytes:
    """One of the contents with bytes changed, inserted, removed or cut off; most often near the beginning."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, min(len(content), draw(st.sampled_from((32, 200, 1 << 30)))) - 1)))
        kind = draw(st.sampled_from(("byte", "word", "insert", "remove", "cut")))
        if kind == "byte":
            content[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == "word":
            content[at : at + 4] = draw(st.sampled_from(WORDS))
        elif kind == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "remove":
            del content[at : at + draw(st.sampled_from((1, 2, 8, 100)))]
        else:
            del content[at:]
    return bytes(content)


ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 10**20, -(10**20), 1e308, float("nan"), float("inf"), "", "x", "../x", "/etc/passwd"),
    *("a" * 3000, "a\nb", "\x1b[31m", "\u202e", [], {}, [1], {"a": 1}, [[]]),
)


def _odd_at(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value with one part replaced, removed or doubled, at any depth."""
    if isinstance(value, (dict, list)) and value and draw(st.integers(0, 9)):
        copied: Any = value.copy()
        key = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        kind = draw(st.integers(0, 9))
        if kind == 0:
            del copied[key]
        elif kind == 1 and isinstance(copied, list):
            copied.append(copied[key])
        else:
            copied[key] = _odd_at(draw, value[key])
        return copied
    return draw(st.sampled_from(ODD))


# ---------------------------------------------------------------------------------------------------------------- images


@cache
def _images(kind: str) -> tuple[bytes, ...]:
    """Valid images of a format, in all modes and compressions that Pillow writes."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    made = []
    modes = {
        "PNG": ("RGB", "L", "P", "RGBA", "1", "LA"),
        "JPEG": ("RGB", "L", "CMYK"),
        "BMP": ("RGB", "L", "P", "1"),
        "TIFF": ("RGB", "L", "P", "RGBA", "CMYK", "1", "LAB"),
    }[kind]
    for mode in modes:
        image = Image.fromarray(pixels).convert("RGB")
        made.append(_saved(Image.new("LAB", (20, 24), 7) if mode == "LAB" else image.convert(mode), kind))
    if kind in ("PNG", "TIFF"):
        made.append(_saved(Image.fromarray(pixels[..., 0].astype(np.uint16) * 256), kind))
    if kind == "JPEG":
        exif = Image.Exif()
        exif[0x0112] = 6
        made += [_saved(image, kind, exif=exif), _saved(image, kind, progressive=True)]
    if kind == "TIFF":
        made += [_saved(image, kind, compression=name) for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")]
        planes = io.BytesIO()
        tifffile.imwrite(
            planes, np.moveaxis(pixels, 2, 0).astype(np.uint16) << 8, planarconfig="separate", photometric="rgb"
        )
        made.append(planes.getvalue())
    return tuple(made)


def _saved(image: Image.Image, kind: str, **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", ".png"), ("JPEG", ".jpg"), ("BMP", ".bmp"), ("TIFF", ".tif")])
@given(data=st.data())
def test_any_image(tmp_path: Path, data: st.DataObject, kind: str, suffix: str) -> None:
    file = tmp_path / f"x{suffix}"
    file.write_bytes(data.draw(changed(_images(kind))))
    image = _held(lambda: read_image(file))
    if isinstance(image, np.ndarray):
        assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3)
        assert image_size(file) == image.shape[1::-1]
    else:
        assert str(file) in str(image)
    _held(lambda: image_size(file))
    _held(lambda: read_mask(file))


# --------------------------------------------------------------------------------------------------------------- bundles


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("fuzzed bundle") / "bundle"
    return trained.colour_bundle(made, trained.laboratory(tmp_path_factory)).path


@pytest.fixture
def fresh(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def _use(folder: Path) -> object:
    """Everything of a bundle that is read lazily, and one prediction."""
    opened = open_bundle(folder)
    image = folder.parent / "cell.png"
    if not image.exists():
        Image.fromarray(np.full((20, 20, 3), 90, np.uint8)).save(image)
    return (opened.seen, opened.stages, opened.reference, list(Predictor(opened).predict([image])))


@given(data=st.data())
def test_any_bytes_as_manifest(bundle: Path, fresh: Path, data: st.DataObject) -> None:
    (fresh / "manifest.json").write_bytes(data.draw(changed(((bundle / "manifest.json").read_bytes(),))))
    _held(lambda: _use(fresh))


@given(data=st.data())
def test_any_values_in_a_manifest(bundle: Path, fresh: Path, data: st.DataObject) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    (fresh / "manifest.json").write_text(json.dumps(_odd_at(data.draw, manifest)), encoding="utf-8")
    _held(lambda: _use(fresh))


@given(data=st.data())
def test_any_bytes_as_graph(bundle: Path, fresh: Path, data: st.DataObject) -> None:
    """With the digest that belongs to them, as somebody would write who means it."""
    graph = data.draw(changed(((bundle / "model.onnx").read_bytes(),)))
    (fresh / "model.onnx").write_bytes(graph)
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"]["model.onnx"] = {"sha256": hashlib.sha256(graph).hexdigest(), "n_bytes": len(graph)}
    (fresh / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    _held(lambda: _use(fresh))


# ---------------------------------------------------------------------------------------------------------------- tables

CELLS = st.one_of(
    st.sampled_from(
        ("a.png", 'b, "c".png', "neutrophil", "lymphocyte", "", " ", "path", "label", "../a.png", "~x", "a.png#2")
    ),
    st.text(st.characters(exclude_categories=()), max_size=12),
)


@given(
    header=st.one_of(st.permutations(("path", "label", "group")), st.lists(CELLS, max_size=4)),
    rows=st.lists(st.lists(CELLS, min_size=1, max_size=5), max_size=5),
    delimiter=st.sampled_from(",;\t|"),
    ending=st.sampled_from(("\n", "\r\n", "\r")),
    encoding=st.sampled_from(("utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252")),
    labels=st.sampled_from(("five_class", "as_labelled")),
)
def test_any_table(
    *, tmp_path: Path, header: list[str], rows: list[list[str]], delimiter: str, ending: str, encoding: str, labels: str
) -> None:
    for name in ("a.png", 'b, "c".png'):
        Image.fromarray(np.full((20, 20, 3), len(name), np.uint8)).save(tmp_path / name)
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=delimiter, lineterminator=ending).writerows([header, *rows])
    table = tmp_path / "table.csv"
    table.write_bytes(stream.getvalue().encode(encoding, "replace"))
    _held(lambda: clean(open_dataset(f"csv:{table}", labels=labels), unreadable="drop")[0].fingerprint)


TABLE = b'path,label,group\na.png,neutrophil,p1\n"b, ""c"".png",lymphocyte,p2\n'


@given(content=changed((TABLE, b"\xef\xbb\xbf" + TABLE, TABLE.replace(b",", b";"), TABLE.decode().encode("utf-16"))))
def test_any_bytes_as_table(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "table.csv").write_bytes(content)
    _held(lambda: open_dataset(f"csv:{tmp_path / 'table.csv'}").fingerprint)


# -------------------------------------------------------------------------------------------------------------- settings


@cache
def _configs() -> tuple[type[StrictConfig], ...]:
    """Every configuration of the package."""
    for module in pkgutil.walk_packages(hemalens.__path__, "hemalens."):
        importlib.import_module(module.name)

    def below(kind: type[StrictConfig]) -> Iterator[type[StrictConfig]]:
        for child in kind.__subclasses__():
            yield child
            yield from below(child)

    found = {
        kind for kind in below(StrictConfig) if not inspect.isabstract(kind) and kind.__module__.startswith("hemalens.")
    }
    return tuple(sorted(found, key=lambda kind: (kind.__module__, kind.__name__)))


def _keys(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, info in kind.model_fields.items():
        yield f"{prefix}{name}"
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _keys(info.annotation, f"{prefix}{name}.")


VALUES = st.one_of(
    st.sampled_from(("nan", "inf", "-inf", "1e400", "9" * 30, "-1", "0", "true", '""', "[]", "{}", "[nan]", "07:32:00")),
    st.sampled_from(("1979-05-27", "[" * 2000 + "]" * 2000, "{a=" * 300 + "1" + "}" * 300, "9" * 5000, "a" * 5000)),
    st.integers().map(str),
    st.floats().map(repr),
    st.text(max_size=20),
)


@given(data=st.data())
def test_any_setting_of_any_configuration(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(_configs()))
    keys = st.one_of(st.sampled_from(list(_keys(kind))), st.text(max_size=8))
    settings = [f"{data.draw(keys)}={data.draw(VALUES)}" for _ in range(data.draw(st.integers(1, 3)))]
    config = _held(lambda: kind.load(None, settings))
    if isinstance(config, StrictConfig):
        json.dumps(config.model_dump(mode="json"), allow_nan=False)
        _held(config.file_digests)


@given(content=changed((b"epochs = 3\nhead = 'rf'\n[optimiser]\nlearning_rate = 1e-3\n", b"x = [1, {y = 2}]\n")))
def test_any_bytes_as_toml(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "settings.toml"
    file.write_bytes(content)
    for kind in _configs()[::10]:
        _held(lambda kind=kind: kind.load(file))  # type: ignore[misc]


YAML = (
    b"methods: [linear_probe]\nsources: ['folder:x']\nprotocols: [k-fold]\nk_shot: {shots: [1, 2]}\n",
    b"a: &a [x]\nb: [*a, *a]\nmethods: *a\nsources: !!str 3\n",
    b"methods: !!python/object/apply:os.system ['true']\n",
)


@given(content=changed(YAML))
def test_any_bytes_as_yaml(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "benchmark.yaml"
    file.write_bytes(content)
    _held(lambda: BenchmarkConfig.read(file))


@given(data=st.data())
def test_any_value_of_a_benchmark(data: st.DataObject) -> None:
    values: dict[str, Any] = {"methods": ["linear_probe"], "sources": ["folder:x"], "targets": ["folder:y"]}
    values |= {"k_shot": {"shots": [1]}, "settings": ["head=rf"], "protocols": ["k-shot"], "seed": 0}
    changed_values = _odd_at(data.draw, values)
    if isinstance(changed_values, dict):
        config = _held(lambda: BenchmarkConfig.from_mapping(changed_values))
        if isinstance(config, BenchmarkConfig):
            _held(config.entries)
            _held(config.check)
            _held(config.paths)


# ---------------------------------------------------------------------------------------------------------- whole commands

SPECS = st.one_of(
    st.sampled_from(("folder:cells", "csv:cells", "cells", "bundle", ":", "", "folder:bundle", "foldr:cells", "-")),
    st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12),
)
VERBS = (
    ("predict", "bundle", "SPEC", "--out", "out.csv"),
    ("predict", "SPEC", "cells", "--out", "out.csv"),
    ("evaluate", "bundle", "--data", "SPEC", "--out", "out"),
    ("adapt", "bundle", "--support", "SPEC", "--out", "out"),
    ("adapt", "bundle", "--unlabelled", "SPEC", "--out", "out"),
    ("suggest", "bundle", "SPEC", "--out", "out.csv"),
    ("segment", "SPEC", "nothing", "--out", "out"),
    ("quantize", "bundle", "--calibrate", "SPEC", "--precision", "fp16", "--out", "out"),
    ("train", "linear_probe", "--train", "SPEC", "--labels", "x", "--out", "out"),
    ("benchmark", "--methods", "SPEC", "--source", "folder:cells", "--out", "out"),
    ("study", "mobilevit", "--data", "cells=SPEC", "--out", "out"),
    ("data", "audit", "SPEC"),
)


@given(verb=st.sampled_from(VERBS), spec=SPECS)
def test_any_dataset_of_any_verb(
    *,
    bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verb: tuple[str, ...],
    spec: str,
) -> None:
    place = tmp_path_factory.mktemp("place")
    monkeypatch.chdir(place)
    shutil.copytree(bundle, place / "bundle")
    (place / "cells").mkdir()
    with trained.undrawn():
        ended = Command(monkeypatch, capsys)(*(word.replace("SPEC", spec) for word in verb))
    assert ended.code in (0, 2), ended.err
    assert "Traceback" not in ended.err
    if ended.code:
        assert sorted(path.name for path in place.iterdir()) == ["bundle", "cells"]
