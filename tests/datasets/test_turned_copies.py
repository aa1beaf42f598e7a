"""Turned, mirrored and shifted copies are found with their orientation; other cells of the same types are not."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from hemalens.datasets.hash_index import packed
from hemalens.datasets.near_copies import ORIENTATIONS, join_near_copies, thumbnail, turned
from hemalens.datasets.relatives import Orientation, Relatives
from hemalens.datasets.synthetic import CELL_TYPES, LABORATORIES, draw_cell
from hemalens.datasets.turned_copies import MIN_SIDE_PX, join_turned_copies, view

KINDS = st.sampled_from(tuple(CELL_TYPES))


@functools.cache
def _cell(kind: str, number: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng([11, number, list(CELL_TYPES).index(kind)])
    return draw_cell(kind, LABORATORIES["lab_a"], rng)[0]


def _augmented(
    image: NDArray[np.uint8],
    orientation: Orientation,
    *,
    zoom: float = 1.0,
    shift: Sequence[float] = (0, 0),
    **fill: object,
) -> NDArray[np.uint8]:
    """Mirror, turn counter-clockwise, enlarge by `zoom` and move by `shift` pixels, by the definition of each."""
    if orientation.mirrored:
        image = image[:, ::-1]
    angle = np.radians(orientation.angle_deg)
    middle = (np.array(image.shape[:2]) - 1) / 2
    # rows go down: the source of a pixel of a picture turned counter-clockwise
    inverse = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / zoom
    offset = middle - inverse @ (middle + np.asarray(shift))
    channels = [ndimage.affine_transform(image[..., c], inverse, offset, order=1, **fill) for c in range(3)]
    return np.stack(channels, axis=-1)


def _joined(images: Sequence[NDArray[np.uint8]]) -> list[tuple[int, int, Orientation]]:
    return join_turned_copies([view(Image.fromarray(image)) for image in images], Relatives(len(images)))


def test_the_test_turns_as_numpy_does() -> None:
    image = _cell("neutrophil", 0)
    for orientation in ORIENTATIONS:
        difference = _augmented(image, orientation, mode="nearest").astype(int) - turned(image, orientation)
        assert np.abs(difference).max() <= 1


def test_hashes_are_the_perceptual_hashes_of_the_turned_image() -> None:
    image = _cell("neutrophil", 1)
    found = thumbnail(Image.fromarray(image))
    for code, orientation in zip(found.hashes, ORIENTATIONS, strict=True):
        expected = imagehash.phash(Image.fromarray(np.ascontiguousarray(turned(image, orientation)))).hash.ravel()
        # shrinking rounds, and a turned image is shrunk along other axes
        assert np.bitwise_count(code ^ packed(expected)) <= 2


@given(KINDS, st.integers(0, 3), st.sampled_from(ORIENTATIONS[1:]))
def test_each_quarter_turn_of_a_cell_is_found_with_its_orientation(
    kind: str, number: int, orientation: Orientation
) -> None:
    image = _cell(kind, number)
    copy = np.ascontiguousarray(turned(image, orientation))
    near = join_near_copies([thumbnail(Image.fromarray(each)) for each in (image, copy)], Relatives(2))
    assert [(i, j, found) for i, j, found, _ in near] == [(0, 1, orientation)]


@settings(max_examples=30)
@given(
    st.sampled_from(("neutrophil", "eosinophil", "monocyte", "lymphocyte")),
    st.integers(0, 3),
    st.booleans(),
    st.integers(0, 359),
    st.tuples(
        st.floats(0.92, 1.08),
        st.tuples(st.floats(-0.08, 0.08), st.floats(-0.08, 0.08)),
        st.sampled_from(({"mode": "nearest"}, {"mode": "constant", "cval": 0}, {"mode": "constant", "cval": 255})),
    ),
)
def test_a_copy_at_any_angle_is_found_with_its_orientation(
    kind: str, number: int, mirrored: bool, angle: int, moves: tuple[float, tuple[float, float], dict[str, object]]
) -> None:
    zoom, shift, fill = moves
    image = _cell(kind, number)
    wanted = Orientation(mirrored, float(angle))
    moved = [share * image.shape[0] for share in shift]
    joined = _joined([image, _augmented(image, wanted, zoom=zoom, shift=moved, **fill)])
    assert [(i, j) for i, j, _ in joined] == [(0, 1)]
    found = joined[0][2]
    assert found.mirrored == mirrored
    assert abs((found.angle_deg - angle + 180) % 360 - 180) <= 2


def test_other_cells_are_not_joined() -> None:
    images = [_cell(kind, 100 + number) for kind in CELL_TYPES for number in range(12)]
    relatives = Relatives(len(images))
    assert join_near_copies([thumbnail(Image.fromarray(image)) for image in images], relatives) == []
    assert join_turned_copies([view(Image.fromarray(image)) for image in images], relatives) == []


def test_brightness_and_contrast_do_not_hide_a_copy() -> None:
    image = _cell("eosinophil", 2)
    copy = _augmented(image, Orientation(True, 45.0), mode="nearest")
    changed = np.clip(0.8 * copy.astype(float) + 25, 0, 255).astype(np.uint8)
    ((_, _, found),) = _joined([image, changed])
    assert found.mirrored


def test_images_without_structure_and_small_ones_have_no_view() -> None:
    assert view(Image.new("RGB", (80, 80), (230, 225, 228))) is None
    assert view(Image.new("RGB", (80, 80))) is None
    cell = Image.fromarray(_cell("neutrophil", 0))
    assert view(cell.resize((MIN_SIDE_PX, MIN_SIDE_PX))) is not None
    assert view(cell.resize((MIN_SIDE_PX - 1, 200))) is None
    steps: list[int] = []
    assert join_turned_copies([None, view(cell), None], Relatives(3), steps.append) == []
    assert sum(steps) == 3


def test_a_crowd_of_copies_of_few_cells_falls_into_as_many_sets() -> None:
    rng = np.random.default_rng(3)
    images = [
        _augmented(
            _cell("monocyte", number), Orientation(bool(rng.integers(2)), float(rng.uniform(0, 360))), mode="nearest"
        )
        for number in range(4)
        for _ in range(25)
    ]
    relatives = Relatives(len(images))
    steps: list[int] = []
    join_turned_copies([view(Image.fromarray(image)) for image in images], relatives, steps.append)
    assert relatives.sets() == [list(range(start, start + 25)) for start in range(0, 100, 25)]
    assert sum(steps) == 100


@pytest.mark.realdata
def test_real_cells_of_one_smear_are_no_copies_but_their_turned_copies_are(real_data) -> None:  # type: ignore[no-untyped-def]
    folder = real_data / "acevedo20" / "PBC_dataset_normal_DIB" / "neutrophil"
    images = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.jpg"))[:120]]
    rng = np.random.default_rng(0)
    copies = [
        _augmented(image, Orientation(bool(rng.integers(2)), float(rng.uniform(0, 360))), mode="nearest")
        for image in images
    ]
    joined = _joined([*images, *copies])
    assert {abs(i - j) for i, j, _ in joined} == {120}
    assert len(joined) >= 115
