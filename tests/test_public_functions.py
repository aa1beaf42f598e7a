"""The contract of the public functions: paths as texts or paths, opened bundles, and arguments checked at the door."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import hemalens
import trained
from hemalens.benchmark.run import benchmark as run_benchmark
from hemalens.bundle.bundle import Bundle
from hemalens.errors import HemalensError, InputError

COLOURS = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200)}
AWAY = {"neutrophil": (220, 90, 90), "lymphocyte": (90, 90, 220)}


@dataclass(frozen=True)
class Door:
    """A public function: valid arguments in a place, which of them are paths, and what it makes of `out`."""

    function: Callable[..., Any]
    valid: Callable[[Path, Bundle], dict[str, Any]]
    paths: tuple[str, ...]
    runs: bool = True
    """Whether the valid call takes no time."""


def _cells(place: Path, seed: int = 7) -> Path:
    return place / f"cells {seed}" if (place / f"cells {seed}").exists() else _drawn(place / f"cells {seed}", seed)


def _drawn(folder: Path, seed: int) -> Path:
    return trained.colour_cells(folder, AWAY, 4, seed=seed)


def _benchmark() -> Any:
    return hemalens.BenchmarkConfig(methods=("linear_probe",), sources=("folder:nowhere",))


DOORS: Mapping[str, Door] = {
    "open_bundle": Door(hemalens.open_bundle, lambda place, bundle: {"path": bundle.path}, ("path",)),
    "open_dataset": Door(hemalens.open_dataset, lambda place, bundle: {"spec": f"folder:{_cells(place)}"}, ("spec",)),
    "predict": Door(
        hemalens.predict,
        lambda place, bundle: {"bundle": bundle.path, "source": _cells(place), "out": place / "a.csv", "overwrite": True},
        ("bundle", "source", "out"),
    ),
    "count": Door(
        hemalens.count,
        lambda place, bundle: {"bundle": bundle.path, "fields": _cells(place), "out": place / "counted", "overwrite": True},
        ("bundle", "fields", "out", "detector"),
        runs=False,
    ),
    "evaluate": Door(
        hemalens.evaluate,
        lambda place, bundle: {
            "bundle": bundle.path,
            "data": f"folder:{_cells(place)}",
            "out": place / "report",
            "overwrite": True,
            "options": hemalens.EvaluateOptions(explain="none"),
        },
        ("bundle", "data", "out"),
    ),
    "adapt": Door(
        hemalens.adapt,
        lambda place, bundle: {
            "bundle": bundle.path,
            "support": f"folder:{_cells(place)}",
            "out": place / "adapted",
            "overwrite": True,
            "options": hemalens.AdaptOptions(few_shot=["rule=prototype"]),
        },
        ("bundle", "support", "unlabelled", "out"),
    ),
    "suggest": Door(
        hemalens.suggest,
        lambda place, bundle: {
            "bundle": bundle.path,
            "source": _cells(place),
            "out": place / "todo.csv",
            "overwrite": True,
            "options": hemalens.SuggestOptions(n=2),
        },
        ("bundle", "source", "out"),
    ),
    "segment": Door(
        hemalens.segment,
        lambda place, bundle: {
            "segmenter": "classical",
            "source": _cells(place),
            "out": place / "masks",
            "overwrite": True,
        },
        ("segmenter", "source", "out"),
    ),
    "quantize": Door(
        hemalens.quantize,
        lambda place, bundle: {
            "bundle": bundle.path,
            "calibration": f"folder:{_cells(place)}",
            "out": place / "small",
            "overwrite": True,
        },
        ("bundle", "calibration", "out"),
        runs=False,
    ),
    "train": Door(
        hemalens.train,
        lambda place, bundle: {"method_name": "stub", "train_specs": f"folder:{_cells(place)}", "out": place / "run"},
        ("train_specs", "out"),
    ),
    "benchmark": Door(
        run_benchmark, lambda place, bundle: {"config": _benchmark(), "out": place / "b"}, ("out",), runs=False
    ),
    "run_study": Door(
        hemalens.run_study,
        lambda place, bundle: {"name": "bloodshot", "data": {"target": f"folder:{_cells(place)}"}, "out": place / "s"},
        ("out",),
        runs=False,
    ),
}
PATHS = [pytest.param(door, name, id=f"{function}: {name}") for function, door in DOORS.items() for name in door.paths]
OPTIONS = ("AdaptOptions", "CountOptions", "EvaluateOptions", "QuantizeOptions", "SuggestOptions", "TrainOptions")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("public functions")
    home = trained.colour_cells(folder / "home", COLOURS, 6, seed=1)
    return trained.colour_bundle(folder / "bundle", hemalens.open_dataset(f"folder:{home}"))


@pytest.fixture(autouse=True)
def _stub(monkeypatch: pytest.MonkeyPatch, undrawn: None) -> None:
    monkeypatch.setattr("hemalens.runs.train.find_method", lambda name: trained.stub_method())


def test_every_public_function_has_a_door() -> None:
    public = {name: getattr(hemalens, name) for name in hemalens.__all__}
    functions = {name for name, value in public.items() if callable(value) and not inspect.isclass(value)}
    assert functions - {"default_model_path"} == set(DOORS)
    for name, door in DOORS.items():
        typed = inspect.signature(door.function).parameters
        paths = {p for p, what in typed.items() if re.search("PathLike|BundleLike", str(what.annotation))}
        assert paths - {"data"} == set(door.paths) - {"data"}, name


@pytest.mark.parametrize(
    "bad", [3, None, "", b"x", "a\x00b", object()], ids=["int", "None", "empty", "bytes", "NUL", "object"]
)
@pytest.mark.parametrize(("door", "name"), PATHS)
def test_what_is_no_path_is_refused(door: Door, name: str, bad: object, bundle: Bundle, tmp_path: Path) -> None:
    given = door.valid(tmp_path, bundle)
    if bad is None and name == "detector":
        pytest.skip("without a detector it is the package's")
    if bad is None and name in ("support", "unlabelled"):
        given = {key: value for key, value in given.items() if key != "support"}
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(HemalensError) as refused:
        door.function(**{**given, name: bad})
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("function", [name for name, door in DOORS.items() if door.runs])
def test_a_path_and_its_text_are_one(function: str, bundle: Bundle, tmp_path: Path) -> None:
    door = DOORS[function]
    given = door.valid(tmp_path, bundle)
    for kind in (str, Path):
        paths = {name: kind(given[name]) for name in door.paths if name in given}
        if function == "train":
            paths["out"] = kind(tmp_path / f"run of {kind.__name__}")
        assert door.function(**{**given, **paths}) is not None
    if "bundle" in given:
        assert door.function(**{**given, "bundle": bundle}) is not None


@pytest.mark.parametrize("name", ["seed", "overwrite", "say", "options"])
@pytest.mark.parametrize("function", DOORS)
def test_other_arguments_are_checked_too(function: str, name: str, bundle: Bundle, tmp_path: Path) -> None:
    door = DOORS[function]
    if name not in inspect.signature(door.function).parameters:
        pytest.skip(f"{function} has no {name}")
    bad: dict[str, list[object]] = {"seed": [-1, 2**70, 1.5, "x", True], "overwrite": ["yes", 1], "say": ["x"]}
    for value in bad.get(name, ["x", 3, None]):
        with pytest.raises(InputError):
            door.function(**{**door.valid(tmp_path, bundle), name: value})


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_another_type_are_refused(name: str, bundle: Bundle, tmp_path: Path) -> None:
    kind = getattr(hemalens, name)
    door = next(d for d in DOORS.values() if f"options: '{name}'" in str(inspect.signature(d.function)))
    given = door.valid(tmp_path, bundle)
    for field in fields(kind):
        for value in (object(), float("nan"), {"a": 1}):
            with pytest.raises(InputError, match=rf"the option {field.name} of {name} is not valid"):
                door.function(**{**given, "options": kind(**{field.name: value})})


@pytest.mark.parametrize(
    ("function", "more"),
    [
        ("predict", {"abstain_below": 2}),
        ("predict", {"abstain_below": float("nan")}),
        ("predict", {"coverage": 2}),
        ("predict", {"coverage": "x"}),
        ("predict", {"coverage": float("nan")}),
        ("predict", {"embeddings": "x"}),
        ("count", {"options": hemalens.CountOptions(white_count=7200)}),
        ("count", {"options": hemalens.CountOptions(n_workers=0)}),
        ("count", {"options": hemalens.CountOptions(most_overlays=-1)}),
        ("count", {"options": hemalens.CountOptions(target=0)}),
        ("count", {"options": hemalens.CountOptions(settings=("x=1",))}),
        ("segment", {"config": "x"}),
        ("quantize", {"precision": "int4"}),
        ("train", {"method_name": 3}),
        ("train", {"settings": "epochs=3"}),
        ("train", {"train_specs": []}),
        ("train", {"train_specs": [3]}),
        ("benchmark", {"config": {"methods": []}}),
        ("benchmark", {"n_workers": 0}),
        ("run_study", {"name": 3}),
        ("run_study", {"data": "folder:x"}),
        ("run_study", {"data": {"target": 3}}),
        ("run_study", {"published_only": "yes"}),
        ("open_dataset", {"labels": 3}),
        ("evaluate", {"options": hemalens.EvaluateOptions(explain="saliency")}),
        ("suggest", {"options": hemalens.SuggestOptions(n=0)}),
        ("adapt", {"options": hemalens.AdaptOptions(few_shot="rule=base")}),
    ],
    ids=str,
)
def test_values_that_cannot_be_are_refused(function: str, more: dict[str, Any], bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        DOORS[function].function(**{**DOORS[function].valid(tmp_path, bundle), **more})


def test_notebooks_complete_every_public_name() -> None:
    assert set(hemalens.__all__) <= set(dir(hemalens))


def test_what_a_console_shows_of_a_dataset_and_a_predictor_is_one_short_line(bundle: Bundle, tmp_path: Path) -> None:
    cells = tmp_path / "cells"
    for kind in ("lymphocyte", "neutrophil"):
        (cells / kind).mkdir(parents=True)
        for number in range(30):
            Image.new("RGB", (20, 20), (number, 0, 0)).save(cells / kind / f"{number}.png")
    shown = repr(hemalens.open_dataset(f"folder:{cells}"))
    assert "60 images" in shown
    assert "neutrophil" in shown
    assert len(shown) < 200
    assert repr(hemalens.Predictor(bundle)).startswith(f"Predictor({str(bundle.path)!r}")


def test_benchmark_is_a_function_though_a_room_has_its_name(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(InputError, match="this is no benchmark; expected BenchmarkConfig"):
            hemalens.benchmark("x", out=tmp_path / "b")


def test_a_folder_without_a_reader_has_a_hint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"For one folder a class: folder:{tmp_path}"):
        hemalens.open_dataset(tmp_path)


def test_options_take_paths_and_texts(bundle: Bundle, tmp_path: Path) -> None:
    cells = _cells(tmp_path)
    for number, kind in enumerate((str, Path)):
        options = hemalens.SuggestOptions(n=2, sheet=kind(tmp_path / f"sheet {number}.png"))
        out = tmp_path / f"todo {number}.csv"
        assert len(hemalens.suggest(bundle, cells, out=out, options=options)) == 2
        assert os.path.isfile(tmp_path / f"sheet {number}.png")
        settings = hemalens.TrainOptions(
            validation_spec=kind(f"folder:{_cells(tmp_path, 8)}"), config_file=kind(tmp_path / "settings.toml")
        )
        (tmp_path / "settings.toml").write_text("scale = 20.0\n")
        run = hemalens.train("stub", f"folder:{cells}", out=tmp_path / f"run {number}", options=settings)
        assert "20.0" in str(run.methods)
        assert run._repr_html_().startswith("<table>")
