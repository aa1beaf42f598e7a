"""Segmenters by name: the classical one, and folders of trained ones that are whole or refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import trained
from hemalens.bundle.artifact import MANIFEST
from hemalens.bundle.bundle import open_bundle
from hemalens.bundle.segmenter import (
    SegmenterManifest,
    TrainedSegmenter,
    cell_image_stages,
    open_segmenter,
    open_trained_segmenter,
    write_segmenter,
)
from hemalens.bundle.stages import SEGMENTER, CellImageStage, CentredCropStage, ClassicalSegmenter, GraphSegmenter
from hemalens.datasets import CellDataset
from hemalens.errors import BundleError, InputError
from hemalens.imaging.centred_crop import CentredCropConfig
from hemalens.imaging.reading import Preprocessing
from hemalens.imaging.segmentation import CellImageConfig

GRAPH = trained.dark_graph()


def _manifest(**changes: Any) -> SegmenterManifest:
    values: dict[str, Any] = {
        "created": "2026-01-01T00:00:00+00:00",
        "method": "by_hand",
        "config": {},
        "architecture": "small",
        "from_scratch": True,
        "preprocessing": Preprocessing(size_px=16),
        "n_masks": 3,
        "n_parameters": 10,
        "n_trained_parameters": 4,
        "data": (),
        "parity": 0.0,
        "versions": {},
    }
    return SegmenterManifest(**{**values, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A trained segmenter, to damage."""
    return write_segmenter(tmp_path / "a segmenter", _manifest(), {SEGMENTER: GRAPH.SerializeToString()}).path


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    return trained.laboratory(tmp_path_factory)


# ---------------------------------------------------------------------------------------------------------- folders


def test_a_written_segmenter_is_opened(folder: Path) -> None:
    opened = open_trained_segmenter(folder)
    assert opened.path == folder
    assert opened.manifest.model_copy(update={"files": {}, "self_test": None}) == _manifest()
    assert opened.manifest.kind == "hemalens-segmenter"
    assert opened.graph == GRAPH


def _edit(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest.update(changes)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _with_graph(folder: Path, content: bytes) -> None:
    """Another graph, with a manifest that fits it."""
    (folder / SEGMENTER).write_bytes(content)
    _edit(folder, files={SEGMENTER: {"sha256": hashlib.sha256(content).hexdigest(), "n_bytes": len(content)}})


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "graph gone": (lambda f: (f / SEGMENTER).unlink(), "'segmenter.onnx' of the segmenter '.*' is missing. Copy the whole"),
    "graph cut off": (
        lambda f: (f / SEGMENTER).write_bytes(b"half"),
        "'segmenter.onnx' of the segmenter '.*' is damaged; .*; got 4 bytes",
    ),
    "graph not named": (lambda f: _edit(f, files={}), "the manifest of '.*' names no segmenter.onnx"),
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "'.*' is no segmenter; expected a manifest.json in it"),
    "damaged manifest": (lambda f: (f / MANIFEST).write_text("{"), "the manifest of '.*' is damaged"),
    "foreign kind": (
        lambda f: _edit(f, kind="hemalens-bundle"),
        'is no hemalens segmenter; expected "kind": "hemalens-segmenter" in its manifest',
    ),
    "from the future": (lambda f: _edit(f, schema_version=9), "the segmenter '.*' is newer than this program"),
    "unknown key": (lambda f: _edit(f, surprise=1), "got key 'surprise'"),
    "no number": (lambda f: _edit(f, n_masks="many"), "got key 'n_masks'"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_foreign_folder_is_refused(folder: Path, damage: str) -> None:
    harm, message = DAMAGE[damage]
    harm(folder)
    for opens in (open_trained_segmenter, lambda path: open_segmenter(str(path))):
        with pytest.raises(BundleError, match=message) as caught:
            opens(folder)
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_graph_that_is_none_is_a_bundle_error(folder: Path) -> None:
    _with_graph(folder, b"this is no graph")
    with pytest.raises(BundleError, match=r"the graph in '.*a segmenter' cannot be parsed; got "):
        open_trained_segmenter(folder)
    with pytest.raises(BundleError, match="cannot be parsed"):
        open_segmenter(str(folder))


def test_a_bundle_is_no_segmenter_and_a_segmenter_no_bundle(folder: Path, cells: CellDataset, tmp_path: Path) -> None:
    bundle = trained.colour_bundle(tmp_path / "bundle", cells)
    with pytest.raises(BundleError, match="is no hemalens segmenter"):
        open_segmenter(str(bundle.path))
    with pytest.raises(BundleError, match="is no hemalens bundle"):
        open_bundle(folder)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        BundleError, match=r"there is no segmenter folder '.*gone'; expected a folder with manifest.json and"
    ):
        open_trained_segmenter(tmp_path / "gone")


# ------------------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("name", "hint"), [("clasical", "did you mean 'classical'"), ("no such folder", "known: classical")]
)
def test_an_unknown_segmenter_gets_near_matches(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=f"there is no segmenter {name!r}.*hemalens train bc_sam_segmenter.*{hint}"):
        open_segmenter(name)


