"""The model card: every figure from a manifest or a report, what fails, and nothing of another model."""

from __future__ import annotations

import pytest

import trained
from hemalens.bundle.bundle import Bundle, fine_entries
from hemalens.datasets import open_dataset
from hemalens.errors import ReportError
from hemalens.evaluation.formatting import score
from hemalens.evaluation.left_out import left_out_scores
from hemalens.evaluation.results import FormAnswers, LeftOutTest, Report
from hemalens.report.model_card import model_card
from hemalens.runs.evaluate import EvaluateOptions, evaluate
from trained import Colour, colour_bundle, colour_cells

HOME: dict[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}
ABROAD: dict[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 190, 70), "monocyte": (60, 200, 60)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("card")
    return colour_bundle(folder / "bundle", open_dataset(f"folder:{colour_cells(folder / 'home', HOME, 6, seed=0)}"))


@pytest.fixture(scope="module")
def report(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Tested where lymphocytes have the monocytes' colour."""
    folder = tmp_path_factory.mktemp("abroad")
    cells = colour_cells(folder / "abroad", ABROAD, 10, seed=1)
    with trained.undrawn():
        return evaluate(bundle.path, f"folder:{cells}", out=folder / "report", options=EvaluateOptions(explain="none"))


def test_the_card_holds_the_figures_of_the_report_and_the_data_of_the_manifest(bundle: Bundle, report: Report) -> None:
    manifest = bundle.manifest.model_copy(
        update={
            "fine": fine_entries(
                [
                    ("lymphocyte", "lymphocyte"),
                    ("monocyte", "monocyte"),
                    ("band_neutrophil", "neutrophil"),
                    ("segmented_neutrophil", "neutrophil"),
                ]
            )
        }
    )
    card = model_card(manifest, [report])
    assert card.startswith("# Model card: nearest_colour\n\nResearch use: a morphologist confirms every result.\n")
    (test,) = report.evaluations
    accuracy = test.scores.accuracy
    assert f"{score(accuracy.value)} ({score(accuracy.low)}–{score(accuracy.high)})" in card
    assert f"| {score(test.scores.majority_rate)} |" in card
    assert "band neutrophil (26508-2), segmented neutrophil" in card
    (entry,) = manifest.data
    assert f"| home | train | 18 | neutrophil 6, lymphocyte 6, monocyte 6 | {entry.licence} |" in card


def test_what_fails_is_told_with_what_it_was_taken_for(bundle: Bundle, report: Report) -> None:
    (test,) = report.evaluations
    worst = min(test.per_class, key=lambda one: one.recall.value or 0)
    assert worst.label == "lymphocyte"
    told = model_card(bundle.manifest, [report]).partition("## Weakest classes")[2]
    assert f"| lymphocyte | abroad | 10 | {score(worst.recall.value)} (" in told
    assert "| monocyte (" in told.splitlines()[6]


def test_a_test_after_adapting_to_its_images_is_a_row_of_its_own(bundle: Bundle, report: Report) -> None:
    (test,) = report.evaluations
    adapted = report.model_copy(update={"evaluations": (test.model_copy(update={"transductive": True}),)})
    figures = model_card(bundle.manifest, [report, adapted, report]).partition("## Figures")[2].partition("## Weakest")[0]
    assert figures.count("| abroad | 30 |") == figures.count("| abroad (transductive) | 30 |") == 1
    assert "- abroad: transductive, its images were seen without their labels." in figures


def test_a_report_of_another_model_is_refused(bundle: Bundle, report: Report) -> None:
    other = bundle.manifest.model_copy(update={"config": {"scale": 1.0}})
    with pytest.raises(ReportError, match="tests another model; expected nearest_colour trained on home"):
        model_card(other, [report])
    with pytest.raises(ReportError, match="no figures; expected reports"):
        model_card(bundle.manifest, [report.model_copy(update={"evaluations": ()})])


def test_a_test_given_twice_stands_once(bundle: Bundle, report: Report) -> None:
    assert model_card(bundle.manifest, [report, report]) == model_card(bundle.manifest, [report])


def test_a_name_with_a_bar_breaks_no_table(bundle: Bundle, report: Report) -> None:
    odd = report.evaluations[0].model_copy(update={"target": "a|b"})
    assert "a\\|b" in model_card(bundle.manifest, [report.model_copy(update={"evaluations": (odd,)})])


def test_laboratories_left_out_have_mean_worst_and_spread(bundle: Bundle, report: Report) -> None:
    def tested(laboratory: str, seed: int, answers: tuple[int, ...]) -> LeftOutTest:
        forms = (FormAnswers(form="none", transductive=False, answers=(answers,)),)
        return LeftOutTest(
            name="x", method=bundle.manifest.method, source="others", laboratory=laboratory, seed=seed, n_tested=2,
            classes=("neutrophil", "lymphocyte"), truth=(0, 0, 1, 1), units=(0, 1, 2, 3), grouped=False, forms=forms,
        )  # fmt: skip

    tests = [
        tested("a", 0, (0, 0, 1, 1)),
        tested("a", 1, (0, 0, 1, 0)),
        tested("b", 0, (0, 1, 1, 0)),
        tested("b", 1, (0, 0, 0, 0)),
    ]
    left_out = report.model_copy(update={"left_out": left_out_scores(tests, seed=0)})
    card = model_card(bundle.manifest, [report], left_out=left_out)
    section = card.partition("## Laboratories left out")[2].partition("## Weakest")[0]
    assert "4 other trainings of this method, on all of a and b but one" in section
    # 1, 0.75, 0.5 and 0.5; over seeds the variances are 1/32 and 0
    assert "| none | 0.688 (" in section
    assert "| 0.500 (b, seed 0) | 0.125 |" in section
    assert "## Laboratories left out" not in model_card(bundle.manifest, [report])
    with pytest.raises(ReportError, match="leaves no laboratory out for nearest_colour; expected hemalens benchmark"):
        model_card(bundle.manifest, [report], left_out=report)
