"""The written set of an imitated laboratory: the images of `imitated`, what was drawn, and what is replaced."""

from __future__ import annotations

import json
from pathlib import Path

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest

import trained
from hemalens.datasets import open_dataset
from hemalens.errors import InputError, OutputError
from hemalens.files import read_sealed
from hemalens.imaging.reading import read_image
from hemalens.runs.imitate import ImitateOptions, imitate, imitated_files
from hemalens.training.imitated_laboratory import ImitatedLaboratory, imitated
from hemalens.training.laboratory_augmentation import LaboratoryConfig

OPTIONS = ImitateOptions(laboratory=2, mix="balanced", n_images=20)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Synthetic cells of four types, as the name of a dataset."""
    return f"synthetic:{trained.cells(tmp_path_factory) / 'lab_a'}"


@pytest.fixture(scope="module")
def written(source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A written laboratory; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("written") / "lab"
    imitate(source, out=folder, options=OPTIONS, seed=5)
    return folder


def test_the_folder_opens_as_the_set_that_was_drawn(source: str, written: Path) -> None:
    found, expected = open_dataset(f"folder:{written}"), imitated(open_dataset(source), 2, "balanced", 20, 5)
    assert found.class_counts == {label: n for label, n in expected.class_counts.items() if n}
    known = read_sealed(written / "laboratory.json")
    assert known is not None
    pixels = {(record.label, record.file_name): record.read() for record in expected.records}
    for name, file in known["images"].items():
        assert np.array_equal(read_image(written / name), pixels[name.partition("/")[0], file])
    assert len(known["images"]) == len(found) == 20
    assert found.synthetic, "drawn cells stay synthetic ones"
    assert [note for note in found.notes if "imitate another laboratory" in note and "Apache-2.0" in note]
    assert not [note for note in found.notes if "left out" in note]


def test_what_was_drawn_is_written_with_units_and_source(source: str, written: Path) -> None:
    known, given = json.loads((written / "laboratory.json").read_text("utf-8")), open_dataset(source)
    laboratory = ImitatedLaboratory.drawn(2)
    assert known["laboratory"] == json.loads(json.dumps(laboratory.parameters()))
    assert known["laboratory_digest"] == laboratory.digest
    assert (known["licence"], known["source"], known["source_digest"]) == (given.licence, given.name, given.fingerprint)
    assert (known["mix"], known["seed"], known["n_images"]) == ("balanced", 5, 20)
    assert known["units"]["gamma"] == "exponent"
    assert known["variation"] == 0.1


def test_the_same_call_writes_the_same_bytes_over_the_old_ones(source: str, written: Path, tmp_path: Path) -> None:
    out = tmp_path / "lab"
    imitate(source, out=out, options=ImitateOptions(laboratory=9, n_images=24))
    with pytest.raises(OutputError, match="exists already"):
        imitate(source, out=out, options=OPTIONS, seed=5)
    facts = imitate(source, out=out, options=OPTIONS, seed=5, overwrite=True)
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*.*")} == {
        path.relative_to(written): path.read_bytes() for path in written.rglob("*.*")
    }
    assert facts["class_counts"] == {"neutrophil": 5, "eosinophil": 5, "lymphocyte": 5, "monocyte": 5}
    assert "images" not in facts


def test_a_file_of_the_user_s_is_not_replaced(source: str, tmp_path: Path) -> None:
    out = tmp_path / "lab"
    imitate(source, out=out, options=OPTIONS)
    (out / "neutrophil" / "mine.png").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"'neutrophil/mine.png' besides an imitated laboratory"):
        imitate(source, out=out, options=OPTIONS, overwrite=True)
    assert (out / "neutrophil" / "mine.png").read_bytes() == b"mine"


def test_settings_change_what_is_drawn(source: str, tmp_path: Path) -> None:
    names = [name for name in LaboratoryConfig.model_fields if name not in ("step_share", "jpeg_quality_min")]
    off = tuple(f"{name}=0" for name in names)
    facts = imitate(source, out=tmp_path / "lab", options=ImitateOptions(n_images=20, settings=off))
    assert facts["laboratory"]["look"]["gamma"] == 1.0
    assert facts["laboratory"]["strengths"] == LaboratoryConfig.none().model_dump()


def test_a_folder_of_something_else_has_no_own_files(tmp_path: Path) -> None:
    assert imitated_files(tmp_path) is None
    (tmp_path / "laboratory.json").write_text('{"images": {}}', encoding="utf-8")
    assert imitated_files(tmp_path) is None, "an unsealed file is the user's"


def test_options_are_checked(source: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="n_images of ImitateOptions"):
        imitate(source, out=tmp_path / "lab", options=ImitateOptions(n_images=0))
    assert not (tmp_path / "lab").exists()
