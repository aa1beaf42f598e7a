"""Detectors on fields: laboratories, slides, unreadable fields, classifiers, and the finder's least score."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import drawn_detector
from hemalens.datasets.base import Record
from hemalens.datasets.fields.base import Field
from hemalens.datasets.fields.open import open_fields
from hemalens.detection.fields import LEAST_SCORES
from hemalens.errors import DatasetError
from hemalens.evaluation.field_pictures import FALSE, MISSED, RIGHT, with_boxes
from hemalens.evaluation.fields import CURVE_SCORE, Classifier, TestedDetector, find_in_fields, score_fields, units_of
from hemalens.imaging.boxes import KINDS, RED, WHITE, Boxes

NAMES = TestedDetector(detector="detector", source="elsewhere", target="fields")


@dataclass
class StandIn:
    """Finds the same boxes in every field."""

    boxes: Boxes

    def in_field(self, image: NDArray[np.uint8], *, least_score: float) -> Boxes:
        """The boxes above a score."""
        assert image.dtype == np.uint8
        return self.boxes[self.boxes.scores > least_score]


def _field(folder: Path, name: str, truth: Boxes, *, domain: str = "a", group: str | None = None) -> Field:
    path = folder / f"{name}.png"
    seed = sum(map(ord, name))
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
    return Field(Record(path, "", domain=domain, group=group), truth)


ONE = Boxes.of([WHITE, RED], [[10, 10, 30, 30], [40, 40, 50, 50]])


def test_each_laboratory_is_reported_and_all_together(tmp_path: Path) -> None:
    given = [_field(tmp_path, f"f{i}", ONE, domain="ab"[i % 2]) for i in range(5)]
    finder = StandIn(Boxes.of([WHITE, RED], ONE.corners.tolist(), [0.9, 0.8]))
    results = score_fields(find_in_fields(finder, given), NAMES, seed=0)
    assert [(r.laboratory, r.n_fields, r.together) for r in results] == [
        ("a", 3, False),
        ("b", 2, False),
        ("2 laboratories together", 5, True),
    ]
    assert [scores.kind for scores in results[0].kinds] == list(KINDS)
    assert all(scores.recall_centre.value == 1 for r in results for scores in r.kinds[:2])
    assert all(r.worst == () for r in results), "no field has an error"


def test_one_laboratory_is_not_repeated_together(tmp_path: Path) -> None:
    results = score_fields(find_in_fields(StandIn(Boxes()), [_field(tmp_path, "f", ONE)]), NAMES, seed=0)
    assert [r.laboratory for r in results] == ["a"]
    assert results[0].kinds[0].recall_centre.value == 0


def test_an_unreadable_field_is_named_and_not_scored(tmp_path: Path) -> None:
    good, bad = _field(tmp_path, "good", ONE), _field(tmp_path, "bad", ONE)
    bad.record.path.write_bytes(good.record.path.read_bytes()[:200])
    (result,) = score_fields(find_in_fields(StandIn(Boxes()), [good, bad]), NAMES, seed=0)
    assert result.n_fields == 1
    assert list(result.unreadable) == [bad.record.name]
    with pytest.raises(DatasetError, match="no field can be read"):
        find_in_fields(StandIn(Boxes()), [bad])


def test_slides_are_units_and_so_are_copies(tmp_path: Path) -> None:
    a, b = (_field(tmp_path, name, ONE, group="slide") for name in "ab")
    c = _field(tmp_path, "c", ONE)
    other = replace(a, record=replace(a.record, domain="b"))
    assert units_of([a, b, c, c, other]) == [0, 0, 1, 1, 2]
    (result,) = score_fields(find_in_fields(StandIn(Boxes()), [a, b, c]), NAMES, seed=0)
    assert (result.unit, result.n_units) == ("slide", 2)


class Labels:
    """A predictor that gives these labels in turn, and keeps what it was given."""

    def __init__(self, *labels: str | None) -> None:
        self._labels, self.shapes = list(labels), list[tuple[int, ...]]()

    def predict(self, images: list[NDArray[np.uint8]]) -> list[SimpleNamespace]:
        """A prediction an image."""
        self.shapes += [image.shape for image in images]
        return [SimpleNamespace(label=self._labels.pop(0)) for _ in images]


def test_what_a_classifier_calls_something_else_is_left_out(tmp_path: Path) -> None:
    corners = [[10, 10, 30, 30], [40, 10, 50, 20], [60, 10, 70, 20], [60, 40, 70, 50], [40, 40, 50, 50], [0, 50, 10, 60]]
    finder = StandIn(Boxes.of([WHITE] * 4 + [RED, WHITE], corners, [0.9, 0.8, 0.7, 0.6, 0.5, LEAST_SCORES[WHITE] / 2]))
    predictor = Labels("lymphocyte", "platelet", None, "erythroblast")
    classifier = Classifier("net", predictor)  # type: ignore[arg-type]
    (result,) = score_fields(
        find_in_fields(finder, [_field(tmp_path, "f", ONE)], classifier=classifier),
        replace(NAMES, classifier="net"),
        seed=0,
    )
    plain, behind = result.kinds[:2]
    assert (plain.classifier, plain.n_found, plain.precision_centre.value) == ("", 4, 0.25)
    assert (behind.classifier, behind.n_found, behind.precision_centre.value) == ("net", 2, 0.5)
    assert behind.recall_centre.value == 1
    # the window is 2.5 times the box, as far as the field reaches
    assert predictor.shapes[0] == (45, 45, 3)


def test_the_worst_fields_come_first_with_two_pictures(tmp_path: Path) -> None:
    found = Boxes.of([WHITE, RED], ONE.corners.tolist(), [0.9, 0.9])
    missed = Boxes.of([WHITE] * 4, [[10, 10, 30, 30], [60, 0, 70, 10], [60, 20, 70, 30], [60, 40, 70, 50]])
    given = [_field(tmp_path, "right", ONE), _field(tmp_path, "missed", missed)]
    (result,) = score_fields(find_in_fields(StandIn(found), given), NAMES, seed=0)
    (worst,) = result.worst
    assert worst.name == "missed.png"
    assert worst.caption == "white cell: 3 missed; red cell: 1 false"
    assert len(worst.pictures) == 2


def test_boxes_are_drawn_in_their_colours() -> None:
    image = np.full((100, 100, 3), 200, np.uint8)
    for colour in (RIGHT, MISSED, FALSE):
        drawn = with_boxes(image, [(np.array([20.0, 20, 60, 60]), colour)])
        assert (drawn == colour).all(axis=2).sum() > 100
        assert (drawn[300, 300] == 200).all(), "inside the box is the image"


def test_the_finder_gives_fewer_boxes_of_a_higher_score_and_the_same_ones(tmp_path: Path) -> None:
    """Scores are counted above `LEAST_SCORES` among boxes that were looked for above `CURVE_SCORE`."""
    detector = drawn_detector.write_disc_detector(tmp_path / "detector")
    image = np.clip(
        drawn_detector.draw(drawn_detector.discs_of(1)).astype(int)
        + np.random.default_rng(0).integers(-4, 4, (384, 512, 3)),
        0,
        255,
    ).astype(np.uint8)
    low = detector.finder.in_field(image, least_score=CURVE_SCORE)
    high = detector.finder.in_field(image)
    kept = low[low.scores > np.asarray(LEAST_SCORES)[low.kinds]]
    assert len(high) > 0
    assert np.array_equal(np.sort(kept.corners, axis=0), np.sort(high.corners, axis=0))
    assert np.array_equal(np.sort(kept.scores), np.sort(high.scores))


def test_drawn_discs_are_all_found(tmp_path: Path) -> None:
    detector = drawn_detector.write_disc_detector(tmp_path / "detector")
    dataset = open_fields(drawn_detector.write_fields(tmp_path / "fields", 3))
    (result,) = score_fields(find_in_fields(detector.finder, dataset.fields), NAMES, seed=0)
    assert [scores.n_boxes for scores in result.kinds] == [3, 12, 6]
    assert result.kinds[0].recall_centre.value == 1


@pytest.mark.realdata
def test_a_detector_on_real_fields(real_data: Path) -> None:
    """The package's detector finds most cells of 20 fields; every laboratory has scores with intervals."""
    from hemalens.bundle.detector import FOLDER, default_detector

    if not FOLDER.is_dir():
        pytest.skip("this installation has no detector")
    dataset = open_fields(f"txl_pbc:{real_data / 'txl_pbc'}")
    few = dataset.subset(range(0, len(dataset), len(dataset) // 20))
    results = score_fields(find_in_fields(default_detector().finder, few.fields), NAMES, seed=0)
    assert {r.laboratory for r in results if not r.together} == {"raabin", "acevedo20", "bccd"}
    white = results[-1].kinds[WHITE]
    assert white.n_boxes >= 20
    assert white.recall_centre.value is not None
    assert white.recall_centre.value > 0.5
    assert white.counts is not None
    assert white.counts.n_fields == len(few)
