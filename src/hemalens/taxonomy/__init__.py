"""Cell types with their codes, and label maps from cell types to the classes of a model.

Begin with `cell_types` and `label_map`; `find_cell_type` looks a user's word up. The tables are `cell_types.toml`,
`label_maps.toml` and `unclear.toml`. The labels of a dataset are in its reader. Imports `errors` alone.
"""

from __future__ import annotations

import tomllib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from hemalens.errors import LabelError, near_matches
from hemalens.taxonomy.hints import hint

__all__ = [
    "AS_LABELLED",
    "LISTED",
    "CellType",
    "Excluded",
    "LabelMap",
    "cell_type_of",
    "cell_types",
    "find_cell_type",
    "is_mature",
    "is_urgent",
    "label_hint",
    "label_map",
    "label_map_names",
    "unclear_labels",
]

AS_LABELLED = "as_labelled"
"""The label map that keeps every source label as a class."""
LISTED = "hemalens data types"
"""The command that lists the cell types."""
ENDINGS = ("", "s", "es", "e", "en", "er")
"""Endings of a plural, or of a name in another language, as in Neutrophile and Monozyten."""
SHORTEST_STEM = 7
"""Letters before an ending other than s: bas and base are two words."""


@dataclass(frozen=True, slots=True)
class CellType:
    """A cell type: its code, ICSH name, parent's code, LOINC code of its count, and other spellings.

    `mature` are the five types of the differential count of healthy blood, `urgent` blasts and immature cells; the types
    below one are so too: see `is_mature` and `is_urgent`.
    """

    code: str
    name: str
    parent: str | None = None
    loinc: str | None = None
    aliases: tuple[str, ...] = ()
    mature: bool = False
    urgent: bool = False

    def lineage(self) -> tuple[str, ...]:
        """The codes from this type up to its root."""
        codes = [self.code]
        while (parent := cell_types()[codes[-1]].parent) is not None:
            codes.append(parent)
        return tuple(codes)


@dataclass(frozen=True, slots=True)
class Excluded:
    """The reason why a label or cell type is in no class.

    `own_class` labels, such as a kind of tissue, are classes under the map `as_labelled`.
    """

    reason: str
    own_class: bool = False


@dataclass(frozen=True, slots=True)
class LabelMap:
    """A total map from cell type codes to the classes of a model, in label order."""

    name: str
    description: str
    classes: tuple[str, ...]
    assignments: Mapping[str, str | Excluded]

    def __getitem__(self, cell_type: str) -> str | Excluded:
        """The class of a cell type, or `Excluded`; raises `LabelError` for an unknown code."""
        try:
            return self.assignments[cell_type]
        except KeyError:
            raise LabelError(
                f"unknown cell type {cell_type!r}", remedy=near_matches(cell_type, cell_types(), listed=LISTED)
            ) from None


def _load(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))


@cache
def cell_types() -> Mapping[str, CellType]:
    """All cell types by code."""
    types = {
        code: CellType(code=code, aliases=tuple(entry.pop("aliases", ())), **entry)
        for code, entry in _load("cell_types.toml").items()
    }
    for cell_type in types.values():
        if cell_type.parent is not None and cell_type.parent not in types:
            raise LabelError(f"cell type {cell_type.code!r} has the unknown parent {cell_type.parent!r}")
    return MappingProxyType(types)


def is_mature(label: str) -> bool:
    """Whether a class is one of the five mature types, or a type below one; False for a word that names no cell type."""
    return any(cell_type.mature for cell_type in _lineage_of(label))


def is_urgent(label: str) -> bool:
    """Whether a class is a blast or immature cell, or a type below one; False for a word that names no cell type."""
    return any(cell_type.urgent for cell_type in _lineage_of(label))


def _lineage_of(label: str) -> list[CellType]:
    code = cell_type_of(label)
    return [] if code is None else [cell_types()[parent] for parent in cell_types()[code].lineage()]


@cache
def label_map_names() -> tuple[str, ...]:
    """The names of all label maps, `as_labelled` included."""
    return (*_load("label_maps.toml"), AS_LABELLED)


@cache
def label_map(name: str) -> LabelMap:
    """The label map of a name; raises `LabelError` with near matches for an unknown one."""
    maps = _load("label_maps.toml")
    if name not in maps:
        raise LabelError(f"unknown label map {name!r}", remedy=near_matches(name, label_map_names()))
    entry = maps[name]
    assignments: dict[str, str | Excluded] = {}
    targets: list[tuple[str | Excluded, list[str]]] = [
        *entry["classes"].items(),
        *((Excluded(reason), types) for reason, types in entry["excluded"].items()),
    ]
    for target, types in targets:
        for code in types:
            if code in assignments or code not in cell_types():
                raise LabelError(f"label map {name}: cell type {code!r} is unknown or listed twice")
            assignments[code] = target
    missing = sorted(set(cell_types()) - set(assignments))
    if missing:
        raise LabelError(f"label map {name} is not total: it lacks {', '.join(missing)}")
    return LabelMap(name, entry["description"], tuple(entry["classes"]), MappingProxyType(assignments))


def _folded(text: str) -> str:
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "_".join(plain.casefold().replace("-", " ").replace("_", " ").split())


@cache
def _spellings() -> Mapping[str, str]:
    spellings: dict[str, str] = {}
    for cell_type in cell_types().values():
        for spelling in (cell_type.code, cell_type.name, *cell_type.aliases):
            folded = _folded(spelling)
            # BandNeutrophil and band neutrophil are one
            for form in (folded, folded.replace("_", "")):
                if spellings.setdefault(form, cell_type.code) != cell_type.code:
                    raise LabelError(f"the spelling {spelling!r} names two cell types")
    return MappingProxyType(spellings)


@cache
def unclear_labels() -> Mapping[str, str]:
    """Labels that mean different types in different sets, with what they may mean."""
    return MappingProxyType(_load("unclear.toml"))


def cell_type_of(text: str) -> str | None:
    """The code of a cell type by its code, name or alias, or None; case, accents and plurals are ignored."""
    folded = _folded(text)
    for ending in ENDINGS:
        stem = folded.removesuffix(ending)
        if stem in _spellings() and ((len(ending) < 2 and ending != "e") or len(stem) >= SHORTEST_STEM):
            return _spellings()[stem]
    return None


def label_hint(text: str) -> str:
    """What an unknown label may mean, as a sentence; empty where nothing is near."""
    return hint(_folded(text), _spellings(), unclear_labels())


def find_cell_type(text: str) -> str:
    """The code of a cell type as in `cell_type_of`; raises `LabelError`, with what it may mean, for an unknown label."""
    code = cell_type_of(text)
    if code is not None:
        return code
    raise LabelError(
        f"the label {text!r} is no known cell type",
        remedy=f"{label_hint(text) or f'`{LISTED}` lists the names.'} To keep labels as they are: --labels {AS_LABELLED}",
    )
