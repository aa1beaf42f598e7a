"""Outputs that tell mature types apart, and outputs that tell whether a cell is one of them."""

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from hemalens.models.class_distance import ClassDistance
from hemalens.training.mature_types import FALSE_ALARMS, SLOPE, STEP, FurtherTypes, MatureTypes, held_back

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


def _alarms(logits: np.ndarray, back: float) -> int:
    """How many cells are answered as a further type when these are held back by `back`."""
    return int(np.isin((logits - back * np.isin(np.arange(5), [2, 4])).argmax(axis=1), [2, 4]).sum())


@given(seed=st.integers(0, 2**31 - 1), n=st.integers(1, 300), least=st.floats(-2, 0))
def test_few_mature_cells_of_any_set_are_answered_as_a_further_type(seed: int, n: int, least: float) -> None:
    rng = np.random.default_rng(seed)
    sets = [2 * rng.normal(size=(m, len(CLASSES))) for m in (n, 0, 80)]
    back = held_back(sets, CLASSES, least=least)
    assert back >= least
    for each in sets:
        assert _alarms(each, back) <= FALSE_ALARMS * len(each)
    assert back == least or any(_alarms(x, back - STEP - 1e-9) > FALSE_ALARMS * len(x) - 1 for x in sets), "no more"


def test_without_mature_cells_nothing_asks_for_more_certainty() -> None:
    assert held_back([np.zeros((0, 5))], CLASSES, least=-0.7) == -0.7


def test_a_further_type_is_lowered_by_its_own_distance_alone() -> None:
    rng = np.random.default_rng(0)
    cells, y = rng.normal(size=(90, 3)).astype(np.float32), np.arange(90) % 5
    cells[y == 4] += 50
    distance = ClassDistance.of(cells, y, cells, y)
    module = FurtherTypes(distance, torch.from_numpy(np.isin(np.arange(5), [2, 4])), 0.3)
    logits = torch.from_numpy(rng.normal(size=(90, 5)).astype(np.float32))
    embedding = torch.from_numpy(cells)
    found = module(logits, embedding).numpy().astype(float)
    apart = distance(embedding).numpy()
    expected = logits.numpy().astype(float)
    for c in (2, 4):
        expected[:, c] -= 0.3 + SLOPE * np.clip(apart[:, c] - 1, 0, None)
    np.testing.assert_allclose(found, log_softmax(expected, axis=1), rtol=1e-4, atol=1e-4)
    assert softmax(found, axis=1)[y != 4, 4].max() < 1e-6, "far from its cells"
