"""The commands and programs of the documentation: the tutorial runs, and every other command is valid."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import trained
from command import Command
from documentation import DOCS, PAGES, REPOSITORY, Block, blocks, inline_commands, name_of
from hemalens.benchmark.config import BenchmarkConfig
from hemalens.benchmark.detectors import DETECTOR
from hemalens.bundle.detector import FOLDER
from hemalens.cli.main import app
from hemalens.datasets import READERS
from hemalens.datasets.fields.readers import FIELD_READERS
from hemalens.differential.rules import CountRules, load_rules
from hemalens.methods import DETECTORS, METHODS, SEGMENTERS, find_method
from hemalens.report import read_report
from hemalens.studies import describe_study
from hemalens.taxonomy import label_map_names

FIRST, DIFFERENTIAL = (DOCS / "tutorials" / name for name in ("first-model.md", "differential.md"))
SPEC = re.compile(r"(?:\w+=)?(\w+):.+")
FIGURE = re.compile(r"linear_probe: lab_a.*?\s([0-9]+) +(0\.[0-9]{3}) ")
"""A row of results as the terminal shows it: how many images, balanced accuracy."""
TINY = (
    ("--n-per-class 40", "--n-per-class 6"),
    ("[:10]", "[:3]"),
    ("train linear_probe", "train linear_probe " + " ".join(f"--set {s}" for s in trained.settings(trained.PROBE))),
)
"""What is small in the fast run of a tutorial."""
FEW_FIELDS = (
    ("--set n_fields=12", "--set n_fields=3 --set width_px=320 --set height_px=240"),
    ("white_cells=9", "white_cells=4"),
)
ALL = [block for page in PAGES for block in blocks(page)]


def _name(block: Block) -> str:
    return f"{block.page}:{block.line}"


Changes = tuple[tuple[str, str], ...]
"""Texts of a page, each with what stands in its place."""


@pytest.fixture
def tutorial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Path, Changes], str]:
    """Runs the marked blocks of a tutorial in an empty folder, with changes to their text; gives all that was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    command = Command(monkeypatch, capsys)

    def run(page: Path, changes: Changes) -> str:
        assert [old for old, _ in changes if old not in page.read_text()] == []
        printed = []
        for block in (block for block in blocks(page) if block.is_run):
            text = block.text
            for old, new in changes:
                text = text.replace(old, new)
            changed = Block(block.page, block.line, block.language, text, True)
            if block.language == "python":
                exec(compile(text, _name(block), "exec"), {"__name__": "__main__"})
            for words in changed.commands:
                ended = command(*words[1:])
                assert ended.code == 0, f"{_name(block)}: {ended.error}"
                printed.append(ended.out)
        return "\n".join(printed)

    return run


def test_the_first_tutorial_runs_from_top_to_bottom(
    tutorial: Callable[[Path, Changes], str], undrawn: None, tmp_path: Path
) -> None:
    printed = tutorial(FIRST, TINY)
    assert [int(n) for n, _ in FIGURE.findall(printed)] == [8, 48, 24]
    assert len((tmp_path / "tutorial" / "predictions.csv").read_text().splitlines()) == 1 + 48
    assert (tmp_path / "tutorial" / "second" / "report.html").is_file()


def test_the_tutorial_on_fields_runs_from_top_to_bottom(
    tutorial: Callable[[Path, Changes], str], undrawn: None, tmp_path: Path
) -> None:
    if not FOLDER.is_dir():
        pytest.skip("this installation has no detector")
    printed = tutorial(DIFFERENTIAL, (*TINY, *FEW_FIELDS))
    counts = [read_report(tmp_path / "smears" / name / "report.json").slides[0] for name in ("before", "after")]
    assert [slide.n_fields for slide in counts] == [3, 3]
    assert all(slide.total > 0 for slide in counts)
    assert printed.count(" white cells on 3 field(s)") == 2
    (corrected,) = read_report(tmp_path / "smears" / "reviewed" / "report.json").slides
    assert 0 < corrected.n_reviewed <= min(40, counts[1].total)
    assert [each.share for each in corrected.types if each.count] == [each.share for each in counts[1].types if each.count]
    assert f"{corrected.total} white cells, {corrected.n_reviewed} reviewed" in printed


@pytest.mark.slow
def test_the_first_tutorial_gives_the_figures_that_it_shows(tutorial: Callable[[Path, Changes], str]) -> None:
    shown, found = FIGURE.findall(FIRST.read_text()), FIGURE.findall(tutorial(FIRST, ()))
    assert [n for n, _ in shown] == [n for n, _ in found]
    assert len(shown) == 3
    # another processor rounds otherwise
    assert [float(value) for _, value in found] == pytest.approx([float(value) for _, value in shown], abs=0.05)


