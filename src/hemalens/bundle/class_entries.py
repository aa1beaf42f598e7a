"""Entries of a manifest for classes and subtypes: code, ICSH name, LOINC code."""

from __future__ import annotations

from collections.abc import Iterable

from hemalens.bundle.artifact import Part
from hemalens.taxonomy import cell_types


class ClassEntry(Part):
    """One class of the label order, with its ICSH name and LOINC code where it is a cell type of the taxonomy."""

    code: str
    name: str
    loinc: str | None = None


class FineEntry(ClassEntry):
    """One subtype within the class of code `of`.

    A class without subtypes has one entry, itself.
    """

    of: str


def class_entries(classes: tuple[str, ...]) -> tuple[ClassEntry, ...]:
    """Entries of a label order; a class outside the taxonomy keeps its code as name."""
    return tuple(_class_entry(code) for code in classes)


def fine_entries(types: Iterable[tuple[str, str]]) -> tuple[FineEntry, ...]:
    """Entries of subtypes, each given as (code, code of its class)."""
    named = [(_class_entry(code), of) for code, of in types]
    return tuple(FineEntry(code=entry.code, name=entry.name, loinc=entry.loinc, of=of) for entry, of in named)


def _class_entry(code: str) -> ClassEntry:
    known = cell_types().get(code)
    return ClassEntry(code=code, name=known.name if known else code, loinc=known.loinc if known else None)
