"""Segmenters: trained on a share of the masks, tested on others; and the cells they find in images, as files."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import hemalens.runs.segment as job
import trained
from hemalens.bundle.segmenter import open_trained_segmenter
from hemalens.datasets import CellDataset, Record, open_dataset
from hemalens.datasets.synthetic import synthesize
from hemalens.errors import ConfigError, DatasetError, ImageError, InputError, OutputError, SplitError, WeightsError
from hemalens.evaluation.results import Report
from hemalens.imaging.segmentation import CellImageConfig, cell_image, cut_source, segment_cell
from hemalens.methods.bc_sam import BCSamConfig
from hemalens.methods.bc_sam_segmenter import SegmenterConfig, build
from hemalens.report import read_report
from hemalens.runs.segment import COLUMNS, segment, train_segmenter
from hemalens.runs.train import TrainOptions

TINY = (
    "architecture=small",
    "weights=none",
    "rank=0",
    "image_size_px=32",
    "epochs=1",
    "batch_size=4",
    "precision=fp32",
    "mask_fraction=0.25",
)
WRITTEN = {"masks", "cells", "segmentation.csv", "report.html", "report.json", "report.md"}


class KilledError(Exception):
    """Stands for a kill: nothing catches it."""


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    with trained.two_layers():
        yield


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cell of each type in each of two laboratories, with masks."""
    folder = tmp_path_factory.mktemp("few") / "cells"
    synthesize(folder, n_per_class=1, seed=11, cell_types=trained.CELL_TYPES)
    return folder


@dataclass
class Run:
    """A trained segmenter: its folder, its report, what was said, and what was learned from and tested."""

    out: Path
    spec: str
    report: Report | None = None
    said: list[str] = field(default_factory=list)
    learned: list[CellDataset] = field(default_factory=list)
    tested: list[CellDataset] = field(default_factory=list)

    def __call__(self, **more: Any) -> Report:
        return train_segmenter(
            [self.spec], out=self.out, options=TrainOptions(test_fraction=0.25), settings=TINY, say=self.said.append, **more
        )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """8 of the 32 masks of a laboratory held out, a quarter of the others learned from."""
    import hemalens.methods.bc_sam_segmenter as method

    one = Run(tmp_path_factory.mktemp("run") / "out", f"synthetic:{trained.cells(tmp_path_factory) / 'lab_a'}")
    fit, score = method.fit_segmenter, job.score_masks

    def spy_fit(train: CellDataset, **more: Any) -> Any:
        one.learned.append(train)
        return fit(train, **more)

    def spy_score(segmenter: Any, dataset: CellDataset) -> Any:
        one.tested.append(dataset)
        return score(segmenter, dataset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method, "fit_segmenter", spy_fit)
        patch.setattr(job, "score_masks", spy_score)
        one.report = one()
    return one


