"""The BC-SAM study on generated data in the real layouts: Matek-19 and Acevedo-20 with five shared classes."""

from __future__ import annotations

import json
import math
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
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import trained
from fakes import acevedo20, matek19
from hemalens.cache import damage_notes, forget_damage
from hemalens.classifiers.heads import HEADS, HeadKind
from hemalens.datasets import CellDataset
from hemalens.datasets.synthetic import synthesize
from hemalens.errors import ConfigError, InputError, SplitError
from hemalens.evaluation.metrics import Predictions
from hemalens.evaluation.results import ComparisonTable, Estimate, Report
from hemalens.files import default_cache_dir
from hemalens.report import read_report
from hemalens.studies import run_study
from hemalens.studies.base import published
from hemalens.studies.bc_sam import latents as bc_sam_latents
from hemalens.studies.bc_sam import resnext as bc_sam_resnext
from hemalens.studies.bc_sam import run as bc_sam
from hemalens.studies.bc_sam.config import PUBLISHED_HEADS, BCSamStudyConfig, read_configs
from hemalens.studies.bc_sam.differences import run_differences
from hemalens.studies.bc_sam.latents import Material, Row, Side
from hemalens.studies.bc_sam.scores import Cell, Gain, WholeTest, difference, find_gains
from hemalens.studies.bc_sam.segmenter import mask_shares
from hemalens.studies.bc_sam.tables import (
    accuracy_sentences,
    accuracy_table,
    balanced_table,
    gain_table,
    restricted_table,
    verdict,
)

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
AE_CFE = ("ae_cfe.epochs=1", "ae_cfe.batch_size=16", "ae_cfe.width=0.05")
WHOLE = (*STUDIED, *RESNEXT, *AE_CFE, 'heads=["lr", "rf"]', 'discrepancies=["linear"]')
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
        return {table.title.partition(",")[0].partition(" (")[0]: table for table in self.report.tables}

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
    fit, run, fit_or_resume = bc_sam_latents.fit_autoencoder, bc_sam._run, bc_sam_resnext.fit_or_resume

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
        patch.setattr(bc_sam_resnext, "fit_or_resume", spy_fit_in)
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
    assert [cell.row for cell in marked] == [LATENT_ROW] * 2 * 4 + ["AE-CFE"] * 4
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
    assert row.draw is None
    np.testing.assert_allclose(row.embeddings[0], maps.astype(np.float64).mean(axis=(2, 3)), atol=1e-5)
    latent = whole.row(LATENT_ROW, "inductive")
    assert [e.shape for e in latent.embeddings] == [(44, 50)] * 2
    assert all((e >= 0).all() for e in latent.embeddings)
    assert np.abs(latent.embeddings[0] - latent.embeddings[1]).max() > 1e-4, "an autoencoder of its own in each fold"


# ----------------------------------------------------------------------------------------------------------- the tables


def test_folds_are_those_of_scikit_learn(whole: Watched) -> None:
    """As in the authors' code: stratified, shuffled by 1234."""
    for side in whole.material.sides:
        wanted = StratifiedKFold(2, shuffle=True, random_state=1234).split(side.dataset.targets, side.dataset.targets)
        for (train, test), (own_train, own_test) in zip(wanted, side.folds, strict=True):
            np.testing.assert_array_equal(train, own_train)
            np.testing.assert_array_equal(test, own_test)


def test_groups_stay_together(whole: Watched) -> None:
    dataset = whole.material.sides[0].dataset
    pairs = tuple(replace(record, group=f"{record.label} {i // 2}") for i, record in enumerate(dataset.records))
    side = Side.split("first", replace(dataset, records=pairs), start=0, n_folds=2, seed=1)
    for train, test in side.folds:
        assert {pairs[i].group for i in train}.isdisjoint(pairs[i].group for i in test)


