"""What labels mean for a review."""

from __future__ import annotations

import numpy as np

from hemalens.bundle.review import roles_of, thresholds_of
from hemalens.trust.reference import ReferenceStatistics

LABELS = (
    "neutrophil", "segmented_neutrophil", "variant_lymphocyte", "promyelocyte", "blast", "proerythroblast", "platelet",
    "artefact", "smudge_cell", "plasma_cell", "tumour", "leukocyte",
)  # fmt: skip


def test_types_below_a_mature_or_an_urgent_one_are_so_too() -> None:
    roles = roles_of(LABELS)
    named = {
        role: [x for x, has in zip(LABELS, getattr(roles, role), strict=True) if has]
        for role in ("mature", "urgent", "unknown")
    }
    assert named == {
        "mature": ["neutrophil", "segmented_neutrophil", "variant_lymphocyte"],
        "urgent": ["promyelocyte", "blast", "proerythroblast"],
        "unknown": ["artefact", "smudge_cell"],
    }


def test_thresholds_need_cells_of_mature_types() -> None:
    even = np.full((30, 2), 0.5)
    targets = np.arange(30) % 2
    assert thresholds_of(None, ("neutrophil", "monocyte")) is None
    assert thresholds_of(ReferenceStatistics(even, targets), ("tumour", "normal")) is None
    assert thresholds_of(ReferenceStatistics(even, targets), ("neutrophil", "tumour")) is None
    found = thresholds_of(ReferenceStatistics(even, targets), ("neutrophil", "monocyte"))
    assert found is not None
    assert found.n_cells == 30
