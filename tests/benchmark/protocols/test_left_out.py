"""Laboratories left out: no image of theirs is in a training, and scores are those of the predictions, recomputed here."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import trained
from hemalens.benchmark.config import BenchmarkConfig
from hemalens.benchmark.plan import plan_benchmark
from hemalens.benchmark.protocols import adapted_forms
from hemalens.benchmark.protocols.imitations import imitations_of, on_disk
from hemalens.benchmark.run import benchmark
from hemalens.bundle.bundle import Bundle
from hemalens.datasets import CellDataset, open_dataset
from hemalens.errors import ConfigError, InputError, MissingExtraError, SplitError
from hemalens.methods import Method
from hemalens.report import read_report
from trained import Colour, colour_cells

HOME: Mapping[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}
PROTOCOL = "leave-one-laboratory-out"
Training = tuple[str, set[str], set[str]]
"""The folder of a training, and the contents of its training and validation images."""


@pytest.fixture
def labs(tmp_path: Path) -> Path:
    """Laboratories x, y and z; y has two basophils more."""
    for seed, (name, noise) in enumerate((("x", 20), ("y", 60), ("z", 60))):
        colour_cells(tmp_path / "labs" / name, HOME, 8, seed=seed, noise=noise)
    colour_cells(tmp_path / "labs/y", {"basophil": (120, 0, 120)}, 2, seed=9)
    return tmp_path / "labs"


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[Training]:
    """What stubs named after any method were trained on; one named "broken" fails without z."""
    seen: list[Training] = []

    def find(name: str) -> Method:
        stub = trained.stub_method(lambda *given: None)

        def fit(train: CellDataset, *, validation: CellDataset, run_dir: Path, **more: Any) -> Bundle:
            seen.append((run_dir.name, set(train.contents), set(validation.contents)))
            if name == "broken" and train.name == "all but z":
                raise SplitError("too few of everything", remedy="Add images.")
            return stub.fit(train, validation=validation, run_dir=run_dir, **more)

        return replace(stub, name=name, fit=fit)

    monkeypatch.setattr("hemalens.benchmark.config.find_method", find)
    return seen


def _asked(labs: Path, *names: str, method: str = "near", **own: Any) -> BenchmarkConfig:
    return BenchmarkConfig.from_mapping(
        {
            "methods": (method,),
            "sources": tuple(f"folder:{labs / name}" for name in names or ("x", "y", "z")),
            "protocols": (PROTOCOL,),
            "min_per_class": 5,
            "leave_one_laboratory_out": {"adapt": "none,shots", "shots": 2, "repeats": 3, "seeds": 2} | own,
        }
    )


def _contents(folder: Path) -> set[str]:
    return set(open_dataset(f"folder:{folder}").contents)


def test_no_image_of_the_tested_laboratory_is_in_a_training(labs: Path, trainings: list[Training], tmp_path: Path) -> None:
    shutil.copy(labs / "z/monocyte/monocyte 3.png", labs / "x/monocyte/a copy.png")
    report = benchmark(_asked(labs), out=tmp_path / "run")
    own = {name: _contents(labs / name) for name in "xyz"}
    assert [name for name, *_ in trainings] == [f"all_but_{lab}_seed_{seed}" for lab in "xyz" for seed in (0, 1)]
    for name, learned, held in trainings:
        lab = name.split("_")[2]
        assert not (learned | held) & own[lab]
        assert not learned & held
        basophils = set(open_dataset(f"folder:{labs / 'y'}").only_classes(["basophil"]).contents)
        assert learned | held == set().union(*(own[other] for other in "xyz" if other != lab)) - own[lab] - basophils
    (result,) = report.left_out
    assert result.laboratories == ("x", "y", "z")
    assert (result.seeds, result.n_tests) == ((0, 1), 6)
    assert [form.form for form in result.forms] == ["none", "2 labels"]
    assert not any(form.transductive for form in result.forms)
    assert result.forms[0].laboratories[1].left_out == {"basophil": "2 image(s), at least 5 required"}
    assert [(card.role, card.name) for card in report.data] == [("train and test", name) for name in "xyz"]
    assert report.title == f"near: {PROTOCOL} from x + y + z"
    assert read_report(tmp_path / "run/report.json") == report
    markdown = (tmp_path / "run/report.md").read_text("utf-8")
    assert "Balanced accuracy in each laboratory left out" in markdown


def test_mean_and_worst_are_those_of_the_predictions(labs: Path, trainings: list[Training], tmp_path: Path) -> None:
    report = benchmark(_asked(labs), out=tmp_path / "run")
    found: dict[tuple[str, int], float] = {}
    for lab in "xyz":
        cells = open_dataset(f"folder:{labs / lab}").only_classes(list(HOME))
        for seed in (0, 1):
            (path,) = (tmp_path / "run/fits/near").glob(f"*/all_but_{lab}_seed_{seed}/bundle")
            found[lab, seed] = _balanced(path, cells)
    none = report.left_out[0].forms[0]
    assert none.mean.value == pytest.approx(np.mean(list(found.values())))
    worst = min(found.values())
    assert none.worst.value == pytest.approx(worst)
    assert found[none.worst.laboratory, none.worst.seed] == pytest.approx(worst)
    for scores in none.laboratories:
        own = [found[scores.laboratory, seed] for seed in (0, 1)]
        assert scores.balanced_accuracy.value == pytest.approx(np.mean(own))
        assert scores.balanced_accuracy.std == pytest.approx(np.std(own, ddof=1))
        assert list(scores.by_seed.values()) == pytest.approx(own)
        assert scores.majority_rate == pytest.approx(1 / 3)
        assert list(scores.recall) == list(HOME) or set(scores.recall) == set(HOME)


def _balanced(bundle: Path, cells: CellDataset) -> float:
    """Mean recall by the nearest of the mean colours, which are the bundle's: without the program's scores."""
    from hemalens.bundle.bundle import open_bundle
    from hemalens.inference.predictor import Predictor

    answers = list(Predictor(open_bundle(bundle)).predict([record.path for record in cells.records]))
    right: dict[str, list[bool]] = {}
    for record, answer in zip(cells.records, answers, strict=True):
        right.setdefault(str(record.label), []).append(answer.label == record.label)
    return float(np.mean([np.mean(each) for each in right.values()]))


def test_a_stopped_run_resumes_and_a_failed_training_is_a_row(
    labs: Path, trainings: list[Training], tmp_path: Path
) -> None:
    report = benchmark(_asked(labs, method="broken"), out=tmp_path / "run")
    assert [(f.source, f.target) for f in report.failures] == [("all but z", "z, seed 0, z, seed 1")]
    assert report.left_out[0].laboratories == ("x", "y")
    assert report.left_out[0].n_tests == 4
    trainings.clear()
    again = benchmark(_asked(labs, method="broken"), out=tmp_path / "run")
    assert {name for name, *_ in trainings} == {"all_but_z_seed_0", "all_but_z_seed_1"}
    assert again.left_out == report.left_out
    trainings.clear()
    more = benchmark(_asked(labs, "x", "y", seeds=3), out=tmp_path / "more")
    assert len(trainings) == 6
    assert more.left_out[0].seeds == (0, 1, 2)


def test_more_seeds_run_the_new_trainings_alone(labs: Path, trainings: list[Training], tmp_path: Path) -> None:
    benchmark(_asked(labs, "x", "y", seeds=1), out=tmp_path / "run")
    trainings.clear()
    benchmark(_asked(labs, "x", "y", seeds=2), out=tmp_path / "run")
    assert [name for name, *_ in trainings] == ["all_but_x_seed_1", "all_but_y_seed_1"]


def test_unlabelled_forms_see_the_whole_laboratory_and_are_transductive(
    labs: Path, trainings: list[Training], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted: list[set[str]] = []

    def adapt(path: Path, cells: CellDataset, *, run: Any, **more: Any) -> Bundle:
        adapted.append(set(cells.contents))
        shutil.copytree(path, run.out)
        from hemalens.bundle.bundle import open_bundle

        return open_bundle(run.out)

    monkeypatch.setattr(adapted_forms, "adapt_unlabelled", adapt)
    config = _asked(labs, "x", "y", seeds=1, adapt="unlabelled+shots,none,unlabelled,shots")
    (result,) = benchmark(config, out=tmp_path / "run").left_out
    assert adapted == [_contents(labs / "x"), _contents(labs / "y")], "once for both forms, rare types included"
    forms = {form.form: form for form in result.forms}
    assert list(forms) == ["none", "unlabelled", "2 labels", "unlabelled, then 2 labels"]
    assert [form.transductive for form in result.forms] == [False, True, False, True]
    # this adaptation changes nothing, so the forms are equal
    assert forms["none"].laboratories == forms["unlabelled"].laboratories
    assert forms["2 labels"].laboratories == forms["unlabelled, then 2 labels"].laboratories


def test_domains_of_one_table_are_laboratories(labs: Path, trainings: list[Training], tmp_path: Path) -> None:
    rows = ["path,label,domain"]
    rows += [f"{p},{p.parent.name},lab {lab}" for lab in "xz" for p in sorted((labs / lab).rglob("*.png"))]
    (tmp_path / "cells.csv").write_text("\n".join(rows) + "\n")
    config = _asked(labs).model_copy(update={"sources": (f"csv:{tmp_path / 'cells.csv'}",)})
    (result,) = benchmark(config, out=tmp_path / "run").left_out
    assert result.laboratories == ("lab x", "lab z")


def test_a_laboratory_of_one_type_trains_and_is_not_tested(labs: Path, tmp_path: Path) -> None:
    colour_cells(labs / "w", {"neutrophil": (220, 90, 90)}, 6, seed=3)
    plan = plan_benchmark(_linear(labs, "x", "y", "w"), tmp_path / "run")
    assert [task.tested[0].name for task in plan.tasks] == ["x", "y"]
    assert any("w: trained on and never left out" in str(note) for note in plan.notes)
    assert all(_contents(labs / "w") <= set(task.source.dataset.contents) for task in plan.tasks)


def _linear(labs: Path, *names: str, **own: Any) -> BenchmarkConfig:
    return _asked(labs, *names, **own).model_copy(update={"methods": ("linear_probe",)})


def test_laboratories_that_cannot_be_left_out(labs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"needs two laboratories or more.*one laboratory, 'x'"):
        plan_benchmark(_linear(labs, "x"), tmp_path / "run")
    with pytest.raises(InputError, match="a laboratory is given twice"):
        plan_benchmark(_linear(labs, "x", "y", "x"), tmp_path / "run")
    mixed = _linear(labs, "x").model_copy(update={"sources": (f"folder:{labs / 'x'}", "yolo:fields")})
    with pytest.raises(InputError, match="fields and single cells"):
        plan_benchmark(mixed, tmp_path / "run")
    with pytest.raises(InputError, match=r"fields without a detector.*--methods detector"):
        plan_benchmark(mixed.model_copy(update={"sources": ("yolo:fields",)}), tmp_path / "run")
    shutil.copytree(labs / "x", labs / "again")
    with pytest.raises(SplitError, match=r"nothing is left to train on.*all of them copies"):
        plan_benchmark(_linear(labs, "x", "again"), tmp_path / "run")


@pytest.mark.parametrize(
    ("own", "error"),
    [
        ({"adapt": "nine"}, "adapt: unknown form 'nine'"),
        ({"adapt": ""}, "adapt: unknown form ''"),
        ({"adapt": "shots", "imitated": 2}, "adapt=none,shots"),
        ({"seeds": 0}, "seeds"),
        ({"repeats": 0}, "repeats"),
        ({"images": 3}, "images"),
    ],
)
def test_settings_that_fit_nothing(labs: Path, own: Mapping[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        _asked(labs, **own)


# ------------------------------------------------------------------------------------------------ imitated laboratories


@pytest.fixture
def imitated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[int, str, int]]:
    """A stand-in for the imitation: at most `n` cells, with red and blue exchanged for odd seeds."""
    asked: list[tuple[int, str, int]] = []

    def make(dataset: CellDataset, laboratory_seed: int, mix: str, n: int, seed: int) -> CellDataset:
        asked.append((laboratory_seed, mix, n))
        folder = tmp_path / f"imitated {len(asked)}"
        folder.mkdir()
        records = []
        for i, record in enumerate(dataset.records[:n]):
            image = record.read()[..., :: -1 if laboratory_seed % 2 else 1]
            Image.fromarray(np.ascontiguousarray(image)).save(folder / f"{i}.png")
            records.append(replace(record, path=folder / f"{i}.png"))
        return replace(dataset, records=tuple(records))

    monkeypatch.setitem(sys.modules, "hemalens.training.imitated_laboratory", SimpleNamespace(imitated=make))
    return asked


def test_harm_is_counted_in_imitated_laboratories(
    labs: Path, trainings: list[Training], tmp_path: Path, imitated: list[tuple[int, str, int]]
) -> None:
    config = _asked(labs, "x", "z", imitated=3, images=20, mixes="balanced,blood")
    (result,) = benchmark(config, out=tmp_path / "run").left_out
    assert len({seed for seed, *_ in imitated}) == 6
    assert [(mix, n) for _, mix, n in imitated] == [("balanced", 20), ("blood", 20), ("balanced", 20)] * 2
    none, labelled = result.imitated
    assert (none.form, none.gain, none.n_harmed) == ("none", None, None)
    assert (none.n_laboratories, none.n_tests) == (6, 12)
    assert set(none.by_mix) == {"balanced", "blood"}
    assert none.balanced_accuracy.value is not None
    assert none.worst.value <= none.balanced_accuracy.value
    assert none.worst.value < 0.9, "exchanged colours are not known"
    assert labelled.gain is not None
    assert labelled.n_harmed is not None
    assert 0 <= labelled.n_harmed <= 12


def test_unknown_mixes_are_refused(labs: Path, tmp_path: Path, imitated: list[tuple[int, str, int]]) -> None:
    with pytest.raises(ConfigError, match=r"unknown mix 'green'.*balanced"):
        plan_benchmark(_linear(labs, "x", "y", imitated=1, mixes="green"), tmp_path / "run")
    with pytest.raises(ConfigError, match="no mix is named"):
        plan_benchmark(
            _linear(labs, "x", "y", imitated=1).model_copy(
                update={"leave_one_laboratory_out": _asked(labs, imitated=1, mixes=()).leave_one_laboratory_out}
            ),
            tmp_path / "run",
        )
    assert not imitated


def test_imitations_need_torch(labs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    cells = open_dataset(f"folder:{labs / 'x'}")
    with pytest.raises(MissingExtraError, match="imitated laboratories"):
        imitations_of(cells, 1, ["balanced"], images=10, seed=0)
    assert imitations_of(cells, 0, ["balanced"], images=10, seed=0) == ()


def test_cells_on_disk_are_those_that_were_seen(labs: Path) -> None:
    cells = open_dataset(f"folder:{labs / 'x'}")
    with on_disk(cells) as written:
        folder = written.records[0].path.parent
        assert [r.label for r in written.records] == [r.label for r in cells.records]
        for one, other in zip(written.records, cells.records, strict=True):
            assert np.array_equal(np.array(Image.open(one.path)), other.read())
    assert not folder.exists()