def test_the_accuracy_table_holds_ours_and_the_published(whole: Watched) -> None:
    table = whole.report.tables[0]
    assert table.title == "Accuracy in %, trained on -> tested on"
    assert table.columns == ("method", "autoencoder trained on", *HEADINGS, "mean")
    names = [row[:2] for row in table.rows]
    ours = [("features", "–"), (LATENT_ROW, "all images"), (LATENT_ROW, "training folds")]
    assert names[:9] == [
        *[(f"{row}, {head}", saw) for row, saw in ours for head in ("lr", "rf")],
        ("AE-CFE, rf", "all images"),
        ("ResNeXt-50, fine-tuned", "–"),
        ("most frequent class", ""),
    ]
    told = published("bc_sam")["row"]
    assert names[9:] == [(f"published: {row['method']}", row["saw"]) for row in told]
    assert "Features: the pooled" in table.note
    assert "Linear MMD on all images: BC-SAM as published." in table.note
    assert "(transductive). Training folds: it learns from" in table.note
    few = [cell for cell in whole.cells if cell.row == "AE-CFE"]
    assert accuracy_table(few, whole.material.sides, "thirteen_class").note.startswith(
        "1 = matek19, 2 = acevedo20. Mean over folds. All images: the autoencoder learns from "
    )
    assert table.note.startswith("1 = matek19, 2 = acevedo20. ")
    assert "2 -> 1: 4 such images." in table.note, "the variant lymphocytes, which Acevedo-20 lacks"
    assert "1 -> 2:" not in table.note


def test_published_numbers_are_as_printed(whole: Watched) -> None:
    rows = {str(row[0]): row[2:] for row in whole.report.tables[0].rows}
    assert rows["published: ResNeXt"] == ("96.10", "8.10", "7.30 ± 3.1", "85.70 ± 2.4", "49.30")
    assert rows["published: BC-SAM, svm_poly"] == ("90.95 ± 0.4", "24.77 ± 0.6", "50.67 ± 0.4", "72.99 ± 0.4", "59.85")
    assert rows["published: DoRL, svm_linear"] == ("94.25 ± 0.4", "63.18 ± 1.8", "55.42 ± 2.8", "88.05 ± 0.5", None)
    assert "a third, private set" in whole.report.tables[0].note


def _tested(whole: Watched, cell: Cell, fold: int) -> np.ndarray:
    """The images, of all types, that a fold's model is tested on."""
    side = next(side for side in whole.material.sides if side.key == cell.target)
    parts = cell.source == cell.target or cell.protocol == "inductive"
    return side.dataset.targets[side.folds[fold][1]] if parts else side.dataset.targets


@pytest.mark.parametrize("restricted", [False, True], ids=["all images", "known types"])
def test_means_and_population_deviations_over_folds(whole: Watched, restricted: bool) -> None:
    """An image of a type unknown to the model is wrong among all images, and left out of the second table."""
    table = whole.report.tables[int(restricted)]
    rows = {row[:2]: row[2:] for row in table.rows}
    saw = {None: "–", "transductive": "all images", "inductive": "training folds"}
    lines = {(c.row, c.protocol, c.head) for c in whole.cells}
    assert len(lines) == 8
    for name, protocol, head in lines:
        *shown, mean = rows[f"{name}, {head}", saw[protocol]]
        values = []
        for text, (source, target) in zip(shown, PAIRS, strict=True):
            cell = find(whole.cells, row=name, protocol=protocol, head=head, source=source, target=target)
            folds = []
            for fold, answers in enumerate(cell.predictions):
                n = len(answers.target) if restricted else len(_tested(whole, cell, fold))
                folds.append(100 * np.sum(answers.target == answers.predicted) / n)
            assert text == f"{np.mean(folds):.2f} ± {np.std(folds, ddof=0):.1f}"
            values.append(np.mean(folds))
        assert mean == f"{np.mean(values):.2f}"
    assert whole.report.tables[1].title == "Accuracy in %, restricted to types of both laboratories"


def test_unknown_types_lower_the_accuracy_in_one_direction_alone(whole: Watched) -> None:
    for cell in whole.cells:
        abroad = cell.source == "second" and cell.target == "first"
        assert cell.whole.n_unknown == (N_EACH if abroad else 0)
        for all_images, known in zip(cell.whole.accuracies, cell.known_accuracies, strict=True):
            assert all_images <= known
            if not abroad:
                assert all_images == known
    at_home = [cell for cell in whole.cells if cell.source == cell.target]
    assert restricted_table(at_home, whole.material.sides) is None, "the same as the first table"


