"""Text in the cells of a table that spreadsheets open: none is a formula, and each is read back as it was."""

from __future__ import annotations

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "'")
"""First characters that a spreadsheet may take for a formula, and the apostrophe that takes this away."""


def cell(text: str) -> str:
    """The text with one apostrophe before a first character that begins a formula."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def plain(text: str) -> str:
    """The text that `cell` was given."""
    return text[1:] if text.startswith("'") and text[1:].startswith(FORMULA_STARTS) else text
