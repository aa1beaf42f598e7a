"""The section of laboratories left out: a row a form, a column a laboratory, the mean and the worst."""

from __future__ import annotations

from hemalens.evaluation.left_out import left_out_scores
from hemalens.evaluation.results import FormAnswers, LeftOut, LeftOutTest
from hemalens.report import left_out


def _result(*places: tuple[str, int]) -> LeftOut:
    """Three images of three types; the adapted form is right everywhere, the other one fails in b with seed 1."""
    tests = [
        LeftOutTest(
            name="near",
            method="near",
            source="others",
            laboratory=lab,
            seed=seed,
            classes=("neutrophil", "lymphocyte", "monocyte"),
            n_tested=3,
            truth=(0, 1, 2),
            units=(0, 1, 2),
            grouped=False,
            forms=(
                FormAnswers(form="none", transductive=False, answers=((0, 1, 0 if (lab, seed) == ("b", 1) else 2),)),
                FormAnswers(form="unlabelled", transductive=True, answers=((0, 1, 2),)),
            ),
        )
        for lab, seed in places
    ]
    return left_out_scores(tests, seed=0)[0]


WHOLE = _result(("a", 0), ("a", 1), ("b", 0), ("b", 1))


def test_a_row_a_form_and_a_column_a_laboratory() -> None:
    table = left_out.scores(WHOLE)
    assert [column.title for column in table.columns] == ["Adapted", "a", "b", "mean", "worst"]
    none, adapted = table.rows
    assert [cell.text for cell in none] == ["none", "1.000", "0.833", "0.917", "0.667"]
    assert none[-1].notes == ("b", "seed 1")
    assert none[2].notes[-1] == "SD 0.236"
    assert [cell.text for cell in adapted] == ["unlabelled", *["1.000"] * 4]
    assert adapted[0].tag == "transductive"


def test_accuracy_stands_beside_the_majority_rate() -> None:
    for row in left_out.accuracies(WHOLE).rows:
        assert all(cell.notes[-1] == "majority 0.333" for cell in row[1:])


def test_missing_trainings_are_named() -> None:
    (section,) = left_out.sections([_result(("a", 0), ("a", 1), ("b", 0))])
    assert "3 of 4 trainings were tested; the others failed." in [getattr(block, "text", "") for block in section.blocks]
    assert left_out.sections([]) == ()


def test_the_sentence_has_mean_and_worst() -> None:
    sentence = left_out.sentence(WHOLE)
    assert "2 laboratories left out in turn, 2 seeds" in sentence
    assert "worst 0.667 (b, seed 1)" in sentence
