"""The BloodShot study on generated data in the real layouts: Matek-19 as generic set, C-NMC as the new laboratory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import trained
from fakes import cnmc, matek19
from hemalens.errors import ConfigError, InputError, SplitError
from hemalens.evaluation.results import ComparisonTable
from hemalens.report import read_report
from hemalens.studies import STUDIES, find_study, run_study
from hemalens.studies.base import published
from hemalens.studies.bloodshot.embedders import JOINED, PUBLISHED, ROWS, embedder_config, three_parts
from hemalens.studies.bloodshot.run import LEFT_OUT, BloodShotStudyConfig

TINY = (
    "rows=published",
    "embedder.backbone=test_resnet",
    "embedder.image_size_px=32",
    "embedder.epochs=1",
    "table_shots=3",
    "table_repeats=3",
    "sweep_shots=[1, 2]",
    "sweep_repeats=2",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    root = tmp_path_factory.mktemp("study")
    generic = matek19.write(root / "matek", n_per_class=5)
    cnmc.write(root / "cnmc", n_per_class=4, side_px=64)
    return {
        "generic": [generic],
        "novel": [f"cnmc:{root / 'cnmc' / cnmc.PRELIMINARY}"],
        "support": [f"cnmc:{root / 'cnmc' / cnmc.TRAINING / 'fold_0'}"],
    }


def tables_of(report: Any) -> dict[str, ComparisonTable]:
    return {table.title: table for table in report.tables}


def test_the_whole_protocol_and_its_resume(
    data: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, said = tmp_path / "study", []
    report = run_study("bloodshot", data=data, out=out, settings=TINY, say=said.append)
    assert any("left out KSC, LYA, MMZ, MOB: 20 image(s)" in text for text in said)
    assert read_report(out / "report.json") == report
    assert [e.method for e in report.evaluations] == list(PUBLISHED)
    assert not set(LEFT_OUT) & set(report.evaluations[0].classes)
    assert [r.method for r in report.k_shot] == list(PUBLISHED)
    for result in report.k_shot:
        assert [(s.k, s.n_repeats) for s in result.shots] == [(1, 2), (2, 2), (3, 3)]
        assert result.support == "cnmc fold_0"
        assert result.supervised is not None
        assert result.scatter is not None
    tables = tables_of(report)
    ten_shot = tables["3 labelled images a class, cnmc preliminary test"]
    assert "published accuracy" not in ten_shot.columns, "published for ten images a class only"
    home = next(table for title, table in tables.items() if title.startswith("Generic set"))
    assert "published recall" in home.columns
    told = {row[0]: row[-2] for row in home.rows}
    assert told["NGS"] == 0.97
    # a stopped run trains nothing again
    run = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**run, "finished": False}))

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("hemalens.methods.bloodshot.fit_network", fail)
    with trained.undrawn():
        again = run_study("bloodshot", data=data, out=out, settings=TINY, say=said.append)
    assert again.k_shot == report.k_shot


def test_published_columns_beside_ours_for_ten_images_a_class() -> None:
    from hemalens.evaluation.results import Estimate, KShot, Shots
    from hemalens.studies.bloodshot.tables import ten_shot_table

    estimate = Estimate(value=0.5, low=0.4, high=0.6, std=0.1)
    shots = Shots(
        k=10,
        n_repeats=100,
        accuracy=estimate,
        majority_rate=0.653,
        balanced_accuracy=estimate,
        macro_f1=estimate,
        f1={"all": estimate, "hem": estimate},
    )
    result = KShot(
        name="x",
        method="aam+consistency, random",
        source="matek19",
        target="cnmc preliminary test",
        support="cnmc fold_0",
        classifier="class means, cosine",
        replacement=True,
        transductive=False,
        n_images=1867,
        classes=("all", "hem"),
        shots=(shots,),
        intervals="",
    )
    (table,) = ten_shot_table([result], 10)
    assert dict(zip(table.columns, table.rows[0], strict=True))["published accuracy"] == "0.639 ± 0.047"
    assert "0.653" in table.note


def test_the_published_protocol_is_the_default() -> None:
    config = BloodShotStudyConfig()
    assert (config.table_shots, config.table_repeats, config.sweep_repeats) == (10, 100, 20)
    assert config.sweep_shots == (1, 2, 3, 5, 10, 15, 20, 30, 50)
    assert config.replacement
    assert config.classifier.rule == "prototype"
    assert set(published("bloodshot")["ten_shot"]) == set(PUBLISHED)
    for row in PUBLISHED:
        embedder = embedder_config(row, [])
        assert (embedder.backbone, embedder.weights, embedder.epochs) == ("efficientnet_b0", "none", 6)
    assert {row for joined in JOINED.values() for row in joined} - set(ROWS) == {"frozen ImageNet"}


def test_parts_of_seventy_ten_and_twenty_percent(data: dict[str, list[str]]) -> None:
    from hemalens.datasets import open_dataset
    from hemalens.datasets.splits import clean

    generic, _ = clean(open_dataset(data["generic"][0], labels="as_labelled"))
    parts = three_parts(generic, 0)
    contents = [set(part.contents) for part in parts]
    assert sum(map(len, contents)) == len(set.union(*contents)) == len(generic)


def test_settings_reach_the_embedders_they_name() -> None:
    settings = ["embedder.epochs=2", "augmented.epochs=3", "table_shots=5"]
    assert embedder_config("softmax, random", settings).epochs == 2
    assert embedder_config("aam, ImageNet, augmented", settings).epochs == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"novel": []}, "number of datasets in the role novel"),
        ({"generic": ["folder:a", "folder:b"]}, "number of datasets in the role generic"),
        ({"nvel": ["folder:a"]}, "no role 'nvel'. did you mean 'novel'"),
    ],
)
def test_roles_are_checked(data: dict[str, list[str]], change: dict[str, list[str]], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run_study("bloodshot", data={**data, **change}, out=tmp_path / "x", settings=TINY)


def test_bad_input_is_told_before_anything_is_trained(data: dict[str, list[str]], tmp_path: Path) -> None:
    def run(settings: list[str], **change: list[str]) -> None:
        run_study("bloodshot", data={**data, **change}, out=tmp_path / "x", settings=settings)

    with pytest.raises(
        SplitError, match=r"k = 50 is larger than class all of cnmc fold_0|k = 50 is larger than class 'all'"
    ):
        run([*TINY, "table_shots=50"])
    with pytest.raises(SplitError, match="overlap in 8 image"):
        run(list(TINY), support=data["novel"])
    with pytest.raises(ConfigError, match="unknown key 'tabel_shots'"):
        run([*TINY, "tabel_shots=5"])
    with pytest.raises(ConfigError, match="unknown key 'epoch'"):
        run([*TINY, "embedder.epoch=5"])
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_states_its_roles_and_published_numbers(name: str) -> None:
    study = find_study(name)
    assert study.name == name
    assert study.roles
    assert published(name.replace("-", "_"))


def test_an_unknown_study_gives_near_matches() -> None:
    with pytest.raises(InputError, match="did you mean 'bloodshot'"):
        find_study("bloodshoot")
