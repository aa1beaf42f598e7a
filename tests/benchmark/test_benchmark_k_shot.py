"""The protocol k-shot from end to end on images of plain colours: same drawings, resumed, refused before training."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import trained
from bench import benchmark, changed
from command import Command
from hemalens.benchmark.protocols import k_shot as module
from hemalens.benchmark.protocols.data import open_laboratories
from hemalens.benchmark.protocols.k_shot import KShotProtocol
from hemalens.classifiers.few_shot import FewShotConfig
from hemalens.datasets.episodes import draw_episodes
from hemalens.errors import DatasetError, InputError, LabelError, SplitError
from hemalens.evaluation.results import Report
from hemalens.files import walk_files
from hemalens.graphs.features import extract
from hemalens.methods import Method
from hemalens.report import read_report
from trained import Colour, colour_cells

HOME: Mapping[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}
AWAY: Mapping[str, Colour] = {"neutrophil": (170, 110, 100), "lymphocyte": (110, 90, 150), "monocyte": (110, 150, 90)}
SMALL = KShotProtocol(shots=(1, 3), repeats=4)


class KilledError(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Laboratories `home`, `away` and `pool`, the last one in the stain of `away`."""
    folder = tmp_path_factory.mktemp("labs")
    colour_cells(folder / "home", HOME, 6, seed=0)
    colour_cells(folder / "away", AWAY, {"neutrophil": 8, "lymphocyte": 6, "monocyte": 5}, seed=1, noise=30)
    colour_cells(folder / "pool", AWAY, 4, seed=2, noise=30)
    return folder


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stubs named after any method asked for; the folders of the fits that were run."""
    folders: list[str] = []

    def find(name: str) -> Method:
        return replace(trained.stub_method(lambda learn, held, run_dir: folders.append(run_dir.parts[-3])), name=name)

    monkeypatch.setattr("hemalens.benchmark.config.find_method", find)
    return folders


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[list[int]]]]:
    """(k, the supports) of every drawing for scores."""
    seen: list[tuple[int, list[list[int]]]] = []

    def spy(*given: Any, **asked: Any) -> Any:
        episodes = draw_episodes(*given, **asked)
        seen.append((asked["k_shot"], [episode.support.tolist() for episode in episodes]))
        return episodes

    monkeypatch.setattr("hemalens.benchmark.protocols.k_shot.draw_episodes", spy)
    return seen


def _run(labs: Path, out: Path, *, methods: tuple[str, ...] = ("one",), target: str = "away", **changes: Any) -> Report:
    settings = {name: changes.pop(name) for name in ("support", "target_labels") if name in changes}
    plan = changed(changes.pop("plan", SMALL), **settings)
    return benchmark(
        methods,
        f"folder:{labs / 'home'}",
        target_specs=[f"folder:{labs / target}"],
        protocol="k-shot",
        out=out,
        plan=plan,
        **changes,
    )


# ---------------------------------------------------------------------------------------------------------- end to end


def test_two_methods_are_compared_on_the_same_drawings(
    labs: Path, fits: list[str], drawn: list[tuple[int, list[list[int]]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = []

    def count(records: Any, *given: Any, **more: Any) -> Any:
        embedded.append(len(records))
        return extract(records, *given, **more)

    monkeypatch.setattr("hemalens.benchmark.protocols.laboratory.extract", count)
    said: list[str] = []
    report = _run(labs, tmp_path / "run", methods=("one", "two"), say=said.append)
    assert fits == ["one", "two"], "one embedder each, from the whole source"
    assert embedded == [19, 19], "once each, whatever the number of drawings"
    checked, first, second = drawn[:2], drawn[2:4], drawn[4:]
    assert first == second == checked
    assert [k for k, _ in first] == [1, 3]
    assert all(len(supports) == 4 for _, supports in first)
    one, two = report.k_shot
    assert (one.method, two.method) == ("one", "two")
    # both stubs embed alike
    assert one.shots == two.shots
    assert one.supervised == two.supervised is not None
    assert (one.source, one.target, one.n_images) == ("home", "away", 19)
    assert report.evaluations == ()
    assert report.protocol == "k-shot, 1, 3 labelled images a class, 4 repeats, class means, cosine"
    assert [card.role for card in report.data] == ["source", "target"]
    assert "one, whole: 15 images" in said
    assert sum("with 3 labelled image(s) of each of 3 classes" in sentence for sentence in report.summary) == 2
    assert read_report(tmp_path / "run" / "report.json") == report
    stored = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [shots["k"] for shots in stored["k_shot"][0]["shots"]] == [1, 3]
    assert "away" in (tmp_path / "run" / "report.html").read_text()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["finished"] is True


def test_the_embedder_learns_from_all_of_the_source_but_a_validation_part(
    labs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    stub = trained.stub_method(lambda learn, held, run_dir: given.append((learn, held)))
    monkeypatch.setattr("hemalens.benchmark.config.find_method", lambda name: stub)
    _run(labs, tmp_path / "run")
    ((learn, held),) = given
    assert held is not None
    assert {r.path for r in learn.records} | {r.path for r in held.records} == set(walk_files(labs / "home"))
    assert len(learn) + len(held) == 18
    assert held.class_counts == {"neutrophil": 1, "lymphocyte": 1, "monocyte": 1}


def test_a_pool_of_its_own_is_drawn_from_and_all_of_the_target_is_tested(
    labs: Path, fits: list[str], drawn: list[tuple[int, list[list[int]]]], tmp_path: Path
) -> None:
    plan = changed(SMALL, shots=(1, 4), replacement=False, few_shot=FewShotConfig(centre="target"))
    report = _run(labs, tmp_path / "run", support=f"folder:{labs / 'pool'}", plan=plan)
    (result,) = report.k_shot
    assert (result.support, result.transductive, result.replacement) == ("pool", True, False)
    assert result.supervised is not None
    assert result.supervised.what == "logistic regression on all 12 images of pool"
    assert [card.role for card in report.data] == ["source", "target", "support"]
    assert report.protocol.endswith("class means, cosine, centred on the target (transductive)")
    assert all("transductive" in sentence for sentence in report.summary)
    # four of four without replacement: everybody's support is the whole pool
    assert {tuple(sorted(support)) for support in drawn[-1][1]} == {tuple(range(12))}
    # every target image is tested each time
    assert result.shots[0].majority_rate == pytest.approx(8 / 19)


def test_the_answers_are_those_of_the_class_means_by_hand(labs: Path, fits: list[str], tmp_path: Path) -> None:
    """Four of four from the pool: nothing is left to chance."""
    report = _run(
        labs,
        tmp_path / "run",
        support=f"folder:{labs / 'pool'}",
        plan=KShotProtocol(shots=(4,), repeats=2, replacement=False),
    )
    means = {
        name: np.mean([np.asarray(Image.open(p)).mean(axis=(0, 1)) for p in walk_files(labs / "pool" / name)], axis=0)
        for name in AWAY
    }
    right = []
    for path in walk_files(labs / "away"):
        colour = np.asarray(Image.open(path)).mean(axis=(0, 1))
        cosine = {name: colour @ mean / np.linalg.norm(colour) / np.linalg.norm(mean) for name, mean in means.items()}
        right.append(max(cosine, key=cosine.__getitem__) == path.parent.name)
    accuracy = report.k_shot[0].shots[0].accuracy
    assert 0.4 < np.mean(right) < 1
    assert accuracy.value == pytest.approx(np.mean(right))
    assert accuracy.std == pytest.approx(0)


@pytest.mark.usefixtures("undrawn")
def test_a_stopped_run_goes_on(labs: Path, fits: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = module.embed_laboratory

    def killed_in_the_second(laboratory: Any, encoder: Any, **more: Any) -> Any:
        if fits[-1] == "two":
            raise KilledError
        return embed(laboratory, encoder, **more)

    with monkeypatch.context() as patch:
        patch.setattr("hemalens.benchmark.protocols.k_shot.embed_laboratory", killed_in_the_second)
        with pytest.raises(KilledError):
            _run(labs, tmp_path / "run", methods=("one", "two", "three"))
    assert fits == ["one", "two"]
    fits.clear()
    for changes in (
        {"plan": changed(SMALL, shots=(1, 2))},
        {"plan": changed(SMALL, few_shot=FewShotConfig(normalise=True))},
        {"plan": changed(SMALL, repeats=5)},
        {"support": f"folder:{labs / 'pool'}"},
        {"seed": 1},
    ):
        _run(labs, tmp_path / "run", methods=("one",), **changes)
    assert fits == ["one"], "for the other seed alone: what is asked of an embedder does not change it"
    fits.clear()
    said: list[str] = []
    resumed = _run(labs, tmp_path / "run", methods=("one", "two", "three"), say=said.append)
    assert fits == ["three"]
    assert any("not run again" in text for text in said)
    unbroken = _run(labs, tmp_path / "again", methods=("one", "two", "three"))
    assert resumed.k_shot == unbroken.k_shot
    fits.clear()
    assert _run(labs, tmp_path / "run", methods=("one", "two", "three")).k_shot == unbroken.k_shot
    assert fits == []


# ------------------------------------------------------------------------------------- what is refused before training


def _refused(fits: list[str], out: Path) -> None:
    assert fits == []
    assert not out.exists()


def test_too_large_a_k_is_refused_before_training(labs: Path, fits: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(SplitError, match=r"k = 5 is larger than class 'monocyte' of away allows; .*at least 6 .*got 5"):
        _run(labs, out, plan=changed(SMALL, shots=(1, 5)))
    _refused(fits, out)
    with pytest.raises(SplitError, match="k = 5 is larger than class 'neutrophil' of pool allows"):
        _run(labs, out, plan=changed(SMALL, shots=(1, 5)), support=f"folder:{labs / 'pool'}")
    _refused(fits, out)
    # the way out that the message names
    report = _run(labs, out, plan=changed(SMALL, shots=(1, 5)), min_per_class=6)
    assert report.k_shot[0].classes == ("neutrophil", "lymphocyte")
    assert report.k_shot[0].left_out == {"monocyte": "5 image(s), at least 6 required"}
    assert report.data[1].dropped == {"class monocyte, fewer than 6 images": 5}


def test_a_small_class_of_the_pool_can_be_left_out_too(labs: Path, fits: list[str], tmp_path: Path) -> None:
    pool = shutil.copytree(labs / "pool", tmp_path / "pool")
    walk_files(pool / "lymphocyte")[0].unlink()
    arguments: dict[str, Any] = {"plan": changed(SMALL, shots=(4,)), "support": f"folder:{pool}"}
    with pytest.raises(SplitError, match=r"'lymphocyte' of pool allows; .*got 3\. .*--min-per-class 4"):
        _run(labs, tmp_path / "run", **arguments)
    (result,) = _run(labs, tmp_path / "run", min_per_class=4, **arguments).k_shot
    assert result.classes == ("neutrophil", "monocyte")
    assert result.left_out == {"lymphocyte": "support pool: 3 image(s), at least 4 required"}
    assert result.n_images == 13


def test_images_of_the_source_are_neither_tested_nor_memorised(labs: Path, fits: list[str], tmp_path: Path) -> None:
    copied = next((labs / "home" / "monocyte").iterdir())
    for name in ("away", "pool"):
        shutil.copytree(labs / name, tmp_path / name)
        shutil.copy(copied, tmp_path / name / "monocyte" / "under another name.png")
    message = r"1 image\(s\) of {} were trained on, first: '.*under another name.png'"
    with pytest.raises(SplitError, match=message.format("away")):
        benchmark(
            ["one"],
            f"folder:{labs / 'home'}",
            target_specs=[f"folder:{tmp_path / 'away'}"],
            protocol="k-shot",
            out=tmp_path / "run",
            plan=SMALL,
        )
    with pytest.raises(SplitError, match=message.format("pool")):
        _run(labs, tmp_path / "run", support=f"folder:{tmp_path / 'pool'}")
    _refused(fits, tmp_path / "run")


def test_a_pool_with_images_or_patients_of_the_target_is_refused_and_the_pairs_are_named(
    labs: Path, fits: list[str], tmp_path: Path
) -> None:
    shutil.copytree(labs / "pool", tmp_path / "pool")
    copied = walk_files(labs / "away")[0]
    shutil.copy(copied, tmp_path / "pool" / copied.parent.name / "twin.png")
    with pytest.raises(SplitError, match=r"support pool and test away overlap in 1 image\(s\)") as caught:
        _run(labs, tmp_path / "run", support=f"folder:{tmp_path / 'pool'}")
    assert f"'{tmp_path / 'pool' / copied.parent.name / 'twin.png'}' and '{copied}' (same image)" in str(caught.value)
    for part in ("away", "pool"):
        shutil.copytree(labs / part, tmp_path / "tables" / part)
        with open(tmp_path / "tables" / f"{part}.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["path", "label", "group", "domain"])
            for i, path in enumerate(walk_files(tmp_path / "tables" / part)):
                patient = "anna" if i == 2 else f"{part} {i}"
                table.writerow([path.relative_to(tmp_path / "tables"), path.parent.name, patient, "clinic"])
    away, pool = (f"csv:{tmp_path / 'tables' / part}.csv" for part in ("away", "pool"))
    with pytest.raises(SplitError, match=r"overlap in 1 image\(s\).*\(same group 'anna'\)"):
        benchmark(
            ["one"],
            f"folder:{labs / 'home'}",
            target_specs=[away],
            protocol="k-shot",
            out=tmp_path / "run",
            plan=changed(SMALL, support=pool),
        )
    _refused(fits, tmp_path / "run")


def test_requests_that_do_not_fit_are_refused(labs: Path, fits: list[str], tmp_path: Path) -> None:
    source, away, pool = (f"folder:{labs / name}" for name in ("home", "away", "pool"))
    out = tmp_path / "run"
    with pytest.raises(InputError, match=r"the protocol k-shot needs a target. Name one or more with --target"):
        benchmark(["one"], source, protocol="k-shot", out=out)
    with pytest.raises(InputError, match="a support set of its own goes with one target; got 2 targets"):
        benchmark(["one"], source, target_specs=[away, pool], protocol="k-shot", out=out, plan=changed(SMALL, support=pool))
    one_class = tmp_path / "one class" / "neutrophil"
    shutil.copytree(labs / "pool" / "neutrophil", one_class)
    for target, support in ((one_class.parent, None), (labs / "away", f"folder:{one_class.parent}")):
        with pytest.raises(DatasetError, match=r"leaves too few classes for k-shot; expected two or more, .*; got neutro"):
            benchmark(
                ["one"],
                source,
                target_specs=[f"folder:{target}"],
                protocol="k-shot",
                out=out,
                plan=changed(SMALL, support=support),
            )
    with pytest.raises(LabelError, match="unknown label map 'five'"):
        _run(labs, out, target_labels="five")
    _refused(fits, out)


# ------------------------------------------------------------------------------------------------------------- targets


@pytest.mark.usefixtures("undrawn")
def test_several_targets_and_a_label_map_of_their_own(labs: Path, fits: list[str], tmp_path: Path) -> None:
    words = {"my neutrophils": AWAY["neutrophil"], "something else": AWAY["monocyte"]}
    colour_cells(tmp_path / "own", words, 5, seed=4)
    colour_cells(tmp_path / "other", words, 4, seed=5)
    report = benchmark(
        ["one"],
        f"folder:{labs / 'home'}",
        target_specs=[f"folder:{tmp_path / name}" for name in ("own", "other")],
        protocol="k-shot",
        out=tmp_path / "run",
        plan=changed(SMALL, target_labels="as_labelled"),
    )
    assert fits == ["one"], "one embedder for all targets"
    assert [result.target for result in report.k_shot] == ["own", "other"]
    assert {result.classes for result in report.k_shot} == {("my neutrophils", "something else")}
    assert [card.role for card in report.data] == ["source", "target", "target"]
    assert report.data[0].class_counts == dict.fromkeys(HOME, 6)


def test_unreadable_images_of_the_target_are_listed(labs: Path, fits: list[str], tmp_path: Path) -> None:
    away = shutil.copytree(labs / "away", tmp_path / "away")
    (away / "neutrophil" / "broken.png").write_bytes(b"no image")
    (result,) = _run(tmp_path, tmp_path / "run", **_home(labs, tmp_path)).k_shot
    assert list(result.unreadable) == [str(away / "neutrophil" / "broken.png")]
    assert result.n_images == 19


def _home(labs: Path, place: Path) -> dict[str, Any]:
    """Put the source beside a target of the test's own."""
    shutil.copytree(labs / "home", place / "home")
    return {"target": "away"}