def test_the_rate_of_the_most_frequent_class_stands_below(whole: Watched) -> None:
    """Balanced here: one of six classes in the first laboratory, one of five in the second; of known types one of five."""
    every, known = (next(row for row in table.rows if row[0] == "most frequent class") for table in whole.report.tables[:2])
    assert every == ("most frequent class", "", "16.67", "20.00", "16.67", "20.00", None)
    assert known == ("most frequent class", "", "16.67", "20.00", "20.00", "20.00", None)


def test_the_summary_leads_with_accuracy(whole: Watched) -> None:
    first, second, *_ = whole.report.summary
    assert [first, second] == accuracy_sentences(whole.cells, whole.material.sides)
    assert first.startswith("Accuracy on all images, matek19 -> acevedo20, runs from ")
    assert second.endswith("always the most frequent class: 16.67 %.")
    abroad = [100 * np.mean(c.whole.accuracies) for c in whole.cells if (c.source, c.target) == ("second", "first")]
    assert f"runs from {min(abroad):.2f} % (" in second
    assert f" to {max(abroad):.2f} % (" in second


def test_the_report_states_what_differs(whole: Watched) -> None:
    """What every run does otherwise, then this run's data, settings and baselines."""
    always = published("bc_sam")["differences"]
    differences = whole.report.differences
    assert list(differences[: len(always)]) == always
    n = 24 + 20
    counts, *settings, resnext, mask_rcnn, forest, third = differences[len(always) :]
    empty, border = map(int, re.fullmatch(rf"Of {n} images (\d+) have no cell .* and (\d+) have .*", counts).groups())
    records = [record for side in whole.material.sides for record in side.dataset.records]
    outcomes = [whole.material.stage.cut(record.read()).outcome for record in records]
    assert (empty, border) == (outcomes.count("no white cell"), outcomes.count("touches border"))
    assert settings[0] == "Feature maps are those of test_resnet, not of a Segment Anything tuned on masks."
    assert settings[1].startswith("Cells are cut out along the masks of the classical segmenter")
    for text in ("n_folds=2 (5)", "features.autoencoder.epochs=1 (10)", "ae_cfe.width=0.05 (1.0)", "side_px=32 (128)"):
        assert text in settings[2]
    assert "heads" not in settings[2], "which rows there are is no difference"
    assert "fp32" not in settings[2], "published"
    assert resnext.startswith("ResNeXt is test_resnet with the settings resnext.KEY, 1 epochs at most; published are ")
    assert mask_rcnn.startswith("AE-CFE reads the feature maps of this study")
    assert forest.startswith("AE-CFE is published with a forest of 100 trees")
    assert third.startswith("AE-CFE learns from two laboratories")


def test_a_run_as_published_states_no_settings() -> None:
    """Also with a segmenter of one's own; the rows that are left out need no words."""
    given = ["features.segmenter=runs/segmenter", "resnext=false", "ae_cfe=false", 'heads=["ann"]']
    configs = read_configs(given, masks=False, published_only=True)
    (only,) = run_differences(configs, (), {"cell": 1000})
    assert only.startswith("Of 1,000 images 0 have no cell")
    dorl = read_configs([*given, "dorl=true", "dorl.epochs=3"], masks=False, published_only=True)
    assert run_differences(dorl, (), {"cell": 1000})[1:] == [
        "Settings with another value than the published one, which is in brackets: dorl.epochs=3 (300).",
        "The logistic regression of DoRL stops after 2,000 iterations at most, the published one after 500.",
        "DoRL learns from two laboratories; the third set of the published training is not public.",
    ]


