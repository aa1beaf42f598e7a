"""Mean and worst over laboratories and seeds: recomputed by plain loops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemalens.evaluation.left_out import left_out_scores
from hemalens.evaluation.results import FormAnswers, ImitatedTest, LeftOutTest

CLASSES = ("neutrophil", "lymphocyte", "monocyte", "blast")
N_TESTED = 3


def left_out_test(
    laboratory: str,
    seed: int,
    truth: Sequence[int],
    rows: dict[str, Sequence[Sequence[int]]],
    imitated: Sequence[ImitatedTest] = (),
) -> LeftOutTest:
    """A test whose images are their own units."""
    return LeftOutTest(
        name=f"near: all but {laboratory}",
        method="near",
        source=f"all but {laboratory}",
        laboratory=laboratory,
        seed=seed,
        classes=CLASSES,
        n_tested=N_TESTED,
        truth=tuple(truth),
        units=tuple(range(len(truth))),
        grouped=False,
        forms=tuple(
            FormAnswers(form=form, transductive=False, answers=tuple(map(tuple, answers))) for form, answers in rows.items()
        ),
        imitated=tuple(imitated),
    )


def _balanced(truth: Sequence[int], answers: Sequence[Sequence[int]]) -> float:
    """Mean over draws of the mean recall over tested classes."""
    draws = []
    for row in answers:
        recalls = []
        for c in range(N_TESTED):
            own = [a == t for t, a in zip(truth, row, strict=True) if t == c and a >= 0]
            if own:
                recalls.append(sum(own) / len(own))
        draws.append(sum(recalls) / len(recalls))
    return sum(draws) / len(draws)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_mean_and_worst_by_plain_loops(data: st.DataObject) -> None:
    truth = {lab: [0, 0, 1, 1, 2, 2, 2] for lab in "ab"}
    answer = st.lists(st.integers(0, 3), min_size=7, max_size=7)
    rows = {(lab, seed): data.draw(st.lists(answer, min_size=2, max_size=2)) for lab in "ab" for seed in (0, 4)}
    tests = [left_out_test(lab, seed, truth[lab], {"10 labels": rows[lab, seed]}) for lab, seed in rows]
    (result,) = left_out_scores(tests, seed=3)
    (form,) = result.forms
    values = {at: _balanced(truth[at[0]], found) for at, found in rows.items()}
    assert form.mean.value == pytest.approx(np.mean(list(values.values())))
    assert form.worst.value == pytest.approx(min(values.values()))
    assert values[form.worst.laboratory, form.worst.seed] == pytest.approx(form.worst.value)
    assert form.mean.low is not None
    assert form.mean.high is not None
    assert form.mean.low <= form.mean.high
    for scores in form.laboratories:
        own = [values[scores.laboratory, seed] for seed in (0, 4)]
        assert scores.by_seed == pytest.approx(dict(zip((0, 4), own, strict=True)))
        assert scores.balanced_accuracy.std == pytest.approx(np.std(own, ddof=1))
        right = [[a == t for a, t in zip(r, truth["a"], strict=True)] for s in (0, 4) for r in rows[scores.laboratory, s]]
        assert scores.accuracy.value == pytest.approx(np.mean(right))
        assert scores.majority_rate == pytest.approx(3 / 7)
        assert scores.recall["monocyte"].value == pytest.approx(np.mean([r[4:] for r in right]))
    by_seed = [np.mean([values[lab, seed] for lab in "ab"]) for seed in (0, 4)]
    assert form.mean.std == pytest.approx(np.std(by_seed, ddof=1))


def test_images_that_a_draw_does_not_test_do_not_count() -> None:
    test = left_out_test("a", 0, [0, 0, 1, 2], {"1 label": [[0, -1, 1, 2], [-1, 0, 1, 0]]})
    (form,) = left_out_scores([test], seed=0)[0].forms
    assert form.mean.value == pytest.approx((1 + 2 / 3) / 2)
    assert form.accuracy.value == pytest.approx((1 + 2 / 3) / 2)
    assert form.mean.std is None


def test_a_missing_seed_leaves_the_spread_of_the_mean_open() -> None:
    tests = [left_out_test(lab, seed, [0, 1, 2], {"none": [[0, 1, 2]]}) for lab, seed in (("a", 0), ("a", 1), ("b", 0))]
    (result,) = left_out_scores(tests, seed=0)
    assert (result.n_tests, result.seeds, result.laboratories) == (3, (0, 1), ("a", "b"))
    assert result.forms[0].mean.std is None


def test_harm_is_a_loss_above_a_hundredth() -> None:
    gains = (-0.5, -0.011, -0.009, 0.2)
    imitated = [
        ImitatedTest(
            seed=i,
            mix="blood" if i % 2 else "balanced",
            n_images=9,
            balanced_accuracy={"none": 0.7, "unlabelled": 0.7 + gain},
            gains={"unlabelled": gain},
        )
        for i, gain in enumerate(gains)
    ]
    rows = {"none": [[0, 1, 2]], "unlabelled": [[0, 1, 2]]}
    (result,) = left_out_scores([left_out_test("a", s, [0, 1, 2], rows, imitated) for s in (0, 1)], seed=0)
    none, adapted = result.imitated
    assert (none.gain, none.n_harmed) == (None, None)
    assert (adapted.n_laboratories, adapted.n_tests, adapted.n_harmed) == (4, 8, 4)
    assert adapted.gain is not None
    assert adapted.gain.value == pytest.approx(np.mean(gains))
    assert adapted.worst.value == pytest.approx(0.2)
    assert adapted.by_mix == pytest.approx({"balanced": 0.7 + (-0.5 - 0.009) / 2, "blood": 0.7 + (-0.011 + 0.2) / 2})
