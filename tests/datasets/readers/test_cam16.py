"""Camelyon-16 patches: every folder that may be given, both classes in every part, classes only as labelled."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fakes import cam16, wbc_subsets
from hemalens.datasets import READERS, CellDataset, open_dataset
from hemalens.datasets.readers.cam16 import PAIRED
from hemalens.datasets.synthetic.tissue import drawn_tissue
from hemalens.errors import DatasetError
from hemalens.taxonomy import AS_LABELLED

N = 2


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """The set's folder, with small patches."""
    cam16.write(tmp_path / "set", n_per_class=N, side_px=24)
    return tmp_path / "set" / cam16.FOLDER


def _open(root: Path) -> CellDataset:
    return open_dataset(f"cam16:{root}", labels=AS_LABELLED)


def _error(root: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        _open(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_classes_are_those_of_the_taxonomy() -> None:
    assert PAIRED.classes == tuple(READERS["cam16"].labels) == tuple(cam16.KINDS)


def test_the_set_is_its_three_parts_together(top: Path) -> None:
    dataset = _open(top)
    assert dataset.name == "cam16"
    assert dataset.class_counts == {"normal": 3 * N, "tumor": 3 * N}
    assert {(r.domain, r.group) for r in dataset.records} == {("cam16", None)}
    assert Counter(r.path.parts[-4] for r in dataset.records) == dict.fromkeys(cam16.PARTS, 2 * N)
    assert dataset.notes == (f"{6 * N - 2} of {6 * N} image(s) have no mask",)
    assert _open(top.parent).records == dataset.records
    assert _open(top.parent).name == "cam16"


@pytest.mark.parametrize(
    ("name", "slide"),
    [
        ("normal_002-500-2-384ver.jpg", "normal_002"),
        ("tumor_110-1-7.png", "tumor_110"),
        ("normal_0001.png", None),
        ("a patch.png", None),
    ],
)
def test_the_slide_in_a_name_is_the_group(top: Path, name: str, slide: str | None) -> None:
    folder = top / "val" / "data" / "normal"
    first = sorted(folder.iterdir())[0]
    first.rename(folder / name)
    (group,) = {record.group for record in _open(top).records if record.path.name == name}
    assert group == slide


def test_tissue_is_no_class_of_cells(top: Path) -> None:
    dataset = open_dataset(f"cam16:{top}")
    assert dataset.classes == ()
    assert sum(dataset.excluded_counts.values()) == len(dataset)


@pytest.mark.parametrize("part", cam16.PARTS)
def test_a_part_alone_is_named_after_itself(top: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = _open(top / part)
    assert (dataset.name, dataset.class_counts) == (f"cam16 {part}", {"normal": N, "tumor": N})
    monkeypatch.chdir(top / part)
    assert (_open(Path()).name, _open(Path()).fingerprint) == (dataset.name, dataset.fingerprint)


def test_missing_parts_are_noted_and_not_in_the_name(top: Path) -> None:
    shutil.rmtree(top / "test")
    assert _open(top).name == "cam16 train and val"
    assert "the folder 'test' is missing" in _open(top).notes


def test_a_part_without_one_of_its_classes_is_an_error(top: Path) -> None:
    normal = top / "val" / "data" / "normal"
    for path in normal.iterdir():
        path.unlink()
    expected = f"'{top / 'val' / 'data'}' lacks the images of a class; expected images in normal and tumor; got "
    remedy = "Unpack the set again, or give the folder of another part."
    assert _error(top) == f"{expected}0 in normal, {N} in tumor. {remedy}"
    (normal / ".DS_Store").write_bytes(b"")
    assert _error(top / "val") == f"{expected}0 in normal, {N} in tumor. {remedy}"
    shutil.rmtree(normal)
    assert _error(top) == f"{expected}no folder normal, {N} in tumor. {remedy}"
    assert len(_open(top / "train")) == 2 * N


def test_a_set_of_cells_is_refused(tmp_path: Path) -> None:
    wbc_subsets.write(tmp_path / "cells", n_per_class=1, side_px=16)
    folder = tmp_path / "cells" / "WBC_100" / "train" / "data" / "Basophil"
    error = _error(tmp_path / "cells" / "WBC_100")
    assert error.startswith(
        f"the folder '{folder}' is not one of the Camelyon-16 patches; expected normal, tumor; got 'Basophil'. "
    )


def test_the_two_kinds_of_drawn_tissue_look_unlike_each_other() -> None:
    means = {
        kind: np.array([drawn_tissue(kind, n, seed=0, side_px=48)[0].mean(axis=(0, 1)) for n in range(8)])
        for kind in cam16.KINDS.values()
    }
    small, large = means.values()
    # blue nuclei close together are darker in red than pale ones in eosin, in every picture
    assert small[:, 0].max() < large[:, 0].min()
