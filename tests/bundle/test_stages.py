"""The stages: what they show is made once and kept, counted, known by a digest; and bundles name and repeat them."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

import trained
from hemalens.bundle.artifact import MANIFEST
from hemalens.bundle.bundle import MODEL, Bundle, open_bundle, write_bundle
from hemalens.bundle.seen import SEEN, seen_images
from hemalens.bundle.stages import (
    CENTRED,
    CLASSICAL,
    DETECTOR,
    SEGMENTER,
    CellImageEntry,
    CellImageStage,
    CentredCropEntry,
    CentredCropStage,
    ClassicalSegmenter,
    GraphSegmenter,
    Stage,
    kept_mask,
    stage_of,
)
from hemalens.datasets import CellDataset, Record
from hemalens.detection.finder import CellFinder
from hemalens.detection.single_cell import FoundNucleus
from hemalens.errors import BundleError, ImageError
from hemalens.evaluation.evaluate import predict_dataset
from hemalens.files import sha256_file
from hemalens.imaging.centred_crop import CentredCropConfig, centred_crop
from hemalens.imaging.segmentation import CellImageConfig, cell_image, segment_cell
from hemalens.inference.predictor import Predictor
from hemalens.methods import find_method

SMALL = CellImageConfig(size_px=32, margin_px=3, background=90)
OTHER = {
    "size_px": 64,
    "margin_px": 64,
    "background": 64,
    "crop": False,
    "cut_from": "resized",
    "connectivity": 4,
    "resampling": "spline",
}
"""Another value than in SMALL for every setting."""
FINDER = trained.finder()
CLOSE = CentredCropConfig(extent=1.6)
"""A crop has as many pixels as its window."""


@pytest.fixture(autouse=True)
def _cache_of_the_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEMALENS_CACHE", str(tmp_path / "cache of the test"))


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    return trained.laboratory(tmp_path_factory)


class Red:
    """A segmenter without learning: where red is over 200. `seen` are the images it was asked for."""

    name = "red"
    digest = "red over 200"

    def __init__(self) -> None:
        self.seen: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.bool_]:
        with self._lock:
            self.seen.append(image)
        mask: NDArray[np.bool_] = image[..., 0] > 200
        return mask


def _picture(box: tuple[int, int, int, int] | None, *, seed: int = 0) -> NDArray[np.uint8]:
    """Dark noise with a reddish square."""
    image = np.random.default_rng(seed).integers(0, 150, (40, 50, 3), dtype=np.uint8)
    if box is not None:
        top, left, bottom, right = box
        image[top:bottom, left:right, 0] = 230
    return image


PICTURES = {
    "cell": _picture((10, 10, 30, 28)),
    "touches border": _picture((0, 10, 20, 30)),
    "no white cell": _picture(None),
}


# --------------------------------------------------------------------------------------------------------- the stage


def test_it_shows_the_cell_that_the_segmenter_finds() -> None:
    stage = CellImageStage(Red(), SMALL)
    for outcome, image in PICTURES.items():
        expected = cell_image(image, image[..., 0] > 200, SMALL)
        made = stage.make(image)
        assert made.outcome == expected.outcome == outcome
        np.testing.assert_array_equal(made.pixels, expected.pixels)
        np.testing.assert_array_equal(stage(image), expected.pixels)
    assert stage.seen == dict.fromkeys(PICTURES, 1), "what is called is counted, what is only made is not"


def test_a_cell_image_is_made_once_and_comes_back_the_same() -> None:
    segmenter = Red()
    stage = CellImageStage(segmenter, SMALL)
    first = {name: stage(image) for name, image in PICTURES.items()}
    assert len(segmenter.seen) == 3
    for again in (stage, CellImageStage(segmenter, SMALL)):
        for name, image in PICTURES.items():
            made = again.make(image.copy())
            assert made.outcome == name
            np.testing.assert_array_equal(made.pixels, first[name])
            assert made.pixels.dtype == np.uint8
            np.testing.assert_array_equal(again(image), first[name])
    assert len(segmenter.seen) == 3, "what is kept is not segmented again"
    assert stage.seen == dict.fromkeys(PICTURES, 2), "found in the cache, it counts all the same"


def test_other_pixels_another_shape_and_another_stage_are_made_anew() -> None:
    segmenter = Red()
    image = PICTURES["cell"]
    CellImageStage(segmenter, SMALL)(image)
    changed = image.copy()
    changed[0, 0, 2] += 1
    CellImageStage(segmenter, SMALL)(changed)
    CellImageStage(segmenter, SMALL)(image.reshape(50, 40, 3))
    wider = SMALL.model_copy(update={"margin_px": 9})
    assert CellImageStage(segmenter, wider)(image).shape == (32, 32, 3)
    larger = SMALL.model_copy(update={"size_px": 48})
    assert CellImageStage(segmenter, larger)(image).shape == (48, 48, 3)
    assert len(segmenter.seen) == 5


def test_images_that_come_by_once_are_not_kept_and_come_out_the_same(tmp_path: Path) -> None:
    segmenter = Red()
    kept = CellImageStage(segmenter, SMALL)
    passing = kept.once()
    assert passing.digest == kept.digest
    assert passing.entry() == kept.entry()
    for _ in range(2):
        for image in PICTURES.values():
            found = passing(image)
            np.testing.assert_array_equal(found, cell_image(image, image[..., 0] > 200, SMALL).pixels)
    assert len(segmenter.seen) == 6
    assert not (tmp_path / "cache of the test").exists()
    assert passing.seen == dict.fromkeys(PICTURES, 2)
    assert not kept.seen, "each counts its own"


def test_the_digest_changes_with_the_segmenter_and_every_setting() -> None:
    other = Red()
    other.digest = "red over 201"  # type: ignore[misc]
    graph = trained.dark_graph()
    digests = [
        CellImageStage(Red(), SMALL).digest,
        *(CellImageStage(Red(), SMALL.model_copy(update={name: value})).digest for name, value in OTHER.items()),
        CellImageStage(other, SMALL).digest,
        CellImageStage(ClassicalSegmenter(), SMALL).digest,
        CellImageStage(GraphSegmenter("a", graph), SMALL).digest,
        CellImageStage(GraphSegmenter("a", trained.dark_graph(limit=120.0)), SMALL).digest,
        CellImageStage(GraphSegmenter("a", trained.dark_graph(side=24)), SMALL).digest,
    ]
    assert OTHER.keys() == CellImageConfig.model_fields.keys()
    assert len(set(digests)) == len(digests)
    assert CellImageStage(Red(), SMALL).digest == digests[0]
    assert CellImageStage(GraphSegmenter("another name", graph), SMALL).digest == digests[10], "a name changes no cell"


def test_many_threads_count_every_image_and_give_the_same_cells() -> None:
    stage = CellImageStage(GraphSegmenter("dark", trained.dark_graph()), SMALL)
    images = [_picture((10, 10, 25, 20 + i), seed=i) for i in range(5)] * 8
    alone = [cell_image(image, stage.segmenter(image), SMALL).pixels for image in images[:5]]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(stage, images))
    for i, pixels in enumerate(found):
        np.testing.assert_array_equal(pixels, alone[i % 5])
    assert sum(stage.seen.values()) == 40
    assert all(n % 8 == 0 for n in stage.seen.values())


def test_the_classical_segmenter_is_the_one_by_colour(cells: CellDataset) -> None:
    image = cells.records[0].read()
    np.testing.assert_array_equal(ClassicalSegmenter()(image), segment_cell(image).cell)
    assert ClassicalSegmenter.name == CLASSICAL == "classical"


# --------------------------------------------------------------------------------------------------- the centred crop


def _nucleus(column: float | None) -> NDArray[np.uint8]:
    """A dark disk in a bright field; none for None."""
    rows, columns = np.indices((70, 80))
    image = np.full((70, 80, 3), 230, np.uint8)
    if column is not None:
        image[np.hypot(rows - 35, columns - column) < 12] = (84, 38, 128)
    return image


NUCLEI = {"cell": _nucleus(44), "touches border": _nucleus(3), "no white cell": _nucleus(None)}


def test_a_centred_crop_is_made_once_kept_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    config = CLOSE
    asked: list[NDArray[np.uint8]] = []
    find = CellFinder.nucleus_of

    def spy(self: CellFinder, image: NDArray[np.uint8]) -> FoundNucleus:
        asked.append(image)
        return find(self, image)

    monkeypatch.setattr(CellFinder, "nucleus_of", spy)
    first = CentredCropStage(FINDER, config)
    for stage in (first, first, CentredCropStage(FINDER, config)):
        for outcome, image in NUCLEI.items():
            expected = centred_crop(image, find(FINDER, image).spread, config)
            made = stage.make(image.copy())
            assert made.outcome == outcome
            np.testing.assert_array_equal(made.pixels, expected.pixels)
            np.testing.assert_array_equal(stage(image), expected.pixels)
    assert len(asked) == len(NUCLEI), "what is kept is not searched again"
    assert first.seen == dict.fromkeys(NUCLEI, 2), "what is called is counted, what is only made is not"
    passing = first.once()
    for image in NUCLEI.values():
        np.testing.assert_array_equal(passing(image), first(image))
    assert len(asked) == 2 * len(NUCLEI)
    assert isinstance(passing, CentredCropStage)
    assert (passing.digest, passing.entry(), passing.seen.total()) == (first.digest, first.entry(), len(NUCLEI))


def test_a_centred_crop_is_known_by_its_settings() -> None:
    digests = [
        CentredCropStage(FINDER, CLOSE).digest,
        CentredCropStage(FINDER, CLOSE.model_copy(update={"extent": 1.7})).digest,
        CentredCropStage(trained.finder(limit=119.0), CLOSE).digest,
        CellImageStage(ClassicalSegmenter(), CellImageConfig(size_px=32)).digest,
    ]
    assert len(set(digests)) == len(digests)
    assert CentredCropStage(FINDER, CLOSE).digest == digests[0]


def test_both_stages_are_stages_with_a_name_that_show_squares() -> None:
    both: list[Stage] = [CellImageStage(ClassicalSegmenter(), SMALL), CentredCropStage(FINDER, CLOSE)]
    assert [stage.name for stage in both] == ["classical", CENTRED]
    assert all(height == width for height, width, _ in (stage(NUCLEI["cell"]).shape for stage in both))
    assert [stage.files() for stage in both] == [{}, {DETECTOR: FINDER.graph}]
    assert [stage.entry().needs for stage in both] == [(), (DETECTOR,)]


# ------------------------------------------------------------------------------------------------------- kept masks


def _on_disk(folder: Path, name: str, image: NDArray[np.uint8], **more: Any) -> Record:
    Image.fromarray(image).save(folder / name)
    return Record(folder / name, "", "lab", **more)


def test_a_mask_is_made_once_and_comes_back_the_same(tmp_path: Path) -> None:
    """Of all sizes, also such whose pixels fill no whole byte."""
    segmenter = Red()
    images = [PICTURES["cell"], PICTURES["no white cell"], _picture((3, 3, 9, 9))[:11, :13], _picture((0, 0, 9, 9))[:9, :9]]
    records = [_on_disk(tmp_path, f"{i}.png", image) for i, image in enumerate(images)]
    for _ in range(2):
        for record, image in zip(records, images, strict=True):
            found = kept_mask(record, segmenter)
            assert found.dtype == bool
            np.testing.assert_array_equal(found, image[..., 0] > 200)
    assert len(segmenter.seen) == len(images)
    kept_mask(_on_disk(tmp_path, "a copy.png", images[0]), segmenter)
    assert len(segmenter.seen) == len(images), "it is known by what it shows, not by its name"


def test_another_segmenter_another_content_and_another_box_are_asked_anew(tmp_path: Path) -> None:
    segmenter, other = Red(), Red()
    other.digest = "red over 201"  # type: ignore[misc]
    image = PICTURES["cell"]
    record = _on_disk(tmp_path, "cell.png", image)
    kept_mask(record, segmenter)
    kept_mask(record, other)
    assert len(other.seen) == 1
    boxed = Record(record.path, "", "lab", box=(8, 5, 31, 28))
    np.testing.assert_array_equal(kept_mask(boxed, segmenter), image[5:28, 8:31, 0] > 200)
    changed = image.copy()
    changed[0, 0, 0] = 255
    np.testing.assert_array_equal(kept_mask(_on_disk(tmp_path, "cell 2.png", changed), segmenter), changed[..., 0] > 200)
    assert len(segmenter.seen) == 3


def test_a_mask_is_of_the_image_as_it_lies_on_disk(tmp_path: Path) -> None:
    segmenter = Red()
    record = _on_disk(tmp_path, "cell.png", PICTURES["cell"])
    staged = Record(record.path, "", "lab", before=(CellImageStage(Red(), SMALL),))
    assert kept_mask(staged, segmenter).shape == PICTURES["cell"].shape[:2]
    np.testing.assert_array_equal(kept_mask(record, segmenter), PICTURES["cell"][..., 0] > 200)
    assert len(segmenter.seen) == 1


def test_no_mask_is_kept_of_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    segmenter = Red()
    for _ in range(2):
        with pytest.raises(ImageError, match=r"broken.png"):
            kept_mask(Record(tmp_path / "broken.png", "", "lab"), segmenter)
    assert not segmenter.seen


# ------------------------------------------------------------------------------------------- records and datasets


def test_a_record_is_read_through_its_stages_in_their_order(cells: CellDataset) -> None:
    first, second = CellImageStage(Red(), SMALL), CellImageStage(ClassicalSegmenter(), SMALL)
    plain = cells.records[0]
    staged = cells.through((first, second)).records[0]
    np.testing.assert_array_equal(staged.read(), second(first(plain.read())))
    assert staged.unstaged() == plain
    assert plain.unstaged() is plain
    views = [
        cells.through(stages).records[0].view_id() for stages in ((), (first,), (second,), (first, second), (second, first))
    ]
    assert len(set(views)) == 5
    assert views[0] == plain.content_id() == staged.content_id()


def test_a_dataset_through_stages_is_the_same_images(cells: CellDataset) -> None:
    stage = CellImageStage(Red(), SMALL)
    staged = cells.through((stage,))
    assert staged.stages == (stage,)
    assert cells.stages == ()
    assert staged.through((stage,)) is staged
    assert cells.through(()) is cells
    assert staged.through(()).records == cells.records
    assert (staged.contents, staged.fingerprint) == (cells.contents, cells.fingerprint)
    assert (staged.classes, staged.class_counts) == (cells.classes, cells.class_counts)
    part = staged.subset([3, 1])
    assert part.stages == (stage,)
    assert [record.path for record in part.records] == [cells.records[i].path for i in (3, 1)]
    assert cells.subset([]).stages == ()


def test_an_error_of_the_image_passes_through_its_stage(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    stage = CellImageStage(Red(), SMALL)
    with pytest.raises(ImageError, match=r"broken.png"):
        Record(tmp_path / "broken.png", "", "", before=(stage,)).read()


# ---------------------------------------------------------------------------------------------- bundles with a stage


def _stage(kind: str) -> Stage:
    if kind == CENTRED:
        return CentredCropStage(FINDER, CLOSE)
    return CellImageStage(
        ClassicalSegmenter() if kind == CLASSICAL else GraphSegmenter("dark", trained.dark_graph(limit=170.0)), SMALL
    )


def _bundle(path: Path, cells: CellDataset, stage: Stage) -> Bundle:
    """The nearest mean colour of cell images, with its stage."""
    bundle = trained.colour_bundle(path, cells.through((stage,)))
    files = {MODEL: bundle.graph_bytes, SEEN: seen_images(cells.contents), **stage.files()}
    return write_bundle(path, bundle.manifest.model_copy(update={"before_graph": (stage.entry(),)}), files)


def _colours(images: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
    return np.stack([image.mean(axis=(0, 1)) / 255 for image in images])


def _entry(kind: str) -> CellImageEntry | CentredCropEntry:
    return (
        CentredCropEntry(detector=DETECTOR, config=CLOSE)
        if kind == CENTRED
        else CellImageEntry(segmenter=kind, config=SMALL)
    )


@pytest.mark.parametrize("kind", [CLASSICAL, SEGMENTER, CENTRED])
def test_a_bundle_names_its_stage_and_repeats_it(cells: CellDataset, tmp_path: Path, kind: str) -> None:
    few = cells.subset(range(0, len(cells), 4))
    stage = _stage(kind)
    bundle = open_bundle(_bundle(tmp_path / "bundle", few, stage).path)
    assert bundle.manifest.before_graph == (_entry(kind),)
    assert (SEGMENTER in bundle.manifest.files) is (kind == SEGMENTER)
    assert (DETECTOR in bundle.manifest.files) is (kind == CENTRED)
    moved = open_bundle(Path(shutil.copytree(bundle.path, tmp_path / "moved")))
    shutil.rmtree(bundle.path)
    (repeated,) = moved.stages
    assert repeated.digest == stage.digest, "kept cell images are found again"
    expected = _colours([stage(record.read()) for record in few.records])
    predictor = Predictor(moved, embeddings=True)
    predicted = list(predictor.predict([record.path for record in few.records]))
    np.testing.assert_allclose(np.stack([p.embedding for p in predicted if p.embedding is not None]), expected, atol=1e-5)
    (counting,) = predictor.stages
    assert counting.seen.total() == len(few)
    answered = predict_dataset(moved, few)
    np.testing.assert_allclose(answered.embeddings, expected, atol=1e-5)
    assert answered.records == few.records, "what is reported is the image as it lies on disk"
    np.testing.assert_allclose(
        answered.probabilities, np.stack([p.probabilities for p in predicted if p.probabilities is not None]), atol=1e-6
    )
    np.testing.assert_array_equal(predict_dataset(moved, few.through((_stage(CLASSICAL),))).embeddings, answered.embeddings)
    assert not np.allclose(expected, _colours([record.read() for record in few.records]), atol=0.01)


def test_a_bundle_without_stages_reads_images_as_they_are(cells: CellDataset, tmp_path: Path) -> None:
    few = cells.subset(range(6))
    bundle = trained.colour_bundle(tmp_path / "bundle", cells)
    assert bundle.stages == bundle.manifest.before_graph == ()
    expected = _colours([record.read() for record in few.records])
    staged = few.through((_stage(CLASSICAL),))
    np.testing.assert_allclose(predict_dataset(bundle, staged).embeddings, expected, atol=1e-5)
    predicted = [p.embedding for p in Predictor(bundle, embeddings=True).predict(staged.records)]
    np.testing.assert_allclose(predicted, expected, atol=1e-5)  # type: ignore[arg-type]


def test_a_method_trained_through_a_stage_exports_it(cells: CellDataset, tmp_path: Path) -> None:
    method = find_method("linear_probe")
    stage = _stage(SEGMENTER)
    train = cells.subset(range(0, len(cells), 2)).through((stage,))
    bundle = method.fit(
        train,
        validation=None,
        auxiliary={},
        config=method.config.from_mapping(trained.PROBE),
        rng=np.random.default_rng(0),
        run_dir=tmp_path / "run",
    )
    assert bundle.manifest.before_graph == (CellImageEntry(segmenter=SEGMENTER, config=SMALL),)
    assert (bundle.path / SEGMENTER).read_bytes() == trained.dark_graph(limit=170.0).SerializeToString()
    assert bundle.seen == frozenset(cells.subset(range(0, len(cells), 2)).contents)
    (repeated,) = bundle.stages
    assert repeated.digest == stage.digest
    plain = cells.subset(range(1, len(cells), 4))
    through = [p.probabilities for p in Predictor(bundle).predict(plain.records)]
    np.testing.assert_allclose(predict_dataset(bundle, plain).probabilities, through, atol=1e-5)  # type: ignore[arg-type]


def _edit(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest.update(changes)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _with_segmenter(folder: Path, content: bytes) -> None:
    """Another segmenter, with a manifest that fits it."""
    (folder / SEGMENTER).write_bytes(content)
    files = json.loads((folder / MANIFEST).read_text())["files"]
    files[SEGMENTER] = {"sha256": hashlib.sha256(content).hexdigest(), "n_bytes": len(content)}
    _edit(folder, files=files)


def _without_segmenter(folder: Path) -> None:
    (folder / SEGMENTER).unlink()
    files = json.loads((folder / MANIFEST).read_text())["files"]
    del files[SEGMENTER]
    _edit(folder, files=files)


def _named(folder: Path, name: str) -> None:
    entry = json.loads((folder / MANIFEST).read_text())["before_graph"][0]
    _edit(folder, before_graph=[{**entry, "segmenter": name}])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (lambda f: (f / SEGMENTER).unlink(), "'segmenter.onnx' of the bundle '.*' is missing"),
    "cut off": (
        lambda f: (f / SEGMENTER).write_bytes((f / SEGMENTER).read_bytes()[:99]),
        "'segmenter.onnx' of the bundle '.*' is damaged",
    ),
    "not brought along": (_without_segmenter, r"does not fit its graph; expected files: .*segmenter.onnx.*; got nothing"),
    "outside of the bundle": (
        lambda f: _named(f, "../segmenter.onnx"),
        r"does not fit its graph; expected before_graph: .*segmenter\.onnx.*; got .*\.\./segmenter\.onnx",
    ),
    "unknown kind": (lambda f: _edit(f, before_graph=[{"kind": "blur"}]), "got key 'before_graph.0"),
    "wrong extent": (
        lambda f: _edit(f, before_graph=[{"kind": "centred_crop", "detector": DETECTOR, "config": {"extent": 0.5}}]),
        "got key 'before_graph.0.centred_crop.config.extent'",
    ),
    "a segmenter of a stage that has none": (
        lambda f: _edit(
            f, before_graph=[{"kind": "centred_crop", "detector": DETECTOR, "segmenter": CLASSICAL, "config": {}}]
        ),
        "got key 'before_graph.0.centred_crop.segmenter'",
    ),
    "a centred window without a detector": (
        lambda f: _edit(f, before_graph=[{"kind": "centred_crop", "config": {"extent": 2.0, "size_px": None}}]),
        r"the bundle '.*' is older than this program; expected a detector in the bundle.*\. Train or adapt it again\.",
    ),
    "wrong size": (
        lambda f: _edit(f, before_graph=[{"kind": "cell_image", "segmenter": CLASSICAL, "config": {"size_px": 3}}]),
        "got key 'before_graph.0.cell_image.config.size_px'",
    ),
}


@pytest.fixture
def with_graph(cells: CellDataset, tmp_path: Path) -> Path:
    return _bundle(tmp_path / "bundle", cells.subset(range(0, len(cells), 8)), _stage(SEGMENTER)).path


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_bundle_whose_segmenter_is_amiss_is_refused(with_graph: Path, damage: str) -> None:
    harm, message = DAMAGE[damage]
    shutil.copy(with_graph / SEGMENTER, with_graph.parent)
    harm(with_graph)
    with pytest.raises(BundleError, match=message):
        open_bundle(with_graph)


@pytest.mark.parametrize("content", [b"this is no graph", trained.colour_bundle], ids=["no graph", "another graph"])
def test_a_segmenter_that_is_none_is_an_error_of_the_bundle(
    with_graph: Path, content: Any, cells: CellDataset, tmp_path: Path
) -> None:
    if not isinstance(content, bytes):
        content = content(tmp_path / "another", cells).graph_bytes
    whole = open_bundle(with_graph)
    files = {name: (with_graph / name).read_bytes() for name in whole.manifest.files}
    bundle = write_bundle(tmp_path / "written", whole.manifest, {**files, SEGMENTER: content})
    message = r"the segmenter in '.*written' cannot be parsed; got |segmenter.onnx' is no segmenter; got no output"
    with pytest.raises(BundleError, match=message):
        _ = bundle.stages
    with pytest.raises(BundleError, match=message):
        list(Predictor(bundle).predict([cells.records[0].path]))


def test_an_exchanged_segmenter_is_refused(with_graph: Path) -> None:
    _with_segmenter(with_graph, trained.dark_graph(limit=100.0).SerializeToString())
    with pytest.raises(BundleError, match=r"does not fit its graph; expected files: \{\"segmenter.onnx"):
        open_bundle(with_graph)


def test_a_stage_is_made_from_its_entry(tmp_path: Path) -> None:
    onnx.save_model(trained.dark_graph(), tmp_path / "mine.onnx")
    before = sha256_file(tmp_path / "mine.onnx")
    stage = stage_of(CellImageEntry(segmenter="mine.onnx", config=SMALL), tmp_path)
    assert stage.digest == CellImageStage(GraphSegmenter("x", trained.dark_graph()), SMALL).digest
    assert stage.entry() == CellImageEntry(segmenter=SEGMENTER, config=SMALL)
    assert stage.files() == {SEGMENTER: (tmp_path / "mine.onnx").read_bytes()}
    assert sha256_file(tmp_path / "mine.onnx") == before
    classical = stage_of(CellImageEntry(segmenter=CLASSICAL, config=SMALL), tmp_path)
    assert classical.entry() == CellImageEntry(segmenter=CLASSICAL, config=SMALL)
    assert classical.files() == {}
    (tmp_path / DETECTOR).write_bytes(FINDER.graph)
    centred = stage_of(CentredCropEntry(detector=DETECTOR, config=CLOSE), tmp_path)
    assert centred.digest == CentredCropStage(FINDER, CLOSE).digest
    assert centred.entry() == CentredCropEntry(detector=DETECTOR, config=CLOSE)
    assert centred.files() == {DETECTOR: FINDER.graph}


def test_a_stage_without_the_settings_of_bc_sam_cuts_the_image_at_its_own_size() -> None:
    """Manifests of 0.1.0 hold four settings."""
    text = '{"size_px": 128, "margin_px": 10, "background": 128, "crop": true}'
    entry = CellImageEntry.model_validate_json(f'{{"kind": "cell_image", "segmenter": "classical", "config": {text}}}')
    assert (entry.config.cut_from, entry.config.connectivity, entry.config.resampling) == ("original", 8, "bicubic")


def test_a_cell_is_segmented_and_cut_in_the_resized_image() -> None:
    """The margin is 10 of 224 px, so it is wider around a cell of a large image."""
    image = np.full((448, 448, 3), 40, np.uint8)
    image[100:200, 120:220, 0] = 250
    config = CellImageConfig(size_px=70, margin_px=10, cut_from="resized", connectivity=4, resampling="spline")
    pixels = CellImageStage(Red(), config, keep=False).cut(image).pixels
    # 50 px of the cell at 224 px, and 10 on each side
    expected = np.full((70, 70, 3), 128, np.uint8)
    expected[10:60, 10:60] = (250, 40, 40)
    np.testing.assert_array_equal(pixels, expected)


def test_a_manifest_tells_its_stages_by_their_kind(cells: CellDataset, tmp_path: Path) -> None:
    """As they stand in the file; of two stages each keeps its own settings and its place."""
    bundle = trained.colour_bundle(tmp_path / "bundle", cells)
    entries = (CentredCropEntry(detector=DETECTOR, config=CLOSE), CellImageEntry(segmenter=CLASSICAL, config=SMALL))
    bundle = write_bundle(
        tmp_path / "two",
        bundle.manifest.model_copy(update={"before_graph": entries}),
        {MODEL: bundle.graph_bytes, SEEN: seen_images(cells.contents), DETECTOR: FINDER.graph},
    )
    assert json.loads((bundle.path / MANIFEST).read_text())["before_graph"] == [
        {"kind": "centred_crop", "detector": "detector.onnx", "config": {"extent": 1.6, "size_px": None}},
        {
            "kind": "cell_image",
            "segmenter": "classical",
            "config": SMALL.model_dump(),
        },
    ]
    opened = open_bundle(bundle.path)
    assert opened.manifest.before_graph == entries
    assert [stage.name for stage in opened.stages] == ["centred", "classical"]
