"""The report as Markdown: the same content as the HTML, without figures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from hemalens.evaluation import formatting
from hemalens.evaluation.results import Report
from hemalens.report.contents import sections
from hemalens.report.figures import Figures
from hemalens.report.tables import Block, Card, Cell, Code, Facts, Fold, Gallery, Items, Picture, Scores, Table, Text

_ALWAYS_ESCAPED = re.compile(r"([\\`*\[\]|~])")
# an underscore inside a word is no emphasis, so file names stay readable
_OUTER_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
_BLOCK_MARK = re.compile(r"^(\s*)([#+=-](?!\d)|\d+(?=[.)](?:\s|$)))")


def escape(text: str) -> str:
    """A text that Markdown prints as it is, on one line, in a table cell too."""
    text = formatting.visible(text)
    text = _ALWAYS_ESCAPED.sub(r"\\\1", text)
    text = _OUTER_UNDERSCORE.sub(r"\\_", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _BLOCK_MARK.sub(_escaped_mark, text)


def _escaped_mark(match: re.Match[str]) -> str:
    space, mark = match.groups()
    return f"{space}{mark}\\" if mark.isdigit() else f"{space}\\{mark}"


def render_markdown(report: Report) -> str:
    """The whole report as Markdown (GitHub's tables), ending in a newline."""
    blocks: list[str] = [f"# {escape(report.title)}"]
    if report.synthetic:
        blocks.append(f"> **{formatting.synthetic_notice(report)}**")
    blocks.append(f"{escape(report.created)} \N{MIDDLE DOT} protocol: {escape(report.protocol)}")
    for section in sections(report):
        number = f"{section.number}. " if section.number else ""
        blocks.append(f"## {number}{escape(section.heading)}")
        for block in section.blocks:
            blocks.extend(_rendered(block))
    blocks.append(f"**{formatting.RESEARCH_USE}**")
    return "\n\n".join(blocks) + "\n"


def _rendered(block: Block) -> Iterator[str]:
    if isinstance(block, Fold | Card):
        if isinstance(block, Fold) and block.titled:
            yield f"### {escape(block.summary)}"
        for part in block.blocks:
            yield from _rendered(part)
        return
    heading = block.caption if isinstance(block, Table) else getattr(block, "heading", "")
    if heading and not isinstance(block, Figures):
        yield f"### {escape(heading)}"
    match block:
        case Text(text, "notice"):
            yield f"> **{escape(text)}**"
        case Text(text) if text:
            yield escape(text)
        case Items(lines):
            yield from _items(lines)
        case Facts(pairs):
            yield from _items(f"{term}: {line}" for term, lines in pairs for line in lines)
        case Scores(cells):
            yield from _items(f"{name}: {cell}" for name, cell in cells)
        case Code(text):
            yield _code(text)
        case Table():
            yield _table(block)
            yield from ([escape(block.note)] if block.note else [])
        case Gallery():
            yield from (escape(text) for text in (block.note, block.listed) if text)
            yield "\n".join(f"- {_named(p)}" for p in block.pictures)


def _named(picture: Picture) -> str:
    """The name and caption of a picture, which open the larger one."""
    text = escape(f"{picture.name}: {picture.caption}" if picture.caption else picture.name)
    return f"[{text}]({picture.href})" if picture.href else text


def _items(lines: Iterable[str]) -> Iterator[str]:
    text = "\n".join(f"- {escape(line)}" for line in lines)
    if text:
        yield text


def _code(text: str) -> str:
    """A fenced block of code; the fence is longer than any run of backticks inside."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def _table(table: Table) -> str:
    """A table; the heads of groups are repeated in a first column, as Markdown has no rows across columns."""
    head = [escape(column.title) for column in table.columns]
    rule = ["---:" if column.numeric else "---" for column in table.columns]
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    if table.groups:
        head, rule = [escape(table.grouped_by), *head], ["---", *rule]
        rows = [[_cell(cell) for cell in (group.head, *row)] for group in table.groups for row in group.rows]
    if not rows:
        return f"{formatting.MISSING}"
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def _cell(cell: Cell) -> str:
    return escape(str(cell)) + (f" **{escape(cell.tag)}**" if cell.tag else "")
