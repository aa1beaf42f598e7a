"""A saved bundle in place of methods: what is tested, what is refused before any work, and what the report says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import trained
from bench import changed
from command import Command
from hemalens.adaptation.adapt import adapt
from hemalens.adaptation.options import AdaptOptions
from hemalens.benchmark.protocols.k_shot import KShotProtocol
from hemalens.benchmark.protocols.labelling import LabellingProtocol
from hemalens.benchmark.protocols.laboratory import LaboratoryProtocol
from hemalens.benchmark.protocols.unlabelled import UnlabelledProtocol
from hemalens.benchmark.saved_bundle import benchmark_bundle
from hemalens.bundle.bundle import Bundle
from hemalens.classifiers.few_shot import FewShotConfig
from hemalens.datasets import open_dataset
from hemalens.errors import InputError, OutputError, SplitError
from hemalens.report import read_report
from trained import Colour, colour_cells

HOME: Mapping[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}
AWAY: Mapping[str, Colour] = {"neutrophil": (150, 110, 90), "lymphocyte": (80, 110, 160), "monocyte": (120, 150, 90)}
PROTOCOLS: dict[str, LaboratoryProtocol] = {
    "k-shot": KShotProtocol(shots=(1, 3), repeats=3),
    "labelling": LabellingProtocol(budgets=(6,), strategies=("random", "even"), repeats=3),
    "unlabelled": UnlabelledProtocol(images=(8,), pieces=("class_means",), repeats=3),
}

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle")
    cells = open_dataset(f"folder:{colour_cells(folder / 'home', HOME, 6, seed=0)}")
    return trained.colour_bundle(folder / "bundle", cells)


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two laboratories in another stain."""
    folder = tmp_path_factory.mktemp("labs")
    names = ("near", "far")
    return tuple(f"folder:{colour_cells(folder / n, AWAY, 9, seed=i, noise=25)}" for i, n in enumerate(names, 1))  # type: ignore[return-value]


@pytest.fixture
def hemalens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def test_every_protocol_is_drawn_for_every_laboratory(bundle: Bundle, labs: tuple[str, str], tmp_path: Path) -> None:
    said: list[str] = []
    report = benchmark_bundle(bundle.path, labs, PROTOCOLS, out=tmp_path / "report", say=said.append)
    assert read_report(tmp_path / "report" / "report.json") == report
    assert {(r.target, r.against, r.variant) for r in report.k_shot} == {
        (target, *curve)
        for target in ("near", "far")
        for curve in (("shots", ""), ("labelled", "random"), ("labelled", "even"), ("unlabelled", "class_means"))
    }
    assert {(r.method, r.source) for r in report.k_shot} == {("nearest_colour", "home")}
    assert [card.name for card in report.data] == ["near", "far"]
    assert report.method_cards[0].learned_from == ("home (train), 18 images",)
    assert [line for line in said if ": " in line][-6:] == [f"{p}: {t}" for p in PROTOCOLS for t in ("near", "far")]
    # 0 is the bundle as it is: the same answers, whatever is drawn afterwards, on the same images where the seed is one
    alone = {r.variant: r.shots[0] for r in report.k_shot if r.target == "near" and r.against == "labelled"}
    assert alone["random"] == alone["even"]
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "near" in text
    assert "class_means" in text


def test_a_test_on_images_that_were_looked_at_is_called_transductive(
    bundle: Bundle, labs: tuple[str, str], tmp_path: Path
) -> None:
    """By the bundle, or by one that stands beside it."""
    settings = ["size=false"]
    followed = adapt(bundle.path, out=tmp_path / "made", unlabelled=labs[0], options=AdaptOptions(settings=settings))
    plan = KShotProtocol(shots=(2,), repeats=2, replacement=False, few_shot=FewShotConfig(rule="base"))
    asked = {
        "alone": (bundle.path, plan),
        "followed": (followed.path, plan),
        "beside": (bundle.path, changed(plan, beside=(str(followed.path),))),
    }
    for name, (path, curves) in asked.items():
        found = benchmark_bundle(path, labs, {"k-shot": curves}, out=tmp_path / name).k_shot
        assert [result.transductive for result in found] == [name != "alone", False]
    text = (tmp_path / "followed" / "report.md").read_text()
    assert "transductive" in text.lower()


def test_nothing_is_drawn_of_images_that_the_bundle_was_trained_on(
    bundle: Bundle, labs: tuple[str, str], tmp_path: Path
) -> None:
    home = f"folder:{bundle.path.parent / 'home'}"
    with pytest.raises(SplitError):
        benchmark_bundle(bundle.path, [labs[0], home], PROTOCOLS, out=tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_what_cannot_be_is_refused_before_any_work(
    bundle: Bundle, labs: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*given: Any, **more: Any) -> Any:
        raise AssertionError("nothing may be drawn")

    for kind in (KShotProtocol, LabellingProtocol, UnlabelledProtocol):
        monkeypatch.setattr(kind, "run", never)
    too_many = {**PROTOCOLS, "labelling": LabellingProtocol(budgets=(99,), repeats=2)}
    with pytest.raises(SplitError, match="too few images to label 99"):
        benchmark_bundle(bundle.path, labs, too_many, out=tmp_path / "report")
    with pytest.raises(InputError, match=r"no target is named.*--target SPEC"):
        benchmark_bundle(bundle.path, [], PROTOCOLS, out=tmp_path / "report")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError):
        benchmark_bundle(bundle.path, labs, PROTOCOLS, out=tmp_path / "taken")
    assert not (tmp_path / "report").exists()


def test_the_command_draws_what_the_function_does(
    bundle: Bundle, labs: tuple[str, str], tmp_path: Path, hemalens: Command
) -> None:
    shared = ("benchmark", "--bundle", bundle.path, "--target", labs[0], "--quiet")
    options = ("--unlabelled", "images=8", "--unlabelled", "pieces=class_means", "--unlabelled", "repeats=3")
    ended = hemalens(*shared, "--protocol", "unlabelled", *options, "--out", tmp_path / "report")
    assert ended.code == 0, ended.err
    found = read_report(tmp_path / "report" / "report.json")
    expected = benchmark_bundle(bundle.path, labs[:1], {"unlabelled": PROTOCOLS["unlabelled"]}, out=tmp_path / "other")
    assert found.k_shot == expected.k_shot
    twice = hemalens(*shared, "--bundle", bundle.path, "--protocol", "unlabelled", "--out", tmp_path / "no")
    assert twice.code == 2
    assert "these protocols take one bundle" in twice.error
    idle = hemalens(*shared, "--protocol", "unlabelled", "--labelling", "budgets=8", "--out", tmp_path / "no")
    assert idle.code == 2
    assert "--labelling" in idle.error
