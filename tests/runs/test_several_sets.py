"""Training on several sets at once: one label order, parts from each, and each by name in bundle and report."""

from __future__ import annotations

import pytest

import trained
from hemalens.bundle.bundle import Bundle, open_bundle
from hemalens.datasets import open_dataset
from hemalens.evaluation.results import Report
from hemalens.runs.train import TrainOptions, train
from trained import Colour, colour_cells, settings

HERE: dict[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}
THERE: dict[str, Colour] = {"eosinophil": (200, 200, 60), "neutrophil": (220, 80, 60)}


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("sets")
    colour_cells(folder / "here", HERE, 12, seed=0)
    # no lymphocytes and no monocytes
    colour_cells(folder / "there", THERE, 8, seed=1)
    return [f"folder:{folder / name}" for name in ("here", "there")]


@pytest.fixture(scope="module")
def done(specs: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Report]:
    out = tmp_path_factory.mktemp("run") / "out"
    with trained.undrawn():
        report = train(
            "robust", specs, out=out, options=TrainOptions(test_fraction=0.25), settings=settings(trained.ROBUST)
        )
    return open_bundle(out / "bundle"), report


def test_the_classes_are_those_of_all_sets_in_label_order(done: tuple[Bundle, Report]) -> None:
    assert done[0].manifest.labels == ("neutrophil", "eosinophil", "lymphocyte", "monocyte")


def test_the_bundle_names_each_set_in_each_part(done: tuple[Bundle, Report], specs: list[str]) -> None:
    manifest = done[0].manifest
    assert [(entry.role, entry.name) for entry in manifest.data] == [
        ("train", "here"),
        ("train", "there"),
        ("validation", "here"),
        ("validation", "there"),
    ]
    assert manifest.trained_on == "here + there"
    assert manifest.data[1].class_counts["lymphocyte"] == 0
    tested = done[1].evaluations[0].n_images
    seen = sum(n for entry in manifest.data for n in entry.class_counts.values())
    contents = {content for spec in specs for content in open_dataset(spec).contents}
    assert seen + tested == len(contents)
    assert done[0].seen < contents
    assert len(done[0].seen) == seen


def test_the_report_tests_all_together_and_each_set_alone(done: tuple[Bundle, Report]) -> None:
    targets = [evaluation.target for evaluation in done[1].evaluations]
    assert targets == ["here + there", "here", "there"]
    whole, here, there = (evaluation.n_images for evaluation in done[1].evaluations)
    assert whole == here + there
    assert set(done[1].evaluations[2].tested_classes) == {"neutrophil", "eosinophil"}
