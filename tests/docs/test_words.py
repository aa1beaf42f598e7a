"""The documentation and the command line use plain words and short sentences."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from documentation import DOCS, PAGES, REPOSITORY, name_of, prose
from hemalens.cli.main import app
from hemalens.studies import STUDIES, describe_study

WORDS: dict[str, str] = tomllib.loads((DOCS / "words.toml").read_text(encoding="utf-8"))
LONGEST_SENTENCE = 30
TEXTS = (*PAGES, REPOSITORY / "CHANGELOG.md")


def _old_words(text: str) -> list[str]:
    """The old words of a text, each with its plain form."""
    return [f"{found[0]!r}: {plain}" for old, plain in WORDS.items() for found in re.finditer(old, text, re.I)]


def _sentences(page: Path) -> Iterator[str]:
    """The sentences of a page's paragraphs and lists; tables, titles and code are left out."""
    lines = [line for line in prose(page).splitlines() if not line.lstrip().startswith(("|", "#", "!", ":::"))]
    for paragraph in re.split(r"\n\s*\n|\n\s*(?:-|\d+\.) ", "\n" + "\n".join(lines)):
        yield from re.split(r"(?<=[.:;?!])\**\s+", " ".join(paragraph.split()))


def _texts(command: Any) -> Iterator[str]:
    """All that the help of a command and of those below it shows."""
    yield command.help or ""
    yield command.epilog or ""
    for parameter in command.params:
        yield getattr(parameter, "help", None) or ""
    for inner in getattr(command, "commands", {}).values():
        yield from _texts(inner)


COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_the_list_finds_mannered_words_and_spares_ordinary_ones() -> None:
    assert len(_old_words("It is told what an answer leans on, at home and abroad.")) == 5
    assert _old_words("The weights are used to embed images; home.npz holds the reference. Use --beside imagenet.") == []


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_pages_use_plain_words(page: Path) -> None:
    assert _old_words(prose(page)) == []


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_sentences_are_short(page: Path) -> None:
    assert [s for s in _sentences(page) if len(s.split()) > LONGEST_SENTENCE] == []


@pytest.mark.parametrize("name", STUDIES)
def test_the_texts_of_a_study_use_plain_words(name: str) -> None:
    study = describe_study(name)
    texts = (
        study.summary,
        study.main_result,
        *study.needs.values(),
        *study.differences,
        *(role.what for role in study.roles),
    )
    assert [word for text in texts for word in _old_words(text)] == []


@pytest.mark.parametrize("verb", sorted(COMMANDS))
def test_the_help_of_a_command_uses_plain_words(verb: str) -> None:
    assert [word for text in _texts(COMMANDS[verb]) for word in _old_words(text)] == []
