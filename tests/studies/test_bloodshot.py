"""The BloodShot study on generated data in the real layouts: Matek-19 as generic set, C-NMC as the new laboratory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import trained
from fakes import cnmc, matek19
from hemalens.datasets import CellDataset, Record, open_dataset
from hemalens.datasets.splits import clean
from hemalens.errors import ConfigError, InputError, SplitError, WeightsError
from hemalens.evaluation.results import ComparisonTable, DataCard, Estimate, KShot, Report, Shots
from hemalens.methods.bloodshot import BloodShotConfig
from hemalens.report import read_report
from hemalens.studies import STUDIES, find_study, run_study
from hemalens.studies.base import published
from hemalens.studies.bloodshot.differences import run_differences
from hemalens.studies.bloodshot.embedders import (
    AUTHORS,
    JOINED,
    PUBLISHED,
    ROWS,
    embedder_config,
    random_parts,
    stratified_parts,
)
from hemalens.studies.bloodshot.run import LEFT_OUT, BloodShotStudyConfig
from hemalens.studies.bloodshot.tables import sweep_table, ten_shot_table

TINY = (
    "split=stratified",
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
    report = run_study("bloodshot", data=data, out=out, settings=TINY, published_only=True, say=said.append)
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
        assert result.scatter.cells == "cnmc fold_0", "labelled images, as in the second figure"
        assert (result.scatter.n_total, len(result.scatter.points)) == (8, 8)
    assert "cnmc fold_0 and cnmc preliminary test have no subject in common." in report.summary
    assert set(find_study("bloodshot").differences) < set(report.differences)
    assert "## What differs from the paper" in (out / "report.md").read_text(encoding="utf-8")
    assert [curve.name for curve in report.curves] == list(PUBLISHED)
    generic, novel = report.pictures
    assert [row.caption for row in novel.rows] == ["all", "all", "hem", "hem"]
    assert len(generic.rows) == 2 * 11
    tables = tables_of(report)
    assert not any("few-shot classifier" in title for title in tables), "settings of ours"
    sweep = tables["Accuracy against the number k of labelled images a class, cnmc preliminary test"]
    assert sweep.columns == ("embedder", "k = 1", "k = 2", "k = 3")
    assert sweep.rows[-1] == ("published: aam+consistency, random", "0.600", "n/a", "n/a")
    ten_shot = tables["3 labelled images a class, cnmc preliminary test"]
    assert "published accuracy" not in ten_shot.columns, "published for ten images a class only"
    home = next(table for title, table in tables.items() if title.startswith("Generic set"))
    assert "published recall" in home.columns
    told = {row[0]: (row[1], *row[-3:]) for row in home.rows}
    assert told["Neutrophil (segmented)"] == ("NGS", 0.99, 0.97, 1702)
    # a stopped run trains nothing again
    trained.stop_again(out)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("hemalens.methods.bloodshot.fit_network", fail)
    with trained.undrawn():
        again = run_study("bloodshot", data=data, out=out, settings=TINY, published_only=True, say=said.append)
    assert again.k_shot == report.k_shot


def _k_shot(*, method: str = "aam+consistency, random", ks: tuple[int, ...] = (10,)) -> KShot:
    """A result on C-NMC with a standard deviation of 0.1 over 100 drawings, divided by 99."""
    estimate = Estimate(value=0.5, low=0.4, high=0.6, std=0.1)
    shots = [
        Shots(
            k=k,
            n_repeats=100,
            accuracy=estimate,
            majority_rate=0.653,
            balanced_accuracy=estimate,
            macro_f1=estimate,
            f1={"all": estimate, "hem": estimate},
        )
        for k in ks
    ]
    return KShot(
        name="x",
        method=method,
        source="matek19",
        target="cnmc preliminary test",
        support="cnmc fold_0",
        classifier="class means, cosine",
        replacement=True,
        transductive=False,
        n_images=1867,
        classes=("all", "hem"),
        shots=tuple(shots),
        intervals="",
    )


@pytest.mark.parametrize("method", ["aam+consistency, random", AUTHORS])
def test_published_columns_beside_ours_for_ten_images_a_class(method: str) -> None:
    (table,) = ten_shot_table([_k_shot(method=method)], 10)
    ours, all_labels = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert ours["published accuracy"] == "0.639 ± 0.047"
    assert (ours["published F1 all"], ours["published F1 hem"]) == ("0.703 ± 0.060", "0.531 ± 0.037")
    assert ours["accuracy"] == f"0.500 ± {0.1 * (99 / 100) ** 0.5:.3f}" == "0.500 ± 0.099"
    assert {"F1 cancer (all)", "F1 normal (hem)"} <= set(table.columns)
    assert "Prellberg" in all_labels["embedder"]
    assert all_labels["published accuracy"] == "0.879"
    assert "accuracy 0.500. Always predicting the most frequent class: accuracy 0.653" in table.note


def test_published_points_of_the_curve_beside_ours() -> None:
    (table,) = sweep_table([_k_shot(ks=(1, 10, 50))])
    assert table.rows[-1] == ("published: aam+consistency, random", "0.600", "n/a", "0.650")


def test_the_published_protocol_is_the_default() -> None:
    config = BloodShotStudyConfig()
    assert (config.table_shots, config.table_repeats, config.sweep_repeats) == (10, 100, 20)
    assert config.sweep_shots == (1, 2, 3, 5, 10, 15, 20, 30, 50)
    assert config.replacement
    assert (config.split, config.split_seed, config.generator, config.drawing_seed) == ("random", 42, "one", 42)
    assert (config.shared_groups, config.scatter_points) == ("allow", 400)
    assert config.classifier.rule == "prototype"
    assert set(published("bloodshot")["ten_shot"]) == set(PUBLISHED)
    for row in PUBLISHED:
        embedder = embedder_config(row, [])
        assert embedder == BloodShotConfig(loss=row.partition(",")[0])
    assert {row for joined in JOINED.values() for row in joined} - set(ROWS) == {"frozen ImageNet"}


def test_stratified_parts_of_seventy_ten_and_twenty_percent(data: dict[str, list[str]]) -> None:
    generic, _ = clean(open_dataset(data["generic"][0], labels="as_labelled"))
    parts = stratified_parts(generic, seed=0)
    contents = [set(part.contents) for part in parts]
    assert sum(map(len, contents)) == len(set.union(*contents)) == len(generic)


MATEK = {"BAS": 79, "EBO": 78, "EOS": 424, "LYT": 3937, "MON": 1789, "MYB": 42, "MYO": 3268, "NGB": 109, "NGS": 8484}
MATEK |= {"PMB": 18, "PMO": 70}
"""Images of Matek-19 in the classes that the paper keeps (Matek et al. 2019)."""


def _named(counts: dict[str, int], *, group: str | None = None) -> CellDataset:
    """A dataset of these classes, whose images have no files."""
    records = [
        Record(Path(f"{code}/{code}_{i:04d}.tiff"), code, "matek19", group=group, label=code)
        for code, n in counts.items()
        for i in range(1, n + 1)
    ]
    dataset = CellDataset("matek19", tuple(records), tuple(counts), "as_labelled", "-", "-")
    dataset.__dict__["contents"] = tuple(str(record.path) for record in records)
    return dataset


def test_the_random_parts_are_those_of_the_paper() -> None:
    """The number of test images of every class is that of the paper's second table."""
    learn, validation, test = random_parts(_named(MATEK), [], seed=42)
    assert [len(part) for part in (learn, validation, test)] == [12808, 1829, 3661]
    assert test.class_counts == {code: row["n_images"] for code, row in published("bloodshot")["generic"].items()}
    records = {record.path for part in (learn, validation, test) for record in part.records}
    assert len(records) == sum(MATEK.values())
    assert [record.label for record in learn.records[:50]] != sorted(record.label or "" for record in learn.records[:50])


