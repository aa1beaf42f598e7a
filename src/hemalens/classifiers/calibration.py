"""Calibration of logits: softmax temperatures, fitted on labels or on a wanted mean confidence."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.optimize import brentq

Floats = NDArray[np.floating[Any]]
TEMPERATURES = (0.01, 100.0)
"""Limits of a temperature that is found from a mean confidence."""


def log_softmax(logits: Floats) -> NDArray[np.float64]:
    """Logarithms of the softmax over the last axis, in double precision."""
    return np.asarray(special.log_softmax(np.asarray(logits, np.float64), axis=-1))


def fit_temperature(logits: Floats, target: NDArray[np.int64]) -> float:
    """The temperature in [0.05, 20] that minimises the NLL of softmax(logits / T) (Guo et al. 2017); 1 without images.

    A standard normal prior on log T counts like a single image: without it, a small validation part answered without an
    error would drive T to zero and every probability to one.
    """
    from scipy.optimize import minimize_scalar

    if len(target) == 0:
        return 1.0

    def loss(log_t: float) -> float:
        chosen = log_softmax(np.asarray(logits) / np.exp(log_t))[np.arange(len(target)), target]
        return float(-chosen.sum() + log_t**2 / 2) / len(target)

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(found.x))


def temperature_of_certainty(logits: Floats, certainty: float, counts: Floats) -> float:
    """Find the temperature at which logits (n, k) have the mean confidence `certainty`, within `TEMPERATURES`.

    `counts` (n,) is by how much each row counts in the mean.
    """
    wide = np.asarray(logits, np.float64)

    def surplus(log_temperature: float) -> float:
        confidence = special.softmax(wide / np.exp(log_temperature), axis=1).max(axis=1)
        return float(np.average(confidence, weights=counts)) - certainty

    low, high = np.log(TEMPERATURES)
    if surplus(low) <= 0:
        return TEMPERATURES[0]
    if surplus(high) >= 0:
        return TEMPERATURES[1]
    return float(np.exp(brentq(surplus, low, high, xtol=1e-9)))
