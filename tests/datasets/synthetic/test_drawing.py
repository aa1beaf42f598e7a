"""Synthetic cells: the contract of `draw_cell`, the masks, and the sizes a haematologist would expect."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from hemalens.datasets.synthetic.cells import CELL_TYPES, MORPHOLOGIES
from hemalens.datasets.synthetic.drawing import draw_cell
from hemalens.datasets.synthetic.laboratory import LABORATORIES, absorbance

Drawn = tuple[NDArray[np.uint8], NDArray[np.uint8]]

N_CELLS = 8


@pytest.fixture(scope="module")
def drawn() -> dict[tuple[str, str], list[Drawn]]:
    """Return `N_CELLS` drawn cells for each (laboratory, cell type)."""
    return {
        (name, cell_type): [draw_cell(cell_type, laboratory, np.random.default_rng([7, i])) for i in range(N_CELLS)]
        for name, laboratory in LABORATORIES.items()
        for cell_type in CELL_TYPES
    }


def _median_area_um2(cells: list[Drawn], pixels_per_um: float) -> float:
    return float(np.median([(mask > 0).sum() for _, mask in cells])) / pixels_per_um**2


def _median_nucleus_fraction(cells: list[Drawn]) -> float:
    return float(np.median([(mask == 255).sum() / (mask > 0).sum() for _, mask in cells]))


@pytest.mark.parametrize("name", LABORATORIES)
@pytest.mark.parametrize("cell_type", CELL_TYPES)
def test_same_generator_state_draws_the_same_cell(name: str, cell_type: str) -> None:
    first = draw_cell(cell_type, LABORATORIES[name], np.random.default_rng(3))
    again = draw_cell(cell_type, LABORATORIES[name], np.random.default_rng(3))
    other = draw_cell(cell_type, LABORATORIES[name], np.random.default_rng(4))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[1], other[1])


def test_shapes_and_types(drawn: dict[tuple[str, str], list[Drawn]]) -> None:
    for (name, _), cells in drawn.items():
        side_px = LABORATORIES[name].image_size_px
        for image, mask in cells:
            assert image.shape == (side_px, side_px, 3)
            assert mask.shape == (side_px, side_px)
            assert image.dtype == mask.dtype == np.uint8
            assert image.flags.c_contiguous
            assert image.flags.writeable


def test_mask_values(drawn: dict[tuple[str, str], list[Drawn]]) -> None:
    for (_, cell_type), cells in drawn.items():
        expected = {0, 128} if cell_type == "platelet" else {0, 128, 255}
        for _, mask in cells:
            assert set(np.unique(mask).tolist()) == expected


@pytest.mark.parametrize("name", LABORATORIES)
@pytest.mark.parametrize("cell_type", ["monocyte", "blast", "eosinophil"])
def test_large_cells_stay_inside_the_image(name: str, cell_type: str) -> None:
    laboratory = LABORATORIES[name]
    for seed in range(15):
        _, mask = draw_cell(cell_type, laboratory, np.random.default_rng([11, seed]))
        border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert not border.any(), f"{cell_type} of seed {seed} touches the border in {name}"


def test_cell_is_one_piece_over_the_centre(drawn: dict[tuple[str, str], list[Drawn]]) -> None:
    for cells in drawn.values():
        for _, mask in cells:
            side_px = mask.shape[0]
            assert mask[side_px // 2, side_px // 2] > 0
            assert ndimage.label(mask > 0)[1] == 1


def test_nucleus_is_wrapped_in_cytoplasm(drawn: dict[tuple[str, str], list[Drawn]]) -> None:
    for cells in drawn.values():
        for _, mask in cells:
            assert not (ndimage.binary_dilation(mask == 255) & (mask == 0)).any()


def test_nucleus_is_darker_than_background(drawn: dict[tuple[str, str], list[Drawn]]) -> None:
    for (_, cell_type), cells in drawn.items():
        inner = 128 if cell_type == "platelet" else 255
        for image, mask in cells:
            assert image[mask == inner].mean() < image[mask == 0].mean() - 15


@pytest.mark.parametrize("name", LABORATORIES)
def test_cell_sizes_follow_morphology(name: str, drawn: dict[tuple[str, str], list[Drawn]]) -> None:
    scale = LABORATORIES[name].pixels_per_um
    areas = {cell_type: _median_area_um2(drawn[name, cell_type], scale) for cell_type in CELL_TYPES}
    assert areas["monocyte"] > areas["neutrophil"] > areas["lymphocyte"] > areas["platelet"]
    assert areas["blast"] > areas["lymphocyte"]
    for cell_type, area in areas.items():
        lowest, highest = MORPHOLOGIES[cell_type].diameter_um
        assert lowest < 2 * np.sqrt(area / np.pi) < highest, cell_type


@pytest.mark.parametrize("name", LABORATORIES)
def test_nucleus_to_cell_ratio_follows_morphology(name: str, drawn: dict[tuple[str, str], list[Drawn]]) -> None:
    ratio = {cell_type: _median_nucleus_fraction(drawn[name, cell_type]) for cell_type in CELL_TYPES}
    assert ratio["lymphocyte"] > ratio["monocyte"] > ratio["neutrophil"]
    assert ratio["blast"] > 0.6
    assert ratio["lymphocyte"] > 0.6
    assert 0.2 < ratio["erythroblast"] < 0.5
    assert ratio["platelet"] == 0


@pytest.mark.parametrize("name", LABORATORIES)
def test_granulocytes_differ_in_cytoplasm_colour(name: str, drawn: dict[tuple[str, str], list[Drawn]]) -> None:
    def mean_cytoplasm(cell_type: str) -> NDArray[np.float64]:
        colours = [image[mask == 128].mean(axis=0) for image, mask in drawn[name, cell_type]]
        mean: NDArray[np.float64] = np.mean(colours, axis=0)
        return mean

    redness = {t: float(np.subtract(*mean_cytoplasm(t)[[0, 2]])) for t in ("neutrophil", "eosinophil", "basophil")}
    brightness = {t: float(mean_cytoplasm(t).mean()) for t in redness}
    assert redness["eosinophil"] > redness["neutrophil"]
    assert brightness["neutrophil"] > brightness["eosinophil"] > brightness["basophil"]


def test_laboratories_differ_in_colour_and_magnification(drawn: dict[tuple[str, str], list[Drawn]]) -> None:
    def colour(name: str) -> NDArray[np.float64]:
        colours = [image.mean(axis=(0, 1)) for t in CELL_TYPES for image, _ in drawn[name, t]]
        mean: NDArray[np.float64] = np.mean(colours, axis=0)
        return mean

    def share(name: str) -> float:
        return float(np.mean([(mask > 0).mean() for _, mask in drawn[name, "neutrophil"]]))

    difference = np.abs(colour("lab_a") - colour("lab_b"))
    assert difference.max() > 25
    assert share("lab_b") > 2 * share("lab_a")


def test_laboratory_names_are_keys() -> None:
    assert list(LABORATORIES) == ["lab_a", "lab_b"]
    assert all(laboratory.name == name for name, laboratory in LABORATORIES.items())


def test_absorbance_inverts_the_stain_colour() -> None:
    rgb = (98.0, 62.0, 142.0)
    np.testing.assert_allclose(255 * np.exp(-absorbance(rgb)), rgb, rtol=1e-5)


@pytest.mark.parametrize("cell_type", CELL_TYPES)
def test_lobe_weights_sum_to_one(cell_type: str) -> None:
    nucleus = MORPHOLOGIES[cell_type].nucleus
    if nucleus is not None:
        assert sum(nucleus.lobe_weights.values()) == pytest.approx(1.0)


def test_unknown_cell_type_names_the_near_matches() -> None:
    with pytest.raises(ValueError, match=r"unknown cell type.*'neutrofil'.*did you mean 'neutrophil'"):
        draw_cell("neutrofil", LABORATORIES["lab_a"], np.random.default_rng(0))
    with pytest.raises(ValueError, match="use one of the expected names"):
        draw_cell("zzz", LABORATORIES["lab_a"], np.random.default_rng(0))
