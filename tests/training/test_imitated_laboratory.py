"""Imitated laboratories: fixed over a set, far apart from each other, the same pixels for the same image."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.color import lab2rgb, rgb2lab

import trained
from hemalens.datasets import CellDataset
from hemalens.errors import ConfigError
from hemalens.training.imitated_laboratory import (
    GROUND,
    MARGIN,
    SCALE,
    SMEARS,
    UNITS,
    VARIATION,
    ImitatedLaboratory,
    Look,
    around_cell,
    imitated,
    is_plausible,
    rescaled,
)
from hemalens.training.laboratory_augmentation import LaboratoryConfig

Image = NDArray[np.uint8]
GROUND_RGB, NUCLEUS_RGB = (226, 210, 205), (95, 60, 140)


def _cell(seed: int = 0, side: int = 120, radius: float = 18) -> Image:
    """A dark disc near the middle of a bright ground, each image a little different."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - side / 2 + rng.uniform(-8, 8, (2, 1, 1))
    image = np.where((np.hypot(y, x) < radius)[..., None], NUCLEUS_RGB, GROUND_RGB) + rng.normal(0, 3, (side, side, 3))
    return image.clip(0, 255).astype(np.uint8)


def _ground(image: Image) -> NDArray[np.float64]:
    """Median colour in LAB of the brighter half."""
    lab = rgb2lab(image).reshape(-1, 3)
    median: NDArray[np.float64] = np.median(lab[lab[:, 0] >= np.median(lab[:, 0])], axis=0)
    return median


def _strengths(**changes: Any) -> LaboratoryConfig:
    return LaboratoryConfig.from_mapping({**LaboratoryConfig.none().model_dump(), **changes})


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), height=st.integers(20, 90), width=st.integers(20, 90))
def test_the_same_image_gives_the_same_pixels_of_the_stated_size(seed: int, height: int, width: int) -> None:
    laboratory = replace(ImitatedLaboratory.drawn(seed), tight=False)
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    kept, state = image.copy(), torch.get_rng_state()
    first = laboratory(image)
    torch.rand(3)
    assert np.array_equal(first, laboratory(image))
    torch.set_rng_state(state)
    assert np.array_equal(image, kept)
    assert first.dtype == np.uint8
    assert first.shape == (round(height * laboratory.scale), round(width * laboratory.scale), 3)


def test_nothing_is_drawn_from_global_generators() -> None:
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]
    ImitatedLaboratory.drawn(3)(_cell())
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_order_and_threads_change_nothing() -> None:
    laboratory, images = ImitatedLaboratory.drawn(5), [_cell(seed) for seed in range(6)]
    alone = [laboratory(image) for image in images]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(laboratory, reversed(images)))
    assert all(np.array_equal(a, b) for a, b in zip(alone, reversed(together), strict=True))


def test_the_background_varies_little_within_a_laboratory_and_much_between_them() -> None:
    grounds = np.array(
        [[_ground(ImitatedLaboratory.drawn(seed)(_cell(i))) for i in range(5)] for seed in range(10)]
    )  # (laboratories, images, 3)
    within, between = grounds.std(axis=1).mean(axis=0), grounds.mean(axis=1).std(axis=0)
    assert (within < 5).all()
    assert (between > 2 * within).all()
    # each laboratory is nearer to itself than to the others, for most of its images
    middle = grounds.mean(axis=1)
    nearest = np.linalg.norm(grounds[:, :, None] - middle[None, None], axis=-1).argmin(axis=-1)
    assert (nearest == np.arange(10)[:, None]).mean() > 0.7


