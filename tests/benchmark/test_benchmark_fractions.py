"""The protocol fractions from end to end: fixed parts, resumed, targets and further data, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import trained
from bench import benchmark, changed, keys
from command import Command
from hemalens import open_bundle
from hemalens.benchmark.protocols.fractions import FractionsProtocol, fixed_parts, halved, without_checkpoints
from hemalens.benchmark.protocols.fractions import tested_whole as all_of_it_tested
from hemalens.bundle.bundle import Bundle
from hemalens.datasets import CellDataset, open_dataset
from hemalens.datasets.walking import walk_files
from hemalens.errors import DatasetError, SplitError
from hemalens.evaluation.results import Report
from hemalens.methods import Method
from hemalens.methods.base import AuxiliaryRole
from hemalens.report import read_report
from trained import Colour, colour_cells

HOME: Mapping[str, Colour] = {"neutrophil": (160, 110, 110), "lymphocyte": (110, 110, 160), "monocyte": (110, 160, 110)}
AWAY: Mapping[str, Colour] = {"neutrophil": (150, 125, 105), "lymphocyte": (120, 115, 150), "basophil": (90, 90, 90)}
SMALL = FractionsProtocol(fractions=(1.0, 0.5), seeds=2)
FITS = [f"{fraction}/seed_{draw}" for draw in range(2) for fraction in ("1", "0.5")]
FIRST = AuxiliaryRole("first", "labelled images to begin with", labelled=True)


class KilledError(BaseException):
    """Stands for a kill: nothing catches it."""


class Fits:
    """What the fits were given, in their order."""

    def __init__(self) -> None:
        self.given: list[tuple[CellDataset, CellDataset, Path]] = []

    def __call__(self, train: CellDataset, validation: CellDataset | None, run_dir: Path) -> None:
        assert validation is not None
        self.given.append((train, validation, run_dir))
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "history.jsonl").write_text('{"epoch": 0, "val_accuracy": 0.5}\n')

    @property
    def folders(self) -> list[str]:
        return ["/".join(run_dir.parts[-2:]) for _, _, run_dir in self.given]


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Laboratories `home`, `away` and `first`, each in its own stain."""
    folder = tmp_path_factory.mktemp("labs")
    colour_cells(folder / "home", HOME, {"neutrophil": 20, "lymphocyte": 15, "monocyte": 10}, seed=0, noise=40)
    colour_cells(folder / "away", AWAY, 6, seed=1, noise=40)
    colour_cells(folder / "first", {"one": (200, 60, 60), "another": (60, 60, 200)}, 3, seed=2)
    return folder


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Fits:
    """Stubs named after any method asked for; one named `with_...` has a use for further data."""
    fits = Fits()

    def find(name: str) -> Method:
        return replace(trained.stub_method(fits), name=name, roles=(FIRST,) if name.startswith("with_") else ())

    monkeypatch.setattr("hemalens.benchmark.config.find_method", find)
    return fits


def _run(
    labs: Path, out: Path, *, methods: tuple[str, ...] = ("one",), plan: FractionsProtocol | None = SMALL, **changes: Any
) -> Report:
    return benchmark(methods, **_asked(labs, out, plan=plan, **changes))


def _asked(labs: Path, out: Path, **changes: Any) -> dict[str, Any]:
    targets = [f"folder:{labs / name}" for name in changes.pop("targets", ())]
    source = f"folder:{labs / changes.pop('source', 'home')}"
    return {"source": source, "target_specs": targets, "protocol": "fractions", "out": out, **changes}


def _contents(*parts: CellDataset) -> set[str]:
    return {record.content_id() for part in parts for record in part.records}


def _refused(fits: Fits, out: Path) -> None:
    assert fits.given == []
    assert not out.exists()


# ---------------------------------------------------------------------------------------------------------- end to end