def _rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "segmentation.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _overlap(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """IoU and Dice by counting."""
    both = int(np.sum(found & truth))
    return both / int(np.sum(found | truth)), 2 * both / (int(found.sum()) + int(truth.sum()))


# ------------------------------------------------------------------------------------------------------------ training


def test_a_share_of_the_masks_is_learned_from_and_others_are_tested(run: Run) -> None:
    (learned,), tested = run.learned, run.tested
    assert (len(learned), [len(part) for part in tested]) == (8, [8, 8]), "a quarter of 32; the classical one beside it"
    assert tested[0].contents == tested[1].contents
    assert set(learned.contents).isdisjoint(tested[0].contents)
    manifest = open_trained_segmenter(run.out / "segmenter").manifest
    assert (manifest.method, manifest.n_masks, manifest.from_scratch) == ("bc_sam_segmenter", 8, True)
    assert [(e.role, e.name, e.fingerprint) for e in manifest.data] == [("train", "lab_a", learned.fingerprint)]
    assert 0 <= manifest.parity <= 1e-3
    assert manifest.synthetic


@pytest.mark.parametrize(
    ("n_images", "fraction", "n_masks", "words"),
    [
        (399, 0.01, 4, "4 masks of 399 images (mask_fraction=0.01, 26 unused; 1.0 uses all)"),
        (100, 0.07, 7, "7 masks of 100 images (mask_fraction=0.07, 23 unused; 1.0 uses all)"),
        (3000, 0.01, 30, "30 masks of 3000 images"),
        (35457, 0.01, 30, "30 masks of 35457 images (mask_fraction=0.01 asks for 355)"),
        (1, 0.01, 1, "1 mask of 1 images (mask_fraction=0.01, 29 unused; 1.0 uses all)"),
    ],
)
def test_masks_are_a_share_of_all_images_rounded_up(n_images: int, fraction: float, n_masks: int, words: str) -> None:
    records = tuple(Record(Path(f"{i}.png"), "", "lab") for i in range(30))
    cells = CellDataset("cells", records, (), "as_labelled", "-", "-")
    learned, found = job._learned_masks(cells, n_images, fraction, seed=0)
    assert (len(learned), found) == (n_masks, words)
    assert {id(r) for r in learned.records} <= {id(r) for r in cells.records}


def test_training_says_how_much_learns_and_from_what(run: Run) -> None:
    network = build(SegmenterConfig.load(None, TINY))
    total = sum(parameter.numel() for parameter in network.parameters())
    learns = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    assert learns < total, "the frequencies of the position code never learn"
    assert f"{learns:,} of {total:,} parameters are trained" in run.said
    assert (
        "training on 8 masks of 32 images (mask_fraction=0.25, 16 unused; 1.0 uses all), 8 held out for the test"
        in run.said
    )
    manifest = open_trained_segmenter(run.out / "segmenter").manifest
    assert (manifest.n_trained_parameters, manifest.n_parameters) == (learns, total)


def test_with_adapters_little_learns() -> None:
    network = build(SegmenterConfig.load(None, [*TINY, "rank=2"]))
    learns = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    encoder = {name for name in learns if name.startswith("vision_encoder.")}
    assert encoder
    whole = build(SegmenterConfig.load(None, TINY))
    assert encoder.isdisjoint(name for name, _ in whole.named_parameters()), "of the image encoder the adapters alone"
    assert any(name.startswith("mask_decoder.") for name in learns)


def test_the_report_of_a_training(run: Run) -> None:
    report = run.report
    assert report is not None
    assert read_report(run.out / "report.json") == report
    (table,) = report.tables
    assert "small: trained from random weights; 8 masks of 32 images (" in table.note
    assert "tuned from SAM" not in table.note
    assert [row[:3] for row in table.rows] == [("SAM small, from scratch", "lab_a", 8), ("classical", "lab_a", 8)]
    overlaps = []
    for record in run.tested[0].records:
        truth = np.asarray(Image.open(record.mask_path)) > 0
        overlaps.append(_overlap(segment_cell(record.read()).cell, truth))
    iou, dice = np.mean(overlaps, axis=0)
    row = dict(zip(table.columns, table.rows[1], strict=True))
    assert row["mean IoU"] == pytest.approx(iou, abs=1e-9)
    assert row["mean Dice"] == pytest.approx(dice, abs=1e-9)
    (pictures,) = report.pictures
    assert len(pictures.rows) == 8
    assert pictures.columns == ("true outline", "SAM small, from scratch", "classical")
    assert report.synthetic
    assert report.protocol == "one split: 25% of the masks held out for the test"
    assert {entry.name for entry in run.out.iterdir()} >= {"segmenter", "report.html", "run.json", "history.jsonl"}
    assert not (run.out / "scratch").exists()
    (curve,) = report.curves
    history = [json.loads(line) for line in (run.out / "history.jsonl").read_text().splitlines()]
    assert curve.further == {"mask_loss": tuple(row["mask_loss"] for row in history)}


def test_a_finished_training_is_refused_and_a_stopped_one_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OutputError, match=r"holds this run, finished.*--overwrite"):
        run()
    with pytest.raises(OutputError, match="holds another run"):
        run(seed=1)
    shutil.copytree(run.out, tmp_path / "out")
    file = tmp_path / "out" / "run.json"
    trained.stop_again(tmp_path / "out")

    def again(*given: object, **more: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("lightning.Trainer.fit", again)
    stopped = Run(tmp_path / "out", run.spec)
    report = stopped()
    assert any("stopped run" in text for text in stopped.said)
    assert run.report is not None
    assert report.tables == run.report.tables
    assert json.loads(file.read_text())["finished"]


def test_without_a_test_part_the_report_says_so(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """Also: several sets are one, and of a small share one mask is left."""
    learned: list[CellDataset] = []

    def known(train: CellDataset, *, config: SegmenterConfig, run_dir: Path) -> None:
        learned.append(train)
        shutil.copytree(run.out / "segmenter", run_dir / "segmenter")

    monkeypatch.setattr("hemalens.methods.bc_sam_segmenter.fit_segmenter", known)
    said: list[str] = []
    specs = [f"synthetic:{few / lab}" for lab in ("lab_a", "lab_b")]
    settings = [*TINY, "mask_fraction=0.01"]
    report = train_segmenter(
        specs, out=tmp_path / "run", options=TrainOptions(test_fraction=0.0), settings=settings, say=said.append
    )
    assert (report.protocol, report.tables, report.pictures) == ("no test part", (), ())
    assert "training on 1 mask of 8 images (mask_fraction=0.01, 7 unused; 1.0 uses all), 0 held out for the test" in said
    assert learned[0].name == "lab_a + lab_b"
    assert report.data[0].n_images == 8


@pytest.mark.parametrize("fraction", [0.5, 0.0])
def test_a_given_test_part_is_never_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, fraction: float
) -> None:
    learned: list[CellDataset] = []

    def known(train: CellDataset, *, config: SegmenterConfig, run_dir: Path) -> None:
        learned.append(train)
        shutil.copytree(run.out / "segmenter", run_dir / "segmenter")

    monkeypatch.setattr("hemalens.methods.bc_sam_segmenter.fit_segmenter", known)
    spec = _table(tmp_path / "cells", _mask())
    table = tmp_path / "cells" / "cells.csv"
    header, *rows = table.read_text().splitlines()
    parts = ["test" if i in (1, 4) else "train" for i in range(len(rows))]
    table.write_text("\n".join([f"{header},part", *(f"{row},{part}" for row, part in zip(rows, parts, strict=True))]))
    report = train_segmenter(
        spec,
        out=tmp_path / "run",
        options=TrainOptions(test_fraction=fraction),
        settings=[*TINY, "mask_fraction=1.0"],
    )
    assert sorted(record.path.stem for record in learned[0].records) == ["0", "2", "3", "5"]
    assert report.protocol == ("one split: the given test part, 2 mask(s)" if fraction else "no test part")


def _table(folder: Path, mask: Image.Image | None, n: int = 6) -> str:
    """Images with the same mask each, or without one, in a user's table."""
    folder.mkdir(parents=True)
    rows = ["path,label" + (",mask" if mask else "")]
    rng = np.random.default_rng(0)
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        rows.append(f"{i}.png,monocyte" + (",mask.png" if mask else ""))
    if mask:
        mask.save(folder / "mask.png")
    (folder / "cells.csv").write_text("\n".join(rows) + "\n")
    return f"csv:{folder / 'cells.csv'}"