def _leaf(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and the words behind its name."""
    command: Any = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"there is no command {rest[0]!r} in {' '.join(words)}"
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


def _options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


def _check_names(words: list[str], given: dict[str, Any]) -> None:
    """Names in options exist: readers, label maps, methods and their settings, roles of studies."""
    for key in ("data", "source", "target", "support", "calibrate", "images", "validation", "spec", "auxiliary"):
        for text in _strings(given.get(key)):
            if found := SPEC.fullmatch(text):
                assert found[1] in {*READERS, *FIELD_READERS}, text
    assert given.get("labels") in (*label_map_names(), None)
    if words[1] == "train":
        method, weights = given["method"], given.get("weights")
        assert method in {**METHODS, **SEGMENTERS, **DETECTORS}
        settings = [*(given["settings"] or []), *([f"weights={weights}"] if weights else [])]
        if method in METHODS:
            find_method(method).config.load(None, settings)
    if words[1] == "benchmark" and given.get("methods"):
        methods = given["methods"].split(",")
        assert set(methods) <= {*METHODS, DETECTOR}
        for setting in given["settings"] or []:
            name, _, rest = setting.partition(".")
            if name in methods:
                find_method(name).config.load(None, [rest])
    if words[1] == "study" and words[2] != "list":
        roles: dict[str, list[str]] = {}
        for text in given["data"]:
            role, _, spec = text.partition("=")
            roles.setdefault(role, []).append(spec)
        describe_study(words[2]).check_roles(roles)


@pytest.mark.parametrize("block", [block for block in ALL if block.commands], ids=_name)
def test_every_command_shown_is_valid(block: Block) -> None:
    for words in block.commands:
        if words[0] == "python":
            assert (REPOSITORY / words[1]).is_file(), " ".join(words)
            continue
        command, rest = _leaf(words)
        if {"--help", "-h", "--version"} & set(rest):
            assert {word for word in rest if word.startswith("-")} <= _options(command), " ".join(words)
            continue
        context = command.make_context("hemalens", list(rest))
        _check_names(words, context.params)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_in_a_sentence_exists(page: Path) -> None:
    for words in inline_commands(page):
        command, rest = _leaf([word for word in words if word != "..."])
        options = {word.partition("=")[0] for word in rest if word.startswith("-")}
        assert options <= _options(command) | {"--help"}, " ".join(words)


@pytest.mark.parametrize("block", [block for block in ALL if block.language == "python"], ids=_name)
def test_every_program_shown_uses_what_is_there(block: Block) -> None:
    tree = ast.parse(block.text, _name(block))
    ours: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "hemalens":
            module = importlib.import_module(node.module or "")
            ours |= {alias.name: getattr(module, alias.name) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ours:
            keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
            inspect.signature(ours[node.func.id]).bind(*node.args, **keywords)


def test_yaml_is_a_benchmark_that_can_be_run(tmp_path: Path) -> None:
    # candidates.yaml belongs to tools/choose_defaults.py, whose tests read it
    files = [file for file in DOCS.rglob("*.yaml") if file.name != "candidates.yaml"]
    texts = [block.text for block in ALL if block.language == "yaml"] + [file.read_text() for file in files]
    assert len(texts) > 1
    for text in texts:
        (tmp_path / "benchmark.yaml").write_text(text)
        config = BenchmarkConfig.read(tmp_path / "benchmark.yaml")
        config.check()
        assert config.entries()
        assert {spec.split(":")[0] for spec in (*config.sources, *config.targets)} <= set(READERS)


def test_toml_is_a_file_of_rules(tmp_path: Path) -> None:
    texts = [block.text for block in ALL if block.language == "toml"]
    assert texts
    for text in texts:
        (tmp_path / "rules.toml").write_text(text)
        assert load_rules(tmp_path / "rules.toml") != CountRules()


def test_the_languages_are_those_that_are_read() -> None:
    assert {block.language for block in ALL} <= {"", "bash", "python", "toml", "yaml"}
    assert {b.page for b in ALL if b.is_run} == {name_of(FIRST), name_of(DIFFERENTIAL)}
    fences = {name_of(page): page.read_text().count("\n```") for page in PAGES}
    assert {name: 2 * sum(b.page == name for b in ALL) for name in fences} == fences
