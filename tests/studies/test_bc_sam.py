"""The BC-SAM study on generated data in the real layouts: Matek-19 and Acevedo-20 with five shared classes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import trained
from fakes import acevedo20, matek19
from hemalens.classifiers.heads import HEADS, HeadKind
from hemalens.datasets import CellDataset
from hemalens.errors import ConfigError, InputError, SplitError, WeightsError
from hemalens.evaluation.metrics import Predictions
from hemalens.evaluation.results import ComparisonTable, Estimate, Report
from hemalens.files import default_cache_dir
from hemalens.report import read_report
from hemalens.studies import run_study
from hemalens.studies.base import published
from hemalens.studies.bc_sam import latents as bc_sam_latents
from hemalens.studies.bc_sam import run as bc_sam
from hemalens.studies.bc_sam.latents import Material, Row
from hemalens.studies.bc_sam.run import BCSamStudyConfig
from hemalens.studies.bc_sam.scores import Cell, Gain, difference, find_gains
from hemalens.studies.bc_sam.tables import accuracy_table, balanced_table, gain_table, verdict

N_EACH = 4
SHARED = ("basophil", "eosinophil", "segmented_neutrophil", "monocyte", "lymphocyte")
FEATURES = (
    "features.features=timm",
    "features.segmenter=classical",
    "features.backbone=test_resnet",
    "features.weights=none",
    "features.image_size_px=96",
    "features.autoencoder.epochs=1",
    "features.autoencoder.batch_size=8",
    "features.autoencoder.side_px=32",
    "features.autoencoder.decoder_width=0.05",
    "features.autoencoder.precision=fp32",
    "features.autoencoder.optimiser.warmup_steps=1",
)
STUDIED = ("n_folds=2", f"min_per_class={N_EACH}", *FEATURES)
RESNEXT = (
    "resnext.backbone=test_resnet",
    "resnext.image_size_px=32",
    "resnext.epochs=1",
    "resnext.batch_size=8",
    "resnext.precision=fp32",
)
WHOLE = (*STUDIED, *RESNEXT, 'heads=["lr", "rf"]', 'discrepancies=["linear"]')
LATENT_ROW = "linear MMD"
PAIRS = (("first", "first"), ("first", "second"), ("second", "first"), ("second", "second"))
HEADINGS = ("1 -> 1", "1 -> 2", "2 -> 1", "2 -> 2")

Roles = dict[str, list[str]]


class KilledError(Exception):
    """Stands for a kill: nothing catches it."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Roles:
    """Five classes that both laboratories have, one of Matek-19 alone, and one that is too small."""
    root = tmp_path_factory.mktemp("study")
    first, second = matek19.write(root / "matek", n_per_class=N_EACH), acevedo20.write(root / "acevedo", n_per_class=N_EACH)
    top = root / "matek" / "AML-Cytomorphology_LMU"
    for code in set(matek19.KINDS) - {"BAS", "EOS", "NGS", "MON", "LYT", "LYA", "MYO"}:
        shutil.rmtree(top / code)
    for image in sorted((top / "MYO").iterdir())[2:]:
        image.unlink()
    top = root / "acevedo" / "PBC_dataset_normal_DIB"
    for folder in ("erythroblast", "ig", "platelet"):
        shutil.rmtree(top / folder)
    for image in (top / "neutrophil").iterdir():
        if not image.name.startswith("SNE"):
            image.unlink()
    return {"first": [first], "second": [second]}


@dataclass
class Watched:
    """A run of the study, what it said, and what went through its parts."""

    report: Report
    said: list[str]
    autoencoders: list[np.ndarray] = field(default_factory=list)
    """The images, among all, that each autoencoder learned from."""
    resnext: list[tuple[str, CellDataset, CellDataset]] = field(default_factory=list)
    found: Any = None

    @property
    def material(self) -> Material:
        return self.found.material

    @property
    def cells(self) -> list[Cell]:
        return self.found.cells

    @property
    def tables(self) -> dict[str, ComparisonTable]:
        return {table.title.partition(" ")[0]: table for table in self.report.tables}

    def row(self, name: str, protocol: str | None) -> Row:
        return next(row for row in self.found.rows if (row.name, row.protocol) == (name, protocol))