def test_possible_shots_are_those_that_every_class_allows(labs: Path) -> None:
    (laboratory,) = open_laboratories([f"folder:{labs / 'away'}"], None, labels="five_class")
    plan, left_out = KShotProtocol(shots=(1, 4, 5, 50), repeats=2).possible(laboratory, seed=0)
    assert (plan.shots, left_out) == ((1, 4), (5, 50))
    with pytest.raises(SplitError, match="k = 5 is larger than class 'monocyte'"):
        KShotProtocol(shots=(5, 50), repeats=2).possible(laboratory, seed=0)


# ------------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def hemalens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def test_the_command_takes_the_whole_plan(
    labs: Path, fits: list[str], drawn: list[tuple[int, list[list[int]]]], tmp_path: Path, hemalens: Command
) -> None:
    call: tuple[Any, ...] = (
        *("benchmark", "--methods", "one,two", "--protocol", "k-shot", "--source", f"folder:{labs / 'home'}"),
        *("--target", f"folder:{labs / 'away'}", "--support", f"folder:{labs / 'pool'}", "--target-labels", "as_labelled"),
        *("--shots", "1,3", "--repeats", "4", "--without-replacement", "--seed", "7", "--out", tmp_path / "run"),
        *("--few-shot", "rule=nearest_neighbour", "--few-shot", "normalise=true"),
    )
    ended = hemalens(*call, "--json", "--quiet")
    assert (ended.code, ended.err) == (0, "")
    printed = Report.model_validate_json(ended.out)
    assert printed == read_report(tmp_path / "run" / "report.json")
    assert [(result.method, result.support) for result in printed.k_shot] == [("one", "pool"), ("two", "pool")]
    for result in printed.k_shot:
        assert [(shots.k, shots.n_repeats) for shots in result.shots] == [(1, 4), (3, 4)]
        assert result.replacement is False
        assert result.classifier == "nearest image, cosine, unit length first"
        assert result.classes == ("lymphocyte", "monocyte", "neutrophil"), "as labelled: by name"
    assert printed.seed == 7
    (laboratory,) = open_laboratories([f"folder:{labs / 'away'}"], f"folder:{labs / 'pool'}", labels="as_labelled")
    expected = draw_episodes(laboratory.target, laboratory.pool, k_shot=1, n_repeats=4, seed=7, replacement=False)
    assert drawn[-2] == (1, [episode.support.tolist() for episode in expected])
    assert hemalens(*call, "--quiet").code == 0
    assert fits == ["one", "two"], "what is known is not run again"


