"""Held-out images as imitated laboratories show them: how many, which, how strong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import trained
from hemalens.datasets import CellDataset, open_dataset
from hemalens.methods import find_method
from hemalens.training.imitated_laboratory import ImitatedLaboratory
from hemalens.training.imitations import FEWEST, IMAGES_OF_TYPE, LABORATORIES, MOST_HAZE, STRENGTHS, imitations_of, stronger
from hemalens.training.laboratory_augmentation import LaboratoryConfig
from hemalens.trust.domain_shift import DETECTED
from trained import Colour, colour_cells

STAIN: dict[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    return open_dataset(f"folder:{colour_cells(tmp_path_factory.mktemp('held'), STAIN, 20, seed=0, noise=8)}")


def test_each_laboratory_shows_as_many_images_of_each_type(held: CellDataset) -> None:
    sets = imitations_of(held)
    assert len(sets) == LABORATORIES
    laboratories = [{record.imitation for record in each.records} for each in sets]
    assert all(len(each) == 1 for each in laboratories)
    assert len(set().union(*laboratories)) == LABORATORIES
    contents = set(held.contents)
    for each in sets:
        assert each.class_counts == dict.fromkeys(STAIN, IMAGES_OF_TYPE)
        assert set(each.contents) <= contents
    assert len({frozenset(each.contents) for each in sets}) > 1, "the cells are drawn anew for each laboratory"


def test_laboratories_have_the_strengths_in_turn_and_are_the_same_again(held: CellDataset) -> None:
    first, again = imitations_of(held), imitations_of(held)
    assert [each.fingerprint for each in first] == [each.fingerprint for each in again]
    for i, each in enumerate(first):
        laboratory = each.records[0].imitation
        assert isinstance(laboratory, ImitatedLaboratory)
        assert laboratory.strengths == stronger(LaboratoryConfig(), STRENGTHS[i % len(STRENGTHS)])


def test_few_or_no_held_out_images_are_not_imitated(held: CellDataset) -> None:
    assert imitations_of(None) == ()
    assert imitations_of(held.subset(range(FEWEST - 1))) == ()
    assert len(imitations_of(held.subset(range(FEWEST)))) == LABORATORIES


@pytest.mark.parametrize("factor", STRENGTHS)
def test_stronger_strengths_are_times_the_factor_and_within_their_limits(factor: float) -> None:
    plain = LaboratoryConfig()
    found = stronger(plain, factor)
    assert found == LaboratoryConfig(**found.model_dump()), "within the limits of the settings"
    assert found.blur_px == pytest.approx(factor * plain.blur_px)
    assert found.colour_shift == pytest.approx(factor * plain.colour_shift)
    assert found.haze == pytest.approx(min(factor * plain.haze, MOST_HAZE))
    assert found.step_share == pytest.approx(min(1, plain.step_share * np.sqrt(factor)))
    assert (found.jpeg, found.tight) == (plain.jpeg, plain.tight)


def test_the_images_change(held: CellDataset) -> None:
    record = imitations_of(held)[0].records[0]
    assert record.read().shape != replace(record, imitation=None).read().shape


@pytest.mark.parametrize("watched", [False, True])
def test_a_trained_network_keeps_what_it_predicts_on_imitated_laboratories(
    held: CellDataset, tmp_path: Path, watched: bool
) -> None:
    train = open_dataset(f"folder:{colour_cells(tmp_path / 'train', STAIN, 6, seed=1, noise=8)}")
    method = find_method("finetune")
    only = {"patience": None, "kept_epoch": "last", "calibrate": False} if watched else {}
    config = method.config.from_mapping({**trained.FINETUNE, "epochs": 1, **only})
    rng = np.random.default_rng(0)
    bundle = method.fit(train, validation=held, auxiliary={}, config=config, rng=rng, run_dir=tmp_path / "run")
    if watched:
        assert bundle.reference is None, "the held-out images chose nothing"
        return
    assert bundle.reference is not None
    shown = bundle.reference.imitated
    assert shown is not None
    assert np.bincount(shown.laboratories).tolist() == [len(STAIN) * IMAGES_OF_TYPE] * LABORATORIES
    sets = bundle.monitor().guarantee(DETECTED)
    assert sets is not None
    assert (sets.basis, sets.n_laboratories) == ("imitated laboratories", LABORATORIES)