def test_dropped_images_count_in_the_draw_and_are_in_no_part() -> None:
    everything = _named({"a": 60, "b": 40})
    whole = random_parts(everything, [], seed=3)
    dropped = {10, 61, 99}
    kept = everything.subset(i for i in range(100) if i not in dropped)
    parts = random_parts(kept, [everything.records[i] for i in dropped], seed=3)
    gone = {everything.records[i].path for i in dropped}
    for part, before in zip(parts, whole, strict=True):
        assert [r.path for r in part.records] == [r.path for r in before.records if r.path not in gone]


def test_a_random_split_that_divides_groups_or_loses_a_class_is_refused() -> None:
    with pytest.raises(SplitError, match=r"would divide its groups\. Use --set split=stratified"):
        random_parts(_named(MATEK, group="patient"), [], seed=42)
    with pytest.raises(SplitError, match=r"has no test image of class 'c'"):
        random_parts(_named({"a": 60, "b": 40, "c": 3}), [], seed=0)


@pytest.mark.slow
def test_the_random_split_and_the_authors_checkpoint_run_to_the_end(data: dict[str, list[str]], tmp_path: Path) -> None:
    kept = ("LYT", "MON", "NGS")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.efficientnet_b0()
    state = {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()}
    content = {"state_dict": state | {"metric_loss.W": torch.randn(1280, 3)}, "hyper_parameters": {"backbone": network}}
    torch.save(content, tmp_path / "authors.ckpt")
    left_out = [code for code in matek19.KINDS if code not in kept]
    settings = [*TINY[1:], f"leave_out={json.dumps(left_out)}", f"checkpoint={tmp_path / 'authors.ckpt'}", "split_seed=5"]
    report = run_study("bloodshot", data=data, out=tmp_path / "study", settings=settings, published_only=True)
    assert [e.method for e in report.evaluations] == [*PUBLISHED, AUTHORS]
    assert [r.method for r in report.k_shot] == [*PUBLISHED, AUTHORS]
    assert report.evaluations[0].n_images == 15 - int(0.7 * 15) - int(0.1 * 15)
    assert [curve.name for curve in report.curves] == list(PUBLISHED), "nothing was trained from the checkpoint"
    assert (tmp_path / "study" / "fits" / "aam_consistency_authors_weights" / "bundle").is_dir()
    assert sum(title.endswith(AUTHORS) for title in tables_of(report)) == 1


