"""One bad input: how it is made, the command that meets it, and how that must end."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import trained

CLASSES = ("neutrophil", "lymphocyte")


@dataclass(frozen=True)
class Place:
    """A folder of its own for a case, with what most cases need, made on use."""

    folder: Path
    temporary: pytest.TempPathFactory

    @property
    def out(self) -> Path:
        """Where the command may write: "out" in the folder; add a suffix for a file."""
        return self.folder / "out"

    def cells(self, name: str = "cells", n: int = 6) -> Path:
        """A fresh folder of two class folders with `n` readable images each, to break."""
        folder = self.folder / name
        if not folder.exists():
            for kind in CLASSES:
                (folder / kind).mkdir(parents=True)
                for image in sorted((trained.cells(self.temporary) / "lab_a" / "images" / kind).iterdir())[:n]:
                    shutil.copy(image, folder / kind / image.name)
        return folder

    def bundle(self, name: str = "bundle") -> Path:
        """A fresh copy of a small bundle of four classes, to break."""
        folder = self.folder / name
        if not folder.exists():
            shutil.copytree(_bundle(self.temporary), folder)
        return folder

    def image(self, name: str = "cell.png", *, size: tuple[int, int] = (40, 40), seed: int = 0) -> Path:
        """A readable image of noise, (width, height) in pixels."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    def file(self, name: str, content: bytes | str = b"") -> Path:
        """A file of any content."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path


_bundles: dict[Path, Path] = {}


def _bundle(temporary: pytest.TempPathFactory) -> Path:
    base = temporary.getbasetemp()
    if base not in _bundles:
        made = temporary.mktemp("bundle of the bad inputs") / "bundle"
        _bundles[base] = trained.colour_bundle(made, trained.laboratory(temporary)).path
    return _bundles[base]


@dataclass(frozen=True)
class Case:
    """A bad input and what must come of it.

    `make` breaks something in the place and returns the arguments of `hemalens`. `says` are parts of the last line on
    standard error, or, with the code 0, of all that is printed. Files that were there stay as they were; new ones are
    allowed below `writes` only, relative to the place.
    """

    name: str
    make: Callable[[Place], Sequence[object]]
    says: Collection[str]
    code: int = 2
    writes: Collection[str] = ()
    stub: bool = False
    """Whether `train stub` is the nearest mean colour, which takes no time."""
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    """In what the command runs: other streams, or an ordinary user's rights."""


def snapshot(folder: Path) -> dict[str, str]:
    """Every entry below a folder, links not followed, with what it is and the digest of a file's bytes."""
    found = {}
    for where, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(where) / name
            key = path.relative_to(folder).as_posix()
            if path.is_symlink():
                found[key] = f"link to {os.readlink(path)}"
            elif not os.access(path, os.R_OK):
                found[key] = "closed"
            elif path.is_file():
                found[key] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[key] = "folder" if path.is_dir() else "special"
    return found