def find(cells: Sequence[Cell], **values: object) -> Cell | None:
    """The first cell with these values."""
    return next((c for c in cells if all(getattr(c, name) == value for name, value in values.items())), None)


def _study(data: Roles, out: Path, *settings: str, said: list[str] | None = None) -> Report:
    say = (lambda text: None) if said is None else said.append
    return run_study("bc-sam", data=data, out=out, settings=settings, say=say)


@pytest.fixture(scope="module")
def few_trees() -> Iterator[None]:
    """A small random forest: the published one is as slow as all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        small = HeadKind(lambda seed: RandomForestClassifier(5, max_depth=4, random_state=seed), "a small forest")
        patch.setitem(HEADS, "rf", small)
        yield


@pytest.fixture(scope="module")
def whole(data: Roles, few_trees: None, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    out, said = tmp_path_factory.mktemp("whole") / "study", []
    watched = Watched(None, said)  # type: ignore[arg-type]
    fit, run, fit_or_resume = bc_sam_latents.fit_autoencoder, bc_sam._run, bc_sam.fit_or_resume

    def spy_fit(pairs: Any, *given: Any) -> Any:
        watched.autoencoders.append(pairs.rows)
        return fit(pairs, *given)

    def spy_run(*given: Any, **more: Any) -> Any:
        watched.found = run(*given, **more)
        return watched.found

    def spy_fit_in(run_dir: Path, method: Any, train: CellDataset, *, validation: CellDataset, **more: Any) -> Any:
        watched.resnext.append((f"{run_dir.parent.name}/{run_dir.name}", train, validation))
        return fit_or_resume(run_dir, method, train, validation=validation, **more)

    with trained.undrawn(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(bc_sam_latents, "fit_autoencoder", spy_fit)
        patch.setattr(bc_sam, "_run", spy_run)
        patch.setattr(bc_sam, "fit_or_resume", spy_fit_in)
        watched.report = _study(data, out, *WHOLE, said=said)
    assert read_report(out / "report.json") == watched.report
    assert not (out / "scratch").exists()
    return watched


def _accuracies(cell: Cell) -> np.ndarray:
    return np.array([np.mean(answers.target == answers.predicted) for answers in cell.predictions])


def _balanced(cell: Cell) -> np.ndarray:
    """Mean recall over the classes there are, of each fold."""
    return np.array([np.mean([np.mean(a.predicted[a.target == k] == k) for k in set(a.target)]) for a in cell.predictions])


# --------------------------------------------------------------------------------------------------------- what is seen


def test_the_sides_share_their_classes(whole: Watched) -> None:
    first, second = (side.dataset for side in whole.material.sides)
    assert first.class_counts == dict.fromkeys([*SHARED, "variant_lymphocyte"], N_EACH)
    assert second.class_counts == dict.fromkeys(SHARED, N_EACH)
    assert any("left out class myeloblast, fewer than 4 images: 2" in text for text in whole.said)
    for cell in whole.cells:
        if cell.target == "second" and cell.source == "first":
            assert cell.evaluation.tested_classes == SHARED
            assert cell.evaluation.left_out == {"variant_lymphocyte": "not in the target"}


def test_an_inductive_autoencoder_never_sees_a_tested_image(whole: Watched) -> None:
    """Of neither laboratory: neither its own fold's test images nor the other's."""
    sides = whole.material.sides
    n_all = len(whole.material.maps)
    inductive = [rows for rows in whole.autoencoders if len(rows) < n_all]
    assert len(inductive) == 2
    for fold, rows in enumerate(inductive):
        tests = [side.start + side.folds[fold][1] for side in sides]
        assert set(rows).isdisjoint(np.concatenate(tests))
        assert set(rows) | set(np.concatenate(tests)) == set(range(n_all))
        for cell in whole.cells:
            if cell.protocol == "inductive":
                side = next(side for side in sides if side.key == cell.target)
                # images here are no copies: an image's unit is its position
                tested = side.start + cell.predictions[fold].unit
                assert len(tested)
                assert set(rows).isdisjoint(tested)
    for cell in whole.cells:
        if cell.protocol == "inductive":
            assert not cell.evaluation.transductive
            assert "transductive" not in cell.evaluation.name


def test_a_transductive_autoencoder_sees_all_and_is_marked(whole: Watched) -> None:
    n_all = len(whole.material.maps)
    (rows,) = [rows for rows in whole.autoencoders if len(rows) == n_all]
    assert sorted(rows) == list(range(n_all)) == list(range(24 + 20))
    marked = [cell for cell in whole.cells if cell.evaluation.transductive]
    assert {cell.protocol for cell in marked} == {"transductive"}
    assert len(marked) == 2 * 4
    assert all(cell.evaluation.name.endswith("(transductive)") for cell in marked)
    shown = [e for e in whole.report.evaluations if e.transductive]
    assert [e.method for e in shown] == [f"{LATENT_ROW}, lr"] * 4
    row = whole.row(LATENT_ROW, "transductive")
    assert row.embeddings[0] is row.embeddings[1], "one autoencoder for all folds"


def test_every_row_has_the_same_folds(whole: Watched) -> None:
    """The fine-tuned baseline too, whose validation part is taken out of its training fold."""
    sides = {side.key: side for side in whole.material.sides}
    assert [place for place, _, _ in whole.resnext] == [
        f"resnext_{key}/fold_{fold}" for key in ("first", "second") for fold in (0, 1)
    ]
    for place, train, validation in whole.resnext:
        side, fold = sides[place.split("_")[1].split("/")[0]], int(place[-1])
        wanted = {side.dataset.contents[i] for i in side.folds[fold][0]}
        assert {*train.contents, *validation.contents} == wanted
        assert len(train) + len(validation) == len(wanted)
    for cell in whole.cells:
        if cell.predictions and cell.source == cell.target:
            for (_, test), answers in zip(sides[cell.source].folds, cell.predictions, strict=True):
                assert set(answers.unit) == set(test)


def test_abroad_the_whole_laboratory_is_tested_but_for_inductive_rows(whole: Watched) -> None:
    sides = {side.key: side for side in whole.material.sides}
    for cell in whole.cells:
        if not cell.predictions or cell.source == cell.target:
            continue
        target = sides[cell.target]
        known = {i for i, record in enumerate(target.dataset.records) if record.label in SHARED}
        for (_, test), answers in zip(target.folds, cell.predictions, strict=True):
            assert set(answers.unit) == (known & set(test) if cell.protocol == "inductive" else known)
        assert cell.evaluation.n_images == len(known)


# ---------------------------------------------------------------------------------------------- what the answers are


@pytest.mark.parametrize("protocol", [None, "transductive", "inductive"])
def test_the_head_learns_one_fold_at_home_and_answers_in_both(whole: Watched, protocol: str | None) -> None:
    """Logistic regression by scikit-learn on the row's embeddings."""
    sides = {side.key: side for side in whole.material.sides}
    row = whole.row("features" if protocol is None else LATENT_ROW, protocol)
    for source, target in PAIRS:
        cell = find(whole.cells, row=row.name, protocol=protocol, head="lr", source=source, target=target)
        assert cell is not None
        labels = cell.evaluation.classes
        for fold, answers in enumerate(cell.predictions):
            here = row.embeddings[fold][sides[source].rows]
            train = sides[source].folds[fold][0]
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, random_state=0))
            model.fit(here[train], sides[source].dataset.targets[train])
            there = row.embeddings[fold][sides[target].rows][answers.unit]
            np.testing.assert_array_equal(answers.predicted, model.predict(there))
            truth = [sides[target].dataset.records[i].label for i in answers.unit]
            assert [labels[i] for i in answers.target] == truth


