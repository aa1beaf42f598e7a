"""Folders of a manifest and files: two kinds that are never taken for one another, whole or refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import onnx
import pytest

import trained
from hemalens.bundle import artifact as artifacts
from hemalens.bundle.artifact import MANIFEST, ArtifactManifest, DataEntry, Part, library_versions
from hemalens.bundle.folders import MAX_MANIFEST_BYTES, open_artifact, write_artifact
from hemalens.bundle.vouching import drop_statement
from hemalens.datasets import CellDataset, Record
from hemalens.errors import BundleError, FileAccessError


class _Manifest(ArtifactManifest):
    graph_file: ClassVar[str] = "model"
    stated: ClassVar[tuple[str, ...]] = ("size",)
    tested: ClassVar[tuple[str, ...]] = ("cell_probability",)

    kind: Literal["hemalens-tool"] = "hemalens-tool"
    size: int

    @property
    def outputs(self) -> dict[str, tuple[int | None, ...]]:
        return {"cell_probability": (None, None)}


class _Other(ArtifactManifest):
    graph_file: ClassVar[str] = "model"
    kind: Literal["hemalens-other"] = "hemalens-other"


GRAPH = trained.dark_graph()
CONTENT = {"model": GRAPH.SerializeToString(), "more.txt": b""}


def _manifest(**changes: Any) -> _Manifest:
    values: dict[str, Any] = {
        "created": "2026-01-01T00:00:00+00:00",
        "method": "tool",
        "config": {"a": 1, "part": {"b": None}},
        "data": (),
        "parity": 0.0,
        "versions": {"numpy": "2"},
        "size": 3,
    }
    return _Manifest(**{**values, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_artifact(tmp_path / "a tool", _manifest(), CONTENT)
    return tmp_path / "a tool"


def _open(folder: Path) -> _Manifest:
    return open_artifact(folder, _Manifest)


def test_what_is_written_is_opened(folder: Path) -> None:
    manifest = _open(folder)
    assert {entry.name for entry in folder.iterdir()} == {MANIFEST, *CONTENT}
    for name in CONTENT:
        content = (folder / name).read_bytes()
        assert manifest.files[name].n_bytes == len(content)
        assert manifest.files[name].sha256 == hashlib.sha256(content).hexdigest()
    graph = onnx.load_model(folder / "model")
    drop_statement(graph)
    assert graph == GRAPH, "the graph's metadata alone differs"
    assert manifest.self_test is not None
    assert manifest.model_copy(update={"files": {}, "self_test": None}) == _manifest()
    raw = json.loads((folder / MANIFEST).read_text())
    assert raw["kind"] == "hemalens-tool"
    assert raw["schema_version"] == 2


def _edit(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest.update(changes)
    (folder / MANIFEST).write_text(json.dumps(manifest))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda f: (f / MANIFEST).unlink(), r"'.*' is no tool; expected a manifest.json in it"),
    "no text": (lambda f: (f / MANIFEST).write_bytes(b"\xff\xfe{"), "the manifest of '.*' is damaged"),
    "cut off": (lambda f: (f / MANIFEST).write_text('{"kind": "hemalens-'), "the manifest of '.*' is damaged"),
    "a bundle": (lambda f: _edit(f, kind="hemalens-bundle"), r'is no hemalens tool; expected "kind": "hemalens-tool" in'),
    "newer": (lambda f: _edit(f, schema_version=3), "the tool '.*' is newer than this program; .*; got 3. Upgrade"),
    "older": (lambda f: _edit(f, schema_version=1), "is older than this program; expected schema version 2; got 1. Train"),
    "no version": (lambda f: _edit(f, schema_version=None), "is damaged; .*got key 'schema_version'"),
    "unknown key": (lambda f: _edit(f, colour="red"), "is damaged; .*got key 'colour'"),
    "wrong value": (lambda f: _edit(f, size="large"), "is damaged; .*got key 'size'"),
    "no such part": (lambda f: _edit(f, data=[{"role": "judge"}]), "is damaged; .*got key 'data.0."),
    "needed file not named": (lambda f: _edit(f, files={}), "the manifest of '.*' names no model"),
    "file gone": (lambda f: (f / "model").unlink(), "'model' of the tool '.*' is missing. Copy the whole folder"),
    "file a folder": (
        lambda f: ((f / "more.txt").unlink(), (f / "more.txt").mkdir()),
        "'more.txt' of the tool '.*' is missing",
    ),
    "file longer": (
        lambda f: (f / "model").write_bytes(b"the model"),
        r"'model' of the tool '.*' is damaged; expected \d+ bytes with sha256 [0-9a-f]{12}\.\.\.; got 9 bytes",
    ),
    "file changed": (
        lambda f: (f / "model").write_bytes((f / "model").read_bytes().replace(b"Sigmoid", b"sigmoid")),
        r"is damaged; expected (\d+) bytes .*; got \1 bytes",
    ),
    "file outside": (
        lambda f: _edit(f, files={"model": {"sha256": "0" * 64, "n_bytes": 1}, "../x": {"sha256": "0" * 64, "n_bytes": 1}}),
        "(model|x)' of the tool '.*' is (missing|damaged)",
    ),
    "no digest": (lambda f: _edit(f, files={"model": {"sha256": "abc", "n_bytes": 9}}), "got key 'files.model.sha256'"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_refused_in_one_line_that_names_the_folder(folder: Path, damage: str) -> None:
    harm, message = DAMAGE[damage]
    (folder.parent / "x").write_bytes(b"x")
    harm(folder)
    with pytest.raises(BundleError, match=message) as caught:
        _open(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_manifest_too_large_to_be_one_is_not_read(folder: Path) -> None:
    with open(folder / MANIFEST, "ab") as file:
        file.truncate(MAX_MANIFEST_BYTES + 1)
    with pytest.raises(BundleError, match="is no tool"):
        _open(folder)


def test_a_folder_of_another_kind_and_none_at_all(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r'is no hemalens other; expected "kind": "hemalens-other" in its manifest'):
        open_artifact(folder, _Other)
    (tmp_path / "file").write_bytes(b"x")
    for path in (tmp_path / "gone", tmp_path / "file"):
        with pytest.raises(
            BundleError, match=f"there is no tool folder '{path}'; expected a folder with manifest.json and model"
        ):
            _open(path)


def test_a_folder_is_replaced_whole(folder: Path) -> None:
    (folder / "left over").write_bytes(b"x")
    write_artifact(folder, _manifest(size=4), {"model": CONTENT["model"]})
    assert {entry.name for entry in folder.iterdir()} == {MANIFEST, "model"}
    assert _open(folder).size == 4
    assert [entry.name for entry in folder.parent.iterdir()] == ["a tool"]


def test_copies_elsewhere_are_as_good(folder: Path, tmp_path: Path) -> None:
    assert _open(Path(shutil.copytree(folder, tmp_path / "elsewhere"))) == _open(folder)


def test_parts_are_frozen_and_strict_about_keys() -> None:
    class Thing(Part):
        a: int

    thing = Thing(a=1)
    with pytest.raises(ValueError, match="frozen"):
        thing.a = 2
    with pytest.raises(ValueError, match="Extra inputs"):
        Thing(a=1, b=2)  # type: ignore[call-arg]


def test_a_data_entry_says_what_a_dataset_is(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
    records = tuple(Record(tmp_path / name, name, "lab", label=name) for name in "ab")
    cells = CellDataset("cells", records, ("a", "b"), "as_labelled", "CC0", "someone", synthetic=True)
    entry = DataEntry.of(cells, "train", {"copies": 2})
    assert entry.model_dump() == {
        "role": "train",
        "name": "cells",
        "fingerprint": cells.fingerprint,
        "class_counts": {"a": 1, "b": 1},
        "licence": "CC0",
        "citation": "someone",
        "synthetic": True,
        "dropped": {"copies": 2},
    }
    manifest = _manifest(data=(entry, DataEntry.of(cells, "auxiliary")))
    assert manifest.synthetic
    photographed = entry.model_copy(update={"synthetic": False})
    assert not _manifest(data=(photographed, DataEntry.of(cells, "auxiliary"))).synthetic


def test_versions_are_those_of_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy

    assert library_versions()["numpy"] == numpy.__version__
    library_versions().clear()
    assert library_versions()["numpy"] == numpy.__version__, "what one caller does to its copy concerns no other"
    monkeypatch.setattr("hemalens.bundle.artifact.PACKAGES", ("numpy", "no-such-package-anywhere"))
    artifacts._library_versions.cache_clear()
    assert list(library_versions()) == ["numpy"]
    artifacts._library_versions.cache_clear()


def test_without_permission_it_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("hemalens.bundle.folders.open_regular", refuse)
    with pytest.raises(FileAccessError, match=r"no permission for '.*manifest\.json'; expected the right to read it"):
        _open(folder)
