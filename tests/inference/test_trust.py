"""Trust on the way from a bundle's file to predictions, reports and adapted bundles."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

import trained
from command import Command
from hemalens import Predictor, evaluate, open_bundle, predict
from hemalens.adaptation.adapt import adapt
from hemalens.adaptation.options import AdaptOptions
from hemalens.bundle.bundle import MODEL, Bundle, write_bundle
from hemalens.bundle.reference import reference_of
from hemalens.bundle.review import thresholds_of
from hemalens.bundle.seen import SEEN
from hemalens.datasets import open_dataset
from hemalens.errors import BundleError
from hemalens.report import read_report
from hemalens.runs.evaluate import EvaluateOptions
from hemalens.training.imitated_laboratory import imitated
from hemalens.trust.domain_shift import DETECTED, NO_REFERENCE, NOT_DETECTED
from hemalens.trust.reference import REFERENCE_FILE, reference_bytes
from hemalens.trust.review import REASONS
from trained import Colour, colour_cells

STAIN: Mapping[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}
OTHER: Mapping[str, Colour] = {"neutrophil": (230, 110, 110), "lymphocyte": (110, 110, 230), "monocyte": (110, 230, 110)}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of before: without held-out images."""
    folder = tmp_path_factory.mktemp("plain")
    cells = open_dataset(f"folder:{colour_cells(folder / 'home', STAIN, 20, seed=0, noise=8)}")
    return trained.colour_bundle(folder / "bundle", cells)


