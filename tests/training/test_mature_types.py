"""Outputs that tell mature types apart, and outputs that tell whether a cell is one of them."""

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from hemalens.training.mature_types import MatureTypes

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