def test_the_pooled_features_are_means_over_the_map(whole: Watched) -> None:
    maps = whole.material.maps
    assert maps.dtype == np.float16
    row = whole.row("features", None)
    assert row.autoencoder is None
    np.testing.assert_allclose(row.embeddings[0], maps.astype(np.float64).mean(axis=(2, 3)), atol=1e-5)
    latent = whole.row(LATENT_ROW, "inductive")
    assert [e.shape for e in latent.embeddings] == [(44, 50)] * 2
    assert all((e >= 0).all() for e in latent.embeddings)
    assert np.abs(latent.embeddings[0] - latent.embeddings[1]).max() > 1e-4, "an autoencoder of its own in each fold"


# ----------------------------------------------------------------------------------------------------------- the tables


def test_the_accuracy_table_holds_ours_and_the_published(whole: Watched) -> None:
    table = whole.tables["Accuracy"]
    assert table.columns == ("method", "autoencoder trained on", *HEADINGS, "mean")
    names = [row[:2] for row in table.rows]
    ours = [("features", "–"), (LATENT_ROW, "all images"), (LATENT_ROW, "training folds")]
    assert names[:8] == [
        *[(f"{row}, {head}", saw) for row, saw in ours for head in ("lr", "rf")],
        ("ResNeXt-50, fine-tuned", "–"),
        ("most frequent class", ""),
    ]
    told = published("bc_sam")["row"]
    assert names[8:] == [(f"published: {row['method']}", row["saw"]) for row in told]
    assert "TRANSDUCTIVE" in table.note
    assert table.note.startswith("1 = matek19, 2 = acevedo20. ")
    cells = dict(zip(table.columns, table.rows[9], strict=True))
    assert cells["1 -> 2"] == "21.9 ± 0.4", "AE-CFE, from Matek-19 to Acevedo-20"
    assert table.rows[8][-1] == f"{np.mean([96.1, 8.1, 7.3, 85.7]):.1f}"


