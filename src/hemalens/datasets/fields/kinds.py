"""What the classes of an annotation mean: a kind of cell by its name, in any spelling of the taxonomy."""

from __future__ import annotations

from functools import cache
from types import MappingProxyType

from hemalens.imaging.boxes import PLATELET, RED, WHITE
from hemalens.taxonomy import cell_type_of, cell_types

KIND_OF_ROOT = MappingProxyType(
    {"leukocyte": WHITE, "smudge_cell": WHITE, "erythroblast": WHITE, "erythrocyte": RED, "platelet": PLATELET}
)
"""The kind of each cell type without a parent; all types below one are of its kind. A nucleated red cell is boxed as a
white cell. Other cells and artefacts are of no kind."""
KIND_NAMES = frozenset({"leukocyte", "erythrocyte", "platelet"})
"""Cell types that name a kind and no type within it."""


@cache
def kind_of(name: str) -> int | None:
    """The index into `KINDS` that a class name means, such as 0 for "WBC" and "lymphocyte"; None for an unknown name."""
    code = cell_type_of(name)
    return None if code is None else KIND_OF_ROOT.get(cell_types()[code].lineage()[-1])


@cache
def type_label(name: str) -> str:
    """The class name where it names a cell type within a kind, otherwise ""."""
    return "" if cell_type_of(name) in KIND_NAMES else name
