"""Everything a user can get wrong: a typed error of one line, exit code 2, nothing half-written, nothing removed."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from PIL import Image

import trained
from bench import benchmark
from command import Command
from hemalens import evaluate, predict, train
from hemalens.datasets.table_text import cell, plain
from hemalens.errors import (
    ConfigError,
    DatasetError,
    HemalensError,
    ImageError,
    InputError,
    LabelError,
    OutputError,
    ParityError,
    SplitError,
    WeightsError,
)
from hemalens.methods import METHODS
from hemalens.runs.evaluate import EvaluateOptions
from hemalens.runs.train import TrainOptions

pytestmark = pytest.mark.usefixtures("undrawn")

TRAIN_MODULE = "hemalens.runs.train.find_method"


@pytest.fixture
def hemalens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training that needs no network: the nearest mean colour."""
    monkeypatch.setattr(TRAIN_MODULE, lambda name: trained.stub_method())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cells = trained.laboratory(tmp_path_factory)
    return trained.colour_bundle(tmp_path_factory.mktemp("bundle") / "bundle", cells).path


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    """A user's folder of two classes with six images each, to break."""
    for kind in ("neutrophil", "lymphocyte"):
        (tmp_path / "cells" / kind).mkdir(parents=True)
        for image in sorted((trained.cells(tmp_path_factory) / "lab_a" / "images" / kind).iterdir())[:6]:
            shutil.copy(image, tmp_path / "cells" / kind / image.name)
    return tmp_path / "cells"


def _image(path: Path, size: tuple[int, int] = (40, 40), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")


def _huge_png(path: Path) -> None:
    """A PNG whose header says 20,000 x 20,000 px, in a hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "zero bytes": (lambda p: p.write_bytes(b""), "is empty"),
    "no image": (lambda p: p.write_bytes(b"%PDF-1.7 no image at all"), "is not a readable image"),
    "1x1": (lambda p: _image(p, (1, 1)), "is too small"),
    "20,000 x 20,000": (_huge_png, "is too large"),
    "dangling link": (lambda p: p.symlink_to("nowhere"), "does not exist"),
}
"""How an image can be broken, and what is said of it."""


def _one_line(error: pytest.ExceptionInfo[HemalensError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def _names(folder: Path) -> list[str]:
    """Everything below a folder, hidden leftovers included."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# ---------------------------------------------------------------------------------------------- data to learn from


def test_an_empty_folder(tmp_path: Path, hemalens: Command) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"expected <class>/<image>.*got an empty folder"):
        train("linear_probe", f"folder:{tmp_path / 'empty'}", out=tmp_path / "run")
    ended = hemalens("train", "linear_probe", "--train", f"folder:{tmp_path / 'empty'}", "--out", tmp_path / "run")
    assert ended.code == 2
    assert ended.error.startswith("error: ")
    assert str(tmp_path / "empty") in ended.error
    assert _names(tmp_path) == ["empty"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"there is no folder '.*gone'"):
        train("linear_probe", f"folder:{tmp_path / 'gone'}", out=tmp_path / "run")


def test_images_without_class_folders(tmp_path: Path) -> None:
    _image(tmp_path / "flat" / "a.png")
    with pytest.raises(DatasetError, match="are not in class folders"):
        train("linear_probe", f"folder:{tmp_path / 'flat'}", out=tmp_path / "run")


def test_one_class(folder: Path, stub: None) -> None:
    shutil.rmtree(folder / "lymphocyte")
    with pytest.raises(DatasetError, match=r"at least two classes; got neutrophil \(6\)"):
        train("stub", f"folder:{folder}", out=folder.parent / "run")


@pytest.mark.parametrize("n", [1, 2])
def test_a_class_too_small_for_three_parts(folder: Path, stub: None, n: int, hemalens: Command) -> None:
    for image in sorted((folder / "lymphocyte").iterdir())[n:]:
        image.unlink()
    out = folder.parent / "run"
    with pytest.raises(SplitError, match=rf"'lymphocyte' .*expected at least 3 independent .*got {n}\. Add images"):
        train("stub", f"folder:{folder}", out=out)
    assert not out.exists()
    ended = hemalens("train", "stub", "--train", f"folder:{folder}", "--out", out)
    assert (ended.code, ended.error.count("\n")) == (2, 0)


def test_a_class_of_copies_counts_as_one_image(folder: Path, stub: None) -> None:
    first, *others = sorted((folder / "lymphocyte").iterdir())
    for other in others:
        shutil.copy(first, other)
    with pytest.raises(SplitError, match=r"'lymphocyte' .*got 1"):
        train("stub", f"folder:{folder}", out=folder.parent / "run")


