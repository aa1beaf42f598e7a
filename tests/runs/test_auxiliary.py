"""Further data by role: under which labels they are read, which method gets them, what is refused; notes on masks."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import trained
from fakes import FAKES
from hemalens.config import StrictConfig
from hemalens.datasets import open_dataset
from hemalens.errors import ConfigError, DatasetError, ImageError, InputError, SplitError
from hemalens.methods import Method
from hemalens.methods.base import AuxiliaryRole
from hemalens.runs.auxiliary import mask_note, open_auxiliary, parts_for, refuse_learned
from hemalens.training.masks import MaskUse

CELLS = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "something else": (60, 200, 60)}
FIRST = AuxiliaryRole("first", "labelled images to begin with", labelled=True)
NEEDED = AuxiliaryRole("needed", "images of kidneys", labelled=False, required=True)
OTHER = AuxiliaryRole("other", "images of elsewhere", labelled=False)


def _method(name: str, *roles: AuxiliaryRole) -> Method:
    return replace(trained.stub_method(), name=name, roles=roles)


PLAIN = _method("plain")
WITH_FIRST = _method("with_first", FIRST)
WITH_OTHERS = _method("with_others", FIRST, OTHER)
WITH_NEEDED = _method("with_needed", NEEDED)


@pytest.fixture
def cells(tmp_path: Path) -> str:
    """Two cell types of the taxonomy."""
    known = {name: CELLS[name] for name in ("neutrophil", "lymphocyte")}
    return f"folder:{trained.colour_cells(tmp_path / 'cells', known, 2, seed=0)}"


@pytest.fixture
def words(tmp_path: Path) -> str:
    """One cell type, and one word that is none."""
    mixed = {name: CELLS[name] for name in ("neutrophil", "something else")}
    return f"folder:{trained.colour_cells(tmp_path / 'words', mixed, 2, seed=1)}"


# ------------------------------------------------------------------------------------------------------------ labels


def test_labels_that_are_learned_are_read_under_the_label_map(cells: str) -> None:
    opened = open_auxiliary([WITH_FIRST], [("first", cells)], labels="five_class")
    found = opened["first"]
    assert (found.dataset.label_map, found.dataset.classes) == ("five_class", ("neutrophil", "lymphocyte"))
    assert found.notes == ()
    assert (found.card.role, found.card.n_images) == ("auxiliary, first", 4)


def test_tissue_is_read_as_labelled_and_the_notes_say_so(tmp_path: Path) -> None:
    """No label of the published set has a place among the five classes."""
    spec = FAKES["cam16"](tmp_path / "tissue", n_per_class=1)
    opened = open_auxiliary([WITH_FIRST], [("first", spec)], labels="five_class")
    found = opened["first"]
    assert (found.dataset.label_map, found.dataset.classes) == ("as_labelled", ("normal", "tumor"))
    assert f"{found.dataset.name}: no class of five_class, read as labelled" in found.notes


def test_words_that_are_no_cell_types_are_read_as_labelled(words: str) -> None:
    found = open_auxiliary([WITH_FIRST], [("first", words)], labels="five_class")["first"]
    assert (found.dataset.label_map, found.dataset.classes) == ("as_labelled", ("neutrophil", "something else"))
    assert "words: no class of five_class, read as labelled" in found.notes


def test_nothing_is_said_where_everything_is_read_as_labelled(words: str) -> None:
    found = open_auxiliary([WITH_FIRST], [("first", words)], labels="as_labelled")["first"]
    assert found.dataset.label_map == "as_labelled"
    assert found.notes == ()


def test_images_without_use_for_their_labels_are_read_as_labelled_without_a_word(cells: str, words: str) -> None:
    found = open_auxiliary([WITH_OTHERS], [("other", cells), ("other", words)], labels="five_class")["other"]
    assert found.dataset.label_map == "as_labelled"
    assert set(found.dataset.classes) == {"neutrophil", "lymphocyte", "something else"}
    assert found.notes == ()


# ------------------------------------------------------------------------------------------------------------- roles


def test_several_sets_of_one_role_are_one_and_each_role_keeps_its_own(cells: str, tmp_path: Path) -> None:
    more = f"folder:{trained.colour_cells(tmp_path / 'more', {'monocyte': (60, 200, 60)}, 3, seed=2)}"
    specs = [("first", cells), ("other", more), ("first", more)]
    opened = open_auxiliary([PLAIN, WITH_OTHERS], specs, labels="five_class")
    assert list(opened) == ["first", "other"]
    assert opened["first"].dataset.class_counts == {"neutrophil": 2, "lymphocyte": 2, "monocyte": 3}
    assert opened["first"].dataset.name == "cells + more"
    assert opened["other"].dataset.class_counts == {"monocyte": 3}


def test_one_set_with_known_labels_is_enough_for_the_label_map(cells: str, tmp_path: Path) -> None:
    spec = FAKES["cam16"](tmp_path / "tissue", n_per_class=1)
    found = open_auxiliary([WITH_FIRST], [("first", spec), ("first", cells)], labels="five_class")["first"]
    assert found.dataset.label_map == "five_class"
    assert found.dataset.class_counts == {"neutrophil": 2, "lymphocyte": 2}
    assert any("outside five_class" in note for note in found.notes), "what is left out is said"


def test_each_method_gets_those_sets_it_has_a_use_for(cells: str) -> None:
    methods = [PLAIN, WITH_FIRST, WITH_OTHERS]
    opened = open_auxiliary(methods, [("first", cells), ("other", cells)], labels="five_class")
    datasets = {role: each.dataset for role, each in opened.items()}
    assert [list(parts_for(method, datasets)) for method in methods] == [[], ["first"], ["first", "other"]]
    assert parts_for(WITH_OTHERS, datasets)["other"] is datasets["other"]
    assert parts_for(WITH_OTHERS, {"other": datasets["other"]}) == {"other": datasets["other"]}, "none is required"


def test_a_role_that_no_method_has_is_refused_with_the_near_one(cells: str) -> None:
    message = r"plain, with_first: no use for auxiliary data of the role 'frist'. did you mean 'first'\?"
    with pytest.raises(InputError, match=message):
        open_auxiliary([PLAIN, WITH_FIRST], [("frist", cells)], labels="five_class")
    with pytest.raises(InputError, match=r"plain: no use for auxiliary data of the role 'first'\. Leave --aux out\."):
        open_auxiliary([PLAIN], [("first", cells)], labels="five_class")


def test_a_role_that_must_be_there_is_asked_for(cells: str) -> None:
    with pytest.raises(InputError, match=r"with_needed needs images of kidneys\. .*--aux needed=SPEC"):
        open_auxiliary([WITH_FIRST, WITH_NEEDED], [("first", cells)], labels="five_class")
    assert list(open_auxiliary([WITH_NEEDED], [("needed", cells)], labels="five_class")) == ["needed"]
    assert open_auxiliary([WITH_OTHERS], [], labels="five_class") == {}


# ---------------------------------------------------------------------------------------------------------- cleaning


@pytest.mark.parametrize("role", ["first", "other"])
def test_images_under_two_labels_and_spare_copies_are_left_out_and_counted(cells: str, role: str) -> None:
    folder = Path(cells.partition(":")[2])
    one, two = sorted((folder / "neutrophil").iterdir())
    shutil.copy(one, folder / "lymphocyte" / "the same under another label.png")
    shutil.copy(two, folder / "neutrophil" / "copy.png")
    found = open_auxiliary([WITH_OTHERS], [(role, cells)], labels="five_class")[role]
    assert found.dataset.class_counts == {"neutrophil": 1, "lymphocyte": 2}
    assert found.card.dropped == {"conflicting": 2, "copies": 1}


def test_unreadable_images_are_refused_or_dropped(cells: str) -> None:
    broken = Path(cells.partition(":")[2]) / "neutrophil" / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"1 of 5 images cannot be read, first: .*broken\.png"):
        open_auxiliary([WITH_FIRST], [("first", cells)], labels="five_class")
    found = open_auxiliary([WITH_FIRST], [("first", cells)], labels="five_class", unreadable="drop")["first"]
    assert len(found.dataset) == 4


def test_a_set_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"there is no folder '.*gone'"):
        open_auxiliary([WITH_FIRST], [("first", f"folder:{tmp_path / 'gone'}")], labels="five_class")


# ------------------------------------------------------------------------------------------------------------- leaks


def test_what_is_learned_of_further_data_is_not_tested_and_what_is_only_seen_may_be(cells: str, tmp_path: Path) -> None:
    tested = open_dataset(f"folder:{trained.colour_cells(tmp_path / 'tested', CELLS, 2, seed=3)}", labels="as_labelled")
    elsewhere = open_dataset(f"folder:{trained.colour_cells(tmp_path / 'clean', CELLS, 2, seed=4)}", labels="as_labelled")
    known = open_dataset(cells)
    copied = shutil.copy(tested.records[-1].path, tmp_path / "another name.png")
    leaking = replace(known, records=(*known.records, replace(known.records[0], path=Path(copied))))
    name = tested.records[-1].path.name
    with pytest.raises(SplitError, match=rf"1 image\(s\) of tested were trained on, first: '.*{name}'"):
        refuse_learned([WITH_OTHERS], {"first": leaking}, [elsewhere, tested])
    refuse_learned([WITH_OTHERS], {"first": known, "other": leaking}, [elsewhere, tested])


# ------------------------------------------------------------------------------------------------------------- masks


class _WithMasks(StrictConfig):
    masks: MaskUse = MaskUse()


def test_a_method_that_uses_masks_is_told_how_many_there_are(cells: str) -> None:
    learn = open_dataset(cells)
    some = replace(learn, records=(replace(learn.records[0], mask_path=learn.records[0].path), *learn.records[1:]))
    for use in (MaskUse(copies=5), MaskUse(masked_inputs=True)):
        assert mask_note(_WithMasks(masks=use), some) == "cells: 1 of 4 training images have a mask"
    assert mask_note(_WithMasks(masks=MaskUse(masked_inputs=True)), learn) == "cells: 0 of 4 training images have a mask"
    for silent in (trained.StubConfig(), _WithMasks(), _WithMasks(masks=MaskUse(copies=5, segmenter="classical"))):
        assert mask_note(silent, learn) is None


def test_copies_of_cells_without_a_mask_are_refused_with_the_way_out(cells: str) -> None:
    with pytest.raises(ConfigError, match=r"no image of cells has a mask .*expected images with masks") as error:
        mask_note(_WithMasks(masks=MaskUse(copies=5)), open_dataset(cells))
    assert "--set masks.segmenter=classical" in str(error.value)