def test_published_rows_stand_beside_their_own_sets_only(whole: Watched) -> None:
    sides = whole.material.sides
    other = accuracy_table(whole.cells, sides, "eight_class")
    assert not any(str(row[0]).startswith("published") for row in other.rows)
    assert "The published numbers are for Matek-19 and Acevedo-20 under thirteen_class" in other.note
    renamed = [replace(sides[0], dataset=replace(sides[0].dataset, name="mine")), sides[1]]
    assert accuracy_table(whole.cells, renamed, "thirteen_class").rows == other.rows
    swapped = [replace(sides[1], key="first"), replace(sides[0], key="second")]
    told = accuracy_table(whole.cells, swapped, "thirteen_class").rows[9]
    assert told[:6] == ("published: ResNeXt", "one laboratory", "85.70 ± 2.4", "7.30 ± 3.1", "8.10", "96.10")


def test_the_published_numbers_are_whole() -> None:
    told = published("bc_sam")
    assert all(0 < rate < 100 for rate in told["majority_rate"].values())
    for row in told["row"]:
        assert {"method", "saw", "M_M", "M_A", "A_M", "A_A"} == set(row) - {"mean"}
        if "mean" in row:
            assert row["mean"] == pytest.approx(np.mean([row[key][0] for key in ("M_M", "M_A", "A_M", "A_A")]), abs=0.0051)
        assert all(0 < value < 100 and std >= 0 for value, std in (row[key] for key in ("M_M", "M_A", "A_M", "A_A")))


def test_balanced_accuracy_with_its_intervals(whole: Watched) -> None:
    table = whole.tables["Balanced accuracy"]
    assert table == balanced_table(whole.cells, whole.material.sides)
    row = next(row for row in table.rows if row[:2] == (f"{LATENT_ROW}, lr", "training folds"))
    for text, (source, target) in zip(row[2:], PAIRS, strict=True):
        cell = find(whole.cells, row=LATENT_ROW, protocol="inductive", head="lr", source=source, target=target)
        value, low, high = map(float, re.fullmatch(r"(\S+) \((\S+)–(\S+)\)", str(text)).groups())
        assert value == pytest.approx(_balanced(cell).mean(), abs=6e-4)
        assert 0 <= low <= value <= high <= 1
    assert table.rows[-1] == ("any constant prediction", "", "0.167", "0.200", "0.200", "0.200")


def test_every_training_has_its_curve(whole: Watched) -> None:
    """Those of the two folds of the inductive autoencoder and of each ResNeXt share a line."""
    assert [(curve.group, curve.name) for curve in whole.report.curves] == [
        ("Autoencoders", f"{LATENT_ROW}, transductive"),
        *[("Autoencoders", f"{LATENT_ROW}, inductive")] * 2,
        ("AE-CFE", "AE-CFE, transductive"),
        *[("ResNeXt-50", "matek19")] * 2,
        *[("ResNeXt-50", "acevedo20")] * 2,
    ]


