"""Agreement of segmenters with true masks: the interval against a plain loop, the table's columns, the outlines' rows."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from hemalens.datasets import CellDataset, Record
from hemalens.errors import ImageError
from hemalens.evaluation import segmentation as module
from hemalens.evaluation.segmentation import MaskScores, mask_table, mean_interval, outlines, score_masks, shown_records

SHAPE = (40, 50)


def _disk(radius: float, centre: tuple[int, int] = (20, 25)) -> NDArray[np.bool_]:
    rows, columns = np.indices(SHAPE)
    disk: NDArray[np.bool_] = np.hypot(rows - centre[0], columns - centre[1]) < radius
    return disk


class Bright:
    """A segmenter without learning: what is brighter than `limit`."""

    digest = "bright"

    def __init__(self, limit: int) -> None:
        self.name = f"above {limit}"
        self.limit = limit

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = image[..., 0] > self.limit
        return found


def _cells(folder: Path, radii: Sequence[float], *, domains: Sequence[str] = ("lab",), n_groups: int = 0) -> CellDataset:
    """Images of a bright core in a dim ring, whose mask is the ring's outer edge; files all differ."""
    records = []
    for i, radius in enumerate(radii):
        image = np.full((*SHAPE, 3), 20, np.uint8)
        image[_disk(radius)] = 120
        image[_disk(radius / 2)] = 220
        image[0, 0] = i
        Image.fromarray(image).save(folder / f"cell {i}.png")
        Image.fromarray(_disk(radius).astype(np.uint8) * 255).save(folder / f"mask {i}.png")
        group = f"patient {i % n_groups}" if n_groups else None
        domain = domains[i % len(domains)]
        records.append(Record(folder / f"cell {i}.png", "cell", domain, group=group, mask_path=folder / f"mask {i}.png"))
    return CellDataset("rings", tuple(records), (), "as_labelled", "-", "-")


# ------------------------------------------------------------------------------------------------------- scores


def test_scores_are_iou_and_dice_of_each_image(tmp_path: Path) -> None:
    radii = [6, 8, 10, 12]
    cells = _cells(tmp_path, radii)
    found = score_masks(Bright(100), cells)
    np.testing.assert_array_equal(found.iou, 1)
    np.testing.assert_array_equal(found.dice, 1)
    core = score_masks(Bright(200), cells)
    for radius, iou, dice in zip(radii, core.iou, core.dice, strict=True):
        inner, outer = _disk(radius / 2).sum(), _disk(radius).sum()
        assert iou == pytest.approx(inner / outer)
        assert dice == pytest.approx(2 * inner / (inner + outer))
    nothing = score_masks(Bright(255), cells)
    assert not nothing.iou.any()
    assert not nothing.dice.any()


def test_masks_belong_to_the_image_as_it_lies_on_disk(tmp_path: Path) -> None:
    """A stage would show the cell cut out, of another size."""

    class Half:
        digest = "half"

        def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
            return image[::2, ::2]

    cells = _cells(tmp_path, [6, 9]).through((Half(),))
    np.testing.assert_array_equal(score_masks(Bright(100), cells).iou, 1)
    table = outlines("Cells", cells.records, {"above 100": Bright(100)})
    assert [row.caption for row in table.rows] == ["above 100 IoU 1.00"] * 2


def test_a_bad_mask_is_an_image_error(tmp_path: Path) -> None:
    cells = _cells(tmp_path, [6, 9])
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "mask 1.png")
    with pytest.raises(ImageError, match=r"'.*mask 1.png' is not of its image's size"):
        score_masks(Bright(100), cells)


# ----------------------------------------------------------------------------------------------------- intervals


def _plain_interval(values: Sequence[float], unit: Sequence[int], seed: int, n_repeats: int) -> tuple[float, float]:
    """Resample whole units with replacement, take the mean over all their images, and then percentiles."""
    names = sorted(set(unit))
    rng = np.random.default_rng(seed)
    means = []
    for drawn in rng.integers(len(names), size=(n_repeats, len(names))):
        images = [value for place in drawn for value, u in zip(values, unit, strict=True) if u == names[place]]
        means.append(sum(images) / len(images))
    means.sort()

    def percentile(share: float) -> float:
        place = share * (len(means) - 1)
        below = int(place)
        above = min(below + 1, len(means) - 1)
        return means[below] + (place - below) * (means[above] - means[below])

    return percentile(0.025), percentile(0.975)


@given(rows=st.lists(st.tuples(st.floats(0, 1), st.integers(3, 9)), min_size=1, max_size=12), seed=st.integers(0, 999))
@settings(max_examples=20)
def test_the_interval_is_that_of_a_plain_loop(rows: list[tuple[float, int]], seed: int) -> None:
    values, unit = np.array([value for value, _ in rows]), np.array([u for _, u in rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "N_REPEATS", 60)
        low, high = mean_interval(values, unit, seed=seed)
    assert (low, high) == pytest.approx(_plain_interval(values.tolist(), unit.tolist(), seed, 60), abs=1e-9)
    assert values.min() - 1e-9 <= low <= high <= values.max() + 1e-9


def test_the_interval_is_about_two_standard_errors() -> None:
    values = np.random.default_rng(0).uniform(size=400)
    low, high = mean_interval(values, np.arange(400), seed=1)
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)
    assert mean_interval(values, np.arange(400), seed=1) == (low, high)