def test_subjects_in_both_sets_are_counted_or_refused(data: dict[str, list[str]], tmp_path: Path) -> None:
    """The preliminary test of this support lies in it under other names."""
    fold, names = tmp_path / "fold_0", {"all": "UID_57", "hem": "UID_H49"}
    for label, subject in names.items():
        (fold / label).mkdir(parents=True)
        for i in range(4):
            image = Image.fromarray(np.full((32, 32, 3), 40 * i + 3, np.uint8) + (label == "hem"))
            image.save(fold / label / f"{subject}_1_{i + 1}_{label}.bmp")
    given = {**data, "support": [f"cnmc:{fold}"]}

    def run(*settings: str, out: str) -> Report:
        return run_study("bloodshot", data=given, out=tmp_path / out, settings=[*TINY, *settings], published_only=True)

    with pytest.raises(SplitError, match="overlap in 8 image"):
        run("shared_groups=refuse", out="refused")
    report = run(out="allowed")
    said = "cnmc fold_0 and cnmc preliminary test have 2 subject(s) in common, so the k-shot scores are optimistic."
    assert said in report.summary


def _cards(*counts: tuple[str, int, int]) -> list[DataCard]:
    return [
        DataCard(
            role="",
            name=name,
            n_images=n,
            class_counts={},
            dropped={"copies": n_dropped},
            licence="",
            citation="",
            fingerprint="",
            synthetic=False,
        )
        for name, n, n_dropped in counts
    ]


def test_a_run_with_the_published_data_and_settings_adds_no_difference() -> None:
    data = {"generic": ["matek19:a"], "novel": ["cnmc:b"], "support": ["cnmc:c"]}
    cards = _cards(("matek19", 18_298, 67), ("cnmc preliminary test", 1_867, 0), ("cnmc fold_0", 3_527, 0))
    published_rows = {row: embedder_config(row, ["embedder.n_loader_workers=2"]) for row in PUBLISHED}
    config = BloodShotStudyConfig(checkpoint="authors.ckpt")
    assert run_differences(data, cards, 0, config, published_rows) == []


def test_a_run_lists_its_own_data_and_settings() -> None:
    data = {"generic": ["folder:a"], "novel": ["cnmc:b", "jtsc:c"]}
    cards = _cards(("mine", 18_365, 0), ("cnmc preliminary test", 1_866, 0), ("jtsc", 1_867, 0))
    settings = ["embedder.optimiser.learning_rate=0.01", "augmented.epochs=3"]
    rows = {row: embedder_config(row, settings) for row in ROWS}
    assert run_differences(data, cards, 2, BloodShotStudyConfig(table_shots=5), rows) == [
        "The generic set is mine with 18,365 images; published is Matek-19 with 18,365.",
        "The novel set is cnmc preliminary test with 1,866 images; published is C-NMC, preliminary test with 1,867.",
        "The novel set is jtsc with 1,867 images; published is C-NMC, preliminary test with 1,867.",
        "Support images come from the tested set, whose other images are tested; published is C-NMC, fold 0.",
        "2 copies, or images under two labels, of the generic set are in no part.",
        "Settings with another value than the published one, which is in brackets: table_shots=5 (10); "
        "embedder.optimiser.learning_rate=0.01 (0.001).",
    ]


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
        run_study("bloodshot", data={**data, **change}, out=tmp_path / "x", settings=TINY, published_only=True)


def test_bad_input_is_told_before_anything_is_trained(data: dict[str, list[str]], tmp_path: Path) -> None:
    def run(settings: list[str], **change: list[str]) -> None:
        run_study("bloodshot", data={**data, **change}, out=tmp_path / "x", settings=settings, published_only=True)

    with pytest.raises(
        SplitError, match=r"k = 50 is larger than class all of cnmc fold_0|k = 50 is larger than class 'all'"
    ):
        run([*TINY, "table_shots=50"])
    with pytest.raises(SplitError, match="overlap in 8 image"):
        run(list(TINY), support=data["novel"])
    with pytest.raises(WeightsError, match="there is no weights file"):
        run([*TINY, "checkpoint=gone.ckpt"])
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
