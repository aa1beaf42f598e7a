"""The model that comes with the package: what it must be where there is one, and what is said where there is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import hemalens
import trained
from hemalens.bundle.artifact import WEIGHTS
from hemalens.bundle.bundle import CARD, Bundle, open_bundle
from hemalens.bundle.default_model import (
    FOLDER,
    LARGEST_BYTES,
    USE,
    default_model_path,
    describe_default_model,
    looks_like_bundle,
)
from hemalens.datasets.synthetic import synthesize
from hemalens.datasets.walking import walk_files
from hemalens.errors import BundleError
from hemalens.inference.predictor import Predictor


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained.fitted(tmp_path_factory, "linear_probe").bundle


@pytest.fixture
def packaged() -> Path:
    if not looks_like_bundle(FOLDER):
        pytest.skip(f"the package holds no default model yet: {FOLDER} is missing (see CONTRIBUTING.md)")
    return FOLDER


def test_it_lies_in_the_package() -> None:
    assert Path(hemalens.__file__).parent == FOLDER.parent.parent


def test_without_one_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hemalens.bundle.default_model.FOLDER", tmp_path)
    with pytest.raises(BundleError, match=r"has no default model; expected a bundle in .* Give a bundle"):
        default_model_path()


def test_with_one_its_folder_is_given(small: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hemalens.bundle.default_model.FOLDER", small.path)
    assert open_bundle(hemalens.default_model_path()).manifest == small.manifest


def test_it_is_told_on_one_line(small: Bundle) -> None:
    assert describe_default_model(small.manifest) == (
        "default model: linear_probe (test_resnet), trained on lab_a; research use: a morphologist confirms every result"
    )


def test_a_folder_looks_like_a_bundle_by_its_files(small: Bundle, tmp_path: Path) -> None:
    assert looks_like_bundle(small.path)
    shutil.copytree(small.path, tmp_path / "run" / "bundle")
    assert looks_like_bundle(tmp_path / "run"), "the folder of the run that made it"
    (tmp_path / "manifest.json").write_text("{}")
    assert not looks_like_bundle(tmp_path)


def test_the_packaged_model_is_small_and_complete(packaged: Path) -> None:
    manifest = open_bundle(packaged).manifest
    files = [file for file in packaged.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= LARGEST_BYTES
    assert {file.name for file in files} == {*manifest.files, "manifest.json"}
    assert WEIGHTS not in manifest.files
    assert {entry.role for entry in manifest.data} >= {"train", "validation"}
    assert all(entry.licence and entry.citation and not entry.synthetic for entry in manifest.data)
    assert manifest.quantisation is not None
    assert manifest.quantisation.agreement >= 0.99


def test_the_packaged_model_s_card_says_what_it_is_for(packaged: Path) -> None:
    manifest = open_bundle(packaged).manifest
    card = (packaged / CARD).read_text(encoding="utf-8")
    assert USE.capitalize() in card
    for entry in manifest.data:
        assert entry.name in card
        assert entry.licence in card
    assert all(entry.name in card for entry in manifest.fine)


def test_the_packaged_model_answers_a_drawn_cell(packaged: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "cells", n_per_class=1, seed=0, cell_types=("neutrophil",))
    (found,) = Predictor(open_bundle(packaged)).predict(walk_files(tmp_path / "cells" / "lab_a" / "images"))
    assert found.error is None
    assert found.label in open_bundle(packaged).manifest.labels