def test_means_and_population_deviations_over_folds(whole: Watched) -> None:
    table = whole.tables["Accuracy"]
    rows = {row[:2]: row[2:] for row in table.rows}
    saw = {None: "–", "transductive": "all images", "inductive": "training folds"}
    for name, protocol, head in {(c.row, c.protocol, c.head) for c in whole.cells if c.predictions}:
        *shown, mean = rows[f"{name}, {head}", saw[protocol]]
        values = []
        for text, (source, target) in zip(shown, PAIRS, strict=True):
            cell = find(whole.cells, row=name, protocol=protocol, head=head, source=source, target=target)
            folds = 100 * _accuracies(cell)
            assert text == f"{folds.mean():.1f} ± {np.std(folds, ddof=0):.1f}"
            values.append(folds.mean())
        assert float(mean) == pytest.approx(float(np.mean(values)), abs=0.0501), "a half may go either way"


def test_the_rate_of_the_most_frequent_class_stands_below(whole: Watched) -> None:
    """Balanced here: one of six classes at home, one of the five shared abroad; of two folds the mean."""
    table = whole.tables["Accuracy"]
    row = next(row for row in table.rows if row[0] == "most frequent class")
    expected = []
    for source, target in PAIRS:
        cell = find(whole.cells, row="features", head="lr", source=source, target=target)
        expected.append(np.mean([np.bincount(a.target).max() / len(a.target) for a in cell.predictions]))
    assert row == ("most frequent class", "", *(f"{100 * rate:.1f}" for rate in expected), None)
    assert expected[1] == expected[2] == pytest.approx(0.2)


def test_published_rows_stand_beside_their_own_sets_only(whole: Watched) -> None:
    sides = whole.material.sides
    other = accuracy_table(whole.cells, sides, "eight_class")
    assert not any(str(row[0]).startswith("published") for row in other.rows)
    assert "The published numbers are for Matek-19 and Acevedo-20 under thirteen_class" in other.note
    renamed = [replace(sides[0], dataset=replace(sides[0].dataset, name="mine")), sides[1]]
    assert accuracy_table(whole.cells, renamed, "thirteen_class").rows == other.rows
    swapped = [replace(sides[1], key="first"), replace(sides[0], key="second")]
    told = accuracy_table(whole.cells, swapped, "thirteen_class").rows[8]
    assert told[:6] == ("published: ResNeXt", "one laboratory", "85.7 ± 2.4", "7.3 ± 3.1", "8.1", "96.1")


def test_the_published_numbers_are_whole() -> None:
    told = published("bc_sam")
    assert all(0 < rate < 100 for rate in told["majority_rate"].values())
    for row in told["row"]:
        assert {"method", "saw", "M_M", "M_A", "A_M", "A_A"} == set(row)
        assert all(0 < value < 100 and std >= 0 for value, std in (row[key] for key in ("M_M", "M_A", "A_M", "A_A")))


