"""COCO JSON: what is written is read, crowds and ids that refer nowhere are counted, rubbish is one clear error."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fake_fields import NAMES, OBJECTS, Object, coco_content, error_of
from hemalens.datasets.fields.coco_json import read_coco
from hemalens.errors import DatasetError

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
SIDES = st.tuples(*[st.floats(0, 1e4)] * 4)


def _written(folder: Path, content: Any) -> Path:
    path = folder / "a.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@SHARED
@given(st.lists(st.lists(st.tuples(st.sampled_from(NAMES), SIDES), max_size=4), min_size=1, max_size=4))
def test_what_is_written_is_read(tmp_path: Path, objects: list[list[Object]]) -> None:
    found = read_coco(_written(tmp_path, coco_content(objects)))
    assert found is not None
    assert found.names == NAMES
    assert [image.annotation.names for image in found.images] == [[name for name, _ in boxes] for boxes in objects]
    for image, boxes in zip(found.images, objects, strict=True):
        for corners, (_, box) in zip(image.annotation.corners, boxes, strict=True):
            assert list(corners) == pytest.approx(box)
    assert not found.dropped


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("id", "image_id", "category_id", "bbox", "file_name", "name", "score", "segmentation"), JSON),
)


PARTS = ("images", "annotations", "categories")


@SHARED
@given(JSON | st.fixed_dictionaries(dict.fromkeys(PARTS, st.lists(ENTRY, max_size=3))))
def test_rubbish_is_another_file_or_one_clear_error(tmp_path: Path, content: Any) -> None:
    path = _written(tmp_path, content)
    error = error_of(lambda: read_coco(path))
    assert error is None or ("\n" not in error and "a.json'" in error)


def _changed(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content: dict[str, Any] = coco_content([OBJECTS])
    change(content)
    return _written(tmp_path, content)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"iscrowd": 1}, "a crowd of cells in one box"),
        ({"image_id": 99}, "of an image id that the file does not list"),
        ({"image_id": [1]}, "of an image id that the file does not list"),
        ({"category_id": 99}, "of a category id that the file does not list"),
        ({"bbox": [1, 2, 3]}, "without a box of four numbers"),
        ({"bbox": [1, 2, "3", 4]}, "without a box of four numbers"),
        ({"bbox": [1, 2, True, 4]}, "without a box of four numbers"),
        ({"bbox": [1, 2, 10**400, 4]}, "without a box of four numbers"),
        ({"bbox": None, "segmentation": {"counts": "abc", "size": [9, 9]}}, "without a box of four numbers"),
        ({"bbox": None, "segmentation": [[1, 2, 3]]}, "without a box of four numbers"),
        ({"score": 1.5}, "a score outside 0 to 1"),
        ({"score": "high"}, "a score outside 0 to 1"),
        ({"score": math.nan}, "a score outside 0 to 1"),
    ],
)
def test_an_annotation_that_cannot_be_used_is_counted(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    found = read_coco(_changed(tmp_path, lambda content: content["annotations"][0].update(change)))
    assert found is not None
    assert dict(found.dropped) == {reason: 1}
    assert len(found.images[0].annotation.names) == len(OBJECTS) - 1


def test_polygons_without_a_box_are_kept_as_the_box_around_them(tmp_path: Path) -> None:
    polygons = {"bbox": [], "segmentation": [[5, 6, 30, 8, 20, 25], [2, 9, 4, 9, 4, 12.5]]}
    found = read_coco(_changed(tmp_path, lambda content: content["annotations"][0].update(polygons)))
    assert found is not None
    assert found.images[0].annotation.corners[0] == (2, 6, 30, 25)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda c: c.pop("categories"),
            "'a.json' has no categories; expected a list of categories, each with an id",
        ),
        (lambda c: c.update(categories=[]), "has no categories"),
        (lambda c: c.update(images={}), "has no images"),
        (lambda c: c.update(annotations=[1]), "has no annotations"),
        (lambda c: c["images"][0].pop("id"), "an entry of 'a.json' has no id"),
        (lambda c: c["images"][0].update(file_name=3), "has no file_name"),
        (lambda c: c["images"].append(dict(c["images"][0])), "gives one id to two images or two categories"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], object], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError) as caught:
        read_coco(_changed(tmp_path, change).relative_to(tmp_path))
    assert says in str(caught.value)


def test_other_json_is_no_coco_file(tmp_path: Path) -> None:
    assert read_coco(_written(tmp_path, {"epochs": 3})) is None
    assert read_coco(_written(tmp_path, [1, 2])) is None
    with pytest.raises(DatasetError, match=r"cannot read the boxes in .*expected COCO JSON"):
        read_coco(_written(tmp_path, "{'a': 1}"))
