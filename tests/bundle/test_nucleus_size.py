"""How large nuclei are beside the typical one: read from crops, fitted by class, and how far it is to be believed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

import trained
from hemalens.bundle.nucleus_size import (
    DEGREES,
    LEAST_SPREAD,
    WIDENINGS,
    NucleusSize,
    extent_of,
    fit_sizes,
    log_diameters,
    log_likelihoods,
    sizes_of,
)
from hemalens.bundle.stages import CellImageStage, CentredCropStage, ClassicalSegmenter, Stage
from hemalens.datasets import CellDataset, Record
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
    assert fit_sizes(logits, beside, SIZES, np.ones(120))[1] == 1.0
    # every other image is taken at another magnification
    mixed, apart = (fit_sizes(logits, beside + np.tile([-off, off], 60), SIZES, np.ones(120))[1] for off in (0.1, 0.7))
    assert 1.3 < mixed < apart == pytest.approx(math.exp(1.2))


@pytest.mark.parametrize("widening", [WIDENINGS[2], WIDENINGS[5]])
def test_sizes_that_lie_so_much_wider_are_widened_by_as_much(widening: float) -> None:
    found = fit_sizes(_known(200, 3, 30.0), _as_at_home(200, widening), SIZES, np.ones(600))[1]
    assert found == pytest.approx(widening, rel=0.06)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 20))
@settings(deadline=None, max_examples=15)
def test_typical_size_and_widening_are_the_likeliest_of_the_grid(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    logits, logs, counts = rng.normal(size=(n, 3)) * 3, rng.normal(size=n) * 0.4 + 4, rng.uniform(0.1, 1, n)
    powers = np.exp(logits)
    known = powers / powers.sum(axis=1, keepdims=True)
    order = np.argsort(logs)
    middle = next(logs[i] for i in order if counts[logs <= logs[i]].sum() >= counts.sum() / 2)

    def likelihood(typical: float, widening: float) -> float:
        shares = ([_density(x - typical, size, widening) for size in SIZES] for x in logs)
        each = [math.log(np.dot(p, share)) for p, share in zip(known, shares, strict=True)]
        return float(counts @ each) - ((typical - middle) / 0.2) ** 2 / 2

    typical, widening = fit_sizes(logits, logs, SIZES, counts)
    assert abs(typical - middle) <= 0.4 + 1e-9
    best = max(likelihood(middle + off, w) for off in np.linspace(-0.4, 0.4, 9) for w in WIDENINGS[::2])
    assert likelihood(typical, widening) >= best - 1e-9


@pytest.mark.parametrize("kept", [(0,), (1,), (2,), (0, 2)])
def test_a_mix_of_types_does_not_move_the_typical_size(kept: tuple[int, ...]) -> None:
    """The laboratory's cells are those of some types only; its median is theirs."""
    logits, logs = _known(40, 3, 8.0), _as_at_home(40) + 3.7
    rows = np.isin(np.repeat(np.arange(3), 40), kept)
    typical, _ = fit_sizes(logits[rows], logs[rows], SIZES, np.ones(int(rows.sum())))
    assert typical == pytest.approx(3.7, abs=0.05)
