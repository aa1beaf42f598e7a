"""Bone-marrow cytomorphology as downloaded: 21 codes, JPEG 250x250, blocks of a thousand where a code has many images."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from fakes.cells import drawn_cell, numbered

KINDS = {
    "ABE": "eosinophil",
    "ART": "platelet",
    "BAS": "basophil",
    "BLA": "blast",
    "EBO": "erythroblast",
    "EOS": "eosinophil",
    "FGC": "blast",
    "HAC": "lymphocyte",
    "KSC": "platelet",
    "LYI": "lymphocyte",
    "LYT": "lymphocyte",
    "MMZ": "monocyte",
    "MON": "monocyte",
    "MYB": "blast",
    "NGB": "neutrophil",
    "NGS": "neutrophil",
    "NIF": "platelet",
    "OTH": "monocyte",
    "PEB": "erythroblast",
    "PLM": "lymphocyte",
    "PMO": "blast",
}
FEW = ("ABE", "FGC", "KSC", "LYI")
"""Codes without blocks."""
FOLDERS = (
    "PKG - Bone-Marrow-Cytomorphology_MLL_Helmholtz_Fraunhofer_v1",
    "Bone-Marrow-Cytomorphology",
    "jpgs",
    "BM_cytomorphology_data",
)


def write(root: Path, *, n_per_class: int = 3, seed: int = 0, side_px: int = 250) -> str:
    """Write the layout below `root`, `n_per_class` images a code in two blocks; return the name for `open_dataset`."""
    top = root.joinpath(*FOLDERS)
    for code, kind, number, i in numbered(KINDS, n_per_class):
        index = 1 + 1000 * (i % 2) + i
        block = "" if code in FEW else f"{1 + 1000 * (i % 2):04d}-{1000 * (1 + i % 2)}"
        folder = top / code / block
        folder.mkdir(parents=True, exist_ok=True)
        image, _ = drawn_cell(kind, number, seed=seed, width=side_px, height=side_px)
        Image.fromarray(image).save(folder / f"{code}_{index:05d}.jpg", quality=90)
    return f"bone_marrow:{root}"
