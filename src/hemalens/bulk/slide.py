"""One slide of a count: its list of fields, what an actor finds there, and how the end of the run reads it back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hemalens.bulk.node import check_node
from hemalens.bulk.observations import read_arrays, write_arrays
from hemalens.bundle.bundle import open_bundle
from hemalens.datasets.base import Record
from hemalens.files import read_json, write_text
from hemalens.runs.count import SlideFinder, open_both, read_rules
from hemalens.runs.counting.find import FoundCell, FoundField
from hemalens.runs.counting.options import CountOptions
from hemalens.runs.counting.results import counts_of
from hemalens.runs.counting.slides import Slide, SlideField
from hemalens.trust.monitor import Kept

LISTED, FOUND, COUNTED = "listed", "found", "counted"
_DEFAULTS = {each.name: each.default for each in fields(FoundCell) if each.default is not MISSING}


@dataclass(frozen=True, slots=True)
class SlidePlaces:
    """The files of a count in its folder."""

    folder: Path

    def listed(self, number: int) -> Path:
        """The fields of a slide."""
        return self.folder / LISTED / f"{number:05d}.json"

    def found(self, number: int) -> Path:
        """What is found in a slide; it is complete where this file is."""
        return self.folder / FOUND / f"{number:05d}.npz"

    @property
    def counted(self) -> Path:
        """The folder of the count: pictures, tables and report."""
        return self.folder / COUNTED


class SlideCounter:
    """Finds the cells of slide after slide with one thread, and writes their pictures; an actor of Ray has one.

    `task` holds plain values: the folders of run, bundle, detector and user, the options of the count, and the run's key.
    """

    def __init__(self, task: Mapping[str, Any]) -> None:
        check_node(task)
        self._key, self._places = str(task["key"]), SlidePlaces(Path(task["folder"]))
        options = CountOptions(**{**task["count"], "settings": tuple(task["count"]["settings"]), "n_workers": 1})
        self._rules = read_rules(options)
        bundle, detector = open_both(open_bundle(task["bundle"]), task["detector"], self._rules)
        self._finder = SlideFinder(bundle, detector, options, self._rules)
        self._monitor = bundle.monitor().keep_all()

    def run(self, number: int) -> int:
        """Find the cells of a slide; returns its number of fields."""
        slide = read_slide(self._places.listed(number))
        self._monitor.hand_over()  # what is left of a slide that failed
        found = self._finder.find(slide, self._monitor, lambda n, what=None: None)
        before = [[cell.reason for cell in field.cells] for field in found]
        # marks the cells beyond the target, whose pictures lie apart; the end of the run marks them again
        counts_of(slide, found, self._rules, self._finder.labels)
        shown = self._finder.paint(slide, found, self._places.counted)
        for field, reasons in zip(found, before, strict=True):
            for cell, reason in zip(field.cells, reasons, strict=True):
                cell.reason = reason
        write_found(self._places.found(number), self._key, found, shown, self._monitor.hand_over())
        return len(slide.fields)


def slide_text(slide: Slide) -> str:
    """A slide as JSON."""
    listed = [
        {"name": each.name, "file": each.file, "path": str(each.record.path), "domain": each.record.domain}
        | {name: getattr(each.record, name) for name in ("group", "page", "bits")}
        for each in slide.fields
    ]
    own = {name: getattr(slide, name) for name in ("name", "file", "white_count", "red_count")}
    return json.dumps({**own, "fields": listed})


def write_slide(path: Path, slide: Slide) -> None:
    """Write a slide for the actors; the file appears whole."""
    write_text(path, slide_text(slide))


def read_slide(path: Path) -> Slide:
    """The slide that `write_slide` has written."""
    known = read_json(path)
    listed = tuple(_field(each) for each in known.pop("fields"))
    return Slide(known["name"], known["file"], listed, known["white_count"], known["red_count"])


def _field(known: Mapping[str, Any]) -> SlideField:
    record = Record(
        Path(known["path"]),
        source_label="",
        domain=known["domain"],
        group=known["group"],
        page=known["page"],
        bits=known["bits"],
    )
    return SlideField(record, known["name"], known["file"])


def write_found(path: Path, key: str, found: Sequence[FoundField], shown: Sequence[str | None], kept: Kept) -> None:
    """Write what is found in the fields of a slide, their small overlays, and what the monitor has kept."""
    write_arrays(path, key, {"fields": [_as_dict(field) for field in found], "shown": list(shown)}, kept)


def _as_dict(field: FoundField) -> dict[str, Any]:
    own = {name: getattr(field, name) for name in ("shape", "content", "error", "copy_of", "overlaps")}
    cells = [
        {name: value for name, value in asdict(cell).items() if name not in _DEFAULTS or value != _DEFAULTS[name]}
        for cell in field.cells
    ]
    return {**own, "cells": cells}


def read_found(path: Path, key: str, slide: Slide) -> tuple[list[FoundField], list[str | None], Kept] | None:
    """What `write_found` has written of the slide; None where it is missing, damaged, or of another run."""
    read = read_arrays(path, key)
    if read is None or len(read.facts["fields"]) != len(slide.fields):
        return None
    found = [_found_field(field, known) for field, known in zip(slide.fields, read.facts["fields"], strict=True)]
    return found, read.facts["shown"], read.kept


def _found_field(field: SlideField, known: Mapping[str, Any]) -> FoundField:
    return FoundField(
        field,
        [_cell(cell) for cell in known["cells"]],
        shape=(known["shape"][0], known["shape"][1]),
        content=known["content"],
        error=known["error"],
        copy_of=known["copy_of"],
        overlaps=tuple(known["overlaps"]),
    )


def _cell(known: Mapping[str, Any]) -> FoundCell:
    """A cell, with tuples where JSON has lists."""
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
    return FoundCell(**values)
