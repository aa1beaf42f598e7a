"""WBC_100 and its parts as distributed: train and val, class folders of JPEG, a mask for every third training image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from fakes.cells import drawn_cell, numbered

KINDS = {name.capitalize(): name for name in ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")}
FRACTIONS = {"WBC_100": 1.0, "WBC_50": 0.5, "WBC_10": 0.1, "WBC_1": 0.01}


def write(
    root: Path,
    *,
    n_per_class: int = 3,
    seed: int = 0,
    side_px: int = 64,
    subsets: Sequence[str] = ("WBC_100",),
    smears: bool = True,
) -> str:
    """Write `n_per_class` training and as many validation images a class of WBC_100; return the name for `open_dataset`.

    Smaller subsets repeat the first training images, at least one a class, and all of val. With `smears`, names are
    those of Raabin-WBC, two images of a class a smear, and train and val share none; else they are plain numbers.
    The name returned is that of the first subset.
    """
    for n, (label, kind, number, i) in enumerate(numbered(KINDS, 2 * n_per_class)):
        part, k = ("train", i) if i < n_per_class else ("val", i - n_per_class)
        stem = f"95-{8 if part == 'train' else 9}-10-{k // 2 + 1}_{n}_1" if smears else f"{n:05d}"
        image, mask = drawn_cell(kind, number, seed=seed, width=side_px, height=side_px)
        for subset in subsets:
            if part == "train" and k >= max(1, int(n_per_class * FRACTIONS[subset])):
                continue
            _folder(root / subset / part / "data" / label)
            Image.fromarray(image).save(root / subset / part / "data" / label / f"{stem}.jpg", quality=90)
            if part == "train" and k % 3 == 0:
                # a JPEG would not keep the values of a mask
                _folder(root / subset / part / "mask" / label)
                Image.fromarray((mask > 0).astype("uint8") * 255).save(
                    root / subset / part / "mask" / label / f"{stem}.png"
                )
    return f"wbc_subsets:{root if len(subsets) == 1 else root / subsets[0]}"


def _folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
