"""Suggesting cells to label: the list, its way back as a support, and what is refused."""

from __future__ import annotations

import csv
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import trained
from command import Command
from hemalens.adaptation.adapt import adapt
from hemalens.adaptation.suggest import SuggestOptions, suggest
from hemalens.bundle.bundle import Bundle
from hemalens.datasets import open_dataset
from hemalens.datasets.walking import walk_files
from hemalens.errors import ConfigError, DatasetError, InputError, OutputError
from trained import Colour, colour_cells

HOME: Mapping[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("base")
    return trained.colour_bundle(
        folder / "bundle", open_dataset(f"folder:{colour_cells(folder / 'home', HOME, 6, seed=0)}")
    )


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Twelve images of a new laboratory, one of them twice, and one that cannot be read."""
    folder = colour_cells(tmp_path / "away", HOME, 4, seed=1, noise=30)
    shutil.copy(walk_files(folder)[0], folder / "copy.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def _rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.parametrize("strategy", ["typical", "even"])
def test_the_list_with_its_labels_filled_in_is_a_support(base: Bundle, cells: Path, tmp_path: Path, strategy: str) -> None:
    out, said = tmp_path / "to_label.csv", []
    found = suggest(
        base.path,
        str(cells),
        out=out,
        say=said.append,
        options=SuggestOptions(n=6, strategy=strategy, sheet=tmp_path / "s.png"),
    )
    rows = _rows(out)
    assert list(rows[0]) == ["path", "label", "rank", "guess", "probability", "why"]
    assert [row["path"] for row in rows] == [each.path for each in found]
    assert [row["rank"] for row in rows] == [str(i) for i in range(1, 7)]
    assert {row["label"] for row in rows} == {""}
    assert {row["guess"] for row in rows} <= set(HOME)
    assert any("left out 1 unreadable image" in text for text in said)
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size == (5 * 144, 2 * 160)
    with pytest.raises(DatasetError, match="no image of to_label has a label"):
        open_dataset(f"csv:{out}").labelled()
    for row in rows:
        row["label"] = row["guess"]
    with open(out, "w", newline="", encoding="utf-8") as handle:
        table = csv.DictWriter(handle, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    assert adapt(base.path, out=tmp_path / "adapted", support=f"csv:{out}").manifest.labels == base.manifest.labels
    rest = suggest(
        base.path, str(cells), out=tmp_path / "next.csv", say=said.append, options=SuggestOptions(n=99, labelled=out)
    )
    assert not {each.path for each in rest} & {row["path"] for row in rows}
    assert len(rest) == 6, "twelve different images, six of them labelled"
    assert "only 6 image(s) are left to label" in said


def test_what_cannot_be_is_refused(base: Bundle, cells: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown strategy 'typicl'"):
        suggest(base.path, str(cells), out=tmp_path / "a.csv", options=SuggestOptions(strategy="typicl"))
    with pytest.raises(OutputError, match=r"ends in \.csv"):
        suggest(base.path, str(cells), out=tmp_path / "a.txt")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(InputError, match="a folder above the images"):
        suggest(base.path, str(cells), out=tmp_path / "elsewhere" / "a.csv", options=SuggestOptions(n=3))


def test_the_command_says_what_to_do_next(
    base: Bundle, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hemalens = Command(monkeypatch, capsys)
    ended = hemalens("suggest", base.path, cells, "--n", 3, "--out", tmp_path / "to_label.csv")
    assert ended.code == 0
    assert f"hemalens adapt {base.path} --support csv:{tmp_path / 'to_label.csv'}" in ended.out
    assert len(_rows(tmp_path / "to_label.csv")) == 3
    assert hemalens("suggest", base.path, cells, "--out", tmp_path / "to_label.csv").code == 2


def test_the_printed_command_is_one_for_the_shell(
    base: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "my cells; (new)"
    colour_cells(place, HOME, 2, seed=1)
    out = place / "to label.csv"
    ended = Command(monkeypatch, capsys)("suggest", base.path, place, "--n", 2, "--out", out)
    words = shlex.split(ended.out.rstrip().rpartition(", then: ")[2])
    assert words == ["hemalens", "adapt", str(base.path), "--support", f"csv:{out}", "--out", "NEW"]


def _fill(out: Path, n: int) -> list[dict[str, str]]:
    """Fill the labels of the first `n` rows with the guesses."""
    rows = _rows(out)
    for row in rows[:n]:
        row["label"] = row["guess"]
    with open(out, "w", newline="", encoding="utf-8") as handle:
        table = csv.DictWriter(handle, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return rows


def test_of_a_half_filled_list_the_filled_rows_are_the_support_and_the_others_are_counted(
    base: Bundle, cells: Path, tmp_path: Path
) -> None:
    out, said = tmp_path / "to_label.csv", []
    suggest(base.path, str(cells), out=out, options=SuggestOptions(n=9, strategy="even"))
    _fill(out, 6)
    adapted = adapt(base.path, out=tmp_path / "adapted", support=f"csv:{out}", say=said.append)
    assert sum(adapted.manifest.data[-1].class_counts.values()) == 6
    assert any("3 row(s) without a label are not used" in text for text in said)
    rest = suggest(base.path, str(cells), out=tmp_path / "next.csv", options=SuggestOptions(n=99, labelled=out))
    assert len(rest) == 6, "twelve different images, six of them labelled"


def test_a_list_without_any_label_is_no_support(base: Bundle, cells: Path, tmp_path: Path) -> None:
    out = tmp_path / "to_label.csv"
    suggest(base.path, str(cells), out=out, options=SuggestOptions(n=3))
    with pytest.raises(DatasetError, match=r"no image of to_label has a label; .*Fill the column label in"):
        adapt(base.path, out=tmp_path / "adapted", support=f"csv:{out}")


def test_the_folder_that_the_refusal_names_is_taken(base: Bundle, cells: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(InputError, match="not below the folder of") as error:
        suggest(base.path, str(cells), out=tmp_path / "elsewhere" / "a.csv", options=SuggestOptions(n=3))
    named = shlex.split(str(error.value.remedy).partition("--out ")[2])[0]
    assert Path(named) == cells / "a.csv"
    assert len(suggest(base.path, str(cells), out=Path(named), options=SuggestOptions(n=3))) == 3


def test_a_name_that_begins_a_formula_is_written_as_text_and_read_back(base: Bundle, tmp_path: Path) -> None:
    place = colour_cells(tmp_path / "away", HOME, 1, seed=1)
    for i, image in enumerate(walk_files(place)):
        shutil.move(image, place / f"={i}.png")
    suggest(base.path, str(place), out=place / "a.csv", options=SuggestOptions(n=9))
    assert {row["path"] for row in _rows(place / "a.csv")} == {f"'={i}.png" for i in range(3)}
    assert {r.path.name for r in open_dataset(f"csv:{place / 'a.csv'}").records} == {f"={i}.png" for i in range(3)}


def test_a_page_of_a_tiff_is_listed_by_its_name_and_read_back(base: Bundle, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    pages = np.stack([np.clip(np.array(c) + rng.normal(0, 20, (32, 32, 3)), 0, 255) for c in HOME.values()])
    (tmp_path / "away").mkdir()
    tifffile.imwrite(tmp_path / "away" / "smear.tif", pages.astype(np.uint8), photometric="rgb")
    out = tmp_path / "to_label.csv"
    suggest(base.path, str(tmp_path / "away"), out=out, options=SuggestOptions(n=3))
    rows = _rows(out)
    assert sorted(row["path"] for row in rows) == [f"away/smear.tif#{page}" for page in (1, 2, 3)]
    out.write_text("path,label\n" + "".join(f"{row['path']},{row['guess']}\n" for row in rows))
    found = {record.page: record.label for record in open_dataset(f"csv:{out}", labels="as_labelled").records}
    assert found == {1: "neutrophil", 2: "lymphocyte", 3: "monocyte"}
