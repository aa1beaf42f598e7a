"""The command line: help at 80 columns, JSON that parses, start-up that loads nothing heavy."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hemalens
import trained
from command import Command
from hemalens.datasets import READERS
from hemalens.datasets.fields.readers import FIELD_READERS
from hemalens.studies import STUDIES, describe_study
from hemalens.taxonomy import cell_types

VERBS = (
    (),
    ("quickstart",),
    ("data",),
    ("data", "list"),
    ("data", "audit"),
    ("data", "download"),
    ("data", "synthesize"),
    ("train",),
    ("adapt",),
    ("quantize",),
    ("predict",),
    ("segment",),
    ("evaluate",),
    ("benchmark",),
    ("study",),
    ("study", "list"),
    *(("study", name) for name in STUDIES),
)
TRAINING = ("torch", "torchvision", "timm", "lightning", "sklearn", "matplotlib", "pandas", "pyarrow", "jinja2", "openpyxl")
HEAVY = (*TRAINING, "onnxruntime", "onnx", "scipy", "skimage", "pydantic")
HEAVY_TO_PREDICT = (*TRAINING, "scipy.stats", "scipy.optimize", "skimage.filters", "hemalens.runs", "hemalens.report")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("COLUMNS", "80")
    return Command(monkeypatch, capsys)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_explains_itself_within_80_columns(verb: tuple[str, ...], command: Command) -> None:
    ended = command(*verb, "--help")
    assert ended.code == 0
    assert "Usage: hemalens" in ended.out
    assert max(len(line) for line in ended.out.splitlines()) <= 80


def test_version(command: Command) -> None:
    assert command("--version").out == f"hemalens {hemalens.__version__}\n"


def test_an_unknown_option_is_wrong_usage(command: Command) -> None:
    assert command("data", "list", "--nonsense").code == 2


def test_list_names_every_reader_with_its_licence(command: Command) -> None:
    facts = json.loads(command("data", "list", "--json").out)
    fields = facts.pop("fields")
    assert (set(facts), set(fields)) == (set(READERS), set(FIELD_READERS))
    assert all(entry["licence"] and entry["layout"] and entry["citation"] for entry in (*facts.values(), *fields.values()))
    printed = command("data", "list").out
    assert all(f"{name}:PATH" in printed for name in (*READERS, *FIELD_READERS))


def test_study_list_shows_every_study_within_80_columns(command: Command, tmp_path: Path) -> None:
    ended = command("study", "list")
    assert ended.code == 0
    assert max(len(line) for line in ended.out.splitlines()) <= 80
    words = " ".join(ended.out.split())
    assert all(each.citation in words and each.main_result in words for each in map(describe_study, STUDIES))
    assert "--root DIR" in words
    (tmp_path / "AML-Cytomorphology_LMU").mkdir()
    searched = command("study", "list", "--root", tmp_path).out
    assert "refused" in searched
    assert "not found" in searched
    assert "No folder was searched" not in searched
    facts = json.loads(command("study", "list", "--json").out)
    assert [entry["name"] for entry in facts["studies"]] == list(STUDIES)
    assert command("study", "list", "--root", tmp_path / "nowhere").error.startswith("error: there is no folder")


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_says_in_one_line_what_it_needs(name: str, command: Command, tmp_path: Path) -> None:
    printed = " ".join(command("study", name, "--help").out.split())
    assert all(f"{role.name}" in printed and role.published.title in printed for role in describe_study(name).roles)
    assert all(f"--set {setting}" in printed for setting in describe_study(name).needs)
    ended = command("study", name)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    assert f"the study {name} needs --data ROLE=SPEC and --out DIR" in ended.error
    ended = command("study", name, "--data", "nobody=folder:x", "--out", tmp_path / "run")
    assert (ended.code, "has no role 'nobody'" in ended.error) == (2, True)
    assert command("study", f"{name}x").code == 2


def test_synthesize_then_audit(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "drawn cells"
    ended = command("data", "synthesize", folder, "--n-per-class", 1, "--laboratory", "lab_b", "--quiet")
    assert ended.code == 0
    assert "8 images with masks" in ended.out
    audit = json.loads(command("data", "audit", f"synthetic:{folder}", "--labels", "as_labelled", "--json", "--quiet").out)
    assert audit["n_images"] == 8
    assert audit["n_with_mask"] == 8
    assert set(audit["domains"]) == {"lab_b"}
    assert audit["unreadable"] == {}


def test_audit_prints_hostile_names_on_one_line(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "cells" / "monocyte"
    folder.mkdir(parents=True)
    (folder / "two\nlines.png").write_bytes(b"")
    lines = command("data", "audit", f"folder:{tmp_path / 'cells'}", "--quiet").out.splitlines()
    assert "unreadable: 1" in lines
    assert any("two\\nlines.png" in line for line in lines)


def test_audit_fits_eighty_columns_and_gives_each_file_a_line(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (30, 20, 20, 3), dtype=np.uint8)
    for i in range(24):
        folder = tmp_path / "cells" / f"a cell type of a long name {i % 12}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[i]).save(folder / f"{i}.png")
        Image.fromarray(pixels[i]).save(folder / f"{i} again.png")
    monkeypatch.chdir(tmp_path)
    lines = command("data", "audit", "folder:cells", "--labels", "as_labelled", "--quiet").out.splitlines()
    assert max(map(len, lines)) <= 80
    at = lines.index("byte-identical copies: 24")
    first = "cells/a cell type of a long name 0"
    assert lines[at + 1 : at + 3] == [f"  {first}/0 again.png", f"    = {first}/0.png"]
    assert "  and 4 more (--json lists them)" in lines
    assert sum("a cell type of a long name 11 4" in line for line in lines) == 2, "no name is broken off its number"


def test_predict_prints_counts_and_json(command: Command, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    dataset = trained.laboratory(tmp_path_factory)
    bundle = trained.colour_bundle(tmp_path / "bundle", dataset).path
    images = trained.cells(tmp_path_factory) / "lab_a" / "images"
    printed = command("predict", bundle, images, "--out", tmp_path / "a.csv", "--quiet")
    assert printed.code == 0
    assert f"{len(dataset)} rows in" in printed.out
    assert "unreadable: 0" in printed.out
    found = json.loads(command("predict", bundle, images, "--out", tmp_path / "b.parquet", "--quiet", "--json").out)
    assert found["n_rows"] == len(dataset)
    assert sum(found["by_label"].values()) == len(dataset)


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        (
            ("quantize",),
            ("BUNDLE", "--calibrate", "SPEC", "--images", "200", "fp32_layers", "reduce_range"),
        ),
        (("segment",), ("SEGMENTER", "IMAGES", "--out", "--size", "--overwrite", "classical", "trained segmenter")),
        (("train",), ("--aux", "ROLE=SPEC", "--cell-image", "SEGMENTER", "--train", "bc_sam_segmenter", "repeatable")),
        (("benchmark",), ("--cell-image", "classical", "--aux", "ROLE=SPEC", "--fractions", "F,F", "1,0.5,0.1,0.01")),
        (("benchmark",), ("--seeds", "--strict", "--selection", "validation", "published-selection", "optimistic")),
    ],
)
def test_help_names_what_is_to_be_said(verb: tuple[str, ...], words: tuple[str, ...], command: Command) -> None:
    printed = command(*verb, "--help").out
    assert [word for word in words if word.lower() not in printed.lower()] == []


@pytest.fixture
def few(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four cells of three types in class folders, and their masks in a table."""
    folder = tmp_path / "few"
    rows = ["path,label,mask"]
    for kind in trained.CELL_TYPES[:3]:
        for part in ("images", "masks"):
            (folder / part / kind).mkdir(parents=True)
            for image in sorted((trained.cells(tmp_path_factory) / "lab_a" / part / kind).iterdir())[:4]:
                shutil.copy(image, folder / part / kind / image.name)
        rows += [f"images/{kind}/{i.name},{kind},masks/{kind}/{i.name}" for i in (folder / "images" / kind).iterdir()]
    (folder / "cells.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_segment_prints_counts_a_table_and_json(command: Command, few: Path, tmp_path: Path) -> None:
    ended = command("segment", "classical", f"csv:{few / 'cells.csv'}", "--out", tmp_path / "a", "--size", 32, "--quiet")
    assert (ended.code, ended.err) == (0, "")
    assert "12 image(s): cell 12" in ended.out
    assert "unreadable: 0" in ended.out
    assert "Agreement with reference masks" in ended.out
    assert f"report: {tmp_path / 'a' / 'report.html'}" in ended.out
    (few / "images" / "monocyte.png").write_bytes(b"no image")
    ended = command("segment", "classical", few / "images" / "monocyte.png", "--out", tmp_path / "b", "--json", "-q")
    found = json.loads(ended.out)
    assert {name: found[name] for name in ("n_images", "outcomes", "n_unreadable", "tables")} == {
        "n_images": 1,
        "outcomes": {},
        "n_unreadable": 1,
        "tables": [],
    }
    assert "monocyte.png" in found["first_error"]
    ended = command("segment", "classical", few / "images", "--out", tmp_path / "a", "--quiet")
    assert ended.code == 2
    assert ended.error.startswith("error: ")
    assert "--overwrite" in ended.error
    assert command("segment", "classical", few / "images", "--out", tmp_path / "c", "--size", 8).code == 2
    ended = command("segment", "clasical", few / "images", "--out", tmp_path / "c")
    assert (ended.code, ended.error.startswith("error: there is no segmenter 'clasical'")) == (2, True)


@pytest.fixture
def trained_before(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny segmenter, made once a session, in the place of training one."""
    from hemalens.methods import bc_sam_segmenter as method

    made = trained.segmenter(tmp_path_factory)

    def known(train: object, *, config: object, run_dir: Path) -> None:
        shutil.copytree(made.path, run_dir / "segmenter")

    monkeypatch.setattr(method, "fit_segmenter", known)


def test_train_a_segmenter_and_cut_cells_out_with_it(
    command: Command, few: Path, trained_before: None, tmp_path: Path
) -> None:
    """The segmenter's folder goes into --cell-image, and the bundle needs it no more."""
    small = ("architecture=small", "rank=0", "image_size_px=32", "epochs=1", "batch_size=4", "precision=fp32")
    settings = [word for setting in (*small, "mask_fraction=0.5") for word in ("--set", setting)]
    spec = f"csv:{few / 'cells.csv'}"
    arguments = ("train", "bc_sam_segmenter", "--train", spec, "--weights", "none", *settings, "--out", tmp_path / "s")
    ended = command(*arguments)
    assert ended.code == 0
    assert f"segmenter: {tmp_path / 's' / 'segmenter'}" in ended.out
    assert "parameters are trained" in ended.err
    assert (
        "training on 6 masks of 12 images (mask_fraction=0.5, 4 unused; 1.0 uses all), 2 held out for the test" in ended.err
    )
    assert "trained from random weights" in " ".join(ended.out.split())
    again = command(*arguments)
    assert (again.code, "finished" in again.error) == (2, True)
    probe = [word for setting in trained.settings(trained.PROBE) for word in ("--set", setting)]
    run = ("train", "linear_probe", "--train", f"folder:{few / 'images'}", *probe, "--test-fraction", 0)
    ended = command(*run, "--cell-image", tmp_path / "s" / "segmenter", "--out", tmp_path / "run")
    assert ended.code == 0
    assert "cells cut out" in ended.err
    shutil.rmtree(tmp_path / "s")
    ended = command("predict", tmp_path / "run" / "bundle", few / "images", "--out", tmp_path / "a.csv", "--quiet")
    assert ended.code == 0
    counted = next(line for line in ended.out.splitlines() if line.startswith("cells: "))
    assert sum(int(n) for n in re.findall(r"\d+", counted.partition("(")[0])) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bc_sam",), "bc_sam needs a segmenter"),
        (("bc_sam", "--aux", "unlabelled"), "cannot read --aux 'unlabelled'; expected ROLE=SPEC"),
        (("bc_sam", "--aux", "=folder:x"), "cannot read --aux '=folder:x'; expected ROLE=SPEC"),
        (("bc_sam", "--aux", "unlabelled=nowhere:x"), "unknown dataset 'nowhere'"),
        (("bc_sam", "--set", "autoencoder.mmd=mean"), "key 'autoencoder.mmd'"),
        (("bc_sam_segmenter",), "bc_sam_segmenter needs the weights of Segment Anything"),
        (("bc_sam_segmenter", "--weights", "none"), "has no masks"),
        (("bc_sam_segmentor",), "unknown method 'bc_sam_segmentor'. did you mean 'bc_sam_segmenter'"),
        (("linear_probe", "--cell-image", "clasical"), "there is no segmenter 'clasical'"),
    ],
)
def test_train_says_in_one_line_what_it_needs(
    command: Command, few: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    method, *more = arguments
    spec = f"folder:{few / 'images'}" if "no masks" in message else f"csv:{few / 'cells.csv'}"
    backbone = ("--set", "autoencoder.mmd=none") if arguments == ("bc_sam",) else ()
    ended = command("train", method, "--train", spec, *more, *backbone, "--out", tmp_path / "run", "--quiet")
    assert ended.code == 2
    assert message.lower() in ended.error.lower()
    assert not (tmp_path / "run" / "bundle").exists()


def test_several_training_sets_are_one(command: Command, few: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for kind in ("neutrophil", "eosinophil"):
        (other / kind).mkdir(parents=True)
        for image in sorted((few / "images" / kind).iterdir())[:2]:
            image.rename(other / kind / image.name)
    probe = [word for setting in trained.settings(trained.PROBE) for word in ("--set", setting)]
    specs = ("--train", f"folder:{few / 'images'}", "--train", f"folder:{other}")
    ended = command(
        "train", "linear_probe", *specs, *probe, "--test-fraction", 0, "--out", tmp_path / "run", "--json", "-q"
    )
    (card,) = json.loads(ended.out)["data"]
    assert (card["name"], card["n_images"]) == ("images + other", 12)


def _loaded(statement: str, modules: tuple[str, ...], *words: object) -> str:
    """Which of `modules` a process has loaded at its end, after the statement with `words` as its command line."""
    report = f"atexit.register(lambda: print('loaded:', [m for m in {modules!r} if m in sys.modules]))"
    code = f"import sys, atexit\nsys.argv = ['hemalens', *sys.argv[1:]]\n{report}\n{statement}"
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


MAIN = "from hemalens.cli.main import main; main()"


def test_starting_loads_nothing_heavy() -> None:
    assert _loaded("import hemalens", HEAVY) == _loaded(MAIN, HEAVY, "--help") == "loaded: []"


def test_a_prediction_loads_nothing_that_only_others_need(few: Path, tmp_path: Path) -> None:
    image = next((few / "images" / "neutrophil").iterdir())
    words = ("predict", image, "--out", tmp_path / "table.csv")
    assert _loaded(MAIN, HEAVY_TO_PREDICT, *words) == "loaded: []"
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 2


def test_the_public_names_are_these() -> None:
    assert set(hemalens.__all__) == {
        "AdaptOptions",
        "BenchmarkConfig",
        "Bundle",
        "CellDataset",
        "CellImageConfig",
        "CountOptions",
        "EvaluateOptions",
        "HemalensError",
        "Prediction",
        "Predictor",
        "QuantizeOptions",
        "Record",
        "SuggestOptions",
        "TrainOptions",
        "__version__",
        "adapt",
        "benchmark",
        "count",
        "default_model_path",
        "evaluate",
        "open_bundle",
        "open_dataset",
        "predict",
        "quantize",
        "run_study",
        "segment",
        "suggest",
        "train",
    }
    for name in hemalens.__all__:
        assert getattr(hemalens, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = hemalens.nonsense


def test_data_types_lists_every_cell_type_with_its_spellings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = Command(monkeypatch, capsys)
    ended = call("data", "types")
    assert ended.code == 0
    lines = dict(line.split(": ", 1) for line in ended.out.splitlines())
    assert list(lines) == list(cell_types())
    assert lines["band_neutrophil"].startswith("band neutrophil, band, ")
    assert "stab_cell" in lines["band_neutrophil"]
    found = json.loads(call("data", "types", "--json").out)
    assert found["promonocyte"]["parent"] == "leukocyte"
    assert list(found) == list(cell_types())
