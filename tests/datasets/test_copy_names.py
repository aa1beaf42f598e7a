"""Names of augmented copies and of copied files are recognised; names of smears, fields, days and counters are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes import folder
from hemalens.datasets.base import Record
from hemalens.datasets.copy_names import name_note, name_sources
from hemalens.runs.inputs import open_inputs


def _records(names: list[str], **values: str) -> list[Record]:
    return [Record(Path("cells") / name, "a", "lab", **values) for name in names]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        # Keras: <index>_<random number>
        (
            ["_0_207.jpeg", "_0_9312.jpeg", "_0_4411.jpeg", "_1_8.jpeg", "_1_7003.jpeg", "_1_902.jpeg"],
            [[0, 1, 2], [3, 4, 5]],
        ),
        (["mono_3_1.png", "mono_3_88123.png", "mono_3_5190.png"], [[0, 1, 2]]),
        (["a.png", "a_aug1.png", "a_aug2.png", "b.png"], [[0, 1, 2]]),
        (["a_rot90.png", "a_rot180.png", "a_hflip.png", "A_FLIP_LR.png"], [[0, 1, 2, 3]]),
        (["a_flip_rot90.png", "a-mirrored.png"], [[0, 1]]),
        (["a.png", "a (2).png", "b - Copy.png", "b.png", "b - Copy (2).png"], [[0, 1], [2, 3, 4]]),
        # a batch that a file manager has numbered has no plain name
        (["cell (1).png", "cell (2).png", "cell (3).png"], []),
        # smear, field, cell; a day and a time; a counter with zeros
        (["95-8-24-2_106_1.jpg", "95-8-24-2_106_2.jpg", "95-8-24-2_106_3.jpg"], []),
        (["20190526_162951_0.jpg", "20190526_163414_0.jpg", "20190526_163446_1.jpg"], []),
        (["IMG_20190526_162951.jpg", "IMG_20190526_163414.jpg", "IMG_20190526_183414.jpg"], []),
        (["patient_12_00101.png", "patient_12_00345.png", "patient_12_01000.png"], []),
        (["BNE_225902.jpg", "BNE_191112.jpg", "BNE_100.jpg"], []),
        (["rot.png", "flip.png", "(2).png"], []),
    ],
)
def test_sets_of_names(names: list[str], expected: list[list[int]]) -> None:
    assert name_sources(_records(names)) == expected


def test_equal_names_in_other_folders_are_other_sources() -> None:
    records = [Record(Path(folder) / "x_rot90.png", folder, "lab") for folder in ("a", "b")]
    assert name_sources(records) == []


def test_images_that_have_a_group_need_no_hint() -> None:
    assert name_sources(_records(["a.png", "a_rot90.png"], group="patient")) == []


def test_the_note_counts_names_and_sources() -> None:
    note = name_note(_records(["a.png", "a_aug1.png", "b_aug1.png", "b_aug2.png", "c.png"]))
    assert note is not None
    assert note.startswith("4 of 5 names look like copies of 2 source(s)")
    assert name_note(_records(["a.png", "b.png"])) is None


def test_training_notes_such_names_and_a_test_does_not(tmp_path: Path) -> None:
    spec = folder.write(tmp_path / "cells", n_per_class=2)
    (tmp_path / "cells" / "monocyte" / "cell 1.png").rename(tmp_path / "cells" / "monocyte" / "cell 0_flip.png")
    train, test = (open_inputs(spec, labels="five_class", role=role).notes for role in ("train and test", "test"))
    assert [note for note in train if note not in test] == [
        "cells: 2 of 10 names look like copies of 1 source(s); a random split divides them: "
        "hemalens data audit finds turned copies and writes their groups (--groups-to)"
    ]