@pytest.fixture(scope="module")
def bundle(plain: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same bundle, which keeps 40 held-out images a class."""
    folder = tmp_path_factory.mktemp("kept")
    train = open_dataset(f"folder:{plain.path.parent / 'home'}")
    held = open_dataset(f"folder:{colour_cells(folder / 'held', STAIN, 40, seed=1, noise=8)}")
    reference = reference_of(train, held, plain.graph, None)
    assert reference is not None
    files = {MODEL: plain.graph_bytes, SEEN: (plain.path / SEEN).read_bytes(), REFERENCE_FILE: reference_bytes(reference)}
    manifest = plain.manifest.model_copy(update={"review": thresholds_of(reference, plain.manifest.labels)})
    return write_bundle(folder / "bundle", manifest, files)


@pytest.fixture(scope="module")
def like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held-out images in another mix of cell types."""
    mix = {"neutrophil": 40, "lymphocyte": 6, "monocyte": 10}
    return colour_cells(tmp_path_factory.mktemp("like") / "like", STAIN, mix, seed=2, noise=8)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_cells(tmp_path_factory.mktemp("foreign") / "foreign", OTHER, 15, seed=3, noise=8)


@pytest.fixture
def hemalens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --------------------------------------------------------------------------------------------------------------- export


def test_what_is_calibrated_on_is_of_validation_images_alone(bundle: Bundle) -> None:
    reference = bundle.reference
    assert reference is not None
    held = open_dataset(f"folder:{bundle.path.parent / 'held'}").under(bundle.manifest.labels)
    np.testing.assert_array_equal(reference.targets, held.targets)
    colours = np.stack([record.read().mean(axis=(0, 1)) / 255 for record in held.records])
    assert reference.geometry is not None
    np.testing.assert_allclose(reference.points, reference.geometry.project(colours), atol=2e-2, rtol=2e-3)


@pytest.mark.parametrize("method", ["linear_probe", "robust"])
def test_training_writes_the_file(method: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    fitted = trained.fitted(tmp_path_factory, method)
    reference = open_bundle(fitted.bundle.path).reference
    assert reference is not None
    assert fitted.validation is not None
    assert len(reference.targets) == len(fitted.validation)
    assert reference.probabilities.shape == (len(reference.targets), len(fitted.bundle.manifest.labels))
    np.testing.assert_allclose(reference.probabilities.sum(axis=1), 1, atol=1e-5)


def test_without_validation_images_nothing_is_kept(plain: Bundle) -> None:
    train = open_dataset(f"folder:{plain.path.parent / 'home'}")
    assert reference_of(train, None, plain.graph, None) is None
    assert plain.reference is None


def test_a_file_of_nonsense_is_one_clear_line(bundle: Bundle, like: Path, tmp_path: Path, hemalens: Command) -> None:
    files = {MODEL: bundle.graph_bytes, SEEN: (bundle.path / SEEN).read_bytes()}
    broken = write_bundle(tmp_path / "broken", bundle.manifest, {**files, REFERENCE_FILE: b"nonsense"})
    with pytest.raises(BundleError, match=r"home\.npz"):
        _ = broken.reference
    ended = hemalens("predict", broken.path, like, "--out", tmp_path / "a.csv", "--quiet")
    assert ended.code == 2
    assert len(ended.err.strip().splitlines()) == 1
    assert not (tmp_path / "a.csv").exists()


# -------------------------------------------------------------------------------------------------------------- predict


def test_each_row_has_its_typicality_and_its_set(bundle: Bundle, like: Path, tmp_path: Path) -> None:
    (like.parent / "like" / "neutrophil" / "torn.png").write_bytes(b"no image")
    found = predict(bundle.path, str(like), out=tmp_path / "a.csv")
    (like.parent / "like" / "neutrophil" / "torn.png").unlink()
    rows = _rows(tmp_path / "a.csv")
    assert list(rows[0])[4:6] == ["review", "review_rank"]
    assert list(rows[0])[-5:] == ["typicality", "prediction_set", "cell_found", "cell_reason", "error"]
    for row in rows:
        if row["error"]:
            assert row["typicality"] == row["prediction_set"] == ""
            continue
        assert 0 < float(row["typicality"]) <= 1
        assert row["label"] in row["prediction_set"].split("|")
    assert found.n_unreadable == 1
    assert found.trust.n_images == len(rows) - 1
    assert found.trust.shift.verdict == NOT_DETECTED, "another mix of cell types is not another laboratory"


def test_a_shift_is_detected_in_another_stain(bundle: Bundle, foreign: Path, tmp_path: Path) -> None:
    found = predict(bundle.path, str(foreign), out=tmp_path / "a.parquet", embeddings=True)
    assert found.trust.shift.verdict == DETECTED
    table = parquet.read_table(tmp_path / "a.parquet").to_pydict()
    assert np.median(table["typicality"]) < 0.05
    assert {"embedding", "prediction_set"} <= set(table)


@pytest.fixture(scope="module")
def imitating(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same bundle with its held-out images as eight imitated laboratories show them."""
    folder = tmp_path_factory.mktemp("imitating")
    held = open_dataset(f"folder:{colour_cells(folder / 'held', STAIN, 12, seed=5, noise=8)}")
    sets = [imitated(held, seed, "balanced", 36, seed) for seed in range(8)]
    train = open_dataset(f"folder:{colour_cells(folder / 'home', STAIN, 20, seed=0, noise=8)}")
    reference = reference_of(train, held, bundle.graph, None, imitated=sets)
    assert reference is not None
    assert bundle.reference is not None
    kept = replace(bundle.reference, imitated=reference.imitated)
    files = {name: (bundle.path / name).read_bytes() for name in (MODEL, SEEN)} | {REFERENCE_FILE: reference_bytes(kept)}
    return write_bundle(folder / "bundle", bundle.manifest, files)


def test_the_export_predicts_on_imitated_laboratories(imitating: Bundle) -> None:
    assert imitating.reference is not None
    shown = imitating.reference.imitated
    assert shown is not None
    assert shown.probabilities.shape == (288, 3)
    np.testing.assert_array_equal(np.bincount(shown.laboratories), np.full(8, 36))
    np.testing.assert_array_equal(np.bincount(shown.targets), np.full(3, 96))
    np.testing.assert_allclose(shown.probabilities.sum(axis=1), 1, atol=1e-4)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_sets_of_a_foreign_laboratory_rest_on_imitated_ones(
    imitating: Bundle, foreign: Path, like: Path, tmp_path: Path, suffix: str
) -> None:
    expected = imitating.monitor().sets_elsewhere
    assert expected is not None
    for images, elsewhere in ((foreign, True), (like, False)):
        found = predict(imitating.path, str(images), out=tmp_path / f"a{suffix}", overwrite=True)
        assert found.sets is not None
        assert found.sets.at_home != elsewhere
        assert (found.sets.basis, found.sets.n_laboratories) == (
            ("imitated laboratories", 8) if elsewhere else ("held-out images", 0)
        )
        written = _rows(tmp_path / "a.csv") if suffix == ".csv" else parquet.read_table(tmp_path / "a.parquet").to_pylist()
        predictions = list(Predictor(imitating, monitor=imitating.monitor()).predict([row["path"] for row in written]))
        for row, each in zip(written, predictions, strict=True):
            assert each.probabilities is not None
            held = expected.members(each.probabilities[None])[0]
            assert each.prediction_set_elsewhere == tuple(np.array(imitating.manifest.labels)[held])
            in_force = each.prediction_set_elsewhere if elsewhere else each.prediction_set
            assert row["prediction_set"] == "|".join(in_force or ())


def test_an_adapted_bundle_says_what_its_sets_rest_on(imitating: Bundle, foreign: Path, tmp_path: Path) -> None:
    labelled = adapt(imitating.path, out=tmp_path / "labelled", support=f"folder:{foreign}")
    found = predict(labelled.path, str(foreign), out=tmp_path / "a.csv")
    assert found.sets is not None
    assert (found.sets.basis, found.sets.n_images) == ("labelled images", 45)
    plain = adapt(
        imitating.path, out=tmp_path / "unlabelled", unlabelled=str(foreign),
    )  # fmt: skip
    found = predict(plain.path, str(foreign), out=tmp_path / "b.csv")
    assert found.sets is not None
    assert (found.sets.basis, found.sets.n_images) == ("imitated laboratories of the base", 288)
    assert found.trust.shift.verdict == NO_REFERENCE


def test_without_reference_statistics_the_shift_is_unknown(plain: Bundle, like: Path, tmp_path: Path) -> None:
    found = predict(plain.path, str(like), out=tmp_path / "a.csv")
    rows = _rows(tmp_path / "a.csv")
    assert {row["typicality"] + row["prediction_set"] for row in rows} == {""}
    assert all(row["label"] for row in rows)
    assert found.trust.shift.verdict == NO_REFERENCE
    assert "no reference statistics" in found.trust.lines[0]


def test_the_command_reports_the_shift_in_words_and_in_json(
    bundle: Bundle, foreign: Path, tmp_path: Path, hemalens: Command
) -> None:
    said = hemalens("predict", bundle.path, foreign, "--out", tmp_path / "a.csv", "--quiet", "--coverage", "")
    assert said.code == 0
    assert "domain shift detected (score " in said.out
    assert "estimated accuracy" in said.out
    assert "hemalens adapt BUNDLE --support" in said.out
    assert "prediction_set" not in _rows(tmp_path / "a.csv")[0]
    found = json.loads(hemalens("predict", bundle.path, foreign, "--out", tmp_path / "b.csv", "-q", "--json").out)["trust"]
    assert found["shift"]["verdict"] == DETECTED
    assert found["lines"][0].startswith("domain shift detected")
    assert set(found["estimates"]) == set(found["assumes"])


@pytest.mark.parametrize("text", ["much", "0.9,0.8", "1", "nan", "-0.1"])
def test_a_coverage_that_cannot_be_is_refused(
    text: str, bundle: Bundle, like: Path, tmp_path: Path, hemalens: Command
) -> None:
    ended = hemalens("predict", bundle.path, like, "--out", tmp_path / "a.csv", "-q", "--coverage", text)
    assert ended.code == 2
    assert "coverage" in ended.err


# --------------------------------------------------------------------------------------------------------------- review


def test_training_states_the_thresholds_of_held_out_cells(tmp_path_factory: pytest.TempPathFactory) -> None:
    fitted = trained.fitted(tmp_path_factory, "linear_probe")
    assert fitted.bundle.reference is not None
    assert len(fitted.bundle.reference.targets) < 20
    assert fitted.bundle.manifest.review is None, "too few to calibrate on"


def test_few_cells_of_the_training_laboratory_are_reviewed(bundle: Bundle, like: Path, tmp_path: Path) -> None:
    found = predict(bundle.path, str(like), out=tmp_path / "a.csv")
    thresholds = bundle.manifest.review
    assert thresholds is not None
    assert thresholds.n_cells == 120
    assert thresholds.false_alarms <= 0.05
    assert found.review is not None
    assert found.trust.shift.verdict == NOT_DETECTED
    assert "foreign laboratory" not in found.review
    assert sum(found.review.values()) <= 0.3 * found.n_rows
    rows = _rows(tmp_path / "a.csv")
    assert dict(Counter(row["review"] for row in rows if row["review"])) == found.review
    assert all(row["review_rank"] == (str(1 + REASONS.index(row["review"])) if row["review"] else "") for row in rows)


def test_atypical_cells_of_a_foreign_laboratory_are_marked_at_the_end(
    bundle: Bundle, foreign: Path, tmp_path: Path, hemalens: Command
) -> None:
    # far distances are an unknown type: without that threshold the domain shift alone remains
    assert bundle.manifest.review is not None
    manifest = bundle.manifest.model_copy(update={"review": bundle.manifest.review.model_copy(update={"distance": None})})
    kept = (MODEL, SEEN, REFERENCE_FILE)
    blunt = write_bundle(tmp_path / "blunt", manifest, {name: (bundle.path / name).read_bytes() for name in kept})
    found = predict(blunt.path, str(foreign), out=tmp_path / "a.csv")
    assert found.trust.shift.verdict == DETECTED
    assert found.review is not None
    assert found.review["foreign laboratory"] > 0
    rows = _rows(tmp_path / "a.csv")
    for row in rows:
        if row["review"] in ("", "foreign laboratory"):
            assert (row["review"] == "foreign laboratory") == (float(row["typicality"]) < 0.05)
    assert sum(row["review"] == "foreign laboratory" for row in rows) == found.review["foreign laboratory"]
    said = hemalens("predict", blunt.path, foreign, "--out", tmp_path / "a.parquet", "--quiet")
    assert f"{found.review['foreign laboratory']} foreign laboratory" in said.out
    table = parquet.read_table(tmp_path / "a.parquet").to_pydict()
    assert [value or "" for value in table["review"]] == [row["review"] for row in rows]
    assert ["" if value is None else str(value) for value in table["review_rank"]] == [row["review_rank"] for row in rows]
    assert sorted(file.name for file in tmp_path.iterdir() if file.is_file()) == ["a.csv", "a.parquet"]


def test_without_thresholds_the_column_is_empty(plain: Bundle, like: Path, tmp_path: Path, hemalens: Command) -> None:
    said = hemalens("predict", plain.path, like, "--out", tmp_path / "a.csv", "--quiet")
    assert "to review: unknown, the bundle has no thresholds for it" in said.out
    assert {(row["review"], row["review_rank"]) for row in _rows(tmp_path / "a.csv")} == {("", "")}


# ------------------------------------------------------------------------------------------------------------- evaluate


@pytest.mark.usefixtures("undrawn")
def test_the_report_compares_estimates_with_the_labels(bundle: Bundle, foreign: Path, tmp_path: Path) -> None:
    report = evaluate(bundle.path, f"folder:{foreign}", out=tmp_path / "report", options=EvaluateOptions(explain="none"))
    assert read_report(tmp_path / "report" / "report.json") == report
    check = report.evaluations[0].trust
    assert check is not None
    assert check.verdict == DETECTED
    assert check.accuracy == pytest.approx(report.evaluations[0].scores.accuracy.value)
    assert check.coverage.value is not None
    assert check.set_size is not None
    assert len(check.estimates) == 3
    assert any("domain shift" in sentence and DETECTED in sentence for sentence in report.summary)
    for name in ("report.md", "report.html"):
        text = (tmp_path / "report" / name).read_text(encoding="utf-8")
        assert "domain-shift score" in text.lower()
        assert "coverage" in text.lower()


@pytest.mark.usefixtures("undrawn")
def test_the_report_without_reference_statistics(plain: Bundle, foreign: Path, tmp_path: Path) -> None:
    check = (
        evaluate(plain.path, f"folder:{foreign}", out=tmp_path / "report", options=EvaluateOptions(explain="none"))
        .evaluations[0]
        .trust
    )
    assert check is not None
    assert check.verdict == NO_REFERENCE
    assert (check.coverage.value, check.estimates) == (None, ())


# ---------------------------------------------------------------------------------------------------------------- adapt


def test_an_adapted_bundle_is_calibrated_on_its_cells_left_out(bundle: Bundle, foreign: Path, tmp_path: Path) -> None:
    adapted = adapt(bundle.path, out=tmp_path / "adapted", support=f"folder:{foreign}")
    reference = adapted.reference
    assert reference is not None
    assert len(reference.targets) == 45
    refitted = thresholds_of(reference, adapted.manifest.labels)
    assert refitted is not None
    assert adapted.manifest.review is not None
    # the file holds 32 bits
    stated, found_again = (each.model_dump(exclude_none=True) for each in (adapted.manifest.review, refitted))
    assert stated == pytest.approx(found_again, rel=1e-5)
    assert adapted.manifest.review != bundle.manifest.review
    expected = adapted.manifest.adaptation and adapted.manifest.adaptation.expected.accuracy
    assert reference.accuracy == pytest.approx(expected)
    fresh = colour_cells(tmp_path / "fresh", OTHER, 15, seed=9, noise=8)
    found = predict(adapted.path, str(fresh), out=tmp_path / "a.csv")
    assert found.trust.shift.verdict == NOT_DETECTED, "the reference statistics are of the target laboratory"
    rows = _rows(tmp_path / "a.csv")
    covered = [Path(row["path"]).parent.name in row["prediction_set"].split("|") for row in rows]
    assert np.mean(covered) > 0.8


def test_several_embeddings_side_by_side_have_sets_but_no_typicality(bundle: Bundle, foreign: Path, tmp_path: Path) -> None:
    reference = adapt(
        bundle.path, out=tmp_path / "adapted", support=f"folder:{foreign}", options=AdaptOptions(beside=[bundle.path])
    ).reference
    assert reference is not None
    assert reference.geometry is None


def test_a_bundle_that_followed_unlabelled_images_has_nothing_to_judge_by(
    bundle: Bundle, foreign: Path, tmp_path: Path
) -> None:
    settings = ["size=false"]
    made = adapt(bundle.path, out=tmp_path / "followed", unlabelled=str(foreign), options=AdaptOptions(settings=settings))
    assert made.reference is None
    assert made.manifest.review == bundle.manifest.review
    found = predict(made.path, str(foreign), out=tmp_path / "a.csv")
    assert found.trust.shift.verdict == NO_REFERENCE
    assert len(found.trust.lines) == 1


def test_unlabelled_then_labelled_adaptation_has_sets_but_no_typicality(
    bundle: Bundle, foreign: Path, tmp_path: Path
) -> None:
    reference = adapt(
        bundle.path,
        out=tmp_path / "both",
        unlabelled=str(foreign),
        support=f"folder:{foreign}",
        options=AdaptOptions(settings=["size=false"]),
    ).reference
    assert reference is not None
    assert reference.geometry is None


def test_a_type_without_a_labelled_cell_keeps_its_class_mean(bundle: Bundle, tmp_path: Path) -> None:
    two = {name: OTHER[name] for name in ("neutrophil", "lymphocyte")}
    few = colour_cells(tmp_path / "few", two, {"neutrophil": 12, "lymphocyte": 1}, seed=4, noise=8)
    adapted = adapt(bundle.path, out=tmp_path / "adapted", support=f"folder:{few}")
    assert adapted.manifest.labels == bundle.manifest.labels
    assert adapted.manifest.review == bundle.manifest.review, "13 labelled cells are too few to calibrate on"
    reference = adapted.reference
    assert reference is not None
    assert reference.geometry is not None
    assert bundle.reference is not None
    assert bundle.reference.geometry is not None
    lacking = bundle.manifest.labels.index("monocyte")
    np.testing.assert_allclose(
        reference.geometry.class_means[lacking], bundle.reference.geometry.class_means[lacking], rtol=1e-5
    )
    fresh = colour_cells(tmp_path / "fresh", OTHER, 5, seed=9, noise=8)
    predict(adapted.path, str(fresh), out=tmp_path / "a.csv")
    rows = _rows(tmp_path / "a.csv")
    assert all(0 < float(row["typicality"]) <= 1 for row in rows)
    assert all(row["label"] in row["prediction_set"].split("|") for row in rows)
