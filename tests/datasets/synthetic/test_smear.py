"""Synthetic fields of view: true boxes, nuclei in white cells, overlapping neighbours, sizes in micrometres."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from hemalens.datasets.synthetic.cells import MORPHOLOGIES
from hemalens.datasets.synthetic.drawing import MASK_NUCLEUS
from hemalens.datasets.synthetic.laboratory import LABORATORIES
from hemalens.datasets.synthetic.smear import (
    PLATELET,
    RED_CELL,
    WHITE_TYPES,
    DrawnField,
    SmearConfig,
    draw_empty_field,
    draw_fields,
)
from hemalens.errors import ConfigError

SMALL = SmearConfig(width_px=400, height_px=300, white_cells=3)


def _drawn(name: str, config: SmearConfig = SMALL, n: int = 1, seed: int = 0) -> list[DrawnField]:
    return draw_fields(LABORATORIES[name], config, n, np.random.default_rng([3, seed]))


@pytest.fixture(scope="module", params=LABORATORIES)
def fields(request: pytest.FixtureRequest) -> tuple[str, list[DrawnField]]:
    """Three fields of one laboratory, each of a stretch of its own."""
    return request.param, [_drawn(request.param, seed=seed)[0] for seed in range(3)]


def test_the_same_generator_draws_the_same_field() -> None:
    (first,), (again,), (other,) = _drawn("lab_a"), _drawn("lab_a"), _drawn("lab_a", seed=1)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.corners, again.corners)
    assert first.cell_types == again.cell_types
    assert not np.array_equal(first.image, other.image)


def test_shapes_and_boxes_inside(fields: tuple[str, list[DrawnField]]) -> None:
    for field in fields[1]:
        assert field.image.shape == (300, 400, 3)
        assert field.mask.shape == (300, 400)
        assert len(field.cell_types) == len(field.numbers) == len(field.corners)
        assert len(set(field.numbers)) == len(field.numbers)
        assert (field.corners[:, :2] >= 0).all()
        assert (field.corners[:, 2:] <= [400, 300]).all()


def test_the_box_of_a_white_cell_is_the_extent_of_its_mask(fields: tuple[str, list[DrawnField]]) -> None:
    seen = 0
    for field in fields[1]:
        white = [i for i, cell_type in enumerate(field.cell_types) if cell_type in WHITE_TYPES]
        covered = np.zeros(field.mask.shape, bool)
        for i in white:
            left, top, right, bottom = field.corners[i].astype(int)
            part = field.mask[top:bottom, left:right] > 0
            # the mask reaches each side of the box
            assert part[0].any() and part[-1].any() and part[:, 0].any() and part[:, -1].any()  # noqa: PT018
            covered[top:bottom, left:right] = True
            whole = left > 0 and top > 0 and right < 400 and bottom < 300
            if whole:
                assert (field.mask[top:bottom, left:right] == MASK_NUCLEUS).any()
                seen += 1
        outside = int((field.mask[~covered] > 0).sum())
        assert outside < 200, "only slivers at the border are not boxed"
    assert seen > 0


def test_cells_have_the_sizes_of_the_laboratory(fields: tuple[str, list[DrawnField]]) -> None:
    name, drawn = fields
    scale = LABORATORIES[name].pixels_per_um
    smallest, largest = LABORATORIES[name].red_cell_diameter_um
    sides = {RED_CELL: [], PLATELET: []}  # type: ignore[var-annotated]
    for field in drawn:
        inside = (field.corners[:, :2] > 0).all(axis=1) & (field.corners[:, 2:] < [400, 300]).all(axis=1)
        for cell_type, box, whole in zip(field.cell_types, field.corners, inside, strict=True):
            side = max(box[2] - box[0], box[3] - box[1]) / scale
            if whole and cell_type in sides:
                sides[cell_type].append(side)
            elif whole:
                lowest, highest = MORPHOLOGIES[cell_type].diameter_um
                assert 0.8 * lowest < side < 1.25 * highest
    assert smallest < np.median(sides[RED_CELL]) < largest + 0.5
    assert 1.5 < np.median(sides[PLATELET]) < 5


def test_the_darkest_places_of_a_field_are_nuclei(fields: tuple[str, list[DrawnField]]) -> None:
    for field in fields[1]:
        if (field.mask == MASK_NUCLEUS).sum() > 500:
            green = field.image[..., 1].astype(float)
            assert green[field.mask == MASK_NUCLEUS].mean() < green[field.mask == 0].mean() - 40


def test_neighbours_share_cells_in_their_overlap() -> None:
    config = SMALL.model_copy(update={"overlap": 0.4})
    for left, right in itertools.pairwise(_drawn("lab_a", config, n=3)):
        shared = set(left.numbers) & set(right.numbers)
        assert shared
        shifts = []
        for number in shared:
            a, b = left.corners[left.numbers.index(number)], right.corners[right.numbers.index(number)]
            assert left.cell_types[left.numbers.index(number)] == right.cell_types[right.numbers.index(number)]
            if all(box[0] > 0 and box[1] > 0 and box[2] < 400 and box[3] < 300 for box in (a, b)):
                shifts.append(a[0] - b[0])
        assert set(shifts) == {round(400 * 0.6)}
        # the same cells photographed anew: alike, not identical
        x = round(400 * 0.6)
        assert not np.array_equal(left.image[:, x:], right.image[:, : 400 - x])


def test_without_overlap_fields_share_no_whole_cell() -> None:
    left, right = _drawn("lab_b", n=2)
    for number in set(left.numbers) & set(right.numbers):
        assert left.corners[left.numbers.index(number)][2] == 400
        assert right.corners[right.numbers.index(number)][0] == 0


def test_density_and_means_are_followed() -> None:
    def count(config: SmearConfig) -> Counter[str]:
        drawn = [_drawn("lab_a", config, seed=seed)[0] for seed in range(4)]
        return Counter("white" if t in WHITE_TYPES else t for field in drawn for t in field.cell_types)

    sparse = count(SMALL.model_copy(update={"red_cells_per_100_um2": 0.3, "platelets": 0.0, "white_cells": 0.0}))
    dense = count(SMALL.model_copy(update={"red_cells_per_100_um2": 1.5, "platelets": 8.0}))
    assert set(sparse) == {RED_CELL}
    assert dense[RED_CELL] > 2.5 * sparse[RED_CELL]
    assert dense[PLATELET] > 10
    assert 2 < dense["white"] < 30, "twelve on average"


def test_types_are_drawn_by_their_shares() -> None:
    config = SMALL.model_copy(update={"types": {"lymphocyte": 1.0}, "white_cells": 5.0})
    types = {t for t in _drawn("lab_a", config)[0].cell_types if t in WHITE_TYPES}
    assert types == {"lymphocyte"}


def test_an_empty_field_has_no_cell() -> None:
    field = draw_empty_field(LABORATORIES["lab_a"], SMALL, np.random.default_rng(0))
    assert field.cell_types == ()
    assert not field.mask.any()
    assert field.image.std(axis=(0, 1)).max() < 10


@pytest.mark.parametrize("types", [{"neutrofil": 1.0}, {"platelet": 1.0}, {}, {"neutrophil": 0.0}, {"neutrophil": -1.0}])
def test_shares_that_cannot_be_used(types: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"unknown white cell|shares of white cells cannot be used"):
        SmearConfig(types=types).shares()
