"""Occlusion: hand-made graphs that look at one known part of an image, and which cells are shown."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from hemalens.bundle.bundle import Bundle, Manifest, class_entries, write_bundle
from hemalens.bundle.seen import seen_images
from hemalens.bundle.stages import CellImageStage, ClassicalSegmenter
from hemalens.datasets import CellDataset, Record
from hemalens.errors import BundleError, InputError
from hemalens.evaluation import occlusion
from hemalens.evaluation.evaluate import predict_dataset
from hemalens.evaluation.occlusion import Occluder, occlusion_table
from hemalens.graphs import build as graphs
from hemalens.imaging.reading import Preprocessing, rim_colour
from hemalens.imaging.segmentation import CellImageConfig
from hemalens.taxonomy import AS_LABELLED

LABELS = ("dark", "light")
SIDE = 60
PAPER = 240
CORNER = (slice(0, 12), slice(0, 12))
"""The part of an image of 60 x 60 px that the hand-made graph looks at; a patch of a fifth covers all of it."""


def _graph(labels: Sequence[str] = LABELS, *, rows: int = 12, slope: float = 0.05) -> onnx.ModelProto:
    """image -> mean over the upper left `rows` x `rows` pixels -> logits slope * (120 - mean) * (1, -1, -1, ...)."""
    signs = np.array([[1.0] + [-1.0] * (len(labels) - 1)], np.float32)
    constants = {
        "starts": np.array([0, 0], np.int64),
        "ends": np.array([rows, rows], np.int64),
        "axes": np.array([1, 2], np.int64),
        "all_axes": np.array([1, 2, 3], np.int64),
        "one": np.array([1], np.int64),
        "middle": np.array([120.0], np.float32),
        "signs": signs * slope,
    }
    nodes = [
        helper.make_node("Slice", ["image", "starts", "ends", "axes"], ["corner"]),
        helper.make_node("Cast", ["corner"], ["corner_float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["corner_float", "all_axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["embedding"]),
        helper.make_node("Sub", ["middle", "embedding"], ["darkness"]),
        helper.make_node("MatMul", ["darkness", "signs"], ["raw_logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "height", "width", 3])
    outputs = [graphs.float_value("embedding", ["n", 1]), graphs.float_value("raw_logits", ["n", len(labels)])]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    network = graphs.make_model(nodes, [image], outputs, weights)
    return graphs.join(network, graphs.temperature_graph(len(labels), 1.0))


def _bundle(path: Path, graph: onnx.ModelProto, labels: Sequence[str] = LABELS, *, cut_out: bool = False) -> Bundle:
    stage = CellImageStage(ClassicalSegmenter(), CellImageConfig(size_px=SIDE))
    manifest = Manifest(
        created="2026-01-01T00:00:00+00:00",
        method="corner",
        config={},
        label_map=AS_LABELLED,
        classes=class_entries(tuple(labels)),
        preprocessing=Preprocessing(size_px=16),
        before_graph=(stage.entry(),) if cut_out else (),
        embedding_size=1,
        frozen_backbone=True,
        temperature=1.0,
        data=(),
        parity=0.0,
        versions={},
    )
    files = {"model.onnx": graph.SerializeToString(), "seen_images.txt": seen_images(())}
    return write_bundle(path, manifest, files)


@pytest.fixture(scope="module")
def corner(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return _bundle(tmp_path_factory.mktemp("corner") / "bundle", _graph())


def _image(dark: tuple[slice, slice] = CORNER, side: int = SIDE) -> np.ndarray:
    image = np.full((side, side, 3), PAPER, np.uint8)
    image[dark] = 30
    return image


def _probability(mean: float, slope: float = 0.05) -> float:
    """Of the class "dark", by hand."""
    return float(1 / (1 + np.exp(-2 * slope * (120 - mean))))


# --------------------------------------------------------------------------------------------------------------- maps


def test_the_map_peaks_at_the_only_part_that_counts_and_is_zero_elsewhere(corner: Bundle) -> None:
    found = Occluder(corner)(_image())
    assert found.covered.shape == (9, 9, 2)
    assert found.patch == (12, 12)
    assert found.tops.tolist() == found.lefts.tolist() == list(range(0, 49, 6))
    assert found.strongest(0) == (0, 0)
    drops = found.drops(0)
    np.testing.assert_allclose(found.whole[0], _probability(30), rtol=1e-5)
    np.testing.assert_allclose(drops[0, 0], _probability(30) - _probability(PAPER), rtol=1e-4)
    # the second place covers half of the corner, and the one diagonal to the first a quarter
    np.testing.assert_allclose(drops[0, 1], _probability(30) - _probability((30 + PAPER) / 2), rtol=1e-4)
    np.testing.assert_allclose(drops[1, 1], _probability(30) - _probability((3 * 30 + PAPER) / 4), rtol=1e-4)
    assert np.abs(drops[2:]).max() == np.abs(drops[:, 2:]).max() == 0
    whole = found.map(0)
    assert whole.shape == (SIDE, SIDE)
    assert np.unravel_index(whole.argmax(), whole.shape) == (0, 0)
    assert np.abs(whole[18:]).max() < 1e-6
    assert np.abs(whole[:, 18:]).max() < 1e-6
    assert found.box((0, 0))[CORNER].all()
    assert found.box((0, 0)).sum() == 144


def test_the_map_is_bilinear_between_the_centres_of_the_patches(corner: Bundle) -> None:
    found = Occluder(corner)(_image())
    drops, whole = found.drops(0), found.map(0)
    # centres lie at 5.5, 11.5, ... px: the pixels 5 and 6 are a twelfth of the step on either side
    np.testing.assert_allclose(whole[0, 0], drops[0, 0], rtol=1e-6)
    np.testing.assert_allclose(whole[0, 6], drops[0, 0] * 11 / 12 + drops[0, 1] / 12, rtol=1e-6)
    np.testing.assert_allclose((whole[8, 8] + whole[9, 9]) / 2, drops[:2, :2].mean(), rtol=2e-2)


def test_two_classes_lose_what_the_other_gains(corner: Bundle) -> None:
    found = Occluder(corner)(_image())
    np.testing.assert_allclose(found.drops(0), -found.drops(1), atol=1e-6)
    assert np.abs(found.map(0)).max() <= 1


def test_a_picture_without_structure_gives_no_map(corner: Bundle) -> None:
    found = Occluder(corner)(np.full((SIDE, SIDE, 3), 77, np.uint8))
    assert np.abs(found.map(0)).max() == 0


def test_the_colour_far_from_the_rim_and_the_number_of_workers_change_nothing(corner: Bundle) -> None:
    image = _image()
    first = Occluder(corner, n_workers=1)(image)
    image[30:40, 30:40] = (200, 10, 90)
    second = Occluder(corner, n_workers=3)(image)
    np.testing.assert_array_equal(first.covered, second.covered)


def test_batches_are_as_large_as_memory_allows_and_change_nothing(corner: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Occluder(corner)(_image())
    monkeypatch.setattr(occlusion, "_PIXELS_AT_ONCE", 1)
    np.testing.assert_allclose(Occluder(corner)(_image()).covered, first.covered, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 100), (61, 47), (13, 9)])
def test_small_and_oblong_images(tmp_path: Path, height: int, width: int) -> None:
    bundle = _bundle(tmp_path / "bundle", _graph(rows=1))
    image = np.full((height, width, 3), PAPER, np.uint8)
    image[0, 0] = 0
    found = Occluder(bundle)(image)
    assert found.patch == (max(1, round(height / 5)), max(1, round(width / 5)))
    assert found.map(0).shape == (height, width)
    for places, side, patch in ((found.tops, height, found.patch[0]), (found.lefts, width, found.patch[1])):
        assert places[0] == 0
        assert places[-1] == side - patch, "the last place reaches the border"
        assert (np.diff(places) >= 1).all()
        assert len(places) <= 9
    assert found.strongest(0) == (0, 0)


def test_a_patch_as_large_as_the_image_leaves_one_place(corner: Bundle) -> None:
    image = _image()
    found = Occluder(corner, share=1.0)(image)
    assert found.covered.shape == (1, 1, 2)
    np.testing.assert_allclose(found.map(0), found.drops(0)[0, 0])


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01])
def test_a_patch_larger_than_the_image_is_refused(corner: Bundle, share: float) -> None:
    with pytest.raises(InputError, match=r"share of the patch is out of range; expected above 0, at most 1"):
        Occluder(corner, share=share)


def test_the_patch_has_the_median_colour_of_the_rim() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[2:-2, 2:-2] = 255
    image[:2, :20] = (9, 9, 9)
    image[2:-2, :2] = image[2:-2, -2:] = image[-2:] = (1, 2, 3)
    assert rim_colour(image).tolist() == [1, 2, 3]
    assert rim_colour(image[:8, :8]).shape == (3,)


# -------------------------------------------------------------------------------------------------------------- colours


# --------------------------------------------------------------------------------------------------------- wrong bundles


def test_a_graph_that_is_none_is_a_bundle_error(corner: Bundle, tmp_path: Path) -> None:
    broken = _bundle(tmp_path / "broken", _graph())
    broken.__dict__["graph_bytes"] = b"not a graph"
    with pytest.raises(BundleError, match=r"the graph in '.*broken' cannot be run"):
        Occluder(broken)


def test_probabilities_of_another_length_are_a_bundle_error(corner: Bundle) -> None:
    three = Bundle(corner.path, corner.manifest.model_copy(update={"classes": class_entries(("a", "b", "c"))}))
    with pytest.raises(BundleError, match=r"the probabilities of '.*bundle' cannot be used; got .* not 3 probabilities"):
        Occluder(three)(_image())


# --------------------------------------------------------------------------------------------------------------- tables


def _dataset(folder: Path, **images: np.ndarray) -> CellDataset:
    """Images by name; the part of the name before "_" is the label."""
    records = []
    for name, image in images.items():
        path = folder / f"{name}.png"
        Image.fromarray(image).save(path)
        records.append(Record(path, name.split("_")[0], "lab", label=name.split("_")[0]))
    return CellDataset("lab", tuple(records), LABELS, AS_LABELLED, "-", "-")


def _picture(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")).astype(int)


def test_a_table_of_right_and_wrong_cells(corner: Bundle, tmp_path: Path) -> None:
    light = np.full((SIDE, SIDE, 3), PAPER, np.uint8)
    dataset = _dataset(tmp_path, dark_0=_image(), light_0=light, light_1=_image())
    broken = tmp_path / "dark_broken.png"
    broken.write_bytes(b"x")
    dataset = replace(dataset, records=(*dataset.records, Record(broken, "dark", "lab", label="dark")))
    table = occlusion_table(corner, dataset)
    assert table.columns == ("image", "occlusion map")
    assert [row.name for row in table.rows] == ["dark_0.png", "light_0.png", "light_1.png"]
    p = _probability(PAPER)
    drop = _probability(30) - p
    assert [row.caption for row in table.rows] == [
        f"right: dark, >0.99; with the boxed part covered: light, >0.99; colour scale: ±{drop:.2f}",
        "right: light, >0.99; covering any one part lowers it by less than 0.05; colour scale: ±0.10",
        f"wrong: true light, predicted dark, >0.99; with the boxed part covered: light, >0.99; colour scale: ±{drop:.2f}",
    ]
    image, drawn = (_picture(text) for text in table.rows[0].pictures)
    assert image.shape == (SIDE, SIDE, 3)
    assert drawn.shape == (160, 160, 3)
    reds = drawn[..., 0] - drawn[..., 2]
    assert reds[10:22, 10:22].min() > 80, "the corner in the box is orange"
    assert np.abs(reds[60:, 60:]).max() < 12, "the rest is gray"
    plain = _picture(table.rows[1].pictures[1])
    assert np.ptp(plain, axis=2).max() < 6, "nothing counts: no colour and no box"
    assert "20 % of the image's side" in table.note
    assert "cut out" not in table.note


def test_known_predictions_are_not_computed_again(corner: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = _dataset(tmp_path, dark_0=_image())
    known = predict_dataset(corner, dataset)

    def refuse(*given: object) -> None:
        raise AssertionError("predicted twice")

    monkeypatch.setattr(occlusion, "predict_dataset", refuse)
    assert [row.name for row in occlusion_table(corner, dataset, known).rows] == ["dark_0.png"]


def test_a_bundle_with_a_stage_is_asked_about_the_cell_image(tmp_path: Path) -> None:
    """A dark cell in a yellow field: covered is the cell image, whose background is gray, and that is shown too."""
    bundle = _bundle(tmp_path / "bundle", _graph(), cut_out=True)
    field = np.full((80, 80, 3), (250, 240, 180), np.uint8)
    rows, columns = np.indices((80, 80))
    inside = (rows - 40) ** 2 + (columns - 40) ** 2 < 20**2
    field[inside] = (120, 60, 160)
    dataset = _dataset(tmp_path, dark_0=field)
    (row,) = (table := occlusion_table(bundle, dataset)).rows
    cell = dataset.through(bundle.stages).records[0].read()
    assert cell.shape == (SIDE, SIDE, 3)
    assert rim_colour(cell).tolist() == [128, 128, 128]
    np.testing.assert_allclose(_picture(row.pictures[0]), cell, atol=70)
    assert np.abs(_picture(row.pictures[0]) - cell).mean() < 6
    assert "the cell cut out" in table.note
    # the corner of a cell image is background, and so is the patch: no part of it counts
    assert "covering any one part lowers it by less than 0.05" in row.caption
    np.testing.assert_allclose(Occluder(bundle)(cell).drops(0)[0, 0], 0, atol=1e-6)


def test_large_networks_are_shown_fewer_cells_or_none(
    corner: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = _dataset(tmp_path, dark_0=_image(), light_0=np.full((SIDE, SIDE, 3), PAPER, np.uint8))
    # the one product: 1 x 2 multiply-adds, or 4 operations, for 81 places and the whole image
    for budget, n_rows in ((2 * 4 * 82, 2), (2 * 4 * 82 - 1, 1), (4 * 82 - 1, 0)):
        monkeypatch.setattr(occlusion, "MAX_FLOPS", budget)
        table = occlusion_table(corner, dataset, n=2)
        assert len(table.rows) == n_rows
        assert ("Fewer cells are shown" in table.note) == (n_rows < 2)


def test_a_table_of_twelve_photographs_stays_small(tmp_path: Path) -> None:
    labels = ("dark", *(f"light {i}" for i in range(11)))
    bundle = _bundle(tmp_path / "bundle", _graph(labels), labels)
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (12, 30, 30, 3), dtype=np.uint8)  # clumps of 12 px, as of chromatin
    images = [np.asarray(Image.fromarray(c).resize((360, 360), Image.Resampling.BICUBIC)) for c in coarse]
    paths = [tmp_path / f"{i}.png" for i in range(12)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    records = tuple(Record(path, label, "lab", label=label) for path, label in zip(paths, labels, strict=True))
    table = occlusion_table(bundle, CellDataset("lab", records, labels, AS_LABELLED, "-", "-"), n=12)
    assert len(table.rows) == 12
    assert "at most 12 cells" in table.note
    assert sum(len(text) for row in table.rows for text in row.pictures) < 300_000
