"""Lines for the terminal, wrapped: lists, and findings with each file on a line."""

from __future__ import annotations

import textwrap

WIDTH = 80
NO_BREAK = "\N{NO-BREAK SPACE}"
N_LISTED = 20
"""Findings of one kind that are printed; `--json` holds all of them."""


def wrapped(text: str) -> list[str]:
    """Wrap to `WIDTH` columns, without breaking words or paths."""
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False) or [text]


def listed(title: str, items: list[str]) -> list[str]:
    """Wrap a list of items, without breaking an item."""
    text = ", ".join(item.replace(" ", NO_BREAK) for item in items) or "none"
    return [line.replace(NO_BREAK, " ") for line in wrapped(f"{title}: {text}")]


def section(title: str, items: list[list[str]], sign: str = "=") -> list[str]:
    """The number of findings, then the first `N_LISTED` with each file on a line."""
    lines = [f"{title}: {len(items)}"]
    for names in items[:N_LISTED]:
        lines += [f"  {names[0]}", *(f"    {sign} {name}" for name in names[1:])]
    return lines + ([f"  and {len(items) - N_LISTED} more (--json lists them)"] if len(items) > N_LISTED else [])
