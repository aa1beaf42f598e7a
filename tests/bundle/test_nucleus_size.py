"""How large nuclei are beside the typical one: read from crops, fitted by class, and how far it is to be believed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

import trained
from hemalens.bundle.detector import default_detector
from hemalens.bundle.nucleus_size import (
    DEGREES,
    LEAST_SPREAD,
    WIDENINGS,
    NucleusSize,
    extent_of,
    log_diameters,
    log_likelihoods,
    sizes_of,
    widening_of,
)
from hemalens.bundle.stages import CellImageStage, CentredCropStage, ClassicalSegmenter, Stage
from hemalens.datasets import CellDataset, Record, open_dataset
from hemalens.datasets.base import Source
from hemalens.errors import ImageError
from hemalens.imaging.centred_crop import CentredCropConfig
from hemalens.imaging.segmentation import CellImageConfig

STAGES: tuple[Stage, ...] = (CentredCropStage(trained.finder(), CentredCropConfig(extent=2.0)),)
CLASSES = ("neutrophil", "lymphocyte")
SIZES = (NucleusSize(centre=-0.2, scale=0.05), NucleusSize(centre=0.0, scale=0.1), NucleusSize(centre=0.3, scale=0.07))
SIDES = {"neutrophil": [80, 84, 88, 92, 96, 100, 104, 108, 150], "lymphocyte": [60, 62, 64, 66, 68, 70, 72, 74]}


def _crops(folder: Path, sides: Mapping[str, list[int]], *, source: int = 0) -> list[Record]:
    """Crops of these sides in pixels, with nothing on them."""
    folder.mkdir(parents=True)
    records = []
    for label, of_label in sides.items():
        for i, side in enumerate(of_label):
            path = folder / f"{label} {i}.png"
            Image.fromarray(np.full((side, side, 3), 200, np.uint8)).save(path)
            records.append(Record(path, label, folder.name, label=label, source=source))
    return records


def _dataset(records: list[Record], sources: tuple[Source, ...] = ()) -> CellDataset:
    return CellDataset("cells", tuple(records), CLASSES, "five_class", "-", "-", sources=sources)


def _density(x: float, size: NucleusSize, widening: float = 1.0) -> float:
    """Student's density with 4 degrees of freedom, written out: Gamma(5/2) / (Gamma(2) sqrt(4 pi)) (1 + z^2 / 4)^(-5/2)."""
    scale = size.scale * widening
    z = (x - size.centre) / scale
    return math.gamma(2.5) / (math.gamma(2) * math.sqrt(4 * math.pi)) * (1 + z**2 / 4) ** -2.5 / scale


def _fitted(values: np.ndarray) -> tuple[float, float]:
    """Likeliest centre and scale of a Student distribution with 4 degrees of freedom, by expectation maximisation."""
    centre, scale = float(np.median(values)), float(values.std())
    for _ in range(3000):
        weights = 5 / (4 + ((values - centre) / scale) ** 2)
        centre = float((weights * values).sum() / weights.sum())
        scale = math.sqrt((weights * (values - centre) ** 2).mean())
    return centre, scale


# ------------------------------------------------------------------------------------------------- sizes from the crops


def test_a_crop_tells_its_nucleus_by_its_side_in_extents(tmp_path: Path) -> None:
    records = _crops(tmp_path / "a", {"neutrophil": [100, 50, 33]})
    np.testing.assert_allclose(np.exp(log_diameters(records, 2.0)), [50, 25, 16.5])
    np.testing.assert_allclose(np.exp(log_diameters(records, 1.25)), [80, 40, 26.4])


@pytest.mark.parametrize("extent", [1.0, 2.0, 3.0])
def test_a_drawn_nucleus_comes_back_with_its_diameter(tmp_path: Path, extent: float) -> None:
    rows, columns = np.indices((160, 180))
    stage, records = CentredCropStage(trained.finder(), CentredCropConfig(extent=extent)), []
    for radius in (12, 20, 33):
        image = np.where((np.hypot(rows - 80, columns - 90) < radius)[..., None], (84, 38, 128), (238, 226, 214))
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / f"{radius}.png")
        records.append(Record(tmp_path / f"{radius}.png", "", "lab", before=(stage,)))
    np.testing.assert_allclose(np.exp(log_diameters(records, extent)), [24, 40, 66], atol=2)


def test_an_image_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"broken.png"):
        log_diameters([Record(tmp_path / "broken.png", "", "lab")], 2.0)


def test_only_a_centred_crop_as_the_last_stage_gives_the_size() -> None:
    crop, cell = (
        CentredCropStage(trained.finder(), CentredCropConfig(extent=1.7)),
        CellImageStage(ClassicalSegmenter(), CellImageConfig()),
    )
    assert extent_of((crop,)) == extent_of((cell, crop)) == 1.7
    assert [extent_of(stages) for stages in ((), (cell,), (crop, cell))] == [None] * 3


