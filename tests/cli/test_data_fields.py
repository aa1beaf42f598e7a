"""`data fields` and `data synthesize-fields`: what they print, as text within 80 columns and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command import Command
from fake_fields import OBJECTS, write_voc, write_yolo
from fakes import bccd
from hemalens.datasets.fields.open import open_fields


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line."""
    return Command(monkeypatch, capsys)


def test_a_summary_within_80_columns(command: Command, tmp_path: Path) -> None:
    first = write_yolo(tmp_path / "a", (OBJECTS, (), OBJECTS[:1]))
    second = bccd.write_bccd_fields(tmp_path / "b", n_per_class=1)
    ended = command("data", "fields", first, second)
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert "yolo: 3 fields, 1 without a cell" in lines
    assert "bccd_fields: 1 field, 0 without a cell" in lines
    (row,) = [line.split() for line in lines if line.startswith("yolo ")]
    # laboratory, fields, and the boxes of each kind with their median side
    assert row == ["yolo", "3", "2", "(40", "px)", "2", "(20", "px)", "1", "(8", "px)"]
    (bccd_row,) = [line for line in lines if line.startswith("bccd ")]
    assert bccd_row.count("*") == 1, "red cells are not boxed completely"
    assert "byte-identical images: 0" in lines
    assert all(len(line) <= 80 for line in lines)


def test_json_holds_the_sets_and_their_copies(command: Command, tmp_path: Path) -> None:
    # the same images in two formats
    specs = write_yolo(tmp_path / "a"), write_voc(tmp_path / "b")
    plain = json.loads(command("data", "fields", *specs, "--json").out)
    assert [each["name"] for each in plain["sets"]] == ["yolo", "voc"]
    assert plain["sets"][0]["domains"]["yolo"]["red cell"] == {"n": 4, "median_px": 20.0, "n_complete": 2}
    assert len(plain["copies"]) == 2
    assert "near_duplicates" not in plain
    compared = json.loads(command("data", "fields", *specs, "--compare", "--json").out)
    assert compared["copies"] == plain["copies"]
    assert compared["near_duplicates"] == []


def test_synthetic_fields_open_by_the_name_that_is_printed(command: Command, tmp_path: Path) -> None:
    small = ("--set", "n_slides=1", "--set", "n_fields=2", "--set", "width_px=160", "--set", "height_px=128")
    ended = command("data", "synthesize-fields", tmp_path / "f", *small, "--laboratory", "lab_b", "--seed", "3")
    assert ended.code == 0, ended.err
    spec = ended.out.strip().rpartition(" ")[2]
    dataset = open_fields(spec)
    assert len(dataset) == 2
    again = command("data", "synthesize-fields", tmp_path / "f", *small)
    assert again.code == 2
    assert "--overwrite" in again.error
