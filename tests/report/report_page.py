"""A report's HTML as a test reads it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

HOSTILE = "<script>alert(1)</script>\n| a | b | \"'> & $x_1$ `c` {{ 7*7 }} \u202egnp"
THREE_DECIMALS = re.compile(r"(?<![\d.])-?\d+\.\d{3}(?![\d.])")


def numbers(value: Any) -> set[str]:
    """Every number of a report with three decimals, and chance: one over the number of tested classes."""
    if isinstance(value, float):
        return {f"{value:.3f}"}
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    tested = (value.get("tested_classes") or value.get("classes")) if isinstance(value, dict) else None
    chance = {f"{1 / len(tested):.3f}"} if tested else set()
    return chance.union(*map(numbers, parts))


def markdown_rows(markdown: str, heading: str) -> list[list[str]]:
    """The cells of the one table under a heading, without its head."""
    section = markdown.split(f"### {heading}")[1].split("\n#", maxsplit=1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def check_no_escape(html: str, markdown: str) -> None:
    """`HOSTILE` names, wherever they are, add no tag, no direction and no cell of a table."""
    check_accessible(html)
    assert "<script" not in html.lower()
    assert "\u202e" not in html + markdown
    assert "<script" not in markdown
    for table in re.findall(r"(?:^\|.*\|$\n?)+", markdown, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


class Page(HTMLParser):
    """Tags with their attributes, the text outside styles, ids, and tags left open."""

    VOID = frozenset({"meta", "img", "br", "wbr", "link", "input", "hr"})

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


def check_accessible(html: str) -> None:
    """Well-formed; tables have captions and scopes, pictures have words; links lead somewhere, no id is there twice."""
    page = Page(html)
    assert page.open == []
    tags = [tag for tag, _ in page.tags]
    assert tags.count("table") == tags.count("caption") > 0
    assert "script" not in tags
    for tag, attributes in page.tags:
        if tag == "th":
            assert attributes["scope"] in ("col", "row", "rowgroup")
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or attributes["aria-label"]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    anchors = [str(a["href"])[1:] for tag, a in page.tags if tag == "a"]
    assert anchors
    assert set(anchors) <= set(ids)


def check_self_contained(html: str) -> None:
    """Nothing is fetched, every reference inside a figure resolves, every colour of a line is defined."""
    for _, attributes in Page(html).tags:
        for name in ("src", "href", "xlink:href", "action", "srcset", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/"))
    assert not re.search(r"url\(\s*['\"]?(?!#)", html)
    assert "@import" not in html
    ids = set(re.findall(r'\bid="([^"]+)"', html))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', html)) <= ids
    assert set(re.findall(r"var\((--line-\d+)\)", html)) <= set(re.findall(r"(--line-\d+):", html))