def test_a_small_class_can_be_left_out_and_is_named(folder: Path, stub: None) -> None:
    _image(folder / "monocyte" / "only.png")
    said: list[str] = []
    report = train(
        "stub", f"folder:{folder}", out=folder.parent / "run", options=TrainOptions(min_per_class=3), say=said.append
    )
    assert report.data[0].class_counts == {"neutrophil": 6, "lymphocyte": 6}
    assert report.data[0].dropped == {"class monocyte, fewer than 3 images": 1}
    assert any("class monocyte, fewer than 3 images: 1" in text for text in said)


@pytest.mark.parametrize(
    "kind",
    BROKEN,
)
def test_an_unreadable_image_is_refused_in_training(folder: Path, stub: None, kind: str, hemalens: Command) -> None:
    harm, message = BROKEN[kind]
    for name in ("neutrophil/a broken.png", "neutrophil/z broken.png"):
        harm(folder / name)
    out = folder.parent / "run"
    with pytest.raises(ImageError, match=rf"2 of 14 images cannot be read, first: .*a broken.png' {message}") as caught:
        train("stub", f"folder:{folder}", out=out)
    assert "--drop-unreadable" in _one_line(caught)
    assert not out.exists()
    ended = hemalens("train", "stub", "--train", f"folder:{folder}", "--out", out)
    assert ended.code == 2
    assert "2 of 14 images cannot be read" in ended.error


@pytest.mark.parametrize("kind", BROKEN)
def test_unreadable_images_are_dropped_and_counted_when_asked(folder: Path, stub: None, kind: str) -> None:
    harm, _ = BROKEN[kind]
    for name in ("neutrophil/a broken.png", "lymphocyte/z broken.png"):
        harm(folder / name)
    said: list[str] = []
    report = train(
        "stub", f"folder:{folder}", out=folder.parent / "run", options=TrainOptions(drop_unreadable=True), say=said.append
    )
    assert report.data[0].class_counts == {"neutrophil": 6, "lymphocyte": 6}
    assert report.data[0].dropped == {"unreadable": 2}
    assert any("2 unreadable" in text for text in said)


def test_unreadable_validation_images_are_dropped_too(folder: Path, stub: None, tmp_path_factory: Any) -> None:
    held = folder.parent / "held"
    for kind in ("neutrophil", "lymphocyte"):
        source = trained.cells(tmp_path_factory) / "lab_b" / "images" / kind
        shutil.copytree(source, held / kind)
    (held / "neutrophil" / "broken.png").write_bytes(b"")
    out, options = folder.parent / "run", TrainOptions(validation_spec=f"folder:{held}")
    with pytest.raises(ImageError, match="1 of 17 images cannot be read"):
        train("stub", f"folder:{folder}", out=out, options=options)
    report = train("stub", f"folder:{folder}", out=out, options=replace(options, drop_unreadable=True))
    assert [card.dropped for card in report.data] == [{}, {"unreadable": 1}]


def test_a_truncated_image_is_a_typed_error_in_training(folder: Path, tmp_path: Path) -> None:
    for image in (folder / "neutrophil").iterdir():
        image.write_bytes(image.read_bytes()[:-200])
    with pytest.raises(ImageError, match=r"cannot be read, first: .*damaged or truncated"):
        train("linear_probe", f"folder:{folder}", out=tmp_path / "run", settings=trained.settings(trained.PROBE))