def _mask(height: int = 40, width: int = 50, value: int = 255, part: float = 0.5) -> Image.Image:
    array = np.zeros((height, width), np.uint8)
    array[: int(height * part)] = value
    return Image.fromarray(array)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (None, DatasetError, r"csv has no masks|has no masks; expected .*jtsc, cellavision100"),
        (_mask(30), ImageError, r"mask.png' is not of its image's size; expected 50x40 px; got 50x30 px"),
        (_mask(part=0), ImageError, r"has one class only; .*got nothing but background"),
        (_mask(part=1), ImageError, r"has one class only; .*got nothing but cell"),
    ],
    ids=["none", "another size", "background", "cell"],
)
def test_masks_that_cannot_be_learned_from_are_named(
    tmp_path: Path, mask: Image.Image | None, error: type[Exception], message: str
) -> None:
    spec = _table(tmp_path / "cells", mask)
    with pytest.raises(error, match=message) as raised:
        train_segmenter([spec], out=tmp_path / "run", settings=TINY)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run" / "segmenter").exists()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ((), ConfigError, r"needs the weights of Segment Anything, .*--set architecture=small --set weights=none"),
        (("weights=nowhere.pth",), WeightsError, "nowhere.pth"),
        ((*TINY, "image_size_px=30"), ConfigError, r"multiple of 8; got 30"),
        ((*TINY, "mask_fraction=0"), ConfigError, "key 'mask_fraction'"),
        ((*TINY, "epoch=1"), ConfigError, r"unknown key 'epoch'. did you mean 'epochs'"),
    ],
)
def test_bad_settings_are_told_before_anything_is_written(
    few: Path, tmp_path: Path, settings: tuple[str, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train_segmenter([f"synthetic:{few}"], out=tmp_path / "run", settings=settings)
    assert not (tmp_path / "run").exists()


def test_one_mask_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(SplitError, match="two independent images"):
        train_segmenter([_table(tmp_path / "cells", _mask(), n=1)], out=tmp_path / "run", settings=TINY)


# ------------------------------------------------------------------------------------------------------------- finding


@pytest.fixture(scope="module")
def found(few: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Report]:
    """The cells of `few` by the classical segmenter: the folder, the summary, the report."""
    out = tmp_path_factory.mktemp("found") / "out"
    return out, *segment("classical", f"synthetic:{few}", out=out, config=CellImageConfig(size_px=40, margin_px=3))


def test_masks_and_cell_images_of_every_image_in_order(few: Path, found: tuple[Path, Any, Report]) -> None:
    out, summary, _ = found
    records = open_dataset(f"synthetic:{few}").records
    rows = _rows(out)
    assert {entry.name for entry in out.iterdir()} == WRITTEN
    assert list(rows[0]) == list(COLUMNS)
    assert [row["path"] for row in rows] == [str(record.path) for record in records]
    for record, row in zip(records, rows, strict=True):
        image = np.asarray(Image.open(record.path).convert("RGB"))
        mask = np.asarray(Image.open(out / row["mask"]))
        assert (mask.dtype, mask.shape, set(np.unique(mask))) == (np.uint8, image.shape[:2], {0, 255})
        np.testing.assert_array_equal(mask > 0, segment_cell(image).cell)
        cut = cell_image(image, mask > 0, CellImageConfig(size_px=40, margin_px=3))
        cell = Image.open(out / "cells" / Path(row["mask"]).name)
        assert (cell.mode, cell.size) == ("RGB", (40, 40))
        np.testing.assert_array_equal(np.asarray(cell), cut.pixels)
        iou, dice = _overlap(mask > 0, np.asarray(Image.open(record.mask_path)) > 0)
        assert float(row["iou"]) == pytest.approx(iou, abs=6e-5)
        assert float(row["dice"]) == pytest.approx(dice, abs=6e-5)
        assert float(row["cell_share"]) == pytest.approx((mask > 0).mean(), abs=6e-5)
        assert (row["outcome"], row["error"]) == (cut.outcome, "")
    assert summary.n_images == sum(summary.outcomes.values()) == 8
    assert (summary.n_unreadable, summary.first_error) == (0, None)
    assert len(list((out / "masks").iterdir())) == len(list((out / "cells").iterdir())) == 8


def test_cells_as_published_are_segmented_at_224_px_and_masks_at_the_image_s_size(few: Path, tmp_path: Path) -> None:
    config = BCSamConfig().cell_image
    (path,) = (few / "lab_a" / "images" / "monocyte").iterdir()
    segment("classical", str(path), out=tmp_path / "out", config=config)
    image = np.asarray(Image.open(path).convert("RGB"))
    source = cut_source(image, config)
    (row,) = _rows(tmp_path / "out")
    mask = np.asarray(Image.open(tmp_path / "out" / row["mask"])) > 0
    np.testing.assert_array_equal(mask, segment_cell(image).cell)
    cell = np.asarray(Image.open(tmp_path / "out" / "cells" / Path(row["mask"]).name))
    np.testing.assert_array_equal(cell, cell_image(source, segment_cell(source).cell, config).pixels)


def test_the_report_of_what_was_found(found: tuple[Path, Any, Report]) -> None:
    out, _, report = found
    assert read_report(out / "report.json") == report
    (table,) = report.tables
    rows = _rows(out)
    for i, lab in enumerate(("lab_a", "lab_b")):
        shown = dict(zip(table.columns, table.rows[i], strict=True))
        own = [row for row in rows if f"{lab}/images" in row["path"]]
        assert (shown["segmenter"], shown["domain"], shown["images"]) == ("classical", lab, 4)
        assert shown["mean IoU"] == pytest.approx(np.mean([float(row["iou"]) for row in own]), abs=1e-4)
        assert shown["mean Dice"] == pytest.approx(np.mean([float(row["dice"]) for row in own]), abs=1e-4)
    (pictures,) = report.pictures
    assert pictures.columns == ("true outline", "classical")
    assert len(pictures.rows) == 8
    assert all("IoU" in row.caption for row in pictures.rows)
    shown = {"size_px": 40, "margin_px": 3, "background": 128, "crop": True}
    way = {"cut_from": "original", "connectivity": 8, "resampling": "bicubic"}
    assert report.methods["segment"] == {"segmenter": "classical", **shown, **way}
    assert report.synthetic, "drawn cells are never shown as photographs"
    assert (report.data[0].role, report.data[0].n_images) == ("segmented", 8)


@pytest.fixture
def mixed(few: Path, tmp_path: Path) -> Path:
    """A user's folder: two images of one name, an empty field, a cell at the border, and a broken file; no masks."""
    folder = tmp_path / "mixed"
    for name, source in (("a", "lab_a"), ("b", "lab_b")):
        (folder / name).mkdir(parents=True)
        (image,) = (few / source / "images" / "neutrophil").iterdir()
        shutil.copy(image, folder / name / "cell.png")
    whole = Image.open(folder / "b" / "cell.png")
    whole.crop((whole.width // 2, 0, whole.width, whole.height)).save(folder / "b" / "half.png")
    Image.fromarray(np.full((50, 60, 3), 230, np.uint8)).save(folder / "c field.png")
    (folder / "d broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    return folder


def test_images_without_masks_of_one_name_and_broken_ones(mixed: Path, tmp_path: Path) -> None:
    summary, report = segment("classical", str(mixed), out=tmp_path / "out")
    rows = _rows(tmp_path / "out")
    names = ["a/cell.png", "b/cell.png", "b/half.png", "c field.png", "d broken.png"]
    assert [row["path"] for row in rows] == [str(mixed / name) for name in names]
    assert [row["outcome"] for row in rows] == ["cell", "cell", "touches border", "no white cell", ""]
    assert len({row["mask"] for row in rows}) == 5, "one name in two folders makes two files"
    assert rows[3]["cell_share"] == "0.0000"
    assert not np.asarray(Image.open(tmp_path / "out" / rows[3]["mask"])).any()
    assert all(row["iou"] == row["dice"] == "" for row in rows)
    broken = rows[4]
    assert (broken["mask"], broken["cell_share"]) == ("", "")
    assert "d broken.png" in broken["error"]
    assert summary.outcomes == {"cell": 2, "touches border": 1, "no white cell": 1}
    assert (summary.n_images, summary.n_unreadable, summary.first_error) == (5, 1, broken["error"])
    assert report.tables == ()
    assert report.pictures[0].columns == ("classical",)
    assert len(report.pictures[0].rows) == 4
    assert report.data[0].n_images == 4
    assert not report.synthetic


def test_one_image_and_nothing_readable(mixed: Path, tmp_path: Path) -> None:
    summary, _ = segment("classical", str(mixed / "a" / "cell.png"), out=tmp_path / "one")
    assert summary.outcomes == {"cell": 1}
    summary, report = segment("classical", str(mixed / "d broken.png"), out=tmp_path / "none")
    assert (summary.n_images, summary.n_unreadable, summary.outcomes) == (1, 1, {})
    assert (report.tables, report.pictures) == ((), ())
    assert len(_rows(tmp_path / "none")) == 1


def test_a_mask_of_another_size_is_a_row_with_its_error(tmp_path: Path) -> None:
    spec = _table(tmp_path / "cells", _mask(30), n=2)
    summary, report = segment("classical", spec, out=tmp_path / "out")
    assert summary.n_unreadable == 2
    assert "not of its image's size" in str(summary.first_error)
    assert report.tables == ()


def test_a_trained_segmenter_finds_what_its_graph_says(run: Run, few: Path, tmp_path: Path) -> None:
    segmenter = open_trained_segmenter(run.out / "segmenter")
    session = onnxruntime.InferenceSession(segmenter.graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (path,) = (few / "lab_b" / "images" / "monocyte").iterdir()
    _, report = segment(str(run.out / "segmenter"), str(path), out=tmp_path / "out")
    image = Image.open(path).convert("RGB")
    (probability,) = session.run(["cell_probability"], {"image": np.asarray(image)[None]})
    assert probability.shape == (1, 32, 32)
    whole = Image.fromarray(probability[0]).resize(image.size, Image.Resampling.BILINEAR)
    (row,) = _rows(tmp_path / "out")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / row["mask"])) > 0, np.asarray(whole) >= 0.5)
    assert report.title == "Cells segmented by segmenter"
    assert report.methods["segment"]["segmenter"] == str(run.out / "segmenter")


@pytest.mark.parametrize("useless", [{"labels": "eight_class"}, {"cell_image": "centred"}, {"min_per_class": 3}])
def test_options_of_labels_are_refused_for_a_segmenter(useless: dict[str, Any], few: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=next(iter(useless))):
        train_segmenter([f"synthetic:{few}"], out=tmp_path / "run", options=TrainOptions(**useless))
    assert not (tmp_path / "run").exists()


def test_only_a_folder_of_its_own_kind_is_replaced(mixed: Path, tmp_path: Path) -> None:
    image, out = str(mixed / "a" / "cell.png"), tmp_path / "out"
    segment("classical", image, out=out)
    with pytest.raises(OutputError, match=r"exists already.*--overwrite"):
        segment("classical", image, out=out)
    segment("classical", str(mixed / "b"), out=out, overwrite=True)
    assert len(_rows(out)) == len(list((out / "masks").iterdir())) == 2
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds 'notes.txt' besides masks of cells. Move"):
        segment("classical", image, out=out, overwrite=True)
    assert len(_rows(out)) == 2
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("segmenter", "source", "error", "message"),
    [
        ("clasical", "", InputError, r"there is no segmenter 'clasical'; .*did you mean 'classical'"),
        ("classical", "nowhere", DatasetError, r"there is no image or folder '.*nowhere'"),
        ("classical", "empty", DatasetError, "no image in"),
    ],
)
def test_bad_input_leaves_nothing(
    mixed: Path, tmp_path: Path, segmenter: str, source: str, *, error: type[Exception], message: str
) -> None:
    (mixed / "empty").mkdir()
    with pytest.raises(error, match=message):
        segment(segmenter, str(mixed / source), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_kill_leaves_nothing_half_written(mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*given: object, **more: object) -> None:
        raise KilledError

    monkeypatch.setattr("hemalens.runs.segment.write_report", killed)
    with pytest.raises(KilledError):
        segment("classical", str(mixed / "a"), out=tmp_path / "out")
    assert {entry.name for entry in tmp_path.iterdir()} == {"mixed"}
