"""The temperature that gives predictions a wanted mean confidence."""

from __future__ import annotations

import numpy as np
import pytest

from hemalens.classifiers.calibration import temperature_of_certainty


def test_the_temperature_gives_answers_the_certainty_asked_for() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 4)) * 6
    for certainty in (0.4, 0.7, 0.95):
        powers = np.exp(logits / temperature_of_certainty(logits, certainty, np.ones(len(logits))))
        assert (powers.max(axis=1) / powers.sum(axis=1)).mean() == pytest.approx(certainty, abs=1e-6)
    assert temperature_of_certainty(logits, 1.0, np.ones(len(logits))) == 0.01
    assert temperature_of_certainty(logits, 0.1, np.ones(len(logits))) == 100