def test_balanced_accuracy_with_its_intervals(whole: Watched) -> None:
    table = whole.tables["Balanced"]
    assert table == balanced_table(whole.cells, whole.material.sides)
    row = next(row for row in table.rows if row[:2] == (f"{LATENT_ROW}, lr", "training folds"))
    for text, (source, target) in zip(row[2:], PAIRS, strict=True):
        cell = find(whole.cells, row=LATENT_ROW, protocol="inductive", head="lr", source=source, target=target)
        value, low, high = map(float, re.fullmatch(r"(\S+) \((\S+)–(\S+)\)", str(text)).groups())
        assert value == pytest.approx(_balanced(cell).mean(), abs=6e-4)
        assert 0 <= low <= value <= high <= 1
    assert table.rows[-1] == ("any constant prediction", "", "0.167", "0.200", "0.200", "0.200")


def test_what_an_autoencoder_adds_is_measured_on_the_same_images(whole: Watched) -> None:
    table = whole.tables["Does"]
    sides = whole.material.sides
    gains = find_gains(whole.cells, whole.found.plain, seed=0)
    assert len(gains) == 2 * 2 * 4
    assert table == gain_table(gains, sides)
    assert whole.report.summary[0] == verdict(gains)
    assert [row[:2] for row in table.rows] == [
        (f"{LATENT_ROW}, {head}", saw) for saw in ("all images", "training folds") for head in ("lr", "rf")
    ]
    row = next(row for row in table.rows if row[:2] == (f"{LATENT_ROW}, lr", "training folds"))
    for text, (source, target) in zip(row[2:], PAIRS, strict=True):
        wanted = {"protocol": "inductive", "head": "lr", "source": source, "target": target}
        cell, plain = find(whole.cells, row=LATENT_ROW, **wanted), find(whole.found.plain, row="features", **wanted)
        for a, b in zip(cell.predictions, plain.predictions, strict=True):
            np.testing.assert_array_equal(a.unit, b.unit)
        expected = _balanced(cell).mean() - _balanced(plain).mean()
        assert str(text).startswith(f"{expected:+.3f} (")


def test_the_report_shows_one_head_and_the_baseline_in_full(whole: Watched) -> None:
    methods = [e.method for e in whole.report.evaluations]
    assert methods == ["features, lr"] * 4 + [f"{LATENT_ROW}, lr"] * 4 + ["ResNeXt-50"] * 4
    baseline = whole.report.evaluations[-4:]
    assert [(e.source, e.target) for e in baseline] == [
        ("matek19", "matek19"),
        ("matek19", "acevedo20"),
        ("acevedo20", "acevedo20"),
        ("acevedo20", "matek19"),
    ]
    assert [e.name for e in baseline[:2]] == ["ResNeXt-50: matek19 -> matek19", "ResNeXt-50: matek19 -> acevedo20"]
    assert all(e.n_folds == 2 for e in whole.report.evaluations)
    (pictures,) = whole.report.pictures
    assert pictures.columns == ("cell image", f"{LATENT_ROW}, transductive", f"{LATENT_ROW}, inductive")
    assert len(pictures.rows) == 2 * 4
    assert {row.caption.split(", ")[0] for row in pictures.rows} == {"matek19", "acevedo20"}
    assert set(whole.report.methods) == {"study", "features", "resnext"}
    assert whole.report.methods["resnext"]["backbone"] == "test_resnet"


# ----------------------------------------------------------------------------------------------- what is not done again


def _never(*given: object, **more: object) -> None:
    raise AssertionError("trained again")


@pytest.mark.usefixtures("undrawn")
def test_another_head_in_another_folder_trains_no_autoencoder_again(
    data: Roles, whole: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bc_sam_latents, "fit_autoencoder", _never)
    settings = (*STUDIED, 'heads=["rf"]', "shown_head=rf", 'discrepancies=["linear"]', "resnext=false", "pooled=false")
    report = _study(data, tmp_path / "study", *settings)
    assert [e.method for e in report.evaluations] == [f"{LATENT_ROW}, rf"] * 4
    before = {row[:2]: row for row in whole.tables["Accuracy"].rows}
    assert all(row == before[row[:2]] for row in report.tables[0].rows if row[0] == f"{LATENT_ROW}, rf")
    assert len(report.tables) == 2, "nothing to compare with the pooled features"
    assert set(report.methods) == {"study", "features"}


