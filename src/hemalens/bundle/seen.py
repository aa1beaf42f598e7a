"""The list of the images that a model has learned from: a digest a line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from hemalens.errors import BundleError, one_line

SEEN = "seen_images.txt"
"""Digests of the training and validation images: `evaluate` refuses a test on them."""
DIGEST = re.compile("[0-9a-f]{64}")


def seen_images(contents: Iterable[str]) -> bytes:
    """The content of `SEEN` for images of these content digests."""
    return ("\n".join(sorted(set(contents))) + "\n").encode("ascii")


def read_digests(file: Path, *, kind: str) -> frozenset[str]:
    """The digests in a list of a bundle or detector, `kind`; raises `BundleError` for anything else."""
    found = file.read_text(encoding="ascii", errors="replace").split("\n")
    if found[-1] != "" or len(found) < 2 or not all(map(DIGEST.fullmatch, found[:-1])):
        raise BundleError(
            f"{file.name} of {one_line(file.parent)} is no list of images",
            expected="a digest of 64 hexadecimal digits on each line",
            remedy=f"Train or adapt the {kind} again.",
        )
    return frozenset(found[:-1])
