"""Drawn tissue: it opens with the readers of the sets it stands in for, says that it is drawn, and follows its seed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from command import Command
from hemalens.datasets import open_dataset
from hemalens.datasets.base import SYNTHETIC_MARKER
from hemalens.datasets.masks import read_cell_mask
from hemalens.datasets.splits import clean
from hemalens.datasets.synthetic import tissue
from hemalens.datasets.synthetic.tissue import drawn_tissue, n_drawn, synthesize_tissue
from hemalens.taxonomy import AS_LABELLED

N = 11
PATCH, TILE = 32, 24


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tissue, "PATCH_PX", PATCH)
    monkeypatch.setattr(tissue, "REGION_TILE_PX", TILE)


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    synthesize_tissue(tmp_path / "tissue", n_per_class=N, seed=3)
    return tmp_path / "tissue"


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_patches_open_as_cam16_and_say_that_they_are_drawn(drawn: Path) -> None:
    dataset = open_dataset(f"cam16:{drawn / tissue.PATCHES}", labels=AS_LABELLED)
    assert dataset.synthetic
    assert dataset.class_counts == {"normal": N + 2 * 3, "tumor": N + 2 * 3}
    parts = Counter((r.path.parts[-4], r.source_label) for r in dataset.records)
    assert parts == {
        (part, label): N if part == "train" else 3 for part in ("train", "val", "test") for label in ("normal", "tumor")
    }
    assert {record.read().shape for record in dataset.records} == {(PATCH, PATCH, 3)}


def test_every_tenth_training_patch_has_a_mask_of_some_tissue(drawn: Path) -> None:
    dataset = open_dataset(f"cam16:{drawn / tissue.PATCHES}", labels=AS_LABELLED)
    masked = [record for record in dataset.records if record.mask_path is not None]
    assert Counter(r.source_label for r in masked) == {"normal": 2, "tumor": 2}
    assert {r.path.parts[-4] for r in masked} == {"train"}
    for record in masked:
        mask = read_cell_mask(record, record.read())
        assert mask is not None
        assert 0.5 < mask.mean() < 0.8


def test_parts_open_alone_and_say_so_too(drawn: Path) -> None:
    for part, n in (("train", 2 * N), ("val", 6), ("test", 6)):
        dataset = open_dataset(f"cam16:{drawn / tissue.PATCHES / part}", labels=AS_LABELLED)
        assert (len(dataset), dataset.synthetic) == (n, True)


def test_regions_open_as_prcc_without_labels_and_say_that_they_are_drawn(drawn: Path) -> None:
    dataset = open_dataset(f"prcc:{drawn / tissue.REGIONS}", labels=AS_LABELLED)
    assert dataset.synthetic
    assert (dataset.class_counts, dataset.notes) == ({"unlabelled": N}, ())
    assert {record.read().shape for record in dataset.records} == {(2 * TILE, 2 * TILE, 3)}


def test_no_picture_is_drawn_twice(drawn: Path) -> None:
    for spec in (f"cam16:{drawn / tissue.PATCHES}", f"prcc:{drawn / tissue.REGIONS}"):
        dataset = open_dataset(spec, labels=AS_LABELLED)
        assert len(set(dataset.contents)) == len(dataset)
        assert len(clean(dataset)[0]) == len(dataset)


def test_the_same_seed_draws_the_same_pictures_and_another_none_of_them(drawn: Path, tmp_path: Path) -> None:
    synthesize_tissue(tmp_path / "again", n_per_class=N, seed=3)
    synthesize_tissue(tmp_path / "other", n_per_class=N, seed=4)
    first, again, other = (_files(folder) for folder in (drawn, tmp_path / "again", tmp_path / "other"))
    assert again == first
    assert other.keys() == first.keys()
    assert not {content for name, content in first.items() if "data" in name} & set(other.values())


def test_more_pictures_begin_with_the_same_ones(drawn: Path, tmp_path: Path) -> None:
    synthesize_tissue(tmp_path / "more", n_per_class=N + 1, seed=3)
    first, more = _files(drawn), _files(tmp_path / "more")
    regions = [name for name in first if name.startswith(tissue.REGIONS) and name.endswith(".png")]
    training = [name for name in first if "/train/" in name]
    assert all(more[name] == first[name] for name in [*regions, *training])


@pytest.mark.parametrize("n_per_class", [1, 4, N])
def test_it_says_how_many_it_draws_and_counts_them(tmp_path: Path, n_per_class: int) -> None:
    done: list[None] = []
    synthesize_tissue(tmp_path / "tissue", n_per_class=n_per_class, progress=lambda: done.append(None))
    images = [path for path in (tmp_path / "tissue").rglob("*.png") if "mask" not in path.parts]
    assert n_drawn(n_per_class) == len(done) == len(images)


def test_a_picture_is_told_by_its_kind_number_seed_and_side() -> None:
    image, mask = drawn_tissue("small_nuclei", 5, seed=1, side_px=40)
    assert (image.shape, image.dtype, mask.shape) == ((40, 40, 3), np.uint8, (40, 40))
    assert set(np.unique(mask)) == {0, 255}
    np.testing.assert_array_equal(drawn_tissue("small_nuclei", 5, seed=1, side_px=40)[0], image)
    for kind, number, seed in (("large_nuclei", 5, 1), ("small_nuclei", 6, 1), ("small_nuclei", 5, 2)):
        assert (drawn_tissue(kind, number, seed=seed, side_px=40)[0] != image).any()


# ------------------------------------------------------------------------------------------------------------ the command


@pytest.fixture
def hemalens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def test_the_command_draws_and_says_how_to_open_it(hemalens: Command, tmp_path: Path) -> None:
    folder = tmp_path / "tissue"
    ended = hemalens("data", "synthesize-tissue", folder, "--n-per-class", 4, "--seed", 3)
    assert ended.code == 0
    named = f"cam16:{folder / tissue.PATCHES} and prcc:{folder / tissue.REGIONS}"
    assert ended.out.strip() == f"{n_drawn(4)} images in {folder}; open them as {named}"
    for inner in (tissue.PATCHES, tissue.REGIONS):
        assert json.loads((folder / inner / SYNTHETIC_MARKER).read_text()) == {"seed": 3, "n_per_class": 4}
    synthesize_tissue(tmp_path / "again", n_per_class=4, seed=3)
    assert _files(folder) == _files(tmp_path / "again")


def test_the_command_replaces_only_what_it_drew_and_only_when_told(hemalens: Command, tmp_path: Path) -> None:
    folder = tmp_path / "tissue"
    arguments = ("data", "synthesize-tissue", folder, "--n-per-class", 4)
    assert hemalens(*arguments).code == 0
    before = _files(folder)
    ended = hemalens(*arguments, "--seed", 1)
    assert ended.code == 2
    assert _files(folder) == before
    assert hemalens(*arguments, "--seed", 1, "--overwrite").code == 0
    assert _files(folder).keys() == before.keys()
    assert _files(folder) != before
    (folder / "my patches").mkdir()
    ended = hemalens(*arguments, "--overwrite")
    assert ended.code == 2
    assert (folder / "my patches").is_dir()


def test_the_command_wants_four_of_a_class(hemalens: Command, tmp_path: Path) -> None:
    assert hemalens("data", "synthesize-tissue", tmp_path / "tissue", "--n-per-class", 3).code == 2
    assert not (tmp_path / "tissue").exists()
