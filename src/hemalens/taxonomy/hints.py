"""Hints for a label that names no cell type: a misspelt name, a known name in it, or what a short code may mean."""

from __future__ import annotations

from collections.abc import Mapping

SHORTEST = 5
"""Letters of a word that may be a misspelt name: below, one letter makes another type."""
LETTERS_AN_EDIT = 4
"""Letters of a name that allow one wrong letter more."""
NEGATIONS = frozenset({"anti", "kein", "keine", "no", "non", "not", "ohne", "without"})
MOST = 3
LONGEST = 80
"""Letters of a label that are compared."""


def hint(label: str, spellings: Mapping[str, str], unclear: Mapping[str, str]) -> str:
    """What the folded `label` may mean, as a sentence; empty where nothing is near.

    `spellings` are the known names with their codes, `unclear` the labels of several meanings. A name is near if few
    letters are wrong and the first one is right, or if it is a word of the label.
    """
    if label in unclear:
        return f"It may mean {unclear[label]}: rename it."
    if len(label) > LONGEST:
        return ""
    found = _misspelt(label, spellings)
    words = label.split("_")
    if not NEGATIONS & set(words):
        found += _within(words, spellings) or [name for word in words for name in _misspelt(word, spellings)]
    near = list(dict.fromkeys(spellings[name] for name in found))
    return f"did you mean {' or '.join(repr(code) for code in near[:MOST])}?" if near else ""


def _misspelt(label: str, spellings: Mapping[str, str]) -> list[str]:
    """Names with few letters other than those of the label, the nearest first."""
    found = []
    word = label.replace("_", "")
    for name in spellings:
        other = name.replace("_", "")
        allowed = min(len(word), len(other)) // LETTERS_AN_EDIT
        if min(len(word), len(other)) >= SHORTEST and word[0] == other[0] and abs(len(word) - len(other)) <= allowed:
            edits = distance(word, other)
            if edits <= allowed:
                found.append((edits, name))
    return [name for _, name in sorted(found)]


def _within(words: list[str], spellings: Mapping[str, str]) -> list[str]:
    """Names that stand in the words of a label, from the longest on."""
    spans = [words[i:j] for i in range(len(words)) for j in range(i + 1, len(words) + 1)]
    parts = {"_".join(span).removesuffix(end) for span in spans for end in ("", "s")}
    found = [part for part in parts if part in spellings and len(part) >= SHORTEST]
    whole = [part for part in found if not any(part != other and part in other for other in found)]
    return sorted(whole, key=lambda part: (-len(part), part))


def distance(one: str, other: str) -> int:
    """Levenshtein distance: the least number of letters to insert, delete or replace."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        before, row[0] = row[0], i
        for j, wanted in enumerate(other, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != wanted))
    return row[-1]