# ----------------------------------------------------------------------------------------------------- sizes of classes


def test_a_class_has_the_likeliest_centre_and_scale_beside_the_median(tmp_path: Path) -> None:
    """The one much larger neutrophil hardly counts."""
    found = sizes_of(_dataset(_crops(tmp_path / "a", SIDES)), STAGES)
    assert len(found) == 2
    # the median of all seventeen sides
    assert sorted(SIDES["neutrophil"] + SIDES["lymphocyte"])[8] == 80
    for size, label in zip(found, CLASSES, strict=True):
        centre, scale = _fitted(np.log(np.array(SIDES[label]) / 80))
        assert size.centre == pytest.approx(centre, abs=1e-3)
        assert size.scale == pytest.approx(scale, rel=1e-2)
    assert found[0].centre < np.log(np.mean(SIDES["neutrophil"]) / 80)


@pytest.mark.parametrize("factor", [0.5, 2.5])
def test_magnification_does_not_count(tmp_path: Path, factor: float) -> None:
    larger = {label: [round(side * factor) for side in sides] for label, sides in SIDES.items()}
    first, second = (sizes_of(_dataset(_crops(tmp_path / n, s)), STAGES) for n, s in (("a", SIDES), ("b", larger)))
    for one, other in zip(first, second, strict=True):
        assert other.centre == pytest.approx(one.centre, abs=0.005)
        assert other.scale == pytest.approx(one.scale, abs=0.005)


def test_each_of_several_sets_has_its_own_median(tmp_path: Path) -> None:
    larger = {label: [3 * side for side in sides] for label, sides in SIDES.items()}
    records = [*_crops(tmp_path / "a", SIDES), *_crops(tmp_path / "b", larger, source=1)]
    apart = tuple(Source(name, "-", "-", synthetic=False) for name in ("a", "b"))
    alone = sizes_of(_dataset(records[:17]), STAGES)
    together = sizes_of(_dataset(records, apart), STAGES)
    for one, other in zip(alone, together, strict=True):
        assert other.centre == pytest.approx(one.centre, abs=1e-3)
        assert other.scale == pytest.approx(one.scale, rel=1e-2)
    mixed = sizes_of(_dataset(records), STAGES)
    assert min(size.scale for size in mixed) > 0.3, "as one set their sizes would tell nothing"


def test_a_type_with_fewer_than_8_cells_is_taken_to_lie_as_all_do(tmp_path: Path) -> None:
    records = _crops(tmp_path / "a", SIDES)
    _, lymphocytes = sizes_of(_dataset(records), STAGES)
    _, few = sizes_of(_dataset(records[:-1]), STAGES)
    sides = np.array([record.read().shape[0] for record in records[:-1]], float)
    _, centre, scale = stats.t.fit(np.log(sides) - np.median(np.log(sides)), fdf=DEGREES)
    assert (few.centre, few.scale) == (pytest.approx(centre), pytest.approx(scale))
    assert few.scale > 2 * lymphocytes.scale


def test_what_is_no_white_cell_has_no_say_in_the_median(tmp_path: Path) -> None:
    cells = _crops(tmp_path / "a", SIDES)
    plain = sizes_of(_dataset(cells), STAGES)
    further = CellDataset(
        "cells", (*cells, *_crops(tmp_path / "b", {"artefact": [400] * 20})), (*CLASSES, "artefact"), "smear", "-", "-"
    )
    *mature, artefact = sizes_of(further, STAGES)
    assert tuple(mature) == plain
    sides = np.array([record.read().shape[0] for record in cells], float)
    assert artefact.centre == pytest.approx(stats.t.fit(np.log(sides) - np.median(np.log(sides)), fdf=DEGREES)[1])


def test_nothing_is_said_of_sizes_with_fewer_than_8_cells_or_where_stages_hide_them(tmp_path: Path) -> None:
    records = _crops(tmp_path / "a", SIDES)
    assert len(sizes_of(_dataset(records), STAGES)) == 2
    assert sizes_of(_dataset(records[:7]), STAGES) == ()
    assert sizes_of(CellDataset("none", (), (), "five_class", "-", "-"), STAGES) == ()
    hiding: tuple[Stage, ...] = (CellImageStage(ClassicalSegmenter(), CellImageConfig()),)
    assert [sizes_of(_dataset(records), stages) for stages in ((), hiding)] == [()] * 2


