"""tools/choose_defaults.py on drawn cells: trainings are tested once, adaptations on the first of them, and it resumes."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import choose_defaults
import documentation
import trained
from choose_defaults import Candidates, constants, run
from hemalens.adaptation import class_means, neighbours
from hemalens.benchmark.config import read_yaml
from hemalens.benchmark.protocols.imitations import imitations_of
from hemalens.bundle.bundle import open_bundle
from hemalens.datasets import open_dataset
from hemalens.errors import ConfigError, InputError
from hemalens.evaluation.evaluate import predict_dataset

PROBE = trained.settings(trained.PROBE)


def _candidates(**more: Any) -> Candidates:
    return Candidates.from_mapping(
        {
            "training": [
                {"method": "linear_probe", "name": "probe", "settings": PROBE},
                {"method": "linear_probe", "name": "other", "settings": [*PROBE, "head=svm_rbf"]},
            ],
            "adaptation": [
                {"name": "means", "settings": ["size=false", "neighbours=false"]},
                {"name": "means, strong", "settings": ["neighbours=false"], "constants": {"class_means.WEIGHT": 9}},
            ],
            "seeds": 1,
            "imitated": 1,
            "images": 20,
        }
        | more
    )


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The two laboratories of drawn cells."""
    return [f"synthetic:{trained.cells(tmp_path_factory) / name}" for name in ("lab_a", "lab_b")]


@pytest.fixture(scope="module")
def chosen(labs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a choice."""
    out = tmp_path_factory.mktemp("choice")
    run(_candidates(), labs, out)
    return out


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def test_scores_are_those_of_the_models_predictions(labs: list[str], chosen: Path) -> None:
    tests = _rows(chosen / "tests.csv")
    for spec, name in zip(labs, ("lab_a", "lab_b"), strict=True):
        cells = open_dataset(spec)
        (folder,) = (chosen / "benchmark/fits/probe").glob(f"*/all_but_{name}_seed_0/bundle")
        bundle = open_bundle(folder)
        (imitation,) = imitations_of(cells, 1, ["balanced"], images=20, seed=0)
        for mix, own in (("real", cells), ("balanced", imitation.cells)):
            predicted = predict_dataset(bundle, own).probabilities.argmax(axis=1)
            right: dict[str, list[bool]] = {}
            for record, answer in zip(own.records, predicted, strict=True):
                right.setdefault(str(record.label), []).append(bundle.manifest.labels[answer] == record.label)
            expected = np.mean([np.mean(each) for each in right.values()])
            found = [t for t in tests if (t["laboratory"], t["mix"]) == (name, mix)]
            as_it_is = [t for t in found if t["candidate"] in ("probe", "none")]
            assert [float(t["balanced_accuracy"]) for t in as_it_is] == pytest.approx([expected] * 2, abs=1e-4)
            assert all(float(t["before"]) == pytest.approx(expected, abs=1e-4) for t in found if t["candidate"] != "other")


def test_every_candidate_has_a_row(chosen: Path) -> None:
    rows = _rows(chosen / "choice.csv")
    assert [(row["kind"], row["candidate"]) for row in rows] == [
        ("training", "probe"),
        ("training", "other"),
        ("adaptation", "none"),
        ("adaptation", "means"),
        ("adaptation", "means, strong"),
    ]
    assert {row["n"] for row in rows} == {"4"}
    assert [sum(row["chosen"] == "True" for row in rows if row["kind"] == kind) for kind in ("training", "adaptation")] == [
        1,
        1,
    ]
    text = (chosen / "choice.md").read_text("utf-8")
    assert text.startswith("training: ")
    assert text.count("**chosen**") == 2


def test_the_same_command_computes_nothing_again(labs: list[str], chosen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (chosen / "tests.csv").read_bytes()
    (chosen / "tests.csv").unlink()
    monkeypatch.setattr(choose_defaults, "extract", None)
    monkeypatch.setattr(choose_defaults, "choose", None)
    run(_candidates(), labs, chosen)
    assert (chosen / "tests.csv").read_bytes() == before
    more = [{"name": "new", "settings": ["size=false", "neighbours=false"], "constants": {"class_means.WEIGHT": 0.1}}]
    with pytest.raises(TypeError):
        run(_candidates(adaptation=more), labs, chosen)


def test_models_of_a_benchmark_are_used_as_they_are(labs: list[str], chosen: Path, tmp_path: Path, capsys: Any) -> None:
    rows = run(_candidates(seeds=2), labs, tmp_path / "out", chosen / "benchmark")
    assert not (tmp_path / "out/benchmark").exists()
    assert [row.n for row in rows["adaptation"]] == [4, 4, 4]
    assert "not trained: probe, lab_a, seed 1" in capsys.readouterr().err
    with pytest.raises(InputError, match="no model of the first training is there"):
        run(_candidates(seeds=2), labs, tmp_path / "none", tmp_path / "nothing")


def test_constants_hold_within_their_block_alone() -> None:
    before = class_means.WEIGHT, neighbours.WEIGHT
    with constants({"class_means.WEIGHT": 7, "neighbours.WEIGHT": 8}):
        assert (class_means.WEIGHT, neighbours.WEIGHT) == (7, 8)
    with (
        pytest.raises(ConfigError, match=r"unknown constant 'neighbours\.WAIT'"),
        constants({"class_means.WEIGHT": 7, "neighbours.WAIT": 8}),
    ):
        pass
    assert before == (class_means.WEIGHT, neighbours.WEIGHT)


@pytest.mark.parametrize(
    ("adaptation", "error"),
    [
        ({"name": "none"}, "two adaptations are called 'none'"),
        ({"name": "x", "settings": ["siz=true"]}, "siz"),
        ({"name": "x", "constants": {"WEIGHT": 1}}, r"MODULE\.NAME"),
        ({"name": "x", "constants": {"nothing.WEIGHT": 1}}, r"unknown constant 'nothing\.WEIGHT'"),
        ({"name": "x", "constants": {"neighbours.Neighbours": 1}}, "unknown constant"),
    ],
)
def test_candidates_that_cannot_be(adaptation: dict[str, Any], error: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=error):
        run(_candidates(adaptation=[adaptation]), ["folder:nowhere"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_file_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    words = ["choose_defaults", str(tmp_path / "no.yaml"), "--source", "folder:x", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", words)
    assert choose_defaults.main() == 2
    assert capsys.readouterr().err.startswith("error: cannot read")


def test_the_shipped_candidates_are_valid() -> None:
    shipped = documentation.REPOSITORY / "docs/reference/results/candidates.yaml"
    candidates = Candidates.from_mapping(read_yaml(shipped))
    candidates.check()
    candidates.benchmark(["folder:x"], imitated=2).entries()
    assert candidates.training[0].name == "robust"
