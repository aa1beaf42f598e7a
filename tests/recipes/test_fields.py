"""The recipe of CONTRIBUTING.md for a reader of fields: its block as it stands there, and a line in the table."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from command import Command
from hemalens.datasets.fields.open import open_fields
from hemalens.datasets.fields.readers import FIELD_READERS
from hemalens.errors import DatasetError

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = (
    "a_1.png,Lymphocyte,10,20,40,60",
    "a_1.png,RBC,-5,0,20,20",
    "b_1.png,RBC,30,30,50,50",
    "b_1.png,dust,1,1,9,9",
    "b_1.png,RBC,90,90,99,99",
)


@pytest.fixture
def toyfields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a small set, its reader in the table."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = (found for found in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S) if "FieldReader(" in found)
    names: dict[str, Any] = {"__name__": "toyfields"}
    exec(compile(block, "CONTRIBUTING.md", "exec"), names)
    monkeypatch.setitem(FIELD_READERS, "toyfields", names["READER"])
    (tmp_path / "set" / "images").mkdir(parents=True)
    for i, name in enumerate(("a_1", "b_1", "b_2")):
        Image.fromarray(np.full((80, 64, 3), 200 + i, np.uint8)).save(tmp_path / "set" / "images" / f"{name}.png")
    (tmp_path / "set" / "boxes.csv").write_text("\n".join(["image,class,left,top,right,bottom", *ROWS]) + "\n")
    return f"toyfields:{tmp_path / 'set'}"


def test_it_opens_with_boxes_kinds_and_slides(toyfields: str) -> None:
    dataset = open_fields(toyfields)
    assert dataset.counts == {"white cell": 1, "red cell": 2, "platelet": 0}
    assert [field.record.group for field in dataset.fields] == ["a", "b", "b"]
    assert dataset.fields[0].cell_types == ("lymphocyte", None)
    # clipped to the image of 64 x 80 px
    assert dataset.fields[0].boxes.corners.tolist() == [[10, 20, 40, 60], [0, 0, 20, 20]]
    assert len(dataset.fields[2].boxes) == 0
    assert {field.complete for field in dataset.fields} == {("white cell", "red cell")}
    assert dict(dataset.dropped) == {"class 'dust' is no kind of cell": 1, "outside the image": 1}


def test_another_layout_is_refused(toyfields: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="ToyFields"):
        open_fields(f"toyfields:{tmp_path}")


def test_the_command_line_knows_it(
    toyfields: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command(monkeypatch, capsys)
    assert json.loads(command("data", "list", "--json").out)["fields"]["toyfields"]["licence"] == "CC BY 4.0"
    assert "toyfields: 3 fields" in command("data", "fields", toyfields, "--quiet").out