def test_an_image_varies_about_its_laboratory_by_the_stated_share() -> None:
    """With shifts of lightness alone: up to a tenth of the way to another shift, so within a fifth of the strength."""
    strengths = _strengths(lightness_shift=10.0)
    laboratory = replace(ImitatedLaboratory.drawn(1, strengths), scale=1.0)
    shift = laboratory.look.shifts[0]
    gray = [np.full((8, 8, 3), 120 + i % 3, np.uint8) for i in range(3)]
    noise = np.random.default_rng(0)
    images = [(image + noise.integers(0, 2, image.shape)).astype(np.uint8) for image in gray * 7]
    moved = np.array([np.mean(rgb2lab(laboratory(image))[..., 0] - rgb2lab(image)[..., 0]) for image in images])
    low, high = (1 - VARIATION) * shift - VARIATION * 10, (1 - VARIATION) * shift + VARIATION * 10
    assert (moved > low - 0.2).all()
    assert (moved < high + 0.2).all()
    assert moved.std() > 0.2


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_a_laboratory_lies_in_its_ranges_and_shows_a_smear(seed: int) -> None:
    laboratory = ImitatedLaboratory.drawn(seed)
    assert laboratory == ImitatedLaboratory.drawn(seed)
    assert SCALE[0] <= laboratory.scale <= SCALE[1]
    assert MARGIN[0] <= laboratory.look.margin <= MARGIN[1]
    assert laboratory.jpeg_quality is None or 40 <= laboratory.jpeg_quality <= 95
    look = laboratory.look
    assert 1 / 1.35 - 1e-9 <= look.gains[0] <= 1.35 + 1e-9
    assert all(abs(shift) <= 20 for shift in look.shifts)
    assert 1 <= look.coarseness <= 3
    assert look.coarseness / laboratory.scale <= 4 + 1e-9
    assert 0 <= look.blur <= 1.5 / 160
    # by scikit-image's conversion, of an image of one colour
    for colours in SMEARS:
        ground, nucleus = (
            rgb2lab(
                look.coloured(torch.tensor(lab2rgb([[colour]]), dtype=torch.float32).expand(9, 9, 3).permute(2, 0, 1), 0.0)[
                    :, 4, 4
                ].numpy()
            )
            for colour in colours
        )
        assert all(low - 0.2 <= value <= high + 0.2 for value, (low, high) in zip(ground, GROUND, strict=True))
        assert nucleus[0] < ground[0]
        assert math.dist(ground, nucleus) > 39.8


def test_laboratories_differ_in_scale_crop_and_compression() -> None:
    drawn = [ImitatedLaboratory.drawn(seed) for seed in range(40)]
    assert {each.tight for each in drawn} == {True, False}
    assert 1 <= sum(each.jpeg_quality is not None for each in drawn) < 20
    scales = np.array([each.scale for each in drawn])
    assert scales.min() < 0.5
    assert scales.max() > 1.3
    assert len({each.digest for each in drawn}) == 40


def test_a_digest_covers_all_that_is_drawn() -> None:
    laboratory = ImitatedLaboratory.drawn(7)
    assert laboratory.digest == ImitatedLaboratory.drawn(7).digest
    changes: list[dict[str, Any]] = [
        {"seed": 8},
        {"direction_rad": 0.1},
        {"scale": 1.01},
        {"jpeg_quality": 41},
        {"tight": not laboratory.tight},
        {"strengths": _strengths(gamma=0.1)},
    ]
    assert {name for change in changes for name in change} | {"look"} == {field.name for field in fields(laboratory)}
    others = [replace(laboratory, **change) for change in changes]
    for name, value in asdict(laboratory.look).items():
        other = value + 0.5 if isinstance(value, float) else value[::-1]
        others.append(replace(laboratory, look=replace(laboratory.look, **{name: other})))
    digests = {each.digest for each in others}
    assert len(digests) == len(changes) + len(fields(Look))
    assert laboratory.digest not in digests


def test_all_parameters_have_a_unit_and_pass_through_json() -> None:
    laboratory = ImitatedLaboratory.drawn(2)
    known = laboratory.parameters()
    assert json.loads(json.dumps(known))["look"]["gains"] == list(laboratory.look.gains)
    names = {field.name for field in fields(Look)} | {field.name for field in fields(laboratory)}
    assert set(UNITS) == names - {"look", "seed", "strengths"}


def test_strength_0_changes_the_scale_alone() -> None:
    laboratory = ImitatedLaboratory.drawn(4, LaboratoryConfig.none())
    assert not laboratory.tight
    assert laboratory.jpeg_quality is None
    image = _cell()
    same = replace(laboratory, scale=1.0)(image)
    assert np.abs(same.astype(int) - image).max() <= 1
    smaller = laboratory(image)
    assert smaller.shape == (round(120 * laboratory.scale), round(120 * laboratory.scale), 3)


def test_a_look_between_two_looks() -> None:
    rng = np.random.default_rng(0)
    one, other = (Look.drawn(LaboratoryConfig(), rng) for _ in range(2))
    assert one.towards(other, 0.0) == one
    half = one.towards(other, 0.5)
    for name, value in asdict(half).items():
        np.testing.assert_allclose(value, (np.array(getattr(one, name)) + np.array(getattr(other, name))) / 2)


@pytest.mark.parametrize(
    "change",
    [
        {"shifts": (-40.0, 0.0, 0.0)},
        {"shifts": (0.0, 45.0, 0.0)},
        {"turn_rad": 1.5},
        {"gains": (1.0, 0.1, 0.1)},
        {"haze": 0.9},
        {"channels": (0.5, 1.5, 0.5)},
    ],
    ids=str,
)
def test_what_is_no_smear(change: dict[str, Any]) -> None:
    plain = Look.drawn(LaboratoryConfig.none(), np.random.default_rng(0))
    assert is_plausible(plain)
    assert not is_plausible(replace(plain, **change))


