"""What errors tell the user to do works: each remedy of this table is run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import trained
from command import Command
from hemalens.datasets import open_dataset
from remedies import named_commands, named_options, with_option
from trained import Colour, colour_cells

pytestmark = pytest.mark.usefixtures("undrawn")
COLOURS: dict[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}
Make = Callable[[Path], Sequence[object]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = colour_cells(tmp_path_factory.mktemp("home") / "cells", COLOURS, 6, seed=0)
    return trained.colour_bundle(home.parent / "bundle", open_dataset(f"folder:{home}")).path


@pytest.fixture
def place(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a bundle and labelled cells of another laboratory; `train stub` takes no time."""
    shutil.copytree(bundle, tmp_path / "bundle")
    colour_cells(tmp_path / "cells", COLOURS, 6, seed=1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hemalens.runs.train.find_method", lambda name: trained.stub_method())
    return tmp_path


@pytest.fixture
def hemalens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def _train(*more: object) -> tuple[object, ...]:
    return ("train", "stub", "--train", "folder:cells", "--out", "run", *more)


def _folders_by_date(place: Path) -> Sequence[object]:
    for i, name in enumerate(("neutrophil", "lymphocyte", "monocyte"), start=1):
        (place / "cells" / name).rename(place / "cells" / f"2024-03-0{i} (alt)")
    return _train()


def _no_class_folders(place: Path) -> Sequence[object]:
    for image in sorted((place / "cells").rglob("*.png")):
        image.rename(place / "cells" / image.name)
    for name in COLOURS:
        (place / "cells" / name).rmdir()
    return _train()


def _unknown_label(place: Path) -> Sequence[object]:
    (place / "cells" / "monocyte").rename(place / "cells" / "Pro-B")
    return _train("--strict")


def _existing(place: Path) -> Sequence[object]:
    (place / "out.csv").write_text("path,label,probability,abstained\n")
    return ("predict", "bundle", "cells", "--out", "out.csv")


def _elsewhere(place: Path) -> Sequence[object]:
    (place / "my lists").mkdir()
    return ("suggest", "bundle", "cells", "--n", 2, "--out", "my lists/a b.csv")


def _unreadable(place: Path) -> Sequence[object]:
    (place / "cells" / "neutrophil" / "broken.png").write_bytes(b"no image")
    return _train()


def _one_image(place: Path) -> Sequence[object]:
    for image in sorted((place / "cells" / "monocyte").iterdir())[1:]:
        image.unlink()
    return _train()


def _new_label(place: Path) -> Sequence[object]:
    (place / "cells" / "monocyte").rename(place / "cells" / "my own type")
    return ("adapt", "bundle", "--support", "folder:cells", "--out", "adapted")


def _seen(place: Path) -> Sequence[object]:
    home = colour_cells(place / "home", COLOURS, 6, seed=0)
    for image in home.rglob("*.png"):
        shutil.copy(image, place / "cells" / image.parent.name / f"seen {image.name}")
    return ("evaluate", "bundle", "--data", "folder:cells", "--out", "tested", "--explain", "none")


def _unknown_reader(place: Path) -> Sequence[object]:
    return ("data", "audit", "xyz:cells")


OPTIONS: dict[str, tuple[Make, list[str]]] = {
    "folders by date as classes": (_folders_by_date, ["--labels", "as_labelled"]),
    "an unknown label as it is": (_unknown_label, ["--labels", "as_labelled"]),
    "an existing output": (_existing, ["--overwrite"]),
    "unreadable images": (_unreadable, ["--drop-unreadable"]),
    "a class of one image": (_one_image, ["--min-per-class", "3"]),
    "a new label": (_new_label, ["--allow-new"]),
    "images seen in training": (_seen, ["--drop-seen"]),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_the_option_that_an_error_names_helps(place: Path, hemalens: Command, case: str) -> None:
    make, option = OPTIONS[case]
    arguments = make(place)
    ended = hemalens(*arguments)
    assert ended.code == 2
    assert any(named[: len(option)] == option for named in named_options(ended.error)), ended.error
    again = hemalens(*with_option(arguments, option))
    assert again.code == 0, again.err


@dataclass(frozen=True)
class Named:
    """A failing command and the commands that its error names."""

    make: Make
    commands: tuple[str, ...]


COMMANDS = {
    "folders by date": Named(_folders_by_date, ("predict", "suggest")),
    "images without class folders": Named(_no_class_folders, ("predict", "suggest")),
    "an unknown label": Named(_unknown_label, ("data",)),
    "an unknown reader": Named(_unknown_reader, ("data",)),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_the_commands_that_an_error_names_run(
    place: Path, hemalens: Command, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr("hemalens.bundle.default_model.default_model_path", lambda: place / "bundle")
    ended = hemalens(*COMMANDS[case].make(place))
    assert ended.code == 2
    named = named_commands(ended.error)
    assert tuple(arguments[0] for arguments in named) == COMMANDS[case].commands, ended.error
    for arguments in named:
        again = hemalens(*arguments)
        assert again.code == 0, again.err


def test_the_place_that_suggest_names_is_taken(place: Path, hemalens: Command) -> None:
    arguments = _elsewhere(place)
    ended = hemalens(*arguments)
    (option,) = [option for option in named_options(ended.error) if option[0] == "--out"]
    assert hemalens(*with_option(arguments, option)).code == 0
    assert (place / "cells" / "a b.csv").is_file()


def test_the_command_that_suggest_prints_adapts_once_labels_are_filled_in(place: Path, hemalens: Command) -> None:
    (place / "cells").rename(place / "my cells; (new)")
    ended = hemalens(
        "suggest", "bundle", "my cells; (new)", "--n", 9, "--strategy", "even", "--out", "my cells; (new)/a.csv"
    )
    table = place / "my cells; (new)" / "a.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    table.write_text("\n".join(line.replace(",,", f",{line.split('/')[0]},", 1) for line in lines), encoding="utf-8")
    (arguments,) = named_commands(ended.out.replace("then: ", ": "))
    assert hemalens(*arguments).code == 0


def test_the_wording_of_a_reader_that_is_missing_is_a_dataset(place: Path, hemalens: Command) -> None:
    ended = hemalens("data", "audit", "cells")
    assert hemalens("data", "audit", ended.error.rpartition(" ")[2]).code == 0
