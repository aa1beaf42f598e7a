"""Texts in the cells of a table that a spreadsheet or a notebook shows: nothing is run, nothing is invisible.

A marked cell begins with an apostrophe: what follows is the text, with each backslash doubled and each invisible character
as Python escapes it. All other cells are the text itself. `plain` undoes `cell` exactly.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from hemalens.errors import escaped, visible

MARK = "'"
"""Begins a marked cell, which spreadsheets show as text."""
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""Beginnings of a formula; the last four are wide forms of the others."""
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")
_ESCAPE = re.compile(r"\\(?:\\|[tnr]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")


def cell(text: str) -> str:
    """The text as a cell: as it is, or marked by an apostrophe where it begins like a formula or holds the invisible.

    A number with a sign is as it is. A text that begins as a marked cell does is marked too.
    """
    formula = text.startswith(_FORMULA) and not _NUMBER.fullmatch(text)
    like_marked = text.startswith(MARK) and (text[1:].startswith((MARK, *_FORMULA)) or "\\" in text)
    if not formula and not like_marked and all(escaped(c) == c for c in text):
        return text
    return MARK + "".join("\\\\" if c == "\\" else escaped(c) for c in text)


def plain(cell_text: str) -> str:
    """The text of a cell that `cell` has written; any other cell is its own text."""
    if not cell_text.startswith(MARK):
        return cell_text
    text = _ESCAPE.sub(lambda found: _character(found.group()), cell_text[1:])
    return text if cell(text) == cell_text else cell_text


def _character(escape: str) -> str:
    if escape[1] in "xuU":
        code = int(escape[2:], 16)
        return chr(code) if code < 0x110000 else escape
    return {"\\": "\\", "t": "\t", "n": "\n", "r": "\r"}[escape[1]]


def free_names(names: Iterable[str], taken: Iterable[str]) -> list[str]:
    """Names of further columns: one that is in use gets "source_" in front, until it is free."""
    used, found = list(taken), list[str]()
    for name in names:
        free = name
        while free in used:
            free = f"source_{free}"
        used.append(free)
        found.append(free)
    return found


def html_table(title: str, rows: Iterable[tuple[object, object]]) -> str:
    """Names and values as a small table of HTML, escaped, for notebooks."""
    left = ' style="text-align: left"'
    cells = "".join(f"<tr><th{left}>{_html(name)}</th><td{left}>{_html(value)}</td></tr>" for name, value in rows)
    return f"<table><caption{left}>{_html(title)}</caption><tbody>{cells}</tbody></table>"


def _html(value: object) -> str:
    return html.escape(visible(value))
