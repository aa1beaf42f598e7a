"""Bland and Altman's limits of agreement, recomputed and for their coverage."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from hemalens.evaluation.field_counts import count_agreement
from hemalens.evaluation.resampling import Resampled
from hemalens.evaluation.results import CountAgreement


def agreement(annotated: list[int], found: list[int], unit: list[int] | None = None, seed: int = 0) -> CountAgreement:
    units = np.array(unit if unit is not None else range(len(annotated)), np.int64)
    resampled = Resampled(int(units.max()) + 1, seed=seed)
    result = count_agreement(np.array(annotated), np.array(found), units, resampled)
    assert result is not None
    return result


def test_the_formulas() -> None:
    annotated, found = [10, 20, 0, 40, 25], [11, 18, 2, 40, 30]
    result = agreement(annotated, found)
    differences = [b - a for a, b in zip(annotated, found, strict=True)]
    mean, sd = statistics.mean(differences), statistics.stdev(differences)
    assert result.bias.value == pytest.approx(mean)
    assert result.lower.value == pytest.approx(mean - 1.96 * sd)
    assert result.upper.value == pytest.approx(mean + 1.96 * sd)
    assert result.absolute_error.value == pytest.approx(2)
    assert result.absolute_error_percent.value == pytest.approx(100 * (0.1 + 0.1 + 0 + 0.2) / 4)
    assert result.n_percent == 4
    assert result.total_error_percent.value == pytest.approx(100 * 6 / 95)
    assert result.fields == tuple(zip(annotated, found, strict=True))


def test_equal_counts_agree_without_a_limit_beyond() -> None:
    result = agreement([3, 4, 5], [3, 4, 5])
    for estimate in (result.bias, result.lower, result.upper, result.absolute_error_percent):
        assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)


def test_one_field_has_a_bias_and_no_limits() -> None:
    result = agreement([3], [5])
    assert result.bias.value == 2
    assert result.bias.low is None
    assert result.lower.value is None


def test_no_field_has_no_agreement() -> None:
    none = np.zeros(0, np.int64)
    assert count_agreement(none, none, none, Resampled(0, seed=0)) is None


def test_fields_without_a_cell_have_no_per_cent() -> None:
    result = agreement([0, 0], [1, 0])
    assert result.absolute_error_percent.value is None
    assert result.total_error_percent.value is None
    assert result.bias.value == 0.5


def test_the_order_of_fields_does_not_matter_and_the_seed_fixes_the_interval() -> None:
    annotated, found = [10, 20, 30, 40], [12, 19, 33, 41]
    assert agreement(annotated, found) == agreement(annotated, found)
    other = agreement(annotated[::-1], found[::-1], [3, 2, 1, 0])
    assert other.bias == agreement(annotated, found).bias


def test_slides_are_resampled_whole() -> None:
    """Fields of one slide that err alike make the interval wider than fields by themselves."""
    rng = np.random.default_rng(1)
    slides = np.repeat(np.arange(12), 6)
    found = (50 + np.repeat(rng.normal(0, 5, 12), 6)).round().astype(int)
    annotated = [50] * 72
    by_slide = agreement(annotated, found.tolist(), slides.tolist()).bias
    by_field = agreement(annotated, found.tolist()).bias
    assert by_slide.high - by_slide.low > 1.8 * (by_field.high - by_field.low)  # type: ignore[operator]


def test_intervals_cover_the_true_bias_and_limits() -> None:
    """Of 120 sets of 60 fields with differences of mean 2 and standard deviation 10, about 95 % cover each value."""
    rng = np.random.default_rng(0)
    # rounding adds a twelfth to the variance
    sd = np.sqrt(100 + 1 / 12)
    truths = {"bias": 2.0, "lower": 2 - 1.96 * sd, "upper": 2 + 1.96 * sd}
    covered = dict.fromkeys(truths, 0)
    for seed in range(120):
        found = (100 + rng.normal(2, 10, 60)).round().astype(int)
        result = agreement([100] * 60, found.tolist(), seed=seed)
        for name, truth in truths.items():
            estimate = getattr(result, name)
            covered[name] += estimate.low <= truth <= estimate.high
    assert all(0.85 <= n / 120 <= 1 for n in covered.values()), covered
