"""Outputs that tell mature types apart, and outputs that tell whether a cell is one of them."""

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from hemalens.training.mature_types import FALSE_ALARMS, FEWEST, HELD_BACK, STEP, MatureTypes, held_back

CLASSES = ("neutrophil", "lymphocyte", "erythroblast", "monocyte", "artefact")
OUTPUTS = np.array([0, 0, 1, 2, 3, 4])


def test_a_map_with_further_types_is_asked_twice() -> None:
    both = MatureTypes.of(CLASSES, OUTPUTS)
    assert both.twice
    assert both.mature.tolist() == [True, True, True, False, True, False]
    assert both.n_outputs == 10


@pytest.mark.parametrize(
    "classes", [("neutrophil", "lymphocyte"), ("erythroblast", "artefact"), ("neutrophil", "artefact"), ("a", "b")]
)
def test_other_maps_are_asked_once(classes: tuple[str, ...]) -> None:
    once = MatureTypes.of(classes, np.arange(2))
    assert not once.twice
    assert once.n_outputs == 2
    own = torch.randn(3, 2)
    assert torch.equal(once.joined(own), own)


def test_probabilities_are_those_of_maturity_times_the_type() -> None:
    both = MatureTypes.of(CLASSES, OUTPUTS)
    own = np.random.default_rng(0).normal(size=(7, 10))
    found = both.joined(torch.from_numpy(own)).numpy()
    first, every = softmax(own[:, :4], axis=1), softmax(own[:, 4:], axis=1)
    at_all = every[:, [0, 1, 2, 4]].sum(axis=1)
    expected = every.copy()
    expected[:, [0, 1, 2, 4]] = first * at_all[:, None]
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-9)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)
    np.testing.assert_allclose(found[:, 3], log_softmax(own[:, 4:], axis=1)[:, 3], rtol=1e-9)


@given(seed=st.integers(0, 2**31 - 1), n=st.integers(100, 300))
def test_a_further_type_keeps_nearly_all_its_right_answers(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.integers(len(CLASSES), size=n)
    logits = rng.normal(size=(n, len(CLASSES))) + 4 * np.eye(len(CLASSES))[targets]
    shift = held_back(logits, targets, CLASSES)
    assert (shift >= 0).all()
    assert shift[[0, 1, 3]].tolist() == [0, 0, 0]
    before, after = logits.argmax(axis=1), (logits - shift).argmax(axis=1)
    mature = np.isin(targets, [0, 1, 3])
    assert np.isin(after[mature], [2, 4]).sum() <= np.isin(before[mature], [2, 4]).sum()
    for c in (2, 4):
        right, kept = (before == c) & (targets == c), (after == c) & (targets == c)
        assert kept.sum() >= (1 - HELD_BACK) * right.sum()
        if right.sum() < FEWEST:
            assert shift[c] == 0


def test_one_more_than_the_share_would_be_too_many() -> None:
    """Of 40 right answers with leads of 1 to 40, two are given up."""
    logits = np.zeros((40, 5))
    logits[:, 2] = np.arange(1, 41)
    shift = held_back(logits, np.full(40, 2), CLASSES)
    assert shift[2] == pytest.approx(3, rel=1e-5)
    assert (logits - shift).argmax(axis=1).tolist().count(2) == 38


@given(seed=st.integers(0, 2**31 - 1), n=st.integers(1, 300))
def test_few_mature_cells_of_other_laboratories_are_answered_as_a_further_type(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    elsewhere = 2 * rng.normal(size=(n, len(CLASSES)))
    shift = held_back(np.zeros((0, 5)), np.zeros(0, np.int64), CLASSES, mature_elsewhere=elsewhere)
    assert shift[[0, 1, 3]].tolist() == [0, 0, 0]
    assert shift[2] == shift[4] >= 0

    def alarms(by: float) -> int:
        return int(np.isin((elsewhere - by * np.isin(np.arange(5), [2, 4])).argmax(axis=1), [2, 4]).sum())

    assert alarms(shift[2]) <= FALSE_ALARMS * n
    assert shift[2] == 0 or alarms(shift[2] - STEP - 1e-9) > FALSE_ALARMS * n - 1, "no more than needed"