@pytest.mark.parametrize(
    ("name", "hint"), [("center", "did you mean 'centred'"), ("no such folder", "known: centred, classical")]
)
def test_an_unknown_cell_image_gets_near_matches(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=f"there is no segmenter {name!r}.*{hint}"):
        cell_image_stages(name)


def test_the_centred_crop_is_a_cell_image_and_no_segmenter() -> None:
    with pytest.raises(InputError, match=r"there is no segmenter 'centred'; .*known: classical"):
        open_segmenter("centred")


def test_segmenters_by_their_names(folder: Path) -> None:
    assert isinstance(open_segmenter("classical"), ClassicalSegmenter)
    opened = open_segmenter(str(folder))
    assert isinstance(opened, GraphSegmenter)
    assert opened.name == str(folder)
    elsewhere = Path(shutil.copytree(folder, folder.parent / "elsewhere"))
    assert open_segmenter(str(elsewhere)).digest == opened.digest


def test_a_name_is_one_stage_and_no_name_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cell_image_stages(None) == ()
    (classical,) = cell_image_stages("classical")
    assert isinstance(classical, CellImageStage)
    assert isinstance(classical.segmenter, ClassicalSegmenter)
    assert classical.config == CellImageConfig()
    assert classical.config.model_dump() == {
        "size_px": 128,
        "margin_px": 10,
        "background": 128,
        "crop": True,
        "cut_from": "original",
        "connectivity": 8,
        "resampling": "bicubic",
    }
    finder = trained.stand_in_detector(monkeypatch)
    (centred,) = cell_image_stages("centred")
    assert isinstance(centred, CentredCropStage)
    assert centred.finder is finder
    assert centred.config == CentredCropConfig()
    assert centred.config.model_dump() == {"extent": 2.0, "size_px": None}
    assert (classical.name, centred.name) == ("classical", "centred")
    (other,) = cell_image_stages(str(folder))
    assert isinstance(other, CellImageStage)
    assert isinstance(other.segmenter, GraphSegmenter)


# ------------------------------------------------------------------------------------------------- masks from graphs


@given(height=st.integers(8, 90), width=st.integers(8, 90), seed=st.integers(0, 999))
@settings(max_examples=20)
def test_a_mask_has_its_image_s_size_and_is_the_probability_s_upper_half(height: int, width: int, seed: int) -> None:
    """The probability, interpolated by hand between the centres of its cells where the image is larger."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    mask = GraphSegmenter("dark", GRAPH)(image)
    assert mask.shape == (height, width)
    assert mask.dtype == bool
    session = onnxruntime.InferenceSession(GRAPH.SerializeToString(), providers=["CPUExecutionProvider"])
    (probability,) = session.run(["cell_probability"], {"image": image[None]})
    if min(height, width) >= 16:
        at = [(np.arange(n) + 0.5) * 16 / n - 0.5 for n in (height, width)]
        rows, columns = (np.interp(places, np.arange(16), np.arange(16)) for places in at)
        r, c = np.floor(rows).astype(int).clip(0, 14), np.floor(columns).astype(int).clip(0, 14)
        fr, fc = (rows - r)[:, None], (columns - c)[None]
        p = probability[0].astype(float)
        upper = p[r][:, c] * (1 - fc) + p[r][:, c + 1] * fc
        lower = p[r + 1][:, c] * (1 - fc) + p[r + 1][:, c + 1] * fc
        whole = upper * (1 - fr) + lower * fr
        sure = np.abs(whole - 0.5) > 1e-4
        np.testing.assert_array_equal(mask[sure], whole[sure] >= 0.5)


@pytest.mark.parametrize("shape", [(8, 8), (9, 333), (301, 10), (17, 17)])
def test_images_of_odd_sizes_have_masks(shape: tuple[int, int]) -> None:
    segmenter = GraphSegmenter("dark", GRAPH)
    assert segmenter(np.full((*shape, 3), 250, np.uint8)).sum() == 0
    assert segmenter(np.full((*shape, 3), 20, np.uint8)).all()


def test_a_dark_disk_is_found_where_it_lies() -> None:
    rows, columns = np.indices((60, 80))
    disk = np.hypot(rows - 20, columns - 55) < 14
    image = np.where(disk[..., None], 60, 240).astype(np.uint8).repeat(3, axis=2)
    found = GraphSegmenter("dark", GRAPH)(image)
    assert (found & disk).sum() / (found | disk).sum() > 0.75


def test_the_digest_is_that_of_the_mask_alone() -> None:
    """A graph with another feature map cuts the same cells."""
    first, other = trained.dark_graph(), trained.dark_graph()
    del other.graph.output[0]
    assert GraphSegmenter("a", first).digest == GraphSegmenter("b", other).digest
    assert GraphSegmenter("a", trained.dark_graph(limit=1.0)).digest != GraphSegmenter("a", first).digest


def test_what_the_training_data_were_is_said(cells: CellDataset, tmp_path: Path) -> None:
    from hemalens.bundle.artifact import DataEntry

    manifest = _manifest(data=(DataEntry.of(cells, "train"),))
    written = write_segmenter(tmp_path / "s", manifest, {SEGMENTER: GRAPH.SerializeToString()})
    assert isinstance(written, TrainedSegmenter)
    assert written.manifest.synthetic
    assert written.manifest.data[0].fingerprint == cells.fingerprint