def test_images_of_one_patient_do_not_count_as_many() -> None:
    values = np.repeat([0.2, 0.4, 0.6, 0.8], 50)
    alone = mean_interval(values, np.arange(200), seed=0)
    grouped = mean_interval(values, np.repeat(np.arange(4), 50), seed=0)
    assert grouped[1] - grouped[0] > 3 * (alone[1] - alone[0])
    assert mean_interval(values, np.zeros(200, np.int64), seed=0) == pytest.approx((0.5, 0.5))


# ---------------------------------------------------------------------------------------------------------- table


def test_the_table_has_a_row_a_segmenter_and_domain(tmp_path: Path) -> None:
    cells = _cells(tmp_path, [6, 7, 8, 9, 10, 11, 12], domains=("x", "y"))
    scores = {"good": score_masks(Bright(100), cells), "core": score_masks(Bright(200), cells)}
    table = mask_table("Masks", scores, seed=3, note="Seven cells.")
    assert table.title == "Masks"
    assert table.columns == ("segmenter", "domain", "images", "mean IoU", "95 %", "mean Dice", "IoU below 0.5")
    assert table.note == "Whole cell against the given mask, at the image's own size. Seven cells."
    assert [row[:3] for row in table.rows] == [("good", "x", 4), ("good", "y", 3), ("core", "x", 4), ("core", "y", 3)]
    assert table.rows[0][3:] == (1.0, "1.000–1.000", 1.0, 0.0)
    for row, here in zip(table.rows[2:], ([0, 2, 4, 6], [1, 3, 5]), strict=True):
        iou, dice = scores["core"].iou[here], scores["core"].dice[here]
        low, high = mean_interval(iou, np.arange(len(here)), seed=3)
        assert row[3] == pytest.approx(iou.mean())
        assert row[4] == f"{low:.3f}–{high:.3f}"
        assert row[5] == pytest.approx(dice.mean())
        assert row[6] == pytest.approx((iou < 0.5).mean())
        assert row[6] == 1.0
    assert mask_table("Masks", scores, seed=3).note == "Whole cell against the given mask, at the image's own size."


def test_intervals_of_the_table_are_over_groups_where_there_are_groups(tmp_path: Path) -> None:
    plain, grouped = (_cells(tmp_path, [6.0 + i % 4 for i in range(16)], n_groups=n_groups) for n_groups in (0, 2))
    iou = np.array([0.3, 0.9] * 8)
    cells = [MaskScores(dataset, iou, iou) for dataset in (plain, grouped)]
    alone, by_group = (mask_table("t", {"a": scores}, seed=0).rows[0] for scores in cells)
    assert alone[:4] == by_group[:4] == ("a", "lab", 16, pytest.approx(0.6))
    assert by_group[4] == "0.300–0.900", "two patients, one of them bad"
    assert alone[4] != by_group[4]


# -------------------------------------------------------------------------------------------------------- pictures


def test_outlines_have_a_picture_a_segmenter_beside_the_true_one(tmp_path: Path) -> None:
    cells = _cells(tmp_path, [6, 9])
    segmenters = {"good": Bright(100), "core": Bright(200)}
    table = outlines("Cells", cells.records, segmenters, note="two")
    assert (table.title, table.note) == ("Cells", "two")
    assert table.columns == ("true outline", "good", "core")
    core = score_masks(Bright(200), cells).iou
    for i, row in enumerate(table.rows):
        assert row.name == f"cell {i}.png"
        assert row.caption == f"good IoU 1.00, core IoU {core[i]:.2f}"
        assert len(row.pictures) == 3
        pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(p))).convert("RGB")) for p in row.pictures]
        assert all(max(picture.shape) == module.SHOWN_PX for picture in pictures)
        np.testing.assert_array_equal(pictures[0], pictures[1])
        assert (pictures[0] != pictures[2]).any()


def test_an_image_without_a_mask_has_no_true_outline_and_no_score(tmp_path: Path) -> None:
    cells = _cells(tmp_path, [6, 9])
    first, second = cells.records
    bare = Record(second.path, "cell", "lab")
    table = outlines("Cells", [first, bare], {"good": Bright(100)})
    assert table.columns == ("true outline", "good")
    assert [bool(row.pictures[0]) for row in table.rows] == [True, False]
    assert [row.caption for row in table.rows] == ["good IoU 1.00", ""]
    none = outlines("Cells", [bare], {"good": Bright(100)})
    assert none.columns == ("good",)
    assert len(none.rows[0].pictures) == 1
    assert outlines("Cells", [], {"good": Bright(100)}).rows == ()


@given(n=st.integers(0, 200))
def test_what_is_shown_is_spread_over_all(n: int) -> None:
    records = [Record(Path(f"{i}.png"), "", "") for i in range(n)]
    places = shown_records(records)
    assert len(places) == min(24, n)
    assert places == sorted(set(places))
    assert all(0 <= place < n for place in places)
    if n >= 2:
        assert (places[0], places[-1]) == (0, n - 1)
    if n > 24:
        assert np.ptp(np.diff(places)) <= 1