def test_cells_all_of_one_size_are_not_taken_for_a_law(tmp_path: Path) -> None:
    sides = {"neutrophil": [80, 81] * 4, "lymphocyte": [60] * 8}
    found = sizes_of(_dataset(_crops(tmp_path / "a", sides)), STAGES)
    assert [size.scale for size in found] == [LEAST_SPREAD] * 2
    # the median is that of the logarithms, between 60 and 80
    assert found[1].centre == pytest.approx(np.log(60 / math.sqrt(60 * 80)), abs=1e-3)


# ---------------------------------------------------------------------------------------------------- what sizes say


@given(
    beside=st.lists(st.floats(-3, 3), min_size=1, max_size=5),
    centre=st.floats(-1, 1),
    scale=st.floats(0.02, 1),
    widening=st.floats(1, 4),
)
def test_the_density_is_student_s(beside: list[float], centre: float, scale: float, widening: float) -> None:
    sizes = (NucleusSize(centre=centre, scale=scale), *SIZES)
    found = log_likelihoods(np.array(beside), sizes, widening)
    expected = [[math.log(_density(x, size, widening)) for size in sizes] for x in beside]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_a_size_far_from_all_classes_proves_little() -> None:
    """Beyond some scales, the further off, the less: 4 degrees of freedom, and not a normal distribution's square."""
    far, further = log_likelihoods(np.array([3.0, 30.0]), SIZES)
    assert np.ptp(far) < 5
    assert np.ptp(further) < np.ptp(far)


def _known(n: int, k: int, certainty: float) -> np.ndarray:
    """Logits (n * k, k) of as many images of each class, each known by so much."""
    return np.asarray(certainty * np.eye(k)[np.repeat(np.arange(k), n)])


def _as_at_home(n: int, widening: float = 1.0) -> np.ndarray:
    """Sizes (n * k,) that lie as `SIZES` say, evenly by their share."""
    places = (np.arange(n) + 0.5) / n
    return np.concatenate([stats.t.ppf(places, DEGREES, size.centre, size.scale * widening) for size in SIZES])


@pytest.mark.parametrize("certainty", [3.0, 100.0])
def test_sizes_as_at_home_are_not_widened_and_mixed_magnifications_are(certainty: float) -> None:
    logits, beside = _known(40, 3, certainty), _as_at_home(40)
    assert widening_of(logits, beside, SIZES) == 1.0
    # every other image is taken at another magnification
    mixed, apart = (widening_of(logits, beside + np.tile([-off, off], 60), SIZES) for off in (0.1, 0.7))
    assert 1.3 < mixed < apart == pytest.approx(math.exp(1.2))


@pytest.mark.parametrize("widening", [WIDENINGS[6], WIDENINGS[14]])
def test_sizes_that_lie_so_much_wider_are_widened_by_as_much(widening: float) -> None:
    found = widening_of(_known(200, 3, 30.0), _as_at_home(200, widening), SIZES)
    assert found == pytest.approx(widening, rel=0.06)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 20))
def test_the_widening_is_the_likeliest_of_the_grid_whatever_the_order(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    logits, beside = rng.normal(size=(n, 3)) * 3, rng.normal(size=n) * 0.4
    powers = np.exp(logits)
    known = powers / powers.sum(axis=1, keepdims=True)

    def likelihood(widening: float) -> float:
        shares = ([_density(x, size, widening) for size in SIZES] for x in beside)
        return sum(math.log(np.dot(p, share)) for p, share in zip(known, shares, strict=True))

    found = widening_of(logits, beside, SIZES)
    assert likelihood(found) >= max(likelihood(w) for w in WIDENINGS) - 1e-9
    order = rng.permutation(3)
    again = widening_of(logits[::-1][:, order] + 7, beside[::-1], [SIZES[i] for i in order])
    assert likelihood(again) == pytest.approx(likelihood(found), abs=1e-9)


# ---------------------------------------------------------------------------------------------------------- real images


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("spec", "least"),
    [
        ("acevedo20:{}/acevedo20", 0.96),
        ("jtsc:{}/zheng2018", 0.88),
        ("cellavision100:{}/zheng2018", 0.82),
        ("bccd:{}/bccd", 0.92),
    ],
)
def test_within_a_laboratory_size_tells_lymphocytes_from_monocytes(real_data: Path, spec: str, least: float) -> None:
    whole = open_dataset(spec.format(real_data))
    two = [[r for r in whole.records if r.label == label][:100] for label in ("lymphocyte", "monocyte")]
    stage = CentredCropStage(default_detector().finder, CentredCropConfig(extent=2.0))
    small, large = (log_diameters([replace(r, before=(stage,)) for r in records], 2.0) for records in two)
    # the area under the ROC curve: how often of a pair the monocyte's nucleus is the larger one
    assert np.mean(large[:, None] > small[None, :]) >= least
