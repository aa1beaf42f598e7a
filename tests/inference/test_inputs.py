"""What a predictor takes: one or many, on disk or in memory, and always the same prediction for one image."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import trained
from hemalens import Predictor, Record, open_bundle, open_dataset
from hemalens.bundle.bundle import Bundle
from hemalens.errors import ImageError, InputError
from hemalens.inference.inputs import Input


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained.colour_bundle(tmp_path_factory.mktemp("inputs") / "bundle", trained.laboratory(tmp_path_factory))


@pytest.fixture
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.laboratory(tmp_path_factory).records[3].path


def _array(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


WAYS: dict[str, Callable[[Path], Any]] = {
    "text": str,
    "path": Path,
    "record": lambda path: Record(path, "", ""),
    "array": _array,
    "picture": Image.open,
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "open file": io.FileIO,
    "file in memory": lambda path: io.BytesIO(path.read_bytes()),
}


@pytest.mark.parametrize("way", WAYS)
def test_one_image_gives_one_prediction_and_always_the_same(bundle: Bundle, image: Path, way: str) -> None:
    predictor = Predictor(bundle)
    (expected,) = predictor.predict([image])
    assert expected.probabilities is not None
    for many in (False, True):
        given = WAYS[way](image)
        (found,) = predictor.predict([given] if many else given)
        if hasattr(given, "close"):
            given.close()
        assert found.error is None
        np.testing.assert_array_equal(found.probabilities, expected.probabilities)
        assert found.record.path == (image if way in ("text", "path", "record") else Path("#0"))


def test_the_orientation_of_a_picture_counts(bundle: Bundle, image: Path, tmp_path: Path) -> None:
    pixels = _array(image)[:30]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    on_disk, opened = (next(Predictor(bundle).predict(given)) for given in _both(tmp_path / "turned.png"))
    np.testing.assert_array_equal(on_disk.probabilities, opened.probabilities)
    with Image.open(tmp_path / "turned.png") as opened:
        upright = next(Predictor(bundle).predict(_turned(opened)))
    np.testing.assert_array_equal(on_disk.probabilities, upright.probabilities)


def _turned(picture: Image.Image) -> np.ndarray:
    """The pixels of a picture with the orientation 6, turned by hand."""
    return np.ascontiguousarray(np.rot90(np.asarray(picture), -1))


def _both(path: Path) -> Iterator[Any]:
    yield path
    with Image.open(path) as opened:
        yield opened


def test_gray_arrays_and_many_of_them(bundle: Bundle, image: Path) -> None:
    pixels = _array(image)
    gray = np.asarray(Image.fromarray(pixels).convert("L"))
    stack = np.stack([pixels, np.repeat(gray[..., None], 3, axis=2)])
    predictor = Predictor(bundle)
    found = list(predictor.predict(stack))
    assert [str(p.record.path) for p in found] == ["#0", "#1"]
    np.testing.assert_array_equal(next(predictor.predict(gray)).probabilities, found[1].probabilities)


def test_a_dataset_is_many(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> None:
    cells = trained.laboratory(tmp_path_factory)
    assert [p.record for p in Predictor(bundle).predict(cells)] == list(cells.records)


def test_unreadable_images_in_memory_are_rows(bundle: Bundle) -> None:
    small = np.zeros((4, 9, 3), np.uint8)
    found = list(Predictor(bundle).predict([b"no image", b"", small, Image.new("F", (20, 20))]))
    assert [p.label for p in found] == [None] * 4
    assert all("'#" in str(p.error) and "hemalens.image" not in str(p.error) for p in found)


BAD: dict[str, Any] = {
    "none": None,
    "a number": 3,
    "a dict": {"a": "b"},
    "a list of numbers": [1, 2],
    "none in a list": ["a.png", None],
    "an empty text": "",
    "a text with a null": "a\x00b",
    "floats": np.zeros((20, 20, 3)),
    "alpha": np.zeros((20, 20, 4), np.uint8),
    "channels first": np.zeros((3, 20, 20), np.uint8),
    "a row of pixels": np.zeros(20, np.uint8),
    "16 bits": np.zeros((20, 20, 3), np.uint16),
    "floats in a stack": np.zeros((2, 20, 20, 3)),
    "an open text": io.StringIO("text"),
}


@pytest.mark.parametrize("what", BAD)
def test_anything_else_is_refused_at_the_door(bundle: Bundle, what: str) -> None:
    with pytest.raises(InputError):
        Predictor(bundle).predict(BAD[what])


def test_a_generator_is_checked_as_its_items_come(bundle: Bundle, image: Path) -> None:
    answers = Predictor(bundle, n_workers=1).predict(each for each in [*[image] * 8, 3])
    assert next(answers).label is not None
    with pytest.raises(InputError, match="input 8 is no image"):
        list(answers)


@pytest.mark.parametrize(
    "settings",
    [
        {"abstain_below": 2},
        {"abstain_below": float("nan")},
        {"abstain_below": "x"},
        {"abstain_below": True},
        {"abstain_below": -0.1},
        {"n_workers": -1},
        {"n_workers": 0},
        {"n_workers": 1.5},
        {"n_workers": True},
        {"embeddings": "x"},
        {"monitor": "x"},
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(bundle: Bundle, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Predictor(bundle, **settings)


def test_a_bundle_by_its_folder_and_by_that_of_its_run(bundle: Bundle, image: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "bundle").symlink_to(bundle.path, target_is_directory=True)
    assert open_bundle(bundle) is bundle
    (expected,) = Predictor(bundle).predict(image)
    for given in (str(bundle.path), bundle.path, str(run), run):
        (found,) = Predictor(given).predict(image)
        np.testing.assert_array_equal(found.probabilities, expected.probabilities)


def test_notebooks_and_dictionaries(bundle: Bundle, image: Path, tmp_path: Path) -> None:
    (found,) = Predictor(bundle).predict(image)
    values = found.to_dict()
    assert values["label"] == found.label
    assert values["path"] == str(image)
    assert values["probabilities"] == pytest.approx(found.probabilities)
    cells = trained.colour_cells(tmp_path / "<b>cells", {"neutrophil": (200, 0, 0), "lymphocyte": (0, 0, 200)}, 3, seed=0)
    dataset = open_dataset(f"folder:{cells}")
    for shown in (found, bundle, dataset):
        assert shown._repr_html_().startswith("<table>")
    assert "<b>" not in dataset._repr_html_()
    assert f">{found.label} ({max(found.probabilities):.3f})</td>" in found._repr_html_()
    assert "abstained" not in found._repr_html_()
    (unsure,) = Predictor(bundle, abstain_below=1.0).predict(image)
    assert "abstained" in unsure._repr_html_()
    frame = dataset.to_frame()
    assert frame["label"].tolist() == [record.label for record in dataset.records]
    assert frame["path"].tolist() == [str(record.path) for record in dataset.records]
    assert frame["x_min"].isna().all()


def test_inputs_may_read_their_bytes_late(bundle: Bundle, image: Path) -> None:
    """Nothing is read before its turn, and what cannot be read is a prediction with an error."""
    read: list[str] = []

    def content(name: str) -> bytes:
        read.append(name)
        if name == "gone":
            raise ImageError("image 'gone' does not exist")
        return image.read_bytes()

    def inputs() -> Iterator[Input]:
        for name in ("a", "gone", "b"):
            yield Input(Record(Path(name), source_label="", domain=""), partial(content, name))

    predictions = Predictor(bundle, n_workers=1).predict(inputs())
    assert read == []
    found = list(predictions)
    assert read == ["a", "gone", "b"]
    assert [each.record.name for each in found] == ["a", "gone", "b"]
    assert [each.error for each in found] == [None, "image 'gone' does not exist", None]
    (expected,) = Predictor(bundle).predict(image)
    np.testing.assert_array_equal(found[2].probabilities, expected.probabilities)