def test_what_an_autoencoder_adds_is_measured_on_the_same_images(whole: Watched) -> None:
    table = whole.report.tables[3]
    sides = whole.material.sides
    gains = find_gains(whole.cells, whole.found.plain, seed=0)
    assert len(gains) == 2 * 2 * 4 + 4
    assert table == gain_table(gains, sides)
    assert verdict(gains) in whole.report.summary
    assert [row[:2] for row in table.rows] == [
        *((f"{LATENT_ROW}, {head}", saw) for saw in ("all images", "training folds") for head in ("lr", "rf")),
        ("AE-CFE, rf", "all images"),
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
    drawn = (f"{LATENT_ROW}, transductive", f"{LATENT_ROW}, inductive", "AE-CFE, transductive")
    assert pictures.columns == ("cell image", *drawn)
    assert len(pictures.rows) == 2 * 4
    assert {row.caption.split(", ")[0] for row in pictures.rows} == {"matek19", "acevedo20"}
    assert set(whole.report.methods) == {"study", "features", "resnext", "ae_cfe"}
    assert whole.report.methods["resnext"]["backbone"] == "test_resnet"


# ----------------------------------------------------------------------------------------------- what is not done again


def _never(*given: object, **more: object) -> None:
    raise AssertionError("trained again")


@pytest.mark.usefixtures("undrawn")
def test_another_head_in_another_folder_trains_no_autoencoder_again(
    data: Roles, whole: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bc_sam_latents, "fit_autoencoder", _never)
    monkeypatch.setattr(bc_sam_latents, "fit_baseline", _never)
    fewer = ("resnext=false", "pooled=false", 'discrepancies=["linear"]')
    settings = (*STUDIED, *AE_CFE, 'heads=["rf"]', "shown_head=rf", *fewer)
    report = _study(data, tmp_path / "study", *settings)
    assert [e.method for e in report.evaluations] == [f"{LATENT_ROW}, rf"] * 4
    before = {row[:2]: row for row in whole.report.tables[0].rows}
    same = [row for row in report.tables[0].rows if row[0] in (f"{LATENT_ROW}, rf", "AE-CFE, rf")]
    assert len(same) == 3
    assert all(row == before[row[:2]] for row in same)
    assert len(report.tables) == 3, "nothing to compare with the pooled features"
    assert set(report.methods) == {"study", "features", "ae_cfe"}
    of_autoencoders = [curve for curve in whole.report.curves if curve.group != "ResNeXt-50"]
    assert list(report.curves) == of_autoencoders, "kept with the networks"


def _latents_of(whole: Watched) -> Any:
    """The configuration of the autoencoders of `whole`."""
    features = read_configs(WHOLE, masks=False, published_only=False).features
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


def test_a_damaged_autoencoder_is_made_anew_and_noted(whole: Watched, tmp_path: Path) -> None:
    kept = sorted((default_cache_dir() / "autoencoders").iterdir())
    contents = {file: file.read_bytes() for file in kept}
    try:
        for file in kept:
            file.write_bytes(b"damaged")
        forget_damage()
        whole.material.row("transductive", _latents_of(whole), tmp_path, print)
        assert any("damaged weights in the cache were made anew" in note for note in damage_notes())
    finally:
        forget_damage()
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
        "ae_cfe=false",
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
    assert json.loads((tmp_path / "study" / ".new" / "run.json").read_text())["finished"] is False
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


SEGMENTER = (
    "segmenter.architecture=small",
    "segmenter.weights=none",
    "segmenter.rank=0",
    "segmenter.image_size_px=64",
    "segmenter.epochs=1",
    "segmenter.batch_size=4",
    "segmenter.mask_fraction=0.1",
    "segmenter.optimiser.warmup_epochs=0.5",
    "segmenter.optimiser.schedule_epochs=2",
)


@pytest.mark.usefixtures("undrawn")
def test_one_command_trains_the_segmenter_too(data: Roles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a tenth as many masks as the laboratories have images; a resumed study keeps it."""
    synthesize(tmp_path / "masked", n_per_class=2, seed=3, cell_types=trained.CELL_TYPES)
    roles = {**data, "masks": [f"synthetic:{tmp_path / 'masked'}"]}
    autoencoder = [s for s in STUDIED if s.startswith("features.autoencoder.")]
    small = ("n_folds=2", f"min_per_class={N_EACH}", "resnext=false", "ae_cfe=false", 'heads=["lr"]', "pooled=false")
    one = ('protocols=["transductive"]', 'discrepancies=["linear"]')
    settings = (*small, *one, *autoencoder, *SEGMENTER)
    out = tmp_path / "study"
    with trained.two_layers():
        with monkeypatch.context() as patch:
            patch.setattr(bc_sam_latents, "feature_graph", _never)
            with pytest.raises(AssertionError, match="trained again"):
                _study(roles, out, *settings)
        manifest = (out / ".new" / "segmenter" / "segmenter" / "manifest.json").read_bytes()
        # 24 + 20 images
        assert json.loads(manifest)["n_masks"] == 5
        report = _study(roles, out, *settings)
    assert (out / "segmenter" / "segmenter" / "manifest.json").read_bytes() == manifest
    assert report.tables[-1].title == "Held-out masks"
    assert [card.role for card in report.data] == ["first", "second", "masks"]
    assert {e.method for e in report.evaluations} == {f"{LATENT_ROW}, lr"}
    assert report.methods["segmenter"]["mask_fraction"] == 0.1
    assert report.methods["features"]["segmenter"] == str(out / "segmenter" / "segmenter")
    assert any(curve.group == "Segmenter" for curve in report.curves)
    assert not any(b"/.new" in path.read_bytes() for path in out.rglob("*.[jmhn]*") if path.is_file())


# ------------------------------------------------------------------------------------------------------- small examples


def _cell(*answers: tuple[list[int], list[int]], n_classes: int = 2) -> Cell:
    evaluation: Any = SimpleNamespace(classes=tuple("abcdef"[:n_classes]))
    kept = tuple(Predictions(np.array(t), np.array(p), np.arange(len(t))) for t, p in answers)
    return Cell("row", None, "lr", "first", "second", evaluation, kept, WholeTest((), (), 0))


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
    assert (config.split_seed, config.ae_cfe, config.dorl) == (1234, True, False)
    given = ["resnext.epochs=3", "features.segmenter=classical"]
    configs = read_configs(given, masks=False, published_only=False)
    features, resnext = configs.features, configs.resnext
    assert (features.features, features.autoencoder.mmd) == ("segmenter", "linear")
    assert (resnext.backbone, resnext.weights, resnext.image_size_px, resnext.epochs) == ("resnext50_32x4d", "none", 224, 3)
    assert resnext.precision == configs.ae_cfe.precision == configs.dorl.precision == "fp32"
    assert set(configs.shown()) == {"study", "features", "resnext", "ae_cfe"}


def test_published_only_leaves_the_rows_of_the_paper() -> None:
    config = read_configs(["features.segmenter=classical"], masks=False, published_only=True).study
    assert config.heads == PUBLISHED_HEADS == ("rf", "svm_poly", "xgboost", "svm_rbf", "ann")
    assert (config.protocols, config.discrepancies) == (("transductive",), ("linear",))
    assert (config.pooled, config.resnext, config.ae_cfe, config.dorl) == (False, True, True, False)
    given = ["features.segmenter=classical", "n_folds=3", "ae_cfe=false"]
    config = read_configs(given, masks=False, published_only=True).study
    assert (config.n_folds, config.ae_cfe, config.pooled) == (3, False, False)


@pytest.mark.parametrize(
    ("wanted", "n_masks", "n_images", "learned", "held_out"),
    [
        (355, 355, 355, 355, 0.0),
        (354, 1000, 1000, 354, 0.2),
        (354, 400, 400, 354, 0.115),
        (10, 4, 8, 8, 0.0),
        (3, 7, 7, 3, 0.2),
    ],
)
def test_as_many_masks_as_a_share_of_all_images(
    wanted: int, n_masks: int, n_images: int, learned: int, held_out: float
) -> None:
    """The published 1 % of the images; the masks beyond are held out, a fifth at most."""
    share, found = mask_shares(wanted, n_masks, n_images)
    assert math.ceil(share * n_images) == learned
    assert found == pytest.approx(held_out)


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
    with pytest.raises(SplitError, match=r"too small for 5 folds; expected at least 5 .*got 4. Add images"):
        _study(data, tmp_path / "x", *WHOLE, "n_folds=5")
    with pytest.raises(
        SplitError, match=r"too small for the SVM; expected 3 images .*got basophil \(2\), .*leave the SVM out"
    ):
        _study(data, tmp_path / "x", *WHOLE, 'heads=["lr", "svm_poly"]')
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("masks", "settings", "message"),
    [
        (False, (), r"the study needs a segmenter.*--set features.features=timm --set features.segmenter=classical"),
        (True, ("features.segmenter=classical",), r"two segmenters.*not both"),
        (True, (), r"bc_sam_segmenter needs the weights of Segment Anything"),
        (False, ("features.segmenter=classical", "segmenter.epochs=1"), r"no masks to train it; got segmenter.epochs=1"),
    ],
)
def test_there_is_one_way_to_a_segmenter(
    data: Roles, tmp_path: Path, masks: bool, settings: tuple[str, ...], message: str
) -> None:
    roles = {**data, **({"masks": ["csv:none.csv"]} if masks else {})}
    with pytest.raises(ConfigError, match=message):
        _study(roles, tmp_path / "x", "n_folds=2", f"min_per_class={N_EACH}", *settings)
    assert not (tmp_path / "x").exists()
