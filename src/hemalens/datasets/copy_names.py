"""Names that look like copies of one source, as augmentation and file managers write them: a hint, no proof."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from hemalens.datasets.base import Record

_WORD = re.compile(
    r"(.*?)[ _.-]*(?:aug(?:mented)?|rot(?:ated?)?|turn(?:ed)?|[hv]?flip(?:ped)?(?:[ _-]?(?:lr|ud|h|v))?|mirror(?:ed)?"
    r"|shift(?:ed)?|zoom(?:ed)?|bright(?:ness)?|contrast|noisy?|blur(?:red)?)[ _-]?\d*",
    re.IGNORECASE,
)
"""A stem that ends with the name of an augmentation, and perhaps a number."""
_COPY = re.compile(r"(.*?) ?(?:\(\d{1,3}\)|- copy(?: \(\d+\))?|_copy\d*)", re.IGNORECASE)
"""A stem as file managers name a copy; the source is there under its plain name."""
_NUMBERED = re.compile(r"(.*_\d{1,5})_(0|[1-9]\d{0,6})")
"""A stem <source>_<number>, where an augmentation draws the number at random."""
_SPARSE = 8
"""Numbers at random are far apart: the largest is this many times their count, or more."""
_FEWEST = 3


def name_sources(records: Sequence[Record]) -> list[list[int]]:
    """Sets of records whose file names look like copies of one source, in order; those with a group are passed over."""
    free = [i for i, record in enumerate(records) if record.group is None and record.box is None]
    plain = {(records[i].path.parent, records[i].path.stem.casefold()) for i in free}
    worded: dict[tuple[Path, str], list[int]] = defaultdict(list)
    numbered: dict[tuple[Path, str], list[tuple[int, int]]] = defaultdict(list)
    for i in free:
        folder, stem = records[i].path.parent, records[i].path.stem
        source = _source(stem, folder, plain)
        worded[folder, source.casefold()].append(i)
        found = _NUMBERED.fullmatch(stem) if source == stem else None
        if found:
            numbered[folder, found[1]].append((i, int(found[2])))
    sets = [members for (_, source), members in worded.items() if len(members) > 1 and source]
    for drawn in numbered.values():
        if len(drawn) >= _FEWEST and max(number for _, number in drawn) >= _SPARSE * len(drawn):
            sets.append([i for i, _ in drawn])
    return sorted(sets)


def _source(stem: str, folder: Path, plain: set[tuple[Path, str]]) -> str:
    """The stem without the endings of copies."""
    while True:
        word, copy = _WORD.fullmatch(stem), _COPY.fullmatch(stem)
        if word and word[1]:
            stem = word[1]
        elif copy and (folder, copy[1].casefold()) in plain:
            stem = copy[1]
        else:
            return stem


def name_note(records: Sequence[Record]) -> str | None:
    """A note on names that look like copies, or None."""
    sets = name_sources(records)
    if not sets:
        return None
    n = sum(map(len, sets))
    return (
        f"{n} of {len(records)} names look like copies of {len(sets)} source(s); a random split divides them: "
        "hemalens data audit finds turned copies and writes their groups (--groups-to)"
    )
