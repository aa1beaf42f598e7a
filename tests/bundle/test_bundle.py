"""The bundle's format: what it says, that it is whole or refused, and that it is written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

import trained
from hemalens import files
from hemalens.bundle.artifact import MANIFEST, library_versions
from hemalens.bundle.bundle import MODEL, class_entries, open_bundle, write_bundle
from hemalens.bundle.seen import SEEN, seen_images
from hemalens.datasets import CellDataset
from hemalens.errors import BundleError, OutputError


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    return trained.laboratory(tmp_path_factory)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, cells: CellDataset) -> Path:
    return trained.colour_bundle(tmp_path_factory.mktemp("bundle") / "bundle", cells).path


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    """A bundle to damage."""
    return Path(shutil.copytree(original, tmp_path / "copy of a bundle"))


def _edit(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest.update(changes)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _with_model(folder: Path, content: bytes) -> None:
    """Another graph, with a manifest that fits it."""
    (folder / MODEL).write_bytes(content)
    entries = json.loads((folder / MANIFEST).read_text())["files"]
    entries[MODEL] = {"sha256": hashlib.sha256(content).hexdigest(), "n_bytes": len(content)}
    _edit(folder, files=entries)


def test_the_manifest_names_every_file_with_its_size_and_digest(original: Path) -> None:
    manifest = open_bundle(original).manifest
    assert {entry.name for entry in original.iterdir()} == {*manifest.files, MANIFEST}
    for name, entry in manifest.files.items():
        content = (original / name).read_bytes()
        assert entry.n_bytes == len(content)
        assert entry.sha256 == hashlib.sha256(content).hexdigest()


def test_the_seen_images_are_the_digests_of_the_files(cells: CellDataset, original: Path) -> None:
    expected = {hashlib.sha256(record.path.read_bytes()).hexdigest() for record in cells.records}
    assert open_bundle(original).seen == expected
    assert (original / SEEN).read_bytes() == seen_images(cells.contents)


def test_a_bundle_without_a_list_of_seen_images_has_seen_none_known(original: Path, copy: Path) -> None:
    bundle = open_bundle(original)
    again = write_bundle(copy, bundle.manifest, {MODEL: bundle.graph_bytes})
    (copy / SEEN).write_bytes(b"unlisted")
    assert again.seen == open_bundle(copy).seen == frozenset()


@pytest.mark.parametrize("content", [b"", b"\n", b"other\n", b"0" * 64, b"0" * 64 + b"\n\n", b"\xff" * 64 + b"\n"])
def test_a_list_of_seen_images_is_whole_or_refused(original: Path, copy: Path, content: bytes) -> None:
    bundle = open_bundle(original)
    again = write_bundle(copy, bundle.manifest, {MODEL: bundle.graph_bytes, SEEN: content})
    with pytest.raises(BundleError, match=r"seen_images\.txt of '.*' is no list of images; expected a digest"):
        _ = again.seen


def test_a_class_of_the_taxonomy_carries_its_name_and_loinc_code() -> None:
    neutrophil, own = class_entries(("neutrophil", "my own class"))
    assert neutrophil.name != ""
    assert neutrophil.loinc
    assert (own.code, own.name, own.loinc) == ("my own class", "my own class", None)


def test_versions_are_those_installed() -> None:
    import numpy

    versions = library_versions()
    assert versions["numpy"] == numpy.__version__
    assert {"onnx", "onnxruntime"} <= set(versions)


def _flip_a_byte(folder: Path) -> None:
    content = bytearray((folder / MODEL).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / MODEL).write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped byte": (_flip_a_byte, r"'model.onnx' of the bundle '.*' is damaged; expected \d+ bytes with sha256"),
    "truncated": (lambda b: (b / MODEL).write_bytes((b / MODEL).read_bytes()[:-9]), "'model.onnx' .* is damaged"),
    "missing model": (lambda b: (b / MODEL).unlink(), "'model.onnx' .* is missing. Copy the whole folder"),
    "missing manifest": (lambda b: (b / MANIFEST).unlink(), "is no bundle; expected a manifest.json in it"),
    "manifest no JSON": (lambda b: (b / MANIFEST).write_text("{ no"), "the manifest of '.*' is damaged"),
    "manifest no text": (lambda b: (b / MANIFEST).write_bytes(b"\xff\xfe\x00"), "the manifest of '.*' is damaged"),
    "manifest a list": (lambda b: (b / MANIFEST).write_text("[1]"), "is no hemalens bundle"),
    "manifest nested deep": (lambda b: (b / MANIFEST).write_text("[" * 100_000), "the manifest of '.*' is damaged"),
    "foreign kind": (lambda b: _edit(b, kind="other"), 'expected "kind": "hemalens-bundle"'),
    "from the future": (
        lambda b: _edit(b, schema_version=3),
        "newer than this program; expected schema version 2; got 3. Upgrade",
    ),
    "unknown key": (lambda b: _edit(b, surprise=1), "the manifest of '.*' is damaged; .*got key 'surprise'"),
    "one class": (lambda b: _edit(b, classes=[{"code": "a", "name": "a"}]), "got key 'classes'"),
    "temperature zero": (lambda b: _edit(b, temperature=0.0), "got key 'temperature'"),
    "no model named": (lambda b: _edit(b, files={}), "names no model.onnx"),
    "file outside": (
        lambda b: _edit(
            b,
            files={
                **json.loads((b / MANIFEST).read_text())["files"],
                "../outside": {"sha256": "0" * 64, "n_bytes": 1},
            },
        ),
        "'../outside' of the bundle '.*' is missing",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_foreign_bundle_is_refused(copy: Path, damage: str) -> None:
    harm, message = DAMAGE[damage]
    (copy.parent / "outside").write_text("x")
    harm(copy)
    with pytest.raises(BundleError, match=message) as caught:
        open_bundle(copy)
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_and_a_file_are_no_bundles(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "gone", tmp_path / "file"):
        with pytest.raises(BundleError, match=f"there is no bundle folder '{path}'; expected a folder with manifest.json"):
            open_bundle(path)


def test_a_graph_that_is_none_is_a_bundle_error(copy: Path) -> None:
    _with_model(copy, b"this is no graph")
    with pytest.raises(BundleError, match=r"the graph in '.*' cannot be parsed"):
        open_bundle(copy)


def test_writing_leaves_nothing_half_written_when_the_disk_is_full(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Path(shutil.copytree(original, tmp_path / "kept"))
    before = {p.name: p.read_bytes() for p in kept.iterdir()}
    manifest, graph = open_bundle(original).manifest, open_bundle(original).graph_bytes
    write_bytes = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        if self.name == MODEL:
            write_bytes(self, content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    for target in (tmp_path / "new", kept):
        with pytest.raises(OutputError, match=f"the disk is full while writing '{target}'"):
            write_bundle(target, manifest, {MODEL: graph, SEEN: b""})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept"]
    assert {p.name: p.read_bytes() for p in kept.iterdir()} == before


def test_a_bundle_is_replaced_whole(original: Path, copy: Path) -> None:
    bundle = open_bundle(original)
    (copy / "left over").write_text("x")
    again = write_bundle(copy, bundle.manifest, {MODEL: bundle.graph_bytes})
    assert {entry.name for entry in copy.iterdir()} == {MODEL, MANIFEST, "left over"}, "a file of somebody else stays"
    assert set(again.manifest.files) == {MODEL}
    assert again.graph == bundle.graph


def test_a_derived_bundle_keeps_the_seen_images_of_all_its_sources(original: Path, copy: Path, tmp_path: Path) -> None:
    base = open_bundle(original)
    other = write_bundle(copy, base.manifest, {MODEL: base.graph_bytes, SEEN: seen_images(["0" * 64])})
    made = base.derive(
        tmp_path / "derived",
        base.manifest.model_copy(update={"method": "derived"}),
        base.graph_bytes,
        others=[other],
        seen=["1" * 64],
        seen_unlabelled=["2" * 64],
        files={"extra.bin": b"x"},
    )
    assert made.manifest.method == "derived"
    assert made.graph == base.graph
    assert made.seen == base.seen | {"0" * 64, "1" * 64}
    assert made.seen_unlabelled == {"2" * 64}
    assert (made.path / "extra.bin").read_bytes() == b"x"
    assert len(base.seen) > 2


def test_reading_a_digest_anew_when_a_file_has_changed(copy: Path) -> None:
    open_bundle(copy)
    digest = files.sha256_file(copy / MODEL)
    _with_model(copy, (copy / MODEL).read_bytes() + onnx.ModelProto(doc_string="more").SerializeToString())
    assert open_bundle(copy).manifest.files[MODEL].sha256 == files.sha256_file(copy / MODEL) != digest


def test_synthetic_is_what_the_training_data_are_not_the_validation_data(original: Path) -> None:
    manifest = open_bundle(original).manifest
    assert manifest.synthetic
    (entry,) = manifest.data
    photographed = entry.model_copy(update={"synthetic": False})
    held = entry.model_copy(update={"role": "validation"})
    assert not manifest.model_copy(update={"data": (photographed, held)}).synthetic