def _balanced_accuracy(bundle: Bundle, cells: CellDataset) -> float:
    """By ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(bundle.graph_bytes, providers=["CPUExecutionProvider"])
    p = np.concatenate([session.run(["probabilities"], {"image": r.read()[None]})[0] for r in cells.records])
    right = np.array([bundle.manifest.labels[i] for i in p.argmax(axis=1)]) == [r.label for r in cells.records]
    truth = np.array([record.label for record in cells.records])
    return float(np.mean([right[truth == label].mean() for label in set(truth)]))


def test_a_real_method_on_fractions_of_drawn_cells(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, out = trained.cells(tmp_path_factory), tmp_path / "run"
    said: list[str] = []
    report = benchmark(
        ["linear_probe"],
        f"synthetic:{folder / 'lab_a'}",
        target_specs=[f"synthetic:{folder / 'lab_b'}"],
        protocol="fractions",
        out=out,
        plan=FractionsProtocol(fractions=(0.4, 1.0), seeds=2),
        settings=trained.settings(trained.PROBE),
        say=said.append,
    )
    home, away = report.fractions
    assert (home.source, home.target, away.target) == ("lab_a", "lab_a, test part", "lab_b")
    # of 8 cells of each of four types 2 are tested, 1 validates and 5 are learned from
    assert (home.n_images, home.n_validation, away.n_images) == (8, 4, 32)
    assert [(s.fraction, s.n_train, s.n_masks, s.n_seeds) for s in away.fractions] == [(1.0, 20, 20, 2), (0.4, 8, 8, 2)]
    lab_b = trained.laboratory(tmp_path_factory, "lab_b")
    for scores in away.fractions:
        bundles = [
            open_bundle(out / "fits" / "linear_probe" / "lab_a" / f"{scores.fraction:g}" / f"seed_{draw}" / "bundle")
            for draw in range(2)
        ]
        expected = [_balanced_accuracy(bundle, lab_b) for bundle in bundles]
        assert scores.balanced_accuracy.value == pytest.approx(np.mean(expected))
        assert scores.balanced_accuracy.std == pytest.approx(np.std(expected, ddof=1))
        assert {len(bundle.seen) for bundle in bundles} == {scores.n_train + 4}
    assert (report.evaluations, report.k_shot) == ((), ())
    assert report.protocol == "fractions, 40 %, 100 % of 20 training images, 2 seeds"
    assert "linear_probe, seed 0: 20 images" in said
    assert [card.role for card in report.data] == ["source", "target"]
    assert report.synthetic
    assert read_report(out / "report.json") == report
    stored = json.loads((out / "report.json").read_text())
    assert [[part["fraction"] for part in curve["fractions"]] for curve in stored["fractions"]] == [[1.0, 0.4]] * 2
    assert "lab_a, test part" in (out / "report.html").read_text()
    assert json.loads((out / "run.json").read_text())["finished"] is True


@pytest.mark.usefixtures("undrawn")
def test_methods_are_compared_on_the_same_images_learned_from_and_tested(labs: Path, fits: Fits, tmp_path: Path) -> None:
    report = _run(labs, tmp_path / "run", methods=("one", "two"), targets=("away",))
    assert fits.folders == FITS * 2
    assert [given[:2] for given in fits.given[:4]] == [given[:2] for given in fits.given[4:]]
    assert [(c.method, c.target) for c in report.fractions] == [
        *(("one", "home, test part"), ("one", "away")),
        *(("two", "home, test part"), ("two", "away")),
    ]
    # both stubs learn alike
    assert report.fractions[0].fractions == report.fractions[2].fractions
    assert report.fractions[1].fractions == report.fractions[3].fractions
    learned = [train for train, _, _ in fits.given[:4]]
    validation = fits.given[0][1]
    assert {held.fingerprint for _, held, _ in fits.given} == {validation.fingerprint}
    assert not _contents(*learned) & _contents(validation)
    everything = len(walk_files(labs / "home"))
    assert report.fractions[0].n_images == everything - len(_contents(*learned, validation))
    assert not list((tmp_path / "run").rglob("checkpoints"))


@pytest.mark.usefixtures("undrawn")
def test_without_a_plan_it_is_the_published_one_of_the_seed(labs: Path, fits: Fits, tmp_path: Path) -> None:
    report = _run(labs, tmp_path / "run", plan=None, seed=7)
    (curve,) = report.fractions
    assert [(part.fraction, part.n_seeds) for part in curve.fractions] == [(1.0, 3), (0.5, 3), (0.1, 3), (0.01, 3)]
    assert curve.fractions[-1].class_counts == dict.fromkeys(HOME, 1)
    home = open_dataset(f"folder:{labs / 'home'}")
    expected, other = (fixed_parts(home, seed=seed).validation.fingerprint for seed in (7, 0))
    assert fits.given[0][1].fingerprint == expected != other


@pytest.mark.usefixtures("undrawn")
def test_published_selection_shows_the_method_the_test_part_and_the_report_says_so(
    labs: Path, fits: Fits, tmp_path: Path
) -> None:
    report = _run(labs, tmp_path / "run", plan=changed(SMALL, selection="published-selection"))
    (curve,) = report.fractions
    (test,) = fixed_parts(open_dataset(f"folder:{labs / 'home'}"), seed=0).tests
    assert {held.fingerprint for _, held, _ in fits.given} == {test.fingerprint}
    assert (curve.selection, curve.n_images, curve.n_validation) == ("published-selection", len(test), 0)
    assert {(each.name, each.part) for each in report.curves} == {("one", "test")}
    assert "tested images" in (tmp_path / "run" / "report.html").read_text()


def test_images_of_a_target_that_cannot_be_read_are_listed(labs: Path, fits: Fits, tmp_path: Path) -> None:
    shutil.copytree(labs / "home", tmp_path / "home")
    away = shutil.copytree(labs / "away", tmp_path / "away")
    broken = away / "neutrophil" / "broken.png"
    broken.write_bytes(b"no image")
    home, curve = _run(tmp_path, tmp_path / "run", targets=("away",)).fractions
    assert list(curve.unreadable) == [str(broken)]
    assert curve.n_images == 12, "the basophils are no class of the source"
    assert curve.left_out == {"monocyte": "not in the target", "basophil": "unknown to the model"}
    assert home.unreadable == {}


# ------------------------------------------------------------------------------------------------------------- resumed


@pytest.mark.usefixtures("undrawn")
def test_a_killed_run_goes_on_and_a_finished_one_is_known(
    labs: Path, fits: Fits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, make = tmp_path / "run", trained.colour_bundle

    def killed_in_the_third(path: Path, *given: Any, **more: Any) -> Bundle:
        if path.parent.parts[-2:] == ("1", "seed_1"):
            raise KilledError
        return make(path, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(trained, "colour_bundle", killed_in_the_third)
        with pytest.raises(KilledError):
            _run(labs, out)
    assert fits.folders == FITS[:3]
    fits.given.clear()
    for changes in (
        {"plan": changed(SMALL, fractions=(1.0, 0.4))},
        {"plan": changed(SMALL, seeds=3)},
        {"plan": changed(SMALL, strict=True)},
        {"plan": changed(SMALL, selection="published-selection")},
        {"targets": ("away",)},
        {"seed": 1},
    ):
        other = keys(("one",), **_asked(labs, out, **({"plan": SMALL} | changes)))
        assert other != keys(("one",), **_asked(labs, out, plan=SMALL))
    said: list[str] = []
    resumed = _run(labs, out, say=said.append)
    assert fits.folders == FITS[2:]
    assert any("not run again" in text for text in said)
    unbroken = _run(labs, tmp_path / "again")
    assert resumed.fractions == unbroken.fractions
    fits.given.clear()
    assert _run(labs, out).fractions == unbroken.fractions
    assert fits.given == []


# -------------------------------------------------------------------------------------------------------- further data


@pytest.mark.usefixtures("undrawn")
def test_further_data_go_to_the_methods_that_have_a_use_for_them(
    labs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, list[Mapping[str, CellDataset]]] = {"plain": [], "with_first": []}

    def find(name: str) -> Method:
        stub = trained.stub_method()

        def fit(train: CellDataset, *, auxiliary: Mapping[str, CellDataset], **more: Any) -> Bundle:
            given[name].append(auxiliary)
            return stub.fit(train, auxiliary=auxiliary, **more)

        return replace(stub, name=name, fit=fit, roles=(FIRST,) if name == "with_first" else ())

    monkeypatch.setattr("hemalens.benchmark.config.find_method", find)
    said: list[str] = []
    specs = [("first", f"folder:{labs / 'first'}")]
    out = tmp_path / "run"
    report = _run(labs, out, methods=("plain", "with_first"), auxiliary_specs=specs, say=said.append)
    assert given["plain"] == [{}] * 4
    assert [list(auxiliary) for auxiliary in given["with_first"]] == [["first"]] * 4
    assert given["with_first"][0]["first"].class_counts == {"another": 3, "one": 3}
    assert [(card.role, card.n_images) for card in report.data] == [("source", 45), ("auxiliary, first", 6)]
    assert "first: no class of five_class, read as labelled" in said
    given["plain"].clear()
    _run(labs, out, methods=("plain", "with_first"))
    assert (len(given["plain"]), len(given["with_first"])) == (0, 8), "only what had a use for them runs again without"


def test_a_test_image_among_further_data_is_refused_before_training(labs: Path, fits: Fits, tmp_path: Path) -> None:
    further = shutil.copytree(labs / "first", tmp_path / "further")
    tested = walk_files(labs / "away")[4]
    shutil.copy(tested, further / "one" / "under another name.png")
    for selection in ("validation", "published-selection"):
        plan = changed(SMALL, selection=selection)
        target = {"targets": ("away",)} if selection == "validation" else {"source": "away"}
        with pytest.raises(SplitError, match=rf"1 image\(s\) of away were trained on, first: '.*{tested.name}'"):
            _run(
                labs,
                tmp_path / "run",
                methods=("with_first",),
                auxiliary_specs=[("first", f"folder:{further}")],
                plan=plan,
                **target,
            )
    _refused(fits, tmp_path / "run")


# ------------------------------------------------------------------------------------- what is refused before training


@pytest.mark.parametrize("part", ["train", "validation"])
def test_an_image_of_the_source_in_a_target_is_refused(labs: Path, fits: Fits, tmp_path: Path, part: str) -> None:
    parts = fixed_parts(open_dataset(f"folder:{labs / 'home'}"), seed=0)
    shutil.copytree(labs / "home", tmp_path / "home")
    away = shutil.copytree(labs / "away", tmp_path / "away")
    shutil.copy(getattr(parts, part).records[0].path, away / "neutrophil" / "under another name.png")
    with pytest.raises(SplitError, match=r"1 image\(s\) of away were trained on, first: '.*under another name.png'"):
        _run(tmp_path, tmp_path / "run", targets=("away",))
    _refused(fits, tmp_path / "run")


def test_what_cannot_be_drawn_or_tested_is_refused(labs: Path, fits: Fits, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for fraction in (0.0, 1.5, -1.0):
        with pytest.raises(SplitError, match=f"a fraction is out of range; expected above 0, at most 1; got {fraction}"):
            _run(labs, out, plan=changed(SMALL, fractions=(1.0, fraction)))
    strict = changed(SMALL, fractions=(0.1,), strict=True)
    with pytest.raises(SplitError, match=r"0\.1 of class 'monocyte' is no image; expected at least 10 images; got 7"):
        _run(labs, out, plan=strict)
    with pytest.raises(SplitError, match=r"published-selection chooses the epoch .*; expected one test set; got 2"):
        _run(labs, out, plan=changed(SMALL, selection="published-selection"), targets=("away",))
    with pytest.raises(SplitError, match="has nothing to train"):
        _run(labs, out, plan=FractionsProtocol(fractions=()))
    few = colour_cells(tmp_path / "few", HOME, {"neutrophil": 5, "lymphocyte": 5, "monocyte": 2}, seed=3)
    with pytest.raises(SplitError, match=r"'monocyte' of few is too small for training, validation and test; .*got 2"):
        benchmark(["one"], f"folder:{few}", protocol="fractions", out=out, plan=SMALL)
    _refused(fits, out)
    report = benchmark(["one"], f"folder:{few}", protocol="fractions", out=out, plan=SMALL, min_per_class=3)
    assert report.fractions[0].classes == ("neutrophil", "lymphocyte")


# --------------------------------------------------------------------------------------------------- parts of a source


@pytest.fixture(scope="module")
def home(labs: Path) -> CellDataset:
    return open_dataset(f"folder:{labs / 'home'}")


def test_a_fifth_is_tested_and_of_the_rest_a_seventh_or_so_validates(home: CellDataset) -> None:
    parts = fixed_parts(home, seed=3)
    (test,) = parts.tests
    assert list(test.class_counts.values()) == [4, 3, 2]
    assert list(parts.validation.class_counts.values()) == [2, 2, 1]
    assert list(parts.train.class_counts.values()) == [14, 10, 7]
    assert _contents(parts.train, parts.validation, test) == _contents(home)
    assert test.name == "home, test part"
    again, other = fixed_parts(home, seed=3), fixed_parts(home, seed=4)
    assert again == parts
    assert other.tests[0].records != test.records


def test_groups_stay_whole(home: CellDataset) -> None:
    grouped = replace(home, records=tuple(replace(r, group=f"smear {i // 3}") for i, r in enumerate(home.records)))
    parts = fixed_parts(grouped, seed=0)
    groups = [{record.group for record in part.records} for part in (parts.train, parts.validation, *parts.tests)]
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_halves_of_a_held_set_validate_and_test(home: CellDataset, labs: Path, tmp_path: Path) -> None:
    folder = colour_cells(tmp_path / "held", {**HOME, "basophil": AWAY["basophil"]}, 6, seed=5)
    parts = halved(home, open_dataset(f"folder:{folder}"), seed=0)
    (test,) = parts.tests
    assert parts.train == home
    assert test.name == "held, test half"
    # what the source has no class for is gone; the order of the labels is the source's
    assert parts.validation.classes == test.classes == home.classes
    assert test.class_counts == parts.validation.class_counts == dict.fromkeys(HOME, 3)
    assert not _contents(test) & _contents(parts.validation)
    with pytest.raises(SplitError, match=r"class 'monocyte' of away is too small for holding a part out; .*got 0"):
        halved(home, open_dataset(f"folder:{labs / 'away'}"), seed=0)


def test_a_held_set_may_be_tested_whole(home: CellDataset, labs: Path) -> None:
    parts = all_of_it_tested(home, open_dataset(f"folder:{labs / 'away'}"))
    assert parts.tests == (parts.validation,)
    assert (parts.train, len(parts.validation), parts.validation.classes) == (home, 12, home.classes)


def test_a_finished_fit_leaves_no_checkpoints_and_a_stopped_one_keeps_them(home: CellDataset, tmp_path: Path) -> None:
    def fit(train: CellDataset, validation: CellDataset, rng: np.random.Generator, run_dir: Path) -> Bundle:
        (run_dir / "checkpoints").mkdir(parents=True)
        (run_dir / "checkpoints" / "last.ckpt").write_bytes(b"weights")
        if run_dir.name == "stopped":
            raise KilledError
        return trained.colour_bundle(run_dir / "bundle", train)

    bundle = without_checkpoints(fit)(home, home, np.random.default_rng(0), tmp_path / "whole")
    assert [entry.name for entry in (tmp_path / "whole").iterdir()] == ["bundle"]
    assert open_bundle(bundle.path).manifest == bundle.manifest
    with pytest.raises(KilledError):
        without_checkpoints(fit)(home, home, np.random.default_rng(0), tmp_path / "stopped")
    assert (tmp_path / "stopped" / "checkpoints" / "last.ckpt").is_file()


# ------------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def hemalens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("COLUMNS", "80")
    return Command(monkeypatch, capsys)


def _call(labs: Path, out: Path, *more: object, protocol: str = "fractions", method: str = "one") -> tuple[object, ...]:
    source = f"folder:{labs / 'home'}"
    return ("benchmark", "--methods", method, "--protocol", protocol, "--source", source, "--out", out, *more)


@pytest.mark.usefixtures("undrawn")
def test_the_command_takes_the_whole_plan(labs: Path, fits: Fits, tmp_path: Path, hemalens: Command) -> None:
    out = tmp_path / "run"
    call = _call(
        labs,
        out,
        *("--fractions", "1,0.25", "--seeds", "1", "--strict", "--selection", "published-selection", "--seed", "7"),
        *("--aux", f"first=folder:{labs / 'first'}"),
        method="one,with_first",
    )
    ended = hemalens(*call, "--json", "--quiet")
    assert (ended.code, ended.err) == (0, "")
    printed = Report.model_validate_json(ended.out)
    assert printed == read_report(out / "report.json")
    assert [curve.method for curve in printed.fractions] == ["one", "with_first"]
    for curve in printed.fractions:
        assert [(part.fraction, part.n_seeds) for part in curve.fractions] == [(1.0, 1), (0.25, 1)]
        assert curve.selection == "published-selection"
    assert printed.seed == 7
    assert [card.role for card in printed.data] == ["source", "auxiliary, first"]
    config = json.loads((out / "run.json").read_text())["request"]["asked"]["config"]
    assert config["fractions"] == {
        "fractions": [1.0, 0.25],
        "seeds": 1,
        "selection": "published-selection",
        "strict": True,
    }
    fits.given.clear()
    assert hemalens(*call, "--quiet").code == 0
    assert fits.given == [], "what is known is not run again"


@pytest.mark.usefixtures("undrawn")
def test_the_command_prints_a_table_and_where_the_report_lies(
    labs: Path, fits: Fits, tmp_path: Path, hemalens: Command
) -> None:
    out = tmp_path / "run"
    ended = hemalens(*_call(labs, out, "--target", f"folder:{labs / 'away'}", "--fractions", "1,0.5", "--seeds", "2"))
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert f"report: {out / 'report.html'}" in lines
    assert max(len(line) for line in lines if not line.startswith("report: ")) <= 80
    for curve in read_report(out / "report.json").fractions:
        assert f"{curve.target}: trained on fractions of the labels" in ended.out
        for scores in curve.fractions:
            assert f"{scores.balanced_accuracy.value:.3f}±{scores.balanced_accuracy.std:.3f}" in ended.out
    assert "class monocyte left out: not in the target" in ended.out
    assert "[1/1] one, home -> home, test part, away, fractions: done, " in ended.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fractions", "1,half"), "cannot read --fractions; expected numbers, as in 1,0.5,0.01; got '1,half'"),
        (("--fractions", ""), "cannot read --fractions"),
        (("--fractions", "50"), "a fraction is out of range; expected above 0, at most 1; got 50.0"),
        (("--fractions", "0"), "a fraction is out of range"),
        (("--fractions", "nan"), "cannot read --fractions"),
        (
            ("--fractions", "0.01", "--strict"),
            "0.01 of class 'neutrophil' is no image; expected at least 100 images; got 14",
        ),
        (("--aux", "first"), "cannot read --aux 'first'; expected ROLE=SPEC"),
        (("--aux", "frist=folder:x"), "with_first: no use for auxiliary data of the role 'frist'. did you mean 'first'?"),
        (("--aux", "first=folder:gone"), "there is no folder 'gone'"),
        (("--shots", "1,2"), "--shots does not apply to the protocol fractions. Leave it out, or use --protocol k-shot."),
        (("--support", "folder:x"), "--support does not apply to the protocol fractions"),
        (("--folds", "3"), "--folds does not apply to the protocol fractions"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(
    *, labs: Path, fits: Fits, tmp_path: Path, hemalens: Command, arguments: tuple[str, ...], message: str
) -> None:
    ended = hemalens(*_call(labs, tmp_path / "run", *arguments, method="with_first"))
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.error
    _refused(fits, tmp_path / "run")


@pytest.mark.parametrize("protocol", ["k-fold", "cross-domain", "k-shot"])
@pytest.mark.parametrize("options", [("--fractions", "1,0.5"), ("--strict",), ("--selection", "published-selection")])
def test_the_options_of_fractions_belong_to_no_other_protocol(
    *, labs: Path, fits: Fits, tmp_path: Path, hemalens: Command, protocol: str, options: tuple[str, ...]
) -> None:
    call = _call(labs, tmp_path / "run", "--target", f"folder:{labs / 'away'}", *options, protocol=protocol)
    more = ("--shots", "1") if protocol == "k-shot" else ()
    ended = hemalens(*call, *more)
    assert (ended.code, ended.out) == (2, "")
    assert (
        f"{options[0]} does not apply to the protocol {protocol}. Leave it out, or use --protocol fractions." in ended.error
    )
    _refused(fits, tmp_path / "run")


def test_a_role_that_a_method_needs_is_asked_for(
    labs: Path, tmp_path: Path, hemalens: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    needy = replace(trained.stub_method(), name="needy", roles=(replace(FIRST, required=True),))
    monkeypatch.setattr("hemalens.benchmark.config.find_method", lambda name: needy)
    ended = hemalens(*_call(labs, tmp_path / "run", method="needy"))
    assert ended.code == 2
    assert "needs labelled images" in ended.error
    assert "--aux first=SPEC" in ended.error
    assert not (tmp_path / "run").exists()


def test_a_target_of_other_classes_is_refused(labs: Path, fits: Fits, tmp_path: Path) -> None:
    strange = colour_cells(tmp_path / "strange", {"basophil": (90, 90, 90), "eosinophil": (200, 90, 90)}, 3, seed=4)
    with pytest.raises(DatasetError, match=r"strange shares too few classes with the model; expected at least two of"):
        benchmark(
            ["one"],
            f"folder:{labs / 'home'}",
            target_specs=[f"folder:{strange}"],
            protocol="fractions",
            out=tmp_path / "run",
            plan=SMALL,
        )