def test_broken_images_in_the_test_data_are_listed_in_the_report(
    folder: Path, bundle: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for number, (harm, _) in enumerate(BROKEN.values()):
        harm(folder / "neutrophil" / f"broken {number}.png")
    shutil.copytree(trained.cells(tmp_path_factory) / "lab_b" / "images" / "monocyte", folder / "monocyte")
    shutil.copytree(trained.cells(tmp_path_factory) / "lab_b" / "images" / "neutrophil", folder / "neutrophil" / "lab b")
    report = evaluate(bundle, f"folder:{folder}", out=tmp_path / "report", options=EvaluateOptions(drop_seen=True))
    assert report.data[0].dropped == {"seen in training": 12}
    unreadable = report.evaluations[0].unreadable
    assert sorted(unreadable) == [str(folder / "neutrophil" / f"broken {n}.png") for n in range(len(BROKEN))]
    # a file that is not there is noticed before it would be read
    messages = ["No such file" if kind == "dangling link" else message for kind, (_, message) in BROKEN.items()]
    for message, error in zip(messages, (unreadable[name] for name in sorted(unreadable)), strict=True):
        assert message in error


def test_an_image_under_two_labels_and_a_copy_are_left_out(folder: Path, stub: None) -> None:
    images = sorted((folder / "neutrophil").iterdir())
    shutil.copy(images[0], folder / "lymphocyte" / "the same.png")
    shutil.copy(images[1], folder / "neutrophil" / "copy.png")
    report = train("stub", f"folder:{folder}", out=folder.parent / "run")
    assert report.data[0].dropped == {"conflicting": 2, "copies": 1}
    assert report.data[0].class_counts == {"neutrophil": 5, "lymphocyte": 6}


# ------------------------------------------------------------------------------------------------------------ names


def test_unknown_names_show_the_near_ones(folder: Path, bundle: Path, tmp_path: Path) -> None:
    spec, out = f"folder:{folder}", tmp_path / "run"
    probe = ["backbone=test_resnet", "weights=none"]
    cases: list[tuple[type[HemalensError], str, Callable[[], object]]] = [
        (DatasetError, "unknown dataset 'foldr'.*'folder'", lambda: train("linear_probe", f"foldr:{folder}", out=out)),
        (DatasetError, f"For one folder a class: folder:{folder}", lambda: train("linear_probe", str(folder), out=out)),
        (InputError, "unknown method 'linear_prob'.*'linear_probe'", lambda: train("linear_prob", spec, out=out)),
        (
            LabelError,
            "unknown label map 'five'.*'five_class'",
            lambda: train("linear_probe", spec, out=out, options=TrainOptions(labels="five")),
        ),
        (ConfigError, "unknown key 'hed'.*'head'", lambda: train("linear_probe", spec, out=out, settings=["hed=lr"])),
        (
            ConfigError,
            "unknown head 'svm_rbff'.*'svm_rbf'",
            lambda: train("linear_probe", spec, out=out, settings=[*probe, "head=svm_rbff"]),
        ),
        (
            ConfigError,
            "unknown backbone 'test_resnett'.*'test_resnet'",
            lambda: train("linear_probe", spec, out=out, settings=["backbone=test_resnett", "weights=none"]),
        ),
        (DatasetError, "unknown dataset 'acevedo'.*'acevedo20'", lambda: evaluate(bundle, "acevedo:x", out=out)),
        (
            ConfigError,
            "unknown key 'linear_prob",
            lambda: benchmark(["linear_probe"], spec, protocol="k-fold", out=out, settings=["linear_prob.head=rf"]),
        ),
    ]
    for kind, message, call in cases:
        with pytest.raises(kind, match=message) as caught:
            call()
        _one_line(caught)
        shutil.rmtree(out, ignore_errors=True)


def test_a_label_the_taxonomy_does_not_know(folder: Path, tmp_path: Path) -> None:
    (folder / "neutrophil").rename(folder / "neutrofil")
    with pytest.raises(LabelError, match=r"'neutrofil' is no known cell type. did you mean 'neutrophil'.*as_labelled"):
        train("linear_probe", f"folder:{folder}", out=tmp_path / "run", options=TrainOptions(strict=True))


BAD_SETTINGS = {
    "no key": ("epochs", "expected key=value"),
    "wrong kind": ("seed=many", "key 'seed'; expected .*; got 'many'"),
    "not coerced": ("seed='3'", "key 'seed'"),
    "too small an image": ("image_size_px=8", "key 'image_size_px'; expected .*greater than or equal to 16; got 8"),
    "no image": ("image_size_px=0", "key 'image_size_px'"),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_a_bad_setting(folder: Path, tmp_path: Path, case: str, hemalens: Command) -> None:
    setting, message = BAD_SETTINGS[case]
    with pytest.raises(ConfigError, match=message):
        train("linear_probe", f"folder:{folder}", out=tmp_path / "run", settings=[setting])
    arguments = ("--train", f"folder:{folder}", "--set", setting, "--out", tmp_path / "run")
    assert hemalens("train", "linear_probe", *arguments).code == 2
    assert not (tmp_path / "run").exists()


NONSENSE = (
    "epochs=0",
    "batch_size=1",
    "open_stages=-1",
    "patience=0",
    "precision=fp16",
    "sampling=all",
    "optimiser={learning_rate=0}",
    "optimiser={learning_rate=-1.0}",
    "optimiser={label_smoothing=2.0}",
    "optimiser={weight_decay=-0.1}",
    "optimiser={momentum=0.9}",
)


@pytest.mark.parametrize("setting", NONSENSE)
def test_a_setting_that_makes_no_sense_is_found_before_training(folder: Path, tmp_path: Path, setting: str) -> None:
    key = setting.partition("=")[0]
    with pytest.raises(ConfigError, match=f"key '{key}"):
        train("finetune", f"folder:{folder}", out=tmp_path / "run", settings=[setting])


def test_a_config_file_that_is_missing_or_damaged(folder: Path, tmp_path: Path) -> None:
    for content, message in ((None, "cannot read"), ("a = = 1", "is not valid TOML"), ("surprise = 1", "unknown key")):
        file = tmp_path / "settings.toml"
        if content is not None:
            file.write_text(content)
        with pytest.raises(ConfigError, match=f"settings.toml'.*{message}|{message}.*settings.toml'"):
            train("linear_probe", f"folder:{folder}", out=tmp_path / "run", options=TrainOptions(config_file=file))


def test_a_head_that_needs_more_images_says_so(folder: Path, tmp_path: Path) -> None:
    for kind in ("neutrophil", "lymphocyte"):
        for image in sorted((folder / kind).iterdir())[3:]:
            image.unlink()
    settings = [*trained.settings(trained.PROBE), "head=svm_rbf"]
    with pytest.raises(SplitError, match=r"head 'svm_rbf' cannot learn from 2 images of 2 classes.*--set head=lr"):
        train("linear_probe", f"folder:{folder}", out=tmp_path / "run", settings=settings)


def test_a_network_of_one_image_size(folder: Path, tmp_path: Path) -> None:
    settings = ["backbone=test_vit", "weights=none", "image_size_px=64"]
    with pytest.raises(ConfigError, match="'test_vit' takes images of one size only; expected image_size_px=160; got 64"):
        train("finetune", f"folder:{folder}", out=tmp_path / "run", settings=settings)


def test_a_benchmark_of_no_method_and_protocols_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    spec, out = f"folder:{folder}", tmp_path / "run"
    with pytest.raises(
        InputError, match=rf"no method is named; expected one or more of {', '.join(METHODS)}\. Use --methods"
    ):
        benchmark([], spec, protocol="k-fold", out=out)
    for protocol in ("cross-domain", "k-shot"):
        with pytest.raises(InputError, match=rf"{protocol} needs a target. Name one or more with --target"):
            benchmark(["linear_probe"], spec, protocol=protocol, out=out)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="k-fold takes no target"):
        benchmark(["linear_probe"], spec, protocol="k-fold", target_specs=[spec], out=out)
    with pytest.raises(InputError, match="cross-domain needs a target"):
        # the source is not its own target
        benchmark(["linear_probe"], spec, protocol="cross-domain", target_specs=[spec], folds=2, out=out)
    copied = shutil.copytree(folder, tmp_path / "copied")
    with pytest.raises(SplitError, match=r"trained on"):
        benchmark(["linear_probe"], spec, protocol="cross-domain", target_specs=[f"folder:{copied}"], folds=2, out=out)


def test_validation_data_with_images_of_the_training_data_or_without_its_classes(
    folder: Path, stub: None, tmp_path: Path
) -> None:
    with pytest.raises(SplitError, match=r"12 image\(s\) of cells were trained on|image\(s\) of cells were trained on"):
        train("stub", f"folder:{folder}", out=tmp_path / "run", options=TrainOptions(validation_spec=f"folder:{folder}"))
    _image(tmp_path / "other" / "monocyte" / "a.png")
    _image(tmp_path / "other" / "basophil" / "b.png", seed=1)
    with pytest.raises(SplitError, match=r"validation data other shares no class .*expected neutrophil.*got "):
        train(
            "stub",
            f"folder:{folder}",
            out=tmp_path / "run",
            options=TrainOptions(validation_spec=f"folder:{tmp_path / 'other'}"),
        )


# -------------------------------------------------------------------------------------------------------------- CSV


BAD_TABLES = {
    "no label column": ("path,meaning\n{image},neutrophil\n", "lacks the column.s. label; .*got path, meaning"),
    "no header": ("", "lacks the column.s. path, label; .*got no header"),
    "no rows": ("path,label\n", "lists no image"),
    "empty path": ("path,label\n,neutrophil\n", "line 2: the path is empty"),
    "outside": ("path,label\n../outside.png,neutrophil\n", "line 2: '../outside.png' lies outside the CSV's folder"),
    "absolute": ("path,label\n/etc/hostname,neutrophil\n", "line 2: '/etc/hostname' lies outside the CSV's folder"),
    "missing file": ("path,label\n{image},neutrophil\ngone.png,lymphocyte\n", "line 3: there is no file '.*gone.png'"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_bad_table(folder: Path, case: str, hemalens: Command) -> None:
    content, message = BAD_TABLES[case]
    _image(folder.parent / "outside.png")
    image = next(iter((folder / "neutrophil").iterdir())).relative_to(folder)
    table = folder / "cells.csv"
    table.write_text(content.format(image=image))
    with pytest.raises(DatasetError, match=message) as caught:
        train("linear_probe", f"csv:{table}", out=folder.parent / "run")
    assert str(table) in _one_line(caught)
    ended = hemalens("data", "audit", f"csv:{table}")
    assert (ended.code, ended.out) == (2, "")


# ---------------------------------------------------------------------------------------------------------- predict


STRANGE_NAMES = (
    "with space.png",
    "Zelle ä 細胞 🩸.png",
    'comma, "quotes".png',
    "line\nbreak.png",
    "carriage\rreturn.png",
    "=1+2.png",
    " leading and trailing .png",
)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_strange_names_survive_the_table(bundle: Path, tmp_path: Path, suffix: str) -> None:
    images = tmp_path / "images"
    for number, name in enumerate(STRANGE_NAMES):
        _image(images / name, seed=number)
    out = tmp_path / f"answers{suffix}"
    assert predict(bundle, str(images), out=out).n_rows == len(STRANGE_NAMES)
    paths = sorted(str(images / name) for name in STRANGE_NAMES)
    expected = [cell(path) for path in paths]
    assert [plain(path) for path in expected] == paths
    if suffix == ".parquet":
        assert pandas.read_parquet(out)["path"].tolist() == expected
        return
    with open(out, newline="", encoding="utf-8") as file:
        assert [row["path"] for row in csv.DictReader(file)] == expected
    assert pandas.read_csv(out)["path"].tolist() == expected


def test_a_name_that_is_no_utf8_is_a_row_like_any_other(bundle: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    _image(images / "good.png")
    try:
        os.rename(images / "good.png", os.fsencode(images) + b"/bad \xff.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    for out in (tmp_path / "answers.csv", tmp_path / "answers.parquet"):
        assert predict(bundle, str(images), out=out).n_unreadable == 0
    assert pandas.read_csv(tmp_path / "answers.csv")["path"].tolist() == [f"'{images}/bad \\udcff.png"]


def test_broken_images_are_rows_and_the_command_succeeds(bundle: Path, tmp_path: Path, hemalens: Command) -> None:
    images = tmp_path / "images"
    _image(images / "a good.png")
    _image(images / "z good.png", seed=1)
    for number, (harm, _) in enumerate(BROKEN.values()):
        harm(images / f"broken {number}.png")
    (images / "folder.jpg").mkdir()
    n_broken = len(BROKEN) + 1
    out = tmp_path / "answers.csv"
    ended = hemalens("predict", bundle, images, "--out", out)
    assert ended.code == 0
    assert f"{n_broken + 2} rows" in ended.out
    assert f"unreadable: {n_broken}, first: image" in ended.out
    rows = pandas.read_csv(out)
    assert len(rows) == n_broken + 2
    assert rows["label"].notna().tolist() == [True, *[False] * n_broken, True]
    for row, (_, message) in zip(rows.iloc[1:].itertuples(), BROKEN.values(), strict=False):
        assert message in row.error
        assert Path(row.path).name in row.error
    assert "is a folder" in rows["error"].iloc[-2]
    broken_rows = rows[rows["error"].notna()]
    assert broken_rows["abstained"].all()
    assert broken_rows.drop(columns=["path", "abstained", "error"]).isna().all(axis=None)


def test_predicting_nothing_and_the_unknown(bundle: Path, tmp_path: Path, hemalens: Command) -> None:
    (tmp_path / "empty").mkdir()
    out = tmp_path / "answers.csv"
    for source, message in (("empty", "no image in"), ("gone", "there is no image or folder")):
        with pytest.raises(DatasetError, match=message):
            predict(bundle, str(tmp_path / source), out=out)
        assert hemalens("predict", bundle, tmp_path / source, "--out", out).code == 2
    assert _names(tmp_path) == ["empty"]


def test_outputs_and_thresholds_that_do_not_fit(bundle: Path, tmp_path: Path) -> None:
    _image(tmp_path / "a.png")
    source = str(tmp_path / "a.png")
    with pytest.raises(OutputError, match=r"expected a name that ends in .csv or .parquet"):
        predict(bundle, source, out=tmp_path / "answers.xlsx")
    with pytest.raises(OutputError, match=r"embeddings do not fit a CSV. Name an --out that ends in .parquet"):
        predict(bundle, source, out=tmp_path / "answers.csv", embeddings=True)
    for value in (-0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match="threshold is out of range; expected 0 to 1"):
            predict(bundle, source, out=tmp_path / "answers.csv", abstain_below=value)
    assert _names(tmp_path) == ["a.png"]


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_a_bad_bundle_from_the_command_line(
    bundle: Path, folder: Path, tmp_path: Path, verb: str, hemalens: Command
) -> None:
    damaged = Path(shutil.copytree(bundle, tmp_path / "damaged"))
    (damaged / "model.onnx").write_bytes(b"x")
    rest = (
        [folder, "--out", tmp_path / "a.csv"]
        if verb == "predict"
        else ["--data", f"folder:{folder}", "--out", tmp_path / "a"]
    )
    for path, message in ((damaged, "is damaged"), (folder, "is no bundle"), (tmp_path / "gone", "no bundle folder")):
        ended = hemalens(verb, path, *rest)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
        assert ended.error.startswith("error: ")
        assert message in ended.error


# ---------------------------------------------------------------------------------------------------------- outputs


def _writers(bundle: Path, folder: Path) -> dict[str, Callable[..., object]]:
    """Every job that writes, as a function of where it writes."""
    spec = f"folder:{folder}"
    return {
        "train": lambda out, **more: train("stub", spec, out=out, **more),
        "predict": lambda out, **more: predict(bundle, str(folder), out=out, **more),
        "evaluate": lambda out, **more: evaluate(bundle, f"folder:{folder}", out=out, **more),
    }


@pytest.fixture
def unseen(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of lab_b, which the bundle has not seen."""
    for kind in ("neutrophil", "lymphocyte"):
        shutil.rmtree(folder / kind)
        shutil.copytree(trained.cells(tmp_path_factory) / "lab_b" / "images" / kind, folder / kind)
    return folder


@pytest.mark.parametrize("job", ["train", "predict", "evaluate"])
def test_a_place_below_a_file_cannot_be_written(bundle: Path, unseen: Path, stub: None, tmp_path: Path, job: str) -> None:
    (tmp_path / "file").write_text("kept")
    out = tmp_path / "file" / "below" / "a.csv"
    with pytest.raises(
        OutputError, match=f"cannot write '{out}'; expected a folder; got the file '{tmp_path}/file'"
    ) as caught:
        _writers(bundle, unseen)[job](out)
    _one_line(caught)
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("job", ["train", "predict", "evaluate"])
def test_a_place_without_permission(
    *, bundle: Path, unseen: Path, stub: None, tmp_path: Path, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*given: object, **more: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "x"))

    monkeypatch.setattr("hemalens.files.tempfile.mkstemp", denied)
    monkeypatch.setattr("hemalens.files.tempfile.mkdtemp", denied)
    with pytest.raises(OutputError, match=r"got Permission denied. Choose another .* or change the permissions"):
        _writers(bundle, unseen)[job](tmp_path / "new" / "a.csv")


@pytest.mark.parametrize("job", ["train", "predict", "evaluate"])
def test_an_existing_file_is_refused_and_kept(bundle: Path, unseen: Path, stub: None, tmp_path: Path, job: str) -> None:
    out = tmp_path / "mine.csv"
    out.write_text("kept")
    with pytest.raises(OutputError, match=r"'.*mine.csv' (exists already|holds something else|is not a run folder)"):
        _writers(bundle, unseen)[job](out)
    assert out.read_text() == "kept"


@pytest.mark.parametrize("job", ["train", "evaluate"])
def test_a_folder_of_something_else_is_never_removed(
    bundle: Path, unseen: Path, stub: None, tmp_path: Path, job: str
) -> None:
    out = tmp_path / "documents"
    (out / "letters").mkdir(parents=True)
    (out / "letters" / "a.txt").write_text("kept")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"'.*documents' (exists already|holds something else|is not a run folder)"):
            _writers(bundle, unseen)[job](out, overwrite=overwrite)
    assert (out / "letters" / "a.txt").read_text() == "kept"


@pytest.mark.parametrize("job", ["train", "predict", "evaluate"])
def test_a_folder_at_a_file_s_name_is_never_removed(
    bundle: Path, unseen: Path, stub: None, tmp_path: Path, job: str
) -> None:
    out = tmp_path / "folder.csv"
    out.mkdir()
    (out / "a.txt").write_text("kept")
    with pytest.raises(OutputError, match=r"folder\.csv'"):
        _writers(bundle, unseen)[job](out, overwrite=True)
    assert _names(tmp_path / "folder.csv") == ["a.txt"]


def test_an_evaluation_never_replaces_a_run(bundle: Path, unseen: Path, stub: None, tmp_path: Path) -> None:
    writers = _writers(bundle, unseen)
    writers["train"](tmp_path / "run")
    before = _names(tmp_path / "run")
    with pytest.raises(OutputError, match=r"holds 'bundle/manifest.json' and 4 more file\(s\) besides a report"):
        writers["evaluate"](tmp_path / "run", overwrite=True)
    assert _names(tmp_path / "run") == before
    writers["evaluate"](tmp_path / "report")
    writers["evaluate"](tmp_path / "report", overwrite=True)
    with pytest.raises(OutputError, match=r"exists already.*--overwrite"):
        writers["evaluate"](tmp_path / "report")


def test_drawing_cells_never_replaces_anything_else(folder: Path, tmp_path: Path, hemalens: Command) -> None:
    before = _names(folder)
    ended = hemalens("data", "synthesize", folder, "--n-per-class", 1, "--overwrite")
    assert ended.code == 2
    assert "holds something else than synthetic images" in ended.error
    assert _names(folder) == before
    draw = ("data", "synthesize", tmp_path / "drawn", "--n-per-class", 1, "--laboratory", "lab_a", "-q")
    assert [hemalens(*draw).code, hemalens(*draw).code, hemalens(*draw, "--overwrite").code] == [0, 2, 0]


def test_predictions_are_replaced_only_when_asked(bundle: Path, unseen: Path, tmp_path: Path, hemalens: Command) -> None:
    out = tmp_path / "answers.csv"
    call = ("predict", bundle, unseen, "--out", out)
    assert hemalens(*call).code == 0
    first = out.read_text()
    ended = hemalens(*call)
    assert ended.code == 2
    assert ended.error.startswith(f"error: '{out}' exists already")
    assert hemalens(*call, "--overwrite").code == 0
    assert out.read_text() == first


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_full_disk_keeps_the_previous_predictions(
    bundle: Path, unseen: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out" / f"answers{suffix}"
    predict(bundle, str(unseen), out=out)
    before = out.read_bytes()
    monkeypatch.setattr("hemalens.inference.rows.RowFormat.row", _raise_full_disk)
    for target in (out, tmp_path / "out" / f"new{suffix}"):
        with pytest.raises(OutputError, match=f"the disk is full while writing '{target}'. Free space"):
            predict(bundle, str(unseen), out=target, overwrite=True)
    assert _names(tmp_path / "out") == [out.name]
    assert out.read_bytes() == before


def _raise_full_disk(*given: object, **more: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_that_cannot_grow_is_a_typed_error(bundle: Path, unseen: Path, tmp_path: Path, hemalens: Command) -> None:
    """Against the real thing: the process may write no file beyond 200 bytes."""
    import resource

    _, hard = soft_and_hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot write '.*answers.csv'; .*got File too large"):
            predict(bundle, str(unseen), out=tmp_path / "answers.csv")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, soft_and_hard)
    assert not list(tmp_path.glob("*answers*"))


def test_a_full_disk_while_the_bundle_is_written_leaves_nothing_half_written(
    folder: Path, stub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        return _raise_full_disk() if self.name == "model.onnx" else write_bytes(self, content)  # type: ignore[return-value]

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"the disk is full while writing '.*run/.new/bundle'"):
        train("stub", f"folder:{folder}", out=tmp_path / "run")
    assert _names(tmp_path / "run") == [], "nothing to resume"
    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    train("stub", f"folder:{folder}", out=tmp_path / "run")
    assert (tmp_path / "run" / "bundle" / "manifest.json").is_file()


def test_the_feature_cache_in_the_way_is_a_typed_error_and_a_damaged_one_is_made_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, settings = f"folder:{folder}", trained.settings(trained.PROBE)
    monkeypatch.setenv("HEMALENS_CACHE", str(tmp_path / "cache"))
    train("linear_probe", spec, out=tmp_path / "run", settings=settings)
    for file in (tmp_path / "cache" / "features").iterdir():
        file.write_bytes(b"no database" * 500)
    n = len(list((tmp_path / "cache" / "features").iterdir()))
    train("linear_probe", spec, out=tmp_path / "run", settings=settings, overwrite=True)
    assert len(list((tmp_path / "cache" / "features").glob("*.damaged-1"))) == n


# ---------------------------------------------------------------------------------------------------------- weights


def _weights_cases(tmp_path: Path) -> dict[str, tuple[list[str], str]]:
    import torch
    from safetensors.torch import save_file

    save_file({"foreign": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    torch.save({"foreign": torch.zeros(3)}, tmp_path / "foreign.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "foreign.safetensors").read_bytes()[:-5])
    (tmp_path / "cut.pth").write_bytes((tmp_path / "foreign.pth").read_bytes()[:100])
    return {
        "missing": (
            ["weights=gone.pth"],
            "there is no weights file 'gone.pth'; expected FILE, a bundle's folder, package, hub or none",
        ),
        "a folder": ([f"weights={tmp_path}"], "there is no weights file"),
        "foreign": ([f"weights={tmp_path}/foreign.safetensors"], r"do not fit 'test_resnet'; .*first: "),
        "foreign pth": (
            [f"weights={tmp_path}/foreign.pth"],
            r"foreign.pth' do not fit 'test_resnet'; expected \d+ tensors",
        ),
        "no state dict": (
            [f"weights={tmp_path}/list.pth"],
            "cannot read the weights in '.*list.pth'; expected a whole state dict.*; got a list",
        ),
        "truncated": ([f"weights={tmp_path}/cut.safetensors"], "cannot read the weights in '.*cut.safetensors'"),
        "truncated pth": ([f"weights={tmp_path}/cut.pth"], "cannot read the weights in '.*cut.pth'"),
        "package of another": (["weights=package"], "weights for 'test_resnet'.*--weights FILE"),
        "hub without network": (["weights=hub"], "weights for 'test_resnet' from the hub; got .*--weights none"),
    }


WEIGHTS = (
    "missing",
    "a folder",
    "foreign",
    "foreign pth",
    "no state dict",
    "truncated",
    "truncated pth",
    "package of another",
    "hub without network",
)


@pytest.mark.parametrize("method", ["linear_probe", "finetune"])
@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_cannot_be_had_stop_the_run(
    *, folder: Path, tmp_path: Path, case: str, method: str, monkeypatch: pytest.MonkeyPatch, hemalens: Command
) -> None:
    import huggingface_hub.constants

    # what its client does without a network, without waiting for it
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    setting, message = _weights_cases(tmp_path)[case]
    settings = ["backbone=test_resnet", "image_size_px=32", *setting]
    with pytest.raises(WeightsError, match=message) as caught:
        train(method, f"folder:{folder}", out=tmp_path / "run", settings=settings)
    _one_line(caught)
    assert not (tmp_path / "run" / "bundle").exists()
    flags = [word for value in settings for word in ("--set", value)]
    ended = hemalens("train", method, "--train", f"folder:{folder}", "--out", tmp_path / "run", *flags)
    assert ended.code == 2
    assert ended.error.startswith("error: ")


# ------------------------------------------------------------------------------------------------------- exit codes


def test_a_failure_of_ours_ends_with_1_in_one_line(monkeypatch: pytest.MonkeyPatch, hemalens: Command) -> None:
    def fail(*given: object, **more: object) -> None:
        raise ParityError("the exported graph does not reproduce the trained model", got="a difference of 0.2")

    monkeypatch.setattr("hemalens.datasets.open_dataset", fail)
    ended = hemalens("data", "audit", "folder:x")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == "failure: the exported graph does not reproduce the trained model; got a difference of 0.2\n"


def test_an_interruption_ends_with_130(monkeypatch: pytest.MonkeyPatch, hemalens: Command) -> None:
    def interrupted(*given: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hemalens.datasets.open_dataset", interrupted)
    ended = hemalens("data", "audit", "folder:x")
    assert (ended.code, ended.err.count("\n"), "resume" in ended.err) == (130, 1, True)


def test_wrong_usage_ends_with_2(hemalens: Command) -> None:
    for arguments in (["train"], ["nothing"], ["predict", "--no-such-option"], ["data", "synthesize"]):
        assert hemalens(*arguments).code == 2


def test_errors_are_on_standard_error_also_with_json(bundle: Path, tmp_path: Path, hemalens: Command) -> None:
    ended = hemalens("predict", bundle, tmp_path / "gone", "--out", tmp_path / "a.csv", "--json")
    assert (ended.code, ended.out) == (2, "")
    json.dumps(ended.error)
