"""The MobileViT study end to end on generated cells in the layout of Matek-19."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

import trained
from fakes import FAKES
from hemalens.errors import InputError, OutputError
from hemalens.evaluation.results import Report
from hemalens.models.backbone import create_backbone
from hemalens.report import read_report
from hemalens.studies import run_study
from hemalens.studies.base import published
from hemalens.studies.mobilevit import _config

N_IMAGES = 30
TINY = (
    'rows=["test_resnet","resnet10t"]',
    "min_per_class=4",
    f"n_images={N_IMAGES}",
    "test_fraction=0.3",
    "validation_fraction=0.3",
    "fit.image_size_px=32",
    "fit.epochs=1",
    "fit.batch_size=8",
    "fit.precision=fp32",
)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> str:
    return FAKES["matek19"](tmp_path_factory.mktemp("matek") / "root", n_per_class=5)


def _study(cells: str, out: Path, settings: Sequence[str] = TINY) -> Report:
    return run_study("mobilevit", data={"cells": cells}, out=out, settings=settings)


@pytest.fixture(scope="module")
def done(cells: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "run"
    with trained.undrawn():
        _study(cells, out)
    return out


def test_every_network_is_tested_on_the_same_images_it_has_not_seen(done: Path) -> None:
    report = read_report(done / "report.json")
    assert [e.method for e in report.evaluations] == ["test_resnet", "resnet10t"]
    assert len({e.n_images for e in report.evaluations}) == 1
    assert report.data[0].n_images == N_IMAGES
    assert report.data[0].dropped["images that the study leaves out"] > 0


def test_the_table_counts_the_networks_and_names_its_convention(done: Path) -> None:
    _, table = read_report(done / "report.json").tables
    for name, row in zip(("test_resnet", "resnet10t"), table.rows, strict=True):
        config = _config(name, ["image_size_px=32"])
        n_classes = len(read_report(done / "report.json").evaluations[0].classes)
        n = sum(p.numel() for p in create_backbone(config, n_classes=n_classes).parameters())
        assert row[4] == f"{n / 1e6:.3f}"
    assert "twice the multiply-adds" in table.note


def test_a_finished_study_is_refused_and_too_many_images_too(done: Path, cells: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="finished"):
        _study(cells, done)
    with pytest.raises(InputError, match="fewer images"):
        _study(cells, tmp_path / "x", [*TINY, "n_images=9000"])


def test_the_published_numbers_are_those_of_the_paper() -> None:
    rows = published("mobilevit")["rows"]
    assert rows["mobilevit_xs"] == {"accuracy": 0.964, "gflops": 1.799, "parameters_m": 1.998}
    assert rows["resnet50"] == {"accuracy": 0.950, "gflops": 8.219, "parameters_m": 23.524}
    assert rows["densenet121"] == {"accuracy": 0.942, "gflops": 5.725, "parameters_m": 6.962}
    assert rows["mobilenetv2_100"] == {"accuracy": 0.940, "gflops": 0.495066, "parameters_m": 2.234}
    assert rows["mobilenetv3_large_100"] == {"accuracy": 0.937, "gflops": 0.625849, "parameters_m": 4.304}
