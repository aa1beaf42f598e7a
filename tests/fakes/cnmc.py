"""C-NMC 2019 as distributed: 450x450 BMP, cells on black; three folds of class folders, a numbered test with a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from fakes.cells import drawn_cell, numbered

KINDS = {"all": "blast", "hem": "lymphocyte"}
FOLDS = ("fold_0", "fold_1", "fold_2")
# one subject a class in each fold and in the preliminary test; the small h is the distribution's
SUBJECTS = {"all": ("11", "12", "21", "57"), "hem": ("H10", "H22", "h3", "H49")}
TRAINING, PRELIMINARY = "C-NMC_training_data", "C-NMC_test_prelim_phase_data"
TABLE = "C-NMC_test_prelim_phase_data_labels.csv"
HEADER = "Patient_ID,new_names,labels"


def write(root: Path, *, n_per_class: int = 3, seed: int = 0, side_px: int = 450) -> str:
    """Write `n_per_class` cells a class in each fold and in the preliminary test; return the name for `open_dataset`."""
    preliminary = root / PRELIMINARY
    preliminary.mkdir(parents=True)
    test: list[list[str]] = []
    for label, kind, number, i in numbered(KINDS, 4 * n_per_class):
        part, k = divmod(i, n_per_class)
        # two cells an image
        name = f"UID_{SUBJECTS[label][part]}_{k // 2 + 1}_{k % 2 + 1}_{label}.bmp"
        image, mask = drawn_cell(kind, number, seed=seed, width=side_px, height=side_px)
        cell = Image.fromarray(np.where(mask[..., None] > 0, image, 0).astype(np.uint8))
        if part < len(FOLDS):
            folder = root / TRAINING / FOLDS[part] / label
            folder.mkdir(parents=True, exist_ok=True)
            cell.save(folder / name)
        else:
            # the classes lie mixed
            new_name = f"{2 * k + 1 + (label == 'hem')}.bmp"
            cell.save(preliminary / new_name)
            test.append([name, new_name, "1" if label == "all" else "0"])
    test.sort(key=lambda row: int(row[1].partition(".")[0]))
    (preliminary / TABLE).write_text("".join(f"{line}\n" for line in [HEADER, *map(",".join, test)]), encoding="ascii")
    return f"cnmc:{root}"
