"""What mkdocs does with a page before it is drawn: a section of the README takes the place of its mark."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

README = Path(__file__).resolve().parents[1] / "README.md"
MARK = re.compile(r"^<!-- README: (.+) -->$", re.MULTILINE)


def section(heading: str) -> str:
    """The text below a heading of the README up to the next of its rank: headings one rank up, links as seen from here."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", README.read_text(encoding="utf-8"), re.M | re.S)
    if found is None:
        raise ValueError(f"the README has no section {heading!r}")
    text = re.sub(r"^###(?=#* )", "##", found[1], flags=re.M)
    return text.replace("](docs/", "](").replace("[docs/", "[").strip()


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with the README's sections in place of their marks."""
    return MARK.sub(lambda mark: section(mark[1]), markdown)
