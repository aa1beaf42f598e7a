"""Entries of classes: names and codes of the taxonomy, and the codes of classes that it does not know."""

from __future__ import annotations

from hemalens.bundle.class_entries import class_entries, fine_entries
from hemalens.taxonomy import cell_types


def test_a_known_class_has_its_name_and_an_unknown_one_its_code() -> None:
    neutrophil, own = class_entries(("segmented_neutrophil", "of ours"))
    known = cell_types()["segmented_neutrophil"]
    assert (neutrophil.code, neutrophil.name, neutrophil.loinc) == ("segmented_neutrophil", known.name, known.loinc)
    assert (own.code, own.name, own.loinc) == ("of ours", "of ours", None)


def test_a_subtype_names_its_class() -> None:
    band, other = fine_entries([("band_neutrophil", "neutrophil"), ("monocyte", "monocyte")])
    assert (band.code, band.of, band.name) == ("band_neutrophil", "neutrophil", cell_types()["band_neutrophil"].name)
    assert other.of == "monocyte"
