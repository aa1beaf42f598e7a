"""Morphology of the eight synthetic cell types, in micrometres and stain densities.

Ranges are (lowest, highest) of a triangular law around their middle. Neighbouring types overlap on purpose (large
lymphocytes and small monocytes, poorly granulated eosinophils), because a smear without doubtful cells teaches nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Range = tuple[float, float]
GranuleStain = Literal["azurophil", "eosinophil_granule", "basophil_granule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nucleus:
    """A nucleus as a chain of lobes along an arc; one lobe is a round nucleus, wide bridges make a band or a kidney."""

    lobe_weights: dict[int, float]
    """Number of lobes and how often it occurs; the weights sum to 1."""
    area_fraction: Range
    """Area of the lobes over the area of the cell, without the bridges."""
    arc_radius: Range = (0.0, 0.0)
    """Radius of the arc through the lobe centres, as a fraction of the cell radius."""
    turn_rad: Range = (0.0, 0.0)
    """Angle on the arc between neighbouring lobes."""
    bridge_width: Range = (0.0, 0.0)
    """Half width of a bridge as a fraction of the lobe radius; filaments are near 0.15."""
    band_probability: float = 0.0
    """How often the bridges are as wide as the lobes, as in a band neutrophil."""
    elongation: Range = (1.0, 1.0)
    """Length over width of a lobe, along the arc."""
    eccentricity: Range = (0.0, 0.1)
    """Distance from the cell centre to the nucleus centre, as a fraction of the cell radius."""
    warp_um: float = 0.2
    """Standard deviation of the smooth deformation of the contour."""
    n_nucleoli: tuple[int, int] = (0, 0)
    """Fewest and most nucleoli."""
    fold_probability: float = 0.0
    """How often a pale crease runs through the nucleus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chromatin:
    """Stain and texture of the nucleus."""

    density: Range
    clump_um: Range
    """Size of the clumps, as the smoothing of the texture."""
    contrast: Range
    """Standard deviation of the density relative to its mean."""
    lace: float = 0.0
    """0 for clumps, 1 for a net of strands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cytoplasm:
    """Stain and texture of the cytoplasm."""

    density: Range
    basophilia: Range
    """0 stains pink, 1 stains blue."""
    mottle: float
    """Standard deviation of the density relative to its mean."""
    rim: float = 0.0
    """Extra relative density along the outline."""
    halo: float = 0.0
    """Relative loss of density next to the nucleus."""
    n_vacuoles: tuple[int, int] = (0, 0)
    """Fewest and most vacuoles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Granules:
    """One population of granules."""

    stain: GranuleStain
    diameter_um: Range
    per_um2: Range
    """Granules in a square micrometre of free cytoplasm."""
    density: Range
    nucleus_cover: float = 0.0
    """Share of the granules over the nucleus that stay visible, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Morphology:
    """Everything that is drawn of one cell type."""

    diameter_um: Range
    irregularity: float
    """Standard deviation of the radius relative to its mean."""
    n_harmonics: int
    """Highest Fourier order of the outline: few for smooth cells, many for jagged ones."""
    nucleus: Nucleus | None
    chromatin: Chromatin | None
    cytoplasm: Cytoplasm
    granules: Granules | None = None


MORPHOLOGIES: dict[str, Morphology] = {
    "neutrophil": Morphology(
        diameter_um=(11.0, 14.5),
        irregularity=0.02,
        n_harmonics=5,
        nucleus=Nucleus(
            lobe_weights={2: 0.18, 3: 0.46, 4: 0.28, 5: 0.08},
            area_fraction=(0.2, 0.34),
            arc_radius=(0.4, 0.54),
            turn_rad=(1.0, 1.6),
            bridge_width=(0.12, 0.34),
            band_probability=0.14,
            elongation=(1.05, 1.5),
            eccentricity=(0.0, 0.15),
            warp_um=0.22,
        ),
        chromatin=Chromatin(density=(1.05, 1.5), clump_um=(0.3, 0.42), contrast=(0.2, 0.36)),
        cytoplasm=Cytoplasm(density=(0.35, 0.75), basophilia=(0.0, 0.22), mottle=0.12, rim=0.15),
        granules=Granules(stain="azurophil", diameter_um=(0.24, 0.36), per_um2=(6.0, 11.0), density=(0.08, 0.36)),
    ),
    "eosinophil": Morphology(
        diameter_um=(11.5, 15.0),
        irregularity=0.022,
        n_harmonics=5,
        nucleus=Nucleus(
            lobe_weights={2: 0.82, 3: 0.18},
            area_fraction=(0.24, 0.36),
            arc_radius=(0.42, 0.54),
            turn_rad=(1.5, 2.3),
            bridge_width=(0.12, 0.4),
            band_probability=0.04,
            elongation=(1.05, 1.4),
            eccentricity=(0.15, 0.32),
            warp_um=0.2,
        ),
        chromatin=Chromatin(density=(1.05, 1.4), clump_um=(0.3, 0.42), contrast=(0.18, 0.34)),
        cytoplasm=Cytoplasm(density=(0.7, 1.2), basophilia=(0.0, 0.15), mottle=0.1),
        granules=Granules(
            stain="eosinophil_granule",
            diameter_um=(0.6, 0.95),
            per_um2=(1.3, 2.8),
            density=(0.55, 1.0),
            nucleus_cover=0.05,
        ),
    ),
    "basophil": Morphology(
        diameter_um=(10.0, 13.5),
        irregularity=0.025,
        n_harmonics=6,
        nucleus=Nucleus(
            lobe_weights={1: 0.2, 2: 0.55, 3: 0.25},
            area_fraction=(0.35, 0.5),
            arc_radius=(0.28, 0.4),
            turn_rad=(1.6, 2.2),
            bridge_width=(0.4, 0.8),
            elongation=(1.0, 1.4),
            eccentricity=(0.0, 0.15),
            warp_um=0.35,
        ),
        chromatin=Chromatin(density=(0.9, 1.25), clump_um=(0.45, 0.6), contrast=(0.06, 0.14)),
        cytoplasm=Cytoplasm(density=(0.4, 0.8), basophilia=(0.2, 0.5), mottle=0.15),
        granules=Granules(
            stain="basophil_granule",
            diameter_um=(0.45, 0.85),
            per_um2=(1.6, 3.6),
            density=(0.7, 1.15),
            nucleus_cover=0.55,
        ),
    ),
    "lymphocyte": Morphology(
        diameter_um=(7.8, 11.5),
        irregularity=0.03,
        n_harmonics=5,
        nucleus=Nucleus(
            lobe_weights={1: 1.0},
            area_fraction=(0.62, 0.88),
            elongation=(1.0, 1.2),
            eccentricity=(0.02, 0.14),
            warp_um=0.25,
            fold_probability=0.1,
        ),
        chromatin=Chromatin(density=(1.1, 1.5), clump_um=(0.34, 0.52), contrast=(0.14, 0.26)),
        cytoplasm=Cytoplasm(density=(0.5, 0.95), basophilia=(0.75, 1.0), mottle=0.08, rim=0.15),
    ),
    "monocyte": Morphology(
        diameter_um=(13.5, 18.0),
        irregularity=0.04,
        n_harmonics=8,
        nucleus=Nucleus(
            lobe_weights={1: 0.08, 2: 0.42, 3: 0.5},
            area_fraction=(0.34, 0.46),
            arc_radius=(0.34, 0.46),
            turn_rad=(1.0, 1.7),
            bridge_width=(0.75, 1.0),
            elongation=(1.0, 1.3),
            eccentricity=(0.05, 0.22),
            warp_um=0.4,
            fold_probability=0.6,
        ),
        chromatin=Chromatin(density=(0.72, 1.05), clump_um=(0.32, 0.46), contrast=(0.2, 0.34), lace=0.6),
        cytoplasm=Cytoplasm(density=(0.45, 0.85), basophilia=(0.55, 0.9), mottle=0.16, rim=0.08, n_vacuoles=(0, 12)),
        granules=Granules(stain="azurophil", diameter_um=(0.18, 0.3), per_um2=(0.8, 2.0), density=(0.1, 0.35)),
    ),
    "erythroblast": Morphology(
        diameter_um=(7.8, 10.8),
        irregularity=0.045,
        n_harmonics=5,
        nucleus=Nucleus(lobe_weights={1: 1.0}, area_fraction=(0.26, 0.46), eccentricity=(0.05, 0.32), warp_um=0.0),
        chromatin=Chromatin(density=(1.45, 1.95), clump_um=(0.4, 0.6), contrast=(0.12, 0.26)),
        cytoplasm=Cytoplasm(density=(0.7, 1.15), basophilia=(0.3, 0.85), mottle=0.1, rim=0.1),
    ),
    "platelet": Morphology(
        diameter_um=(2.0, 3.7),
        irregularity=0.09,
        n_harmonics=11,
        nucleus=None,
        chromatin=None,
        cytoplasm=Cytoplasm(density=(0.5, 1.0), basophilia=(0.4, 0.8), mottle=0.2),
        granules=Granules(stain="azurophil", diameter_um=(0.25, 0.42), per_um2=(8.0, 14.0), density=(0.4, 0.9)),
    ),
    "blast": Morphology(
        diameter_um=(12.5, 18.0),
        irregularity=0.022,
        n_harmonics=5,
        nucleus=Nucleus(
            lobe_weights={1: 1.0},
            area_fraction=(0.66, 0.86),
            elongation=(1.0, 1.15),
            eccentricity=(0.03, 0.14),
            warp_um=0.3,
            n_nucleoli=(1, 3),
            fold_probability=0.08,
        ),
        chromatin=Chromatin(density=(0.72, 1.08), clump_um=(0.22, 0.34), contrast=(0.12, 0.22), lace=0.3),
        cytoplasm=Cytoplasm(density=(1.0, 1.5), basophilia=(0.9, 1.0), mottle=0.08, rim=0.2, halo=0.2),
    ),
}
"""Morphology of each synthetic cell type."""

CELL_TYPES: tuple[str, ...] = tuple(MORPHOLOGIES)
"""Names of the synthetic cell types, in a fixed order."""