def _latents_of(whole: Watched) -> Any:
    """The configuration of the autoencoders of `whole`."""
    _, features, _ = bc_sam._configs(WHOLE)
    return features.autoencoder.model_copy(update={"mmd": "linear"})


def test_an_autoencoder_of_other_domains_is_another_one(
    whole: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same images said to be of other laboratories: what is drawn together differs."""
    monkeypatch.setattr(bc_sam_latents, "fit_autoencoder", _never)
    whole.material.row("transductive", _latents_of(whole), tmp_path, print)
    first, second = whole.material.sides
    halves = [replace(r, domain=f"half {i % 2}") for i, r in enumerate(first.dataset.records)]
    other = replace(first, dataset=replace(first.dataset, records=tuple(halves)))
    with pytest.raises(AssertionError, match="trained again"):
        replace(whole.material, sides=(other, second)).row("transductive", _latents_of(whole), tmp_path, print)


def test_a_damaged_autoencoder_is_named(whole: Watched, tmp_path: Path) -> None:
    kept = sorted((default_cache_dir() / "autoencoders").iterdir())
    contents = {file: file.read_bytes() for file in kept}
    try:
        for file in kept:
            file.write_bytes(b"damaged")
        with pytest.raises(WeightsError, match=r"\.safetensors"):
            whole.material.row("transductive", _latents_of(whole), tmp_path, print)
    finally:
        for file, content in contents.items():
            file.write_bytes(content)


@pytest.mark.usefixtures("undrawn")
def test_a_killed_study_goes_on_after_what_was_finished(
    data: Roles, whole: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (
        *STUDIED,
        'heads=["lr"]',
        'protocols=["inductive"]',
        'discrepancies=["none"]',
        "resnext=false",
        "pooled=false",
        "features.autoencoder.seed=7",
    )
    honest, done = bc_sam_latents.fit_autoencoder, []

    def killed_at_the_second(pairs: Any, *given: Any) -> Any:
        if len(done) == 1:
            raise KilledError
        done.append(pairs)
        return honest(pairs, *given)

    with monkeypatch.context() as patch:
        patch.setattr(bc_sam_latents, "fit_autoencoder", killed_at_the_second)
        with pytest.raises(KilledError):
            _study(data, tmp_path / "study", *settings)
    assert json.loads((tmp_path / "study" / "run.json").read_text())["finished"] is False
    done.clear()
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(bc_sam_latents, "fit_autoencoder", killed_at_the_second)
        resumed = _study(data, tmp_path / "study", *settings, said=said)
    assert any("stopped run" in text for text in said)
    assert len(done) == 1, "the first was kept"
    shutil.rmtree(default_cache_dir() / "autoencoders")
    unbroken = _study(data, tmp_path / "unbroken", *settings)
    assert resumed.tables == unbroken.tables
    assert resumed.evaluations == unbroken.evaluations


# ------------------------------------------------------------------------------------------------------- small examples


def _cell(*answers: tuple[list[int], list[int]], n_classes: int = 2) -> Cell:
    evaluation: Any = SimpleNamespace(classes=tuple("abcdef"[:n_classes]))
    kept = tuple(Predictions(np.array(t), np.array(p), np.arange(len(t))) for t, p in answers)
    return Cell("row", None, "lr", "first", "second", evaluation, kept)


def test_a_difference_is_that_of_mean_balanced_accuracies() -> None:
    truth = [0, 0, 0, 0, 1, 1]
    better = _cell((truth, [0, 0, 0, 1, 1, 1]), (truth, [0, 0, 1, 1, 1, 0]))
    worse = _cell((truth, [1, 1, 0, 0, 1, 0]), (truth, [0, 0, 0, 0, 0, 0]))
    expected = np.mean([(0.75 + 1) / 2, (0.5 + 0.5) / 2]) - np.mean([(0.5 + 0.5) / 2, (1 + 0) / 2])
    found = difference(better, worse, seed=0)
    assert found.value == pytest.approx(expected)
    assert found.low <= found.value <= found.high
    back = difference(worse, better, seed=0)
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_a_difference_is_paired() -> None:
    """On the same images: none between equal answers, and no doubt where one is always right and the other never."""
    truth = [0, 0, 0, 1, 1, 1, 1, 1]
    half = _cell((truth, [0, 1, 0, 1, 0, 1, 0, 1]))
    same = difference(half, half, seed=3)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    right, wrong = _cell((truth, truth)), _cell((truth, [1 - t for t in truth]))
    sure = difference(right, wrong, seed=3)
    assert (sure.value, sure.low, sure.high) == (1, 1, 1)
    one_better = _cell((truth, [0, 0, 0, 1, 0, 1, 0, 1]))
    found = difference(one_better, half, seed=3)
    assert found.value == pytest.approx(1 / 6)
    assert (found.low, found.high) == pytest.approx((0, 0.5)), "a third of a class of three, never, once, or each time"
    assert found == difference(one_better, half, seed=3)


def _gain(source: str, target: str, low: float, high: float) -> Gain:
    return Gain(LATENT_ROW, "inductive", "lr", source, target, Estimate(value=(low + high) / 2, low=low, high=high))


def test_the_verdict_counts_what_is_beside_nothing_in_the_other_laboratory() -> None:
    at_home = [_gain("first", "first", 0.1, 0.2), _gain("second", "second", -0.2, -0.1)]
    abroad = [
        _gain("first", "second", 0.01, 0.2),
        _gain("first", "second", 0.0, 0.2),
        _gain("second", "first", -0.3, -0.1),
        _gain("second", "first", -0.1, 0.1),
    ]
    assert "of 4 comparisons" in verdict(at_home + abroad)
    assert "1 are better and 1 worse" in verdict(at_home + abroad)
    assert "of 0 comparisons" in verdict(at_home)


def test_the_published_protocol_is_the_default() -> None:
    config = BCSamStudyConfig()
    assert (config.labels, config.n_folds, config.pooled, config.resnext) == ("thirteen_class", 5, True, True)
    assert config.heads == ("rf", "svm_poly", "xgboost", "svm_rbf", "ann", "lr")
    assert config.protocols == ("transductive", "inductive")
    assert config.discrepancies == ("none", "linear", "rbf")
    _, features, resnext = bc_sam._configs(["resnext.epochs=3"])
    assert (features.features, features.autoencoder.mmd) == ("segmenter", "linear")
    assert (resnext.backbone, resnext.weights, resnext.image_size_px, resnext.epochs) == ("resnext50_32x4d", "none", 224, 3)


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('heads=["lr", "anm"]', r"unknown head 'anm'. did you mean 'ann'"),
        ("shown_head=foo", "unknown head 'foo'"),
        ('protocols=["both"]', "key 'protocols"),
        ('discrepancies=["quadratic"]', "key 'discrepancies"),
        ("n_folds=1", "key 'n_folds'"),
        ("n_fold=2", r"unknown key 'n_fold'. did you mean 'n_folds'"),
        ("features.segmentor=classical", r"unknown key 'segmentor'. did you mean 'segmenter'"),
        ("features.autoencoder.epoch=1", r"unknown key 'autoencoder.epoch'"),
        ("resnext.epoch=1", r"unknown key 'epoch'. did you mean 'epochs'"),
    ],
)
def test_bad_settings_are_told_first(data: Roles, tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _study(data, tmp_path / "x", *WHOLE, setting)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"second": []}, r"number of datasets in the role second.*Use --data second=SPEC"),
        ({"third": ["folder:a"]}, "no role 'third'"),
        ({"frist": ["folder:a"]}, r"no role 'frist'. did you mean 'first'"),
    ],
)
def test_roles_are_checked(data: Roles, tmp_path: Path, change: Roles, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _study({**data, **change}, tmp_path / "x", *WHOLE)


def test_sides_that_cannot_be_compared_are_refused(data: Roles, tmp_path: Path) -> None:
    with pytest.raises(SplitError, match=r"24 image\(s\) of matek19 were trained on"):
        _study({"first": data["first"], "second": data["first"]}, tmp_path / "x", *WHOLE)
    with pytest.raises(SplitError, match=r"too small for 5 folds; expected at least 5 .*--min-per-class 5"):
        _study(data, tmp_path / "x", *WHOLE, "n_folds=5")
    assert not (tmp_path / "x").exists()


def test_without_a_segmenter_the_study_says_what_to_do(data: Roles, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bc_sam needs a segmenter; .*--set features=timm --set segmenter=classical"):
        _study(data, tmp_path / "x", "n_folds=2", f"min_per_class={N_EACH}")
