"""How well the audit finds augmented copies: `python tools/turned_copies.py SPEC... [--images 300]`.

For each dataset: the share of augmented copies (any angle, mirrored or not, shifted and scaled by up to 10 %, four ways to
fill corners, JPEG) that are joined with their source, and the pairs of other images that are joined, to look at.
"""

from __future__ import annotations

import argparse
from io import BytesIO

import numpy as np
from PIL import Image
from scipy import ndimage

from hemalens.datasets import open_dataset
from hemalens.datasets.near_copies import join_near_copies, thumbnail
from hemalens.datasets.relatives import Relatives
from hemalens.datasets.turned_copies import join_turned_copies, view
from hemalens.taxonomy import AS_LABELLED

FILLS: tuple[tuple[str, int], ...] = (("nearest", 0), ("constant", 0), ("constant", 255), ("reflect", 0))


def augmented(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A copy of the image as augmentation writes it."""
    pixels = np.asarray(image)
    size = np.array(pixels.shape[:2])
    angle, zoom, shift = rng.uniform(-np.pi, np.pi), rng.uniform(0.9, 1.1), rng.uniform(-0.1, 0.1, 2) * size
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    matrix[:, 1] *= rng.choice([-1, 1])
    middle = (size - 1) / 2
    mode, value = FILLS[rng.integers(len(FILLS))]
    channels = [
        ndimage.affine_transform(pixels[..., c], matrix, middle - matrix @ (middle + shift), order=1, mode=mode, cval=value)
        for c in range(3)
    ]
    written = BytesIO()
    Image.fromarray(np.stack(channels, axis=-1)).save(written, "JPEG", quality=int(rng.integers(75, 96)))
    return Image.open(written).convert("RGB")


def main() -> None:
    """Print a line for each dataset, then the pairs of two sources."""
    parser = argparse.ArgumentParser()
    parser.add_argument("specs", nargs="+", metavar="SPEC")
    parser.add_argument("--images", type=int, default=300)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    for spec in given.specs:
        dataset = open_dataset(spec, labels=AS_LABELLED)
        chosen = rng.permutation(len(dataset))[: given.images]
        images = [Image.fromarray(dataset.records[i].read()) for i in chosen]
        images += [augmented(image, rng) for image in images]
        n, relatives = len(chosen), Relatives(len(images))
        pairs = [(i, j) for i, j, *_ in join_near_copies([thumbnail(image) for image in images], relatives)]
        pairs += [(i, j) for i, j, _ in join_turned_copies([view(image) for image in images], relatives)]
        found = sum(relatives.root(i) == relatives.root(n + i) for i in range(n))
        others = {tuple(sorted((int(chosen[i % n]), int(chosen[j % n])))) for i, j in pairs if i % n != j % n}
        print(f"{spec}: {found} of {n} copies joined with their source; {len(others)} pairs of two images")
        for i, j in sorted(others):
            print(f"  {dataset.records[i].path}\n  {dataset.records[j].path}\n")


if __name__ == "__main__":
    main()