def test_strengths_that_leave_no_smear_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hemalens.training.imitated_laboratory.MOST_DRAWS", 3)
    monkeypatch.setattr("hemalens.training.imitated_laboratory.is_plausible", lambda look: False)
    with pytest.raises(ConfigError, match=r"no imitated laboratory.*got 3.*Lower the strengths"):
        ImitatedLaboratory.drawn(0)


def test_a_tight_crop_holds_the_cell_and_its_margin() -> None:
    image = _cell(3, radius=15)
    cropped = around_cell(image, 0.2)
    assert 30 <= min(cropped.shape[:2]) <= max(cropped.shape[:2]) <= 60
    dark = (image.sum(axis=2) < 400).sum()
    assert (cropped.sum(axis=2) < 400).sum() == dark, "no part of the cell is cut away"
    blank = np.full((30, 40, 3), 200, np.uint8)
    assert around_cell(blank, 0.2) is blank


def test_scaling_has_the_stated_size_and_keeps_the_mean() -> None:
    image = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0))
    assert rescaled(image, 0.4).shape == (3, 16, 24)
    assert rescaled(image, 1.6).shape == (3, 64, 96)
    assert float(rescaled(image, 0.5).mean()) == pytest.approx(float(image.mean()), abs=0.005)
    assert rescaled(torch.rand(3, 1, 1), 0.4).shape == (3, 1, 1)


# ------------------------------------------------------------------------------------------------------------- datasets


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    """Synthetic cells of four types, eight each."""
    return trained.laboratory(tmp_path_factory)


class _Flip:
    digest = "flip"

    def __call__(self, image: Image) -> Image:
        return image[:, ::-1]


def test_the_laboratory_lies_in_front_of_every_stage(cells: CellDataset) -> None:
    found = imitated(cells, 3, "balanced", 20, 0)
    laboratory = ImitatedLaboratory.drawn(3)
    record, plain = found.records[0], found.records[0].path
    raw = next(each for each in cells.records if each.path == plain).read()
    assert np.array_equal(record.read(), laboratory(raw))
    staged = found.through((_Flip(),))
    assert np.array_equal(staged.records[0].read(), laboratory(raw)[:, ::-1])
    assert staged.stages[0].digest == "flip"
    again = staged.records[0].unstaged()
    assert np.array_equal(again.read(), laboratory(raw)), "without stages it is still of that laboratory"
    assert staged.through(()).records == found.records


def test_contents_stay_and_views_and_fingerprints_do_not(cells: CellDataset) -> None:
    one, other = imitated(cells, 3, "balanced", 20, 0), imitated(cells, 4, "balanced", 20, 0)
    assert one.contents == other.contents
    assert set(one.contents) <= set(cells.contents)
    assert one.contents == tuple(record.content_id() for record in one.records)
    plain = {record.path: record for record in cells.records}
    views = [[r.view_id() for r in each.records] for each in (one, other)]
    views.append([plain[record.path].view_id() for record in one.records])
    views.append([record.view_id() for record in one.through((_Flip(),)).records])
    assert len({view for each in views for view in each}) == 80
    same = cells.subset([cells.contents.index(content) for content in one.contents])
    assert len({one.fingerprint, other.fingerprint, same.fingerprint}) == 3
    assert one.fingerprint == imitated(cells, 3, "balanced", 20, 0).fingerprint


def test_the_name_says_what_the_set_is(cells: CellDataset) -> None:
    found = imitated(cells, 3, "blood", 20, 0)
    assert found.name == f"{cells.name} imitation 3, blood"
    assert found.licence == cells.licence
    assert found.synthetic == cells.synthetic
    assert {record.domain for record in found.records} == {record.domain for record in cells.records}, "groups stay known"
    assert all(record.mask_path is None for record in found.records)


def test_strengths_reach_the_laboratory(cells: CellDataset) -> None:
    found = imitated(cells, 3, "blood", 20, 0, strengths=LaboratoryConfig.none())
    assert found.records[0].imitation == ImitatedLaboratory.drawn(3, LaboratoryConfig.none())


def test_a_laboratory_reads_from_files_of_any_place(cells: CellDataset, tmp_path: Path) -> None:
    """A copy of the file under another name gives the same pixels."""
    record = imitated(cells, 9, "balanced", 20, 0).records[5]
    moved = replace(record, path=tmp_path / "copy.png")
    moved.path.write_bytes(record.path.read_bytes())
    assert np.array_equal(moved.read(), record.read())
    assert moved.view_id() == record.view_id()
