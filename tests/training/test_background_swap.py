"""Surroundings exchanged between training images: whose pixels stay, whose come, what repeats, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import trained
from hemalens.bundle.stages import CLASSICAL, CellImageStage, CentredCropStage, ClassicalSegmenter, shown_mask
from hemalens.datasets import CellDataset
from hemalens.errors import ConfigError
from hemalens.imaging.centred_crop import CentredCropConfig
from hemalens.imaging.reading import Preprocessing
from hemalens.imaging.segmentation import CellImageConfig, segment_cell
from hemalens.training.background_swap import EDGE_PX, RIM_PX, Surroundings, check_exchange, exchanged
from hemalens.training.data import PixelDataset, resized_images
from hemalens.training.masks import MASKS_FILE, MaskUse

SIDE, N, WITHOUT = 48, 6, 4
Pixels = NDArray[np.uint8]
PLAIN = MaskUse()


def _inside(i: int) -> tuple[int, ...]:
    return (200 - 9 * i, 70 + 5 * i, 90)


def _outside(i: int) -> tuple[int, ...]:
    return (60 + 3 * i, 230 - 7 * i, 180 + 2 * i)


def _distance(i: int) -> NDArray[np.float64]:
    """Of each pixel to the border of the disc, negative within it."""
    rows, columns = np.indices((SIDE, SIDE))
    return np.asarray(np.hypot(rows - 22 - i, columns - 24 + i) - 9)


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    """Discs of one colour on another."""
    images = [np.where((_distance(i) < 0)[..., None], _inside(i), _outside(i)).transpose(2, 0, 1) for i in range(N)]
    return np.stack(images).astype(np.uint8)


Made = Callable[..., Surroundings]


@pytest.fixture
def made(pixels: Pixels, tmp_path: Path) -> Made:
    """All discs but one are found."""

    def make(share: float, found: tuple[int, ...] = tuple(i for i in range(N) if i != WITHOUT)) -> Surroundings:
        return Surroundings(pixels, [(i, (_distance(i) < 0).astype(np.float32)) for i in found], share, tmp_path)

    return make


def test_the_cell_keeps_its_pixels_and_another_image_gives_the_rest(pixels: Pixels, made: Made) -> None:
    exchange, came = made(1.0), set()
    for i in set(range(N)) - {WITHOUT}:
        for seed in range(12):
            image = exchange(pixels[i], i, seed)
            assert (image.shape, image.dtype) == ((3, SIDE, SIDE), np.uint8)
            # the border lies up to a pixel beside the nearest pixel of the disc
            kept, far = _distance(i) < RIM_PX - 1, _distance(i) > RIM_PX + EDGE_PX + 1
            np.testing.assert_array_equal(image[:, kept], pixels[i][:, kept])
            (source,) = [j for j in range(N) if (image[:, far] == np.array(_outside(j))[:, None]).all()]
            assert source not in (i, WITHOUT), "another image, and one in which a cell was found"
            came.add((i, source))
            soft = image[:, ~kept & ~far].astype(int)
            low, high = np.minimum(_outside(i), _outside(source)), np.maximum(_outside(i), _outside(source))
            assert (soft >= low[:, None]).all()
            assert (soft <= high[:, None]).all(), "the cell that was there is gone"
    assert len(came) > 15, "any of the others"


def test_an_image_without_a_cell_stays_as_it_is(pixels: Pixels, made: Made) -> None:
    for seed in range(5):
        np.testing.assert_array_equal(made(1.0)(pixels[WITHOUT], WITHOUT, seed), pixels[WITHOUT])


def test_the_share_is_kept_and_the_seed_alone_decides(pixels: Pixels, made: Made) -> None:
    exchange, again = made(0.3), made(0.3)
    changed = 0
    for seed in range(400):
        first = exchange(pixels[0], 0, seed)
        np.testing.assert_array_equal(first, again(pixels[0], 0, seed))
        changed += not np.array_equal(first, pixels[0])
    assert changed / 400 == pytest.approx(0.3, abs=0.08)


def test_the_images_themselves_are_not_written_to(pixels: Pixels, made: Made) -> None:
    before = pixels.copy()
    exchange = made(1.0)
    cells = PixelDataset(pixels, np.zeros(N, np.int64), None, exchange=exchange)
    for i in range(N):
        cells[i, 3][0].fill_(0)
        exchange(pixels[i], i, 5)
    np.testing.assert_array_equal(pixels, before)


def test_other_draws_of_an_image_stay_the_same(pixels: Pixels, made: Made) -> None:
    """The exchange takes nothing from the generator that moves and colours an image."""
    drawn: list[float] = []

    def augment(image: torch.Tensor) -> torch.Tensor:
        drawn.append(float(torch.rand(())))
        return image

    targets = np.zeros(N, np.int64)
    shown = [PixelDataset(pixels, targets, augment, exchange=e)[1, 8][0] for e in (None, made(1.0))]
    assert drawn[0] == drawn[1]
    assert not torch.equal(*shown)


def test_many_lie_in_files_and_are_the_same(pixels: Pixels, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = made(1.0)
    monkeypatch.setattr("hemalens.files.MAX_RAM_BYTES", 1000)
    in_file = made(1.0)
    assert isinstance(in_file.lent, np.memmap)
    assert isinstance(in_file.masks, np.memmap)
    np.testing.assert_array_equal(in_memory(pixels[2], 2, 1), in_file(pixels[2], 2, 1))


@pytest.mark.parametrize("found", [(), (1,)])
def test_it_takes_two_images_with_surroundings(made: Made, found: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"fewer than two training images show anything .* Set background=0"):
        made(0.5, found)


def test_a_cell_that_fills_its_image_lends_nothing(pixels: Pixels, tmp_path: Path) -> None:
    shares = [(i, (_distance(i) < 0).astype(np.float32)) for i in (0, 1)]
    exchange = Surroundings(pixels, [*shares, (2, np.ones((SIDE, SIDE), np.float32))], 1.0, tmp_path)
    for seed in range(10):
        assert (exchange(pixels[0], 0, seed)[:, 0, 0] == _outside(1)).all()
        np.testing.assert_array_equal(exchange(pixels[2], 2, seed), pixels[2])


# ------------------------------------------------------------------------------------------------------------- the road


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    laboratory = trained.laboratory(tmp_path_factory)
    return laboratory.subset(range(0, len(laboratory), 7))


def _through(cells: CellDataset, tmp_path: Path, use: MaskUse = PLAIN) -> tuple[Pixels, Surroundings]:
    pixels = resized_images(cells, Preprocessing(size_px=32), tmp_path / "none.npy")
    made = exchanged(cells, pixels, 1.0, use=use, run_dir=tmp_path)
    assert made is not None
    return pixels, made


def test_cells_are_found_in_the_images_as_they_are_shown(drawn: CellDataset, tmp_path: Path) -> None:
    for stages in ((), (CentredCropStage(CentredCropConfig()),)):
        shown = drawn.through(stages)
        pixels, made = _through(shown, tmp_path)
        for i, record in enumerate(shown.records):
            mask = segment_cell(record.read()).cell
            small = np.asarray(Image.fromarray(mask.astype(np.float32)).resize((32, 32), Image.Resampling.BOX))
            image = made(pixels[i], i, seed=i)
            np.testing.assert_array_equal(image[:, small > 0], pixels[i][:, small > 0])
        counts = json.loads((tmp_path / MASKS_FILE).read_text())
        assert (counts["images"], counts["with a mask"]) == (len(drawn), len(drawn))
        assert counts["surroundings"] >= 2
        assert (counts["exchanged"], counts["segmenter"]) == (1.0, CLASSICAL)


def test_a_mask_is_kept_for_each_way_an_image_is_shown(drawn: CellDataset) -> None:
    class _Counting(ClassicalSegmenter):
        digest, n_asked = "counts, for surroundings", 0

        def __call__(self, image: Pixels) -> NDArray[np.bool_]:
            self.n_asked += 1
            return super().__call__(image)

    counting, whole = _Counting(), drawn.records[0]
    (centred,) = drawn.subset([0]).through((CentredCropStage(CentredCropConfig()),)).records
    masks = [shown_mask(record, counting) for record in (whole, centred, whole, centred)]
    assert counting.n_asked == 2
    assert masks[1].shape == masks[3].shape != masks[0].shape
    np.testing.assert_array_equal(masks[0], masks[2])


def test_a_named_segmenter_finds_the_cells(drawn: CellDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class _Corner:
        name, digest = "corner", "the upper left corner, for surroundings"

        def __call__(self, image: Pixels) -> NDArray[np.bool_]:
            mask = np.zeros(image.shape[:2], bool)
            mask[:20, :20] = True
            return mask

    monkeypatch.setattr("hemalens.training.background_swap.open_segmenter", lambda name: _Corner())
    _, made = _through(drawn, tmp_path, MaskUse(segmenter="corner"))
    assert (made.masks[:, 0, 0] == 255).all()
    assert (made.masks[:, -1, -1] == 0).all()


def test_without_a_share_nothing_is_done(drawn: CellDataset, tmp_path: Path) -> None:
    assert exchanged(drawn, np.zeros((1, 3, 8, 8), np.uint8), 0.0, use=MaskUse(copies=2), run_dir=tmp_path) is None
    assert not list(tmp_path.iterdir())
    check_exchange(drawn, 0.0, MaskUse(copies=2))


def test_what_makes_no_sense_is_refused(drawn: CellDataset) -> None:
    uses = [{"copies": 1}, {"masked_inputs": True}, {"background": "removed", "segmenter": CLASSICAL}]
    for use in uses:
        with pytest.raises(ConfigError) as error:
            check_exchange(drawn, 0.5, MaskUse.from_mapping(use))
        assert str(error.value) == (
            "background=0.5 exchanges what lies beside the cells, and masks.* changes it already. "
            "Set background=0, or leave masks.copies, masks.masked_inputs and masks.background=removed out."
        )
    cut_out = drawn.through((CellImageStage(ClassicalSegmenter(), CellImageConfig()),))
    with pytest.raises(ConfigError, match=r"cut out already. Set background=0, or say --cell-image centred"):
        check_exchange(cut_out, 0.5, PLAIN)
