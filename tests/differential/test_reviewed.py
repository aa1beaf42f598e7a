"""Partly reviewed counts: the published estimate, and limits that hold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from hemalens.differential import reviewed as module
from hemalens.differential.reviewed import draw_for_review, reviewed_share, reviewed_slide
from hemalens.differential.rules import CountRules
from hemalens.differential.slides import Analyser, slide_result
from hemalens.errors import InputError

RULES = CountRules()
A, B = "neutrophil", "lymphocyte"


def _labels(values: np.ndarray) -> list[str]:
    return [A if value else B for value in values]


def _published(calls: np.ndarray, truth: np.ndarray, known: np.ndarray) -> tuple[float, float, float]:
    """Estimate and 95 % limits of a mean (Angelopoulos et al. 2023): f over the unlabelled, y - f over the others."""
    f, rectifier = calls[~known].astype(float), truth[known].astype(float) - calls[known]
    value = f.mean() + rectifier.mean()
    half = norm.ppf(0.975) * np.sqrt(f.var() / len(f) + rectifier.var() / len(rectifier))
    return value, value - half, value + half


def test_the_estimate_is_the_program_s_share_plus_the_mean_correction() -> None:
    rng = np.random.default_rng(0)
    calls, truth = rng.random(200) < 0.4, rng.random(200) < 0.5
    reviewed: list[str | None] = [label if i < 60 else None for i, label in enumerate(_labels(truth))]
    found = reviewed_share(A, _labels(calls), reviewed, RULES)
    assert found.value == pytest.approx(calls.mean() + (truth[:60].astype(float) - calls[:60]).mean())
    assert (found.program, found.n_reviewed) == (calls.mean(), 60)


def test_large_samples_agree_with_the_published_formula() -> None:
    rng = np.random.default_rng(3)
    truth = rng.random(12_000) < 0.4
    calls = np.where(rng.random(12_000) < 0.1, ~truth, truth)
    known = np.zeros(12_000, bool)
    known[draw_for_review(12_000, 1500, seed=1)] = True
    reviewed = [label if known[i] else None for i, label in enumerate(_labels(truth))]
    found = reviewed_share(A, _labels(calls), reviewed, RULES)
    value, low, high = _published(calls, truth, known)
    assert found.value == pytest.approx(value, abs=0.01)
    # all cells are a sample here, reviewed ones too, so the limits may be a little narrower
    assert 0.75 * (high - low) < found.high - found.low < 1.05 * (high - low)


@pytest.mark.parametrize(
    ("share", "errors", "size"),
    [
        (0.6, (0.05, 0.03), (200, 50)),
        (0.03, (0.3, 0.01), (200, 50)),
        (0.005, (0.5, 0.002), (200, 50)),
        (0.3, (0.1, 0.05), (40, 12)),
        (0.0, (0.0, 0.0), (60, 20)),
    ],
)
def test_limits_cover_the_share_of_the_blood(
    monkeypatch: pytest.MonkeyPatch, share: float, errors: tuple[float, float], size: tuple[int, int]
) -> None:
    (missed, false), (n, n_reviewed) = errors, size
    monkeypatch.setattr(module, "DRAWS", 1000)
    rng, hits = np.random.default_rng(1), 0
    for trial in range(150):
        truth = rng.random(n) < share
        calls = np.where(truth, rng.random(n) > missed, rng.random(n) < false)
        drawn = set(draw_for_review(n, n_reviewed, seed=trial))
        reviewed = [label if i in drawn else None for i, label in enumerate(_labels(truth))]
        found = reviewed_share(A, _labels(calls), reviewed, RULES, seed=trial)
        hits += found.low <= share <= found.high
    assert hits >= 0.9 * 150


def test_reviewing_all_cells_gives_the_reviewers_count() -> None:
    truth = np.arange(100) < 30
    found = reviewed_share(A, [B] * 100, list(_labels(truth)), RULES)
    assert found.value == 0.3
    assert (found.low, found.high) == pytest.approx((0.217, 0.395), abs=0.01)


def test_cells_that_are_no_white_cells_leave_the_count() -> None:
    predicted = [A] * 60 + [B] * 40
    reviewed: list[str | None] = [*[A] * 45, *["artefact"] * 15, *[B] * 40]
    assert reviewed_share(A, predicted, reviewed, RULES).value == pytest.approx(45 / 85)
    assert reviewed_share(A, predicted, ["artefact"] * 100, RULES).value == 0


def test_reviewed_share_is_shown_beside_the_count() -> None:
    cells = [A] * 120 + [B] * 70 + ["erythroblast"] * 10
    drawn = draw_for_review(200, 40, seed=5)
    reviewed = [label if i in drawn else None for i, label in enumerate(cells)]
    plain = slide_result("a", cells)
    made = reviewed_slide(plain, cells, reviewed, RULES)
    assert [each.share for each in made.types] == [each.share for each in plain.types]
    assert made.n_reviewed == sum(i < 190 for i in drawn)
    assert all(each.reviewed is not None and each.reviewed.value == each.share.value for each in made.types)
    with pytest.raises(InputError, match="as many labels"):
        reviewed_slide(plain, cells, reviewed[1:], RULES)


def test_a_type_that_only_the_reviewer_found_is_added() -> None:
    cells = [A] * 120 + [B] * 80
    found: list[str | None] = ["blast" if i < 2 else A for i in range(30)] + [None] * 90 + [B] * 20 + [None] * 60
    plain = slide_result("a", cells, analyser=Analyser(white_count=10.0))
    made = reviewed_slide(plain, cells, found, RULES)
    (blast,) = (each for each in made.types if each.code == "blast")
    # two of fifty reviewed cells, none of which the program called so
    assert blast.reviewed is not None
    assert blast.reviewed.value == pytest.approx(2 / 50)
    assert blast.reviewed.low is not None
    assert 0 < blast.reviewed.low < 0.04
    assert (blast.count, blast.share.value, blast.share.low) == (0, 0.0, 0.0)
    # Clopper and Pearson's upper limit of 0 in 200
    assert blast.share.high == pytest.approx(1 - 0.025 ** (1 / 200))
    assert blast.absolute is not None
    assert blast.absolute.high == pytest.approx(10 * (1 - 0.025 ** (1 / 200)))
    assert sum(each.reviewed.value or 0 for each in made.types if each.reviewed) == pytest.approx(1)
    assert sum(each.count for each in made.types) == plain.total


def test_cells_are_drawn_at_random_and_again() -> None:
    drawn = draw_for_review(200, 50, seed=4)
    assert drawn == sorted(set(drawn)) == draw_for_review(200, 50, seed=4)
    assert drawn != draw_for_review(200, 50, seed=5)
    counts = np.bincount([i for seed in range(400) for i in draw_for_review(10, 3, seed=seed)], minlength=10)
    # each cell is drawn about 120 times of 400, standard deviation 9
    assert abs(counts - 120).max() < 37


@pytest.mark.parametrize(("n_cells", "n", "seed"), [(10, 0, 0), (10, 11, 0), (0, 1, 0), (10, 3, -1)])
def test_no_draw(n_cells: int, n: int, seed: int) -> None:
    with pytest.raises(InputError):
        draw_for_review(n_cells, n, seed=seed)


def test_nothing_reviewed() -> None:
    with pytest.raises(InputError):
        reviewed_share(A, [A, B], [None, None], RULES)
