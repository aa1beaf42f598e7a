"""Class names of annotations: every cell type has its kind, and an unknown word has none."""

from __future__ import annotations

import pytest

from hemalens.datasets.fields.kinds import kind_of, type_label
from hemalens.imaging.boxes import PLATELET, RED, WHITE
from hemalens.taxonomy import cell_types


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (
            ("WBC", "wbcs", "leukocyte", "Leucocytes", "White Blood Cell", "white_cells", "Neutrophil", "nRBC", "smudge"),
            WHITE,
        ),
        (("RBC", "RBCs", "erythrocyte", "Erythrocytes", "red-blood-cell", "Red Cells"), RED),
        (("Platelets", "platelet", "PLT", "thrombocyte", "Thrombocytes", "giant platelet", "platelet clump"), PLATELET),
        (("PC", "cell", "dust", "artefact", "other", "", "0", "class 1"), None),
    ],
)
def test_kind_of_a_class_name(names: tuple[str, ...], kind: int | None) -> None:
    assert {name: kind_of(name) for name in names} == dict.fromkeys(names, kind)


def test_every_cell_type_but_other_cells_and_artefacts_is_of_a_kind() -> None:
    assert {code for code in cell_types() if kind_of(code) is None} == {"other_cell", "artefact"}
    red = {code for code in cell_types() if kind_of(code) == RED}
    assert red == {"erythrocyte"}, "nucleated red cells are boxed as white cells"
    assert {code for code in cell_types() if kind_of(code) == PLATELET} == {"platelet", "giant_platelet", "platelet_clump"}


@pytest.mark.parametrize(("name", "label"), [("WBC", ""), ("RBC", ""), ("Platelets", ""), ("Neutrophil", "Neutrophil")])
def test_a_label_is_kept_where_it_names_a_type(name: str, label: str) -> None:
    assert type_label(name) == label
