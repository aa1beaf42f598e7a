"""The help of every command: short, in a sensible order, with examples that parse."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from command import Command
from hemalens.cli.main import app
from hemalens.datasets import READERS
from hemalens.datasets.fields.readers import FIELD_READERS
from hemalens.methods import METHODS, SEGMENTERS

Words = tuple[str, ...]

ROOT: Any = typer.main.get_command(app)
ORDER = (
    "quickstart",
    "train",
    "predict",
    "count",
    "evaluate",
    "adapt",
    "suggest",
    "compare",
    "segment",
    "quantize",
    "benchmark",
    "study",
    "data",
)
LONG = ("benchmark",)
"""Commands whose help may have more than `MOST_LINES` lines."""
MOST_LINES = 45


def _commands(command: Any = ROOT, path: Words = ()) -> Iterator[tuple[Words, Any]]:
    """All commands and groups with their words, the root first."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, (*path, name))


COMMANDS = dict(_commands())


def _examples(command: Any) -> list[str]:
    """The lines of a docstring that begin with `hemalens `, continued lines joined."""
    text = (command.help or "").replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines() if line.strip().startswith("hemalens ")]


EXAMPLES = [example for command in COMMANDS.values() for example in _examples(command)]


def _parse(words: list[str]) -> Any:
    """The context of the command that the words name; raises a usage error as the command line does."""
    command, path = ROOT, "hemalens"
    while hasattr(command, "commands"):
        name, *words = words
        assert name in command.commands, f"unknown command {name}"
        command, path = command.commands[name], f"{path} {name}"
    return command.make_context(path, words)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("COLUMNS", "80")
    return Command(monkeypatch, capsys)


def test_commands_come_in_the_order_of_use(command: Command) -> None:
    printed = command("--help").out
    assert tuple(ROOT.commands) == ORDER
    assert re.findall(rf"^│ ({'|'.join(ORDER)}) ", printed, re.M) == list(ORDER)


def test_each_command_has_one_line_in_the_list(command: Command) -> None:
    rows = [line for line in command("--help").out.splitlines() if line.startswith("│ ")]
    # and a line each for --version and --help
    assert len(rows) == len(ORDER) + 2


@pytest.mark.parametrize("path", [path for path in COMMANDS if path[:1] not in [(name,) for name in LONG]], ids=" ".join)
def test_help_is_short(path: Words, command: Command) -> None:
    lines = command(*path, "--help").out.strip().splitlines()
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= 80


def test_options_show_no_range_and_flags_no_type(command: Command) -> None:
    printed = command("train", "--help").out
    assert "<=" not in printed
    assert re.search(r"^│ --quiet +-q +No progress", printed, re.M)
    assert re.search(r"^│ --seed +N +Random seed. Default: 0.", printed, re.M)
    assert re.search(r"^│ --out +-o +PATH +Where the results go. Required.", printed, re.M)
    assert "Default: all cores." in command("benchmark", "--help").out


def test_an_error_states_the_range_of_an_option(command: Command) -> None:
    ended = command("train", "linear_probe", "--train", "folder:cells", "--out", "net", "--test-fraction", "7")
    assert ended.code == 2
    assert "--test-fraction" in ended.error
    assert "less than or equal to 0.9" in ended.error


@pytest.mark.parametrize("verb", ORDER)
def test_every_verb_has_an_example(verb: str) -> None:
    assert [example for example in EXAMPLES if example.split()[1] == verb], f"the docstring of {verb} has no example"


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_parses_and_names_what_exists(example: str) -> None:
    words = shlex.split(example)[1:]
    context = _parse(list(words))
    for word in words:
        reader = re.fullmatch(r"(?:[a-z_0-9]+=)?([a-z_0-9]+):.+", word)
        assert reader is None or reader[1] in {*READERS, *FIELD_READERS}, word
    if words[0] == "train":
        assert context.params["method"] in {*METHODS, *SEGMENTERS}


@pytest.mark.parametrize("path", [path for path in COMMANDS if len(path) == 2 and path[0] == "data"], ids=" ".join)
def test_the_examples_of_a_data_command_are_its_own(path: Words) -> None:
    examples = _examples(COMMANDS[path])
    assert examples
    assert {tuple(example.split()[1:3]) for example in examples} == {path}


@pytest.mark.parametrize(
    ("words", "message"),
    [(["nonsense"], "nonsense"), (["train", "linear_probe", "--nonsense"], "--nonsense"), (["predict", "--out"], "--out")],
)
def test_a_wrong_example_would_be_noticed(words: list[str], message: str) -> None:
    # a usage error of typer's own copy of click
    with pytest.raises(Exception, match=message):
        _parse(words)
