"""Parts of a training: given ones are kept, others drawn; the protocol and the notes say which."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import trained
from hemalens.datasets import CellDataset, open_dataset
from hemalens.errors import DatasetError, LabelError, SplitError
from hemalens.runs.split import Parts, Protocol, split
from hemalens.runs.train import TrainOptions, train
from trained import Colour, colour_cells

TWO: dict[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200)}
THREE: dict[str, Colour] = {**TWO, "monocyte": (60, 200, 60)}


def _set(folder: Path, **parts: dict[str, Colour]) -> CellDataset:
    """Six images of each class in each part."""
    for seed, (part, colours) in enumerate(parts.items()):
        colour_cells(folder / part, colours, 6, seed=seed)
    return open_dataset(f"folder:{folder}")


def _split(
    dataset: CellDataset, held: CellDataset | None = None, *, test: float = 0.2, validation: float = 0.25
) -> tuple[Parts, Protocol]:
    return split(dataset, held, test_fraction=test, validation_fraction=validation, seed=0)


def _parts_of(dataset: CellDataset | None) -> set[str | None]:
    return {record.part for record in dataset.records} if dataset else set()


def test_given_parts_are_the_parts_of_the_training(tmp_path: Path) -> None:
    (learn, validation, test), protocol = _split(_set(tmp_path / "set", TRAIN=TWO, val=TWO, Test=TWO))
    assert (_parts_of(learn), _parts_of(validation), _parts_of(test)) == ({"train"}, {"validation"}, {"test"})
    assert (
        protocol.text == "one split: the given test part, 12 image(s); validation: the given validation part, 12 image(s)"
    )
    assert protocol.notes == ()


def test_what_is_not_given_is_drawn_from_the_rest(tmp_path: Path) -> None:
    (learn, validation, test), protocol = _split(_set(tmp_path / "set", train=TWO, test=TWO))
    assert (_parts_of(learn), _parts_of(validation), _parts_of(test)) == ({"train"}, {"train"}, {"test"})
    assert (len(learn), len(validation), len(test or ())) == (8, 4, 12)
    assert protocol.text == "one split: the given test part, 12 image(s)"
    (learn, validation, test), protocol = _split(_set(tmp_path / "other", train=TWO, val=TWO))
    assert (_parts_of(learn), _parts_of(validation)) == ({"train"}, {"validation"})
    assert len(test or ()) in (4, 6)
    assert protocol.text.startswith("one split: 20% held out for the test; validation: the given validation part")


def test_without_parts_the_split_is_drawn(tmp_path: Path) -> None:
    dataset = open_dataset(f"folder:{colour_cells(tmp_path / 'set', TWO, 10, seed=0)}")
    (learn, validation, test), protocol = _split(dataset)
    assert (len(learn), len(validation), len(test or ())) == (12, 4, 4)
    assert protocol == Protocol("one split: 20% held out for the test", ())


def test_a_part_that_is_not_wanted_is_left_out_and_never_trained_on(tmp_path: Path) -> None:
    dataset = _set(tmp_path / "set", train=TWO, val=TWO, test=TWO)
    (learn, validation, test), protocol = _split(dataset, test=0)
    assert (_parts_of(learn), _parts_of(validation), test) == ({"train"}, {"validation"}, None)
    assert protocol.text.startswith("no test part")
    assert protocol.notes == ("set: left out the given test part, 12 image(s) (--test-fraction 0)",)
    held = open_dataset(f"folder:{colour_cells(tmp_path / 'held', TWO, 3, seed=9)}")
    (learn, validation, test), protocol = _split(dataset, held)
    assert (_parts_of(learn), len(validation), _parts_of(test)) == ({"train"}, 6, {"test"})
    assert protocol.notes == ("set: left out the given validation part, 12 image(s) (--val)",)


def test_a_class_without_a_training_image_is_left_out_and_named(tmp_path: Path) -> None:
    (learn, validation, test), protocol = _split(_set(tmp_path / "set", train=TWO, test=THREE))
    assert set(learn.classes) == set(validation.classes) == set(TWO)
    assert test is not None
    assert test.class_counts["monocyte"] == 6
    assert protocol.notes == ("set: left out monocyte, which has no training image",)


def test_groups_in_both_given_parts_are_counted(tmp_path: Path) -> None:
    dataset = _set(tmp_path / "set", train=TWO, test=TWO)
    records = tuple(replace(r, group=r.path.name.partition(".")[0].rpartition(" ")[2]) for r in dataset.records)
    _, protocol = _split(replace(dataset, records=records))
    assert protocol.notes == ("set: 6 group(s) lie in the training and the test part as given: the scores are too high",)


def test_parts_that_cannot_be_used_are_refused_before_any_training(tmp_path: Path) -> None:
    with pytest.raises(SplitError, match="set has no training part"):
        _split(_set(tmp_path / "set", val=TWO, test=TWO))
    with pytest.raises(DatasetError, match="shares too few classes with the model"):
        _split(_set(tmp_path / "other", train=TWO, test={"monocyte": (60, 200, 60)}))
    one = {"neutrophil": TWO["neutrophil"]}
    with pytest.raises(DatasetError, match="one class cannot be classified"):
        _split(_set(tmp_path / "third", train=one, test=TWO))


def test_train_keeps_the_parts_and_its_report_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hemalens.runs.train.find_method", lambda name: trained.stub_method())
    _set(tmp_path / "set", train=TWO, test=TWO)
    said: list[str] = []
    report = train("stub", f"folder:{tmp_path / 'set'}", out=tmp_path / "run", say=said.append)
    assert report.protocol == "one split: the given test part, 12 image(s)"
    assert report.evaluations[0].n_images == 12
    assert "set: parts as given: train 12, test 12" in said
    assert "the given test part, 12 image(s)" in "\n".join(said)


def test_train_leaves_an_unknown_label_out_and_stops_with_strict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hemalens.runs.train.find_method", lambda name: trained.stub_method())
    colour_cells(tmp_path / "set", {**TWO, "mixt": (9, 9, 9)}, 6, seed=0)
    said: list[str] = []
    report = train("stub", f"folder:{tmp_path / 'set'}", out=tmp_path / "run", say=said.append)
    reason = "'mixt' is no known cell type (It may mean several cells of different types: rename it.)"
    assert report.data[0].excluded == {reason: 6}
    assert f"set: 6 image(s) outside five_class: {reason}" in said
    with pytest.raises(LabelError, match="the label 'mixt' is no known cell type"):
        train("stub", f"folder:{tmp_path / 'set'}", out=tmp_path / "other", options=TrainOptions(strict=True))
    assert not (tmp_path / "other").exists()
