"""tools/choice_rule.py: scores, admissibility and the choice, recomputed from the definition."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

import choice_rule
from choice_rule import ADAPTATION, TRAINING, Row, Test, in_common, markdown, ranked, verdict

LABORATORIES = ("a", "b", "c")


def _tests(name: str, *scores: float, before: float = 0.5, laboratory: str = "a", seed: int = 0) -> list[Test]:
    return [Test(name, laboratory, seed, f"set {i}", "blood", score, before) for i, score in enumerate(scores)]


@st.composite
def _drawn(draw: st.DrawFn) -> list[Test]:
    """Tests of up to four candidates, all with the same laboratories, seeds and sets."""
    value = st.floats(0.0, 1.0, allow_nan=False).map(lambda x: round(x, 3))
    places = [(lab, seed) for lab in LABORATORIES[: draw(st.integers(1, 3))] for seed in range(draw(st.integers(1, 2)))]
    n_sets, found = draw(st.integers(1, 4)), []
    for c in range(draw(st.integers(1, 4))):
        loss = draw(st.sampled_from((0.0, 0.02)))
        for lab, seed in places:
            for i in range(n_sets):
                score = draw(value)
                harmed = draw(st.booleans()) and loss > 0
                found.append(Test(f"c{c}", lab, seed, f"set {i}", "blood", score, score + loss if harmed else score))
    return found


def _score(tests: list[Test], laboratory: str, seed: int) -> float:
    values = [t.balanced_accuracy for t in tests if (t.laboratory, t.seed) == (laboratory, seed)]
    return (sum(values) / len(values) + min(values)) / 2


@given(_drawn())
def test_the_choice_is_that_of_the_definition(tests: list[Test]) -> None:
    rows = ranked(tests)
    names = list(dict.fromkeys(t.candidate for t in tests))
    assert [row.candidate for row in rows] == names
    own = {name: [t for t in tests if t.candidate == name] for name in names}
    places = list(dict.fromkeys((t.laboratory, t.seed) for t in tests))
    scores = {name: [_score(own[name], *place) for place in places] for name in names}
    harmful = {name: [t for t in own[name] if t.before - t.balanced_accuracy > 0.01] for name in names}
    allowed = [name for name in names if len(harmful[name]) / len(own[name]) <= 0.05]
    for row in rows:
        assert row.score == pytest.approx(statistics.mean(scores[row.candidate]))
        assert row.worst == min(t.balanced_accuracy for t in own[row.candidate])
        assert row.mean == pytest.approx(statistics.mean(t.balanced_accuracy for t in own[row.candidate]))
        assert row.gain == pytest.approx(statistics.mean(t.balanced_accuracy - t.before for t in own[row.candidate]))
        assert (row.harmful, row.n) == (len(harmful[row.candidate]), len(own[row.candidate]))
        assert row.admissible == (row.candidate in allowed)
    chosen = [row.candidate for row in rows if row.chosen]
    if not allowed:
        assert not chosen
        return
    best = max(allowed, key=lambda name: statistics.mean(scores[name]))
    labs = list(dict.fromkeys(lab for lab, _ in places))
    as_good = []
    for name in allowed:
        gaps = [b - s for b, s in zip(scores[best], scores[name], strict=True)]
        by_lab = [statistics.mean(g for g, (its, _) in zip(gaps, places, strict=True) if its == lab) for lab in labs]
        error = statistics.stdev(by_lab) / len(by_lab) ** 0.5 if len(by_lab) > 1 else 0.0
        slack = statistics.mean(gaps) - error
        if abs(slack) < 1e-9 and name != best:  # a tie of rounding decides nothing
            return
        if slack <= 0:
            as_good.append(name)
    assert chosen == as_good[:1]


def test_the_first_of_two_that_are_as_good_is_chosen() -> None:
    # differences 0.10 and -0.06 in two laboratories: mean 0.02, standard error 0.08
    first = _tests("simple", 0.6) + _tests("simple", 0.86, laboratory="b")
    second = _tests("complex", 0.7) + _tests("complex", 0.8, laboratory="b")
    assert [row.chosen for row in ranked(first + second)] == [True, False]
    assert [row.chosen for row in ranked(second + first)] == [True, False]
    # 0.10 and 0.09: mean 0.095, standard error 0.005
    clear = _tests("complex", 0.7) + _tests("complex", 0.95, laboratory="b")
    assert [row.chosen for row in ranked(first + clear)] == [False, True]
    # a single laboratory has no standard error
    assert [row.chosen for row in ranked(_tests("simple", 0.6) + _tests("complex", 0.601))] == [False, True]


@pytest.mark.parametrize(("harmed", "admissible"), [(0, True), (5, True), (6, False), (100, False)])
def test_at_most_five_of_a_hundred_tests_are_harmful(harmed: int, admissible: bool) -> None:
    (row,) = ranked(_tests("all", *[0.48] * harmed, *[0.9] * (100 - harmed)))
    assert (row.harmful, row.admissible, row.chosen) == (harmed, admissible, admissible)


def test_a_loss_of_a_hundredth_is_no_harm() -> None:
    (row,) = ranked(_tests("all", 0.495, 0.4951, 0.489))
    assert row.harmful == 1


def test_the_worst_counts_as_much_as_the_mean() -> None:
    steady, uneven = ranked(_tests("steady", 0.7, 0.7, before=0) + _tests("uneven", 0.9, 0.52, before=0))
    assert (steady.score, uneven.score) == pytest.approx((0.7, (0.71 + 0.52) / 2))
    assert steady.chosen


def test_candidates_are_compared_where_all_of_them_were_tested() -> None:
    both = _tests("x", 0.5) + _tests("y", 0.6)
    assert in_common(both + _tests("x", 0.1, seed=1) + _tests("y", 0.2, laboratory="b")) == both
    assert in_common([]) == []


def test_the_table_is_short_and_has_the_chosen_one() -> None:
    tests = [test for i in range(30) for test in _tests(f"c{i}", 0.5 + i / 100)]
    rows = ranked(tests + _tests("bad", 0.1))
    lines = markdown(rows).splitlines()
    assert len(lines) == 2 + choice_rule.MOST_ROWS
    assert lines[-1].startswith("| c29 | 0.790 | 0.790 | 0.790 | +0.290 | 0.0 % | **chosen**")
    assert lines[2].startswith("| c18 ")
    assert "not admissible" in markdown(rows[-2:])


def test_the_verdict_is_one_line() -> None:
    rows = ranked(_tests("none", 0.5) + _tests("bad", 0.4))
    assert verdict(ADAPTATION, rows) == (
        "adaptation: none, mean 0.500, worst 0.500, harmful in 0 of 1 tests; 1 of 2 candidates are not admissible"
    )
    assert verdict(TRAINING, rows[:1]) == "training: none, mean 0.500, worst 0.500, 1 tests"
    none: list[Row] = []
    assert verdict(TRAINING, none) == "training: nothing to choose from"