def test_the_command_prints_a_table_and_where_the_report_lies(
    labs: Path, fits: list[str], tmp_path: Path, hemalens: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ended = hemalens(
        *("benchmark", "--methods", "one", "--protocol", "k-shot", "--source", f"folder:{labs / 'home'}"),
        *("--target", f"folder:{labs / 'away'}", "--shots", "2", "--repeats", "3", "--out", tmp_path / "run"),
    )
    assert ended.code == 0
    assert "away" in ended.out
    assert f"report: {tmp_path / 'run' / 'report.html'}" in ended.out.splitlines()
    value = read_report(tmp_path / "run" / "report.json").k_shot[0].shots[0].balanced_accuracy.value
    assert f"{value:.3f}" in ended.out
    assert "[1/1] one, home -> away, k-shot: done, " in ended.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--shots", "1,two"), "cannot read --shots; expected whole numbers, as in 1,2,5; got '1,two'"),
        (("--shots", ""), "cannot read --shots"),
        (("--shots", "1,1"), "cannot use these k; expected different whole numbers from 1 on; got [1, 1]"),
        (("--shots", "0"), "cannot use these k"),
        (("--shots", "9"), "k = 9 is larger than class 'neutrophil' of away allows"),
        (("--few-shot", "centr=support"), "unknown key 'centr'. did you mean 'centre'?"),
        (("--target-labels", "five_clas"), "unknown label map 'five_clas'. did you mean 'five_class'"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(
    *, labs: Path, fits: list[str], tmp_path: Path, hemalens: Command, arguments: tuple[str, ...], message: str
) -> None:
    ended = hemalens(
        *("benchmark", "--methods", "one", "--protocol", "k-shot", "--source", f"folder:{labs / 'home'}"),
        *("--target", f"folder:{labs / 'away'}", "--out", tmp_path / "run", *arguments),
    )
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.error
    _refused(fits, tmp_path / "run")
