"""Masks of training images: the cell shown alone, copies on three kinds of background, and masks that cannot be used."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import trained
from fakes import FAKES
from hemalens.bundle.stages import CLASSICAL, CellImageStage, ClassicalSegmenter
from hemalens.datasets import CellDataset, Record, open_dataset
from hemalens.errors import ConfigError, ImageError, InputError
from hemalens.files import sha256_file
from hemalens.imaging.reading import Preprocessing
from hemalens.imaging.segmentation import CellImageConfig, largest_component, segment_cell
from hemalens.training.data import resized_images
from hemalens.training.fit import TrainingConfig
from hemalens.training.masks import MASKS_FILE, MaskUse, training_images, without_background

SIDE, SMALL = 64, Preprocessing(size_px=32)
N, MASKED = 6, (0, 2, 3)
Pixels = NDArray[np.uint8]
Colour = tuple[int, ...]


def _colours(i: int) -> tuple[Colour, Colour]:
    """Of the cell and of what surrounds it: in no image the same, red above 100 only within a cell."""
    return (200 - 9 * i, 70 + 5 * i, 90), (60 + 3 * i, 230 - 7 * i, 180 + 2 * i)


def _disc(i: int) -> NDArray[np.bool_]:
    rows, columns = np.indices((SIDE, SIDE))
    return np.hypot(rows - 24 - 2 * i, columns - 38 + 2 * i) < 13


@pytest.fixture
def cells(tmp_path: Path) -> CellDataset:
    """Discs of one colour on another, of two classes; three of the six have a mask."""
    records = []
    for i in range(N):
        inside, outside = _colours(i)
        Image.fromarray(np.where(_disc(i)[..., None], inside, outside).astype(np.uint8)).save(tmp_path / f"{i}.png")
        mask = tmp_path / f"mask {i}.png" if i in MASKED else None
        if mask is not None:
            Image.fromarray(_disc(i).astype(np.uint8) * 255).save(mask)
        records.append(Record(tmp_path / f"{i}.png", "ab"[i % 2], "lab", mask_path=mask, label="ab"[i % 2]))
    return CellDataset("discs", tuple(records), ("a", "b"), "as_labelled", "-", "-")


def _made(cells: CellDataset, run_dir: Path, **use: Any) -> tuple[Pixels, NDArray[np.int64]]:
    return training_images(cells, SMALL, MaskUse.from_mapping(use), seed=use.pop("seed", 3), run_dir=run_dir)


def _counts(run_dir: Path) -> dict[str, Any]:
    counts: dict[str, Any] = json.loads((run_dir / MASKS_FILE).read_text())
    return counts


def _share(i: int) -> NDArray[np.float64]:
    """Of each pixel of half the size, the part that the disc covers."""
    return _disc(i).reshape(SIDE // 2, 2, SIDE // 2, 2).mean(axis=(1, 3))


def _most_common(colours: NDArray[Any]) -> Colour:
    """Of colours (n, 3)."""
    return Counter(map(tuple, colours.tolist())).most_common(1)[0][0]


# ------------------------------------------------------------------------------------------------------- without masks


def test_without_a_use_of_masks_images_are_as_ever_and_no_mask_is_read(cells: CellDataset, tmp_path: Path) -> None:
    for i in MASKED:
        (tmp_path / f"mask {i}.png").write_bytes(b"no image")
    assert not MaskUse().used
    assert not MaskUse(background="pasted", gray=9, segmenter=CLASSICAL).used
    pixels, targets = _made(cells, tmp_path / "run")
    np.testing.assert_array_equal(pixels, resized_images(cells, SMALL, tmp_path / "none.npy"))
    np.testing.assert_array_equal(targets, cells.targets)
    assert not (tmp_path / "run" / MASKS_FILE).exists()


# ------------------------------------------------------------------------------------------------------ the cell alone


@pytest.mark.parametrize("gray", [0, 128])
def test_masked_inputs_blank_exactly_the_images_that_have_masks(cells: CellDataset, tmp_path: Path, gray: int) -> None:
    pixels, targets = _made(cells, tmp_path / "run", masked_inputs=True, gray=gray)
    whole = resized_images(cells, SMALL, tmp_path / "none.npy")
    assert pixels.shape == whole.shape == (N, 3, 32, 32)
    for i in range(N):
        share = _share(i) if i in MASKED else np.ones((32, 32))
        expected = whole[i] * share + gray * (1 - share)
        assert np.abs(pixels[i] - expected).max() <= 0.501
        assert (pixels[i][:, share == 0] == gray).all()
        np.testing.assert_array_equal(pixels[i][:, share == 1], whole[i][:, share == 1])
    np.testing.assert_array_equal(targets, cells.targets)
    assert _counts(tmp_path / "run") == {
        "images": N,
        "with a mask": 3,
        "new images": 0,
        "background": "mixed",
        "segmenter": "none",
    }


@pytest.mark.parametrize("empty_masks", ["whole", "blank"])
def test_tissue_under_an_empty_mask_is_whole_or_blank(cells: CellDataset, tmp_path: Path, empty_masks: str) -> None:
    """As the normal patches of CAM16: their masks are black, since they hold no tumour."""
    (path,) = {record.mask_path for record in cells.records[MASKED[0] : MASKED[0] + 1]}
    assert path is not None
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(path)
    pixels, _ = _made(cells, tmp_path / "run", masked_inputs=True, empty_masks=empty_masks)
    whole = resized_images(cells, SMALL, tmp_path / "none.npy")
    expected = whole[MASKED[0]] if empty_masks == "whole" else np.zeros_like(whole[0])
    np.testing.assert_array_equal(pixels[MASKED[0]], expected)
    assert (pixels[MASKED[1]] != whole[MASKED[1]]).any()
    assert _counts(tmp_path / "run")["with a mask"] == (2 if empty_masks == "whole" else 3)
    cell = replace(cells, records=tuple(replace(r, cell_type="monocyte") for r in cells.records))
    with pytest.raises(ImageError, match="got nothing but background"):
        _made(cell, tmp_path / "run", masked_inputs=True, empty_masks=empty_masks)
    with pytest.raises(ImageError, match="got nothing but background"):
        _made(cells, tmp_path / "run", copies=1, empty_masks=empty_masks)


def test_masks_may_be_missing_altogether(cells: CellDataset, tmp_path: Path) -> None:
    bare = replace(cells, records=tuple(replace(record, mask_path=None) for record in cells.records))
    pixels, targets = _made(bare, tmp_path / "run", masked_inputs=True, copies=5)
    np.testing.assert_array_equal(pixels, resized_images(cells, SMALL, tmp_path / "none.npy"))
    assert len(targets) == N
    counts = _counts(tmp_path / "run")
    assert (counts["with a mask"], counts["new images"]) == (0, 0)


# ------------------------------------------------------------------------------------------------------------- copies


def test_five_copies_of_every_cell_with_a_mask_behind_the_images(cells: CellDataset, tmp_path: Path) -> None:
    pixels, targets = _made(cells, tmp_path / "run", copies=5)
    assert (pixels.shape, pixels.dtype) == ((N + 15, 3, 32, 32), np.uint8)
    np.testing.assert_array_equal(pixels[:N], resized_images(cells, SMALL, tmp_path / "none.npy"))
    np.testing.assert_array_equal(targets[:N], cells.targets)
    sources = [i for i in MASKED for _ in range(5)]
    for copy, target, i in zip(pixels[N:], targets[N:], sources, strict=True):
        colours = copy.reshape(3, -1).T
        cell, gray = (np.all(colours == colour, axis=1) for colour in (_colours(i)[0], (0, 0, 0)))
        n_cell = _share(i).sum()
        assert 0.5 * n_cell < cell.sum() <= n_cell, "the cell of this image, in its colour"
        assert gray.sum() >= 1024 - 1.7 * n_cell, "plain gray around it"
        assert target == cells.targets[i]
    assert len({copy.tobytes() for copy in pixels[N:]}) == 15
    assert _counts(tmp_path / "run") == {
        "images": N,
        "with a mask": 3,
        "new images": 15,
        "background": "mixed",
        "segmenter": "none",
    }


def test_copies_depend_on_the_seed_alone(cells: CellDataset, tmp_path: Path) -> None:
    use = MaskUse(copies=2, background="pasted")
    runs = [training_images(cells, SMALL, use, seed=s, run_dir=tmp_path / "run")[0] for s in (1, 1, 2)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0][N:], runs[2][N:])
    more, _ = training_images(cells, SMALL, use.model_copy(update={"copies": 3}), seed=1, run_dir=tmp_path / "run")
    assert len(more) == N + 9


def test_many_copies_lie_in_a_file_and_are_the_same(
    cells: CellDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory, _ = _made(cells, tmp_path / "a", copies=5, masked_inputs=True)
    monkeypatch.setattr("hemalens.files.MAX_RAM_BYTES", 1000)
    in_file, _ = _made(cells, tmp_path / "b", copies=5, masked_inputs=True)
    assert isinstance(in_file, np.memmap)
    np.testing.assert_array_equal(in_memory, in_file)


def test_copies_are_made_of_whole_images_also_where_these_are_masked(cells: CellDataset, tmp_path: Path) -> None:
    plain, _ = _made(cells, tmp_path / "a", copies=2)
    masked, _ = _made(cells, tmp_path / "b", copies=2, masked_inputs=True)
    np.testing.assert_array_equal(plain[N:], masked[N:])
    assert not np.array_equal(plain[:N], masked[:N])


# --------------------------------------------------------------------------------------------------------- backgrounds


def test_pasted_backgrounds_are_those_of_images_with_masks_and_none_is_missing(cells: CellDataset, tmp_path: Path) -> None:
    pixels, _ = _made(cells, tmp_path / "run", copies=5, background="pasted")
    # every value of the drawn images is 60 or more
    assert pixels.min() >= 60, "no image is without a background"
    expected = {_colours(i)[1] for i in MASKED}
    found = set()
    for copy, i in zip(pixels[N:], np.repeat(MASKED, 5), strict=True):
        colours = copy.reshape(3, -1).T
        outside = _most_common(colours[colours[:, 0] <= 100])
        found.add(outside)
        for other in set(range(N)) - {i}:
            assert not np.all(colours == _colours(other)[0], axis=1).any(), "the cell that was there is gone"
        assert np.all(colours == _colours(i)[0], axis=1).sum() > 0.5 * _share(i).sum()
    assert found == expected
    assert _counts(tmp_path / "run")["background"] == "pasted"


def _full(cells: CellDataset, positions: tuple[int, ...], *, without: int = 0) -> None:
    """Masks that leave at most `without` pixels of their image."""
    for i in positions:
        mask = np.full((SIDE, SIDE), 255, np.uint8)
        mask[:without, :without] = 0
        path = cells.records[i].mask_path
        assert path is not None
        Image.fromarray(mask).save(path)


def test_a_cell_that_fills_its_image_is_no_background(cells: CellDataset, tmp_path: Path) -> None:
    _full(cells, (0,), without=2)
    pixels, _ = _made(cells, tmp_path / "run", copies=5, background="pasted")
    for copy in pixels[N + 5 :]:  # those of the other cells
        colours = copy.reshape(3, -1).T
        assert _most_common(colours[colours[:, 0] <= 100]) in {_colours(i)[1] for i in MASKED[1:]}
    _full(cells, MASKED, without=2)
    with pytest.raises(ConfigError, match=r"background.*masks.background=mixed"):
        _made(cells, tmp_path / "run", copies=5, background="pasted")
    assert len(_made(cells, tmp_path / "run", copies=5)[0]) == N + 15


REMOVED = MaskUse(background="removed", segmenter=CLASSICAL, gray=40)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    laboratory = trained.laboratory(tmp_path_factory)
    return laboratory.subset(range(0, len(laboratory), 7))


def _blanked(record: Record) -> Pixels:
    """The cell in its place, everything else 40, at the size of the network's input."""
    image = np.asarray(Image.open(record.path).convert("RGB"))
    blanked = np.where(largest_component(segment_cell(image).cell)[..., None], image, np.uint8(40))
    return np.asarray(Image.fromarray(blanked).resize((32, 32), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


def test_a_removed_background_is_removed_from_every_image(drawn: CellDataset, tmp_path: Path) -> None:
    shown = without_background(drawn, REMOVED, SMALL)
    assert shown.contents == drawn.contents
    (stage,) = shown.stages
    assert isinstance(stage, CellImageStage)
    assert stage.config == CellImageConfig(size_px=32, margin_px=0, background=40, crop=False)
    pixels, targets = training_images(shown, SMALL, REMOVED, seed=0, run_dir=tmp_path)
    np.testing.assert_array_equal(pixels, [_blanked(record) for record in drawn.records])
    np.testing.assert_array_equal(targets, drawn.targets)
    assert (np.mean(pixels == 40, axis=(1, 2, 3)) > 0.2).all()
    assert _counts(tmp_path)["segmenter"] == CLASSICAL


def test_copies_of_cells_without_background_have_none_either(drawn: CellDataset, tmp_path: Path) -> None:
    use = REMOVED.model_copy(update={"copies": 2})
    pixels, targets = training_images(without_background(drawn, use, SMALL), SMALL, use, seed=0, run_dir=tmp_path)
    n = len(drawn)
    assert len(pixels) == 3 * n, "a segmenter gives every image a mask"
    np.testing.assert_array_equal(targets[n:], np.repeat(drawn.targets, 2))
    for copy, record in zip(pixels[n:], np.repeat(np.array(drawn.records, object), 2), strict=True):
        alone = np.mean(_blanked(record) == 40)
        assert np.mean(copy == 40) == pytest.approx(alone, abs=0.2)
    assert _counts(tmp_path) == {
        "images": n,
        "with a mask": n,
        "new images": 2 * n,
        "background": "removed",
        "segmenter": CLASSICAL,
    }


def test_without_its_removal_a_background_stays(drawn: CellDataset) -> None:
    for background in ("mixed", "pasted"):
        use = MaskUse.from_mapping({"background": background, "segmenter": CLASSICAL, "copies": 3})
        assert without_background(drawn, use, SMALL) is drawn


def test_a_removal_without_a_segmenter_or_of_cells_cut_out_already_is_refused(drawn: CellDataset) -> None:
    with pytest.raises(ConfigError, match=r"needs masks of all images.*masks\.segmenter=classical"):
        without_background(drawn, MaskUse(background="removed"), SMALL)
    cut_out = drawn.through((CellImageStage(ClassicalSegmenter(), CellImageConfig()),))
    with pytest.raises(ConfigError, match=r"cut out already. Leave --cell-image or masks.background=removed out"):
        without_background(cut_out, REMOVED, SMALL)
    with pytest.raises(InputError, match="there is no segmenter 'nowhere'"):
        without_background(drawn, MaskUse(background="removed", segmenter="nowhere"), SMALL)


# ---------------------------------------------------------------------------------------------------------- segmenters


class _Dark:
    """Where green is below 120; `n_asked` counts the images it was shown."""

    name, digest = "dark", "green below 120, for masks"

    def __init__(self) -> None:
        self.n_asked = 0

    def __call__(self, image: Pixels) -> NDArray[np.bool_]:
        self.n_asked += 1
        mask: NDArray[np.bool_] = image[..., 1] < 120
        return mask


def test_masks_of_a_segmenter_are_of_all_images_made_once_and_of_one_part(
    cells: CellDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dark = _Dark()
    monkeypatch.setattr("hemalens.training.masks.open_segmenter", lambda name: dark)
    monkeypatch.setenv("HEMALENS_CACHE", str(tmp_path / "cache"))
    specks = np.asarray(Image.open(cells.records[1].path)).copy()
    specks[2:6, 2:6] = 0  # dark, and no part of the cell
    Image.fromarray(specks).save(cells.records[1].path)
    nothing = np.full((SIDE, SIDE, 3), 200, np.uint8)
    Image.fromarray(nothing).save(cells.records[5].path)
    pixels, _ = _made(cells, tmp_path / "run", masked_inputs=True, segmenter="dark")
    counts = _counts(tmp_path / "run")
    assert (counts["images"], counts["with a mask"], counts["segmenter"]) == (N, N - 1, "dark"), "in one is no cell"
    for i in range(N - 1):
        assert (pixels[i][:, _share(i) == 0] == 0).all()
    assert (pixels[5] == 200).all()
    again, _ = _made(cells, tmp_path / "run", masked_inputs=True, segmenter="dark")
    np.testing.assert_array_equal(again, pixels)
    assert dark.n_asked == N


def test_a_trained_segmenter_is_a_source_of_the_configuration(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = trained.segmenter(tmp_path_factory).path
    use = MaskUse(copies=1, segmenter=str(folder))
    digest = sha256_file(folder / "manifest.json")
    assert use.file_digests() == {"segmenter": digest}
    config = TrainingConfig.from_mapping({**trained.PROBE, "masks": use.model_dump()})
    assert config.file_digests() == {"masks.segmenter": digest}
    for name in ("", CLASSICAL, "nowhere"):
        assert MaskUse(segmenter=name).file_digests() == {}


# ----------------------------------------------------------------------------------------------------------- bad masks


def test_a_mask_of_another_size_is_told(cells: CellDataset, tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 30), 255, np.uint8)).save(tmp_path / "mask 2.png")
    for use in ({"copies": 5}, {"masked_inputs": True}):
        with pytest.raises(ImageError, match=r"mask 2.png' is not of its image's size; expected 64x64 px; got 30x20 px"):
            _made(cells, tmp_path / "run", **use)


def test_a_mask_without_a_cell_is_told(cells: CellDataset, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(tmp_path / "mask 2.png")
    cells = replace(cells, records=tuple(replace(record, cell_type="monocyte") for record in cells.records))
    for use in ({"copies": 5}, {"masked_inputs": True}):
        with pytest.raises(ImageError, match=r"mask 2.png' has one class only; .*got nothing but background"):
            _made(cells, tmp_path / "run", **use)


def test_a_mask_of_nothing_but_cell_is_told_where_cells_are_cut_out(cells: CellDataset, tmp_path: Path) -> None:
    """Tissue may fill its image: shown alone, it is shown whole."""
    _full(cells, (2,))
    with pytest.raises(ImageError, match=r"mask 2.png' has one class only; .*got nothing but cell"):
        _made(cells, tmp_path / "run", copies=1)
    pixels, _ = _made(cells, tmp_path / "run", masked_inputs=True)
    whole = resized_images(cells, SMALL, tmp_path / "none.npy")
    np.testing.assert_array_equal(pixels[2], whole[2])
    assert _counts(tmp_path / "run")["with a mask"] == 3


@pytest.mark.parametrize("values", [{"copies": -1}, {"copies": 101}, {"gray": 256}, {"background": "none"}, {"copy": 1}])
def test_the_use_of_masks_is_bounded(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        MaskUse.from_mapping(values)


def test_masks_of_whole_images_are_refused_where_the_cells_are_cut_out_already(tmp_path: Path) -> None:
    cells = open_dataset(FAKES["jtsc"](tmp_path / "jtsc", n_per_class=1))
    cut = cells.through((CellImageStage(ClassicalSegmenter(), CellImageConfig(size_px=32)),))
    with pytest.raises(ConfigError, match="the cells are cut out already"):
        training_images(cut, Preprocessing(size_px=32), MaskUse(copies=1), seed=0, run_dir=tmp_path / "run")
