"""What a bundle's labels mean for a review, and the thresholds of its manifest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hemalens.taxonomy import cell_types
from hemalens.trust.reference import ReferenceStatistics
from hemalens.trust.review import ReviewThresholds, Roles, calibrate

MATURE = frozenset({"neutrophil", "eosinophil", "basophil", "lymphocyte", "monocyte"})
URGENT = frozenset(
    {"immature_granulocyte", "blast", "erythroblast", "promonocyte", "immature_lymphocyte", "lymphoid_precursor"}
)
UNKNOWN = frozenset({"artefact", "smudge_cell", "erythrocyte", "platelet_clump", "other_cell"})
"""Labels that name no type of a single cell. One outside the taxonomy is a type of its own."""


def roles_of(labels: Sequence[str]) -> Roles:
    """The roles of a label order; types below a mature or urgent one are so too."""
    mature, urgent = (np.array([not of.isdisjoint(_lineage(label)) for label in labels], bool) for of in (MATURE, URGENT))
    return Roles(tuple(labels), mature, urgent, np.array([label in UNKNOWN for label in labels], bool))


def thresholds_of(reference: ReferenceStatistics | None, labels: Sequence[str]) -> ReviewThresholds | None:
    """Thresholds calibrated on reference statistics; None where these hold fewer than 20 cells of mature types."""
    return None if reference is None else calibrate(reference, roles_of(labels))


def _lineage(label: str) -> tuple[str, ...]:
    known = cell_types().get(label)
    return () if known is None else known.lineage()
