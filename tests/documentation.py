"""The documentation as data: its pages, their code blocks, their prose, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
PAGES = (REPOSITORY / "README.md", *sorted(DOCS.rglob("*.md")))
MARK = "<!-- test -->"
"""On the line before a block that is run, in the order of the page."""
FENCE = re.compile(rf"^(?P<mark>{re.escape(MARK)}\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, its language ("" for none), its text, whether it is run."""

    page: str
    line: int
    language: str
    text: str
    is_run: bool

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command line, continued lines as one; of a Python block none."""
        if self.language not in ("", "bash"):
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        return [shlex.split(line, comments=True) for line in lines if line.startswith(("hemalens ", "python benchmarks/"))]


def name_of(page: Path) -> str:
    """The path of a page in the repository, as in docs/glossary.md."""
    return page.relative_to(REPOSITORY).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, from top to bottom."""
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(name_of(page), line, found["language"], found["text"], found["mark"] is not None)


def inline_commands(page: Path) -> list[list[str]]:
    """The words of each command in a sentence or a table, between backticks."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return [shlex.split(command) for command in re.findall(r"(?<!`)`(hemalens [^`]+)`(?!`)", text)]


def prose(page: Path) -> str:
    """The text of a page without code, comments, and the addresses of links and pictures."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    text = re.sub(r"<!--.*?-->|`[^`\n]*`", "", text, flags=re.S)
    return re.sub(r"\]\([^)]*\)", "]", text)


def flat(text: str) -> str:
    """A text on one line, without what Markdown adds to it."""
    plain = text.replace("&lt;", "<").replace("&gt;", ">").replace("\\", "")
    return " ".join(plain.split())
