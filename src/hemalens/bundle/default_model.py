"""The model that comes with the package, for whoever names no bundle."""

from __future__ import annotations

from pathlib import Path

from hemalens.bundle.artifact import MANIFEST
from hemalens.bundle.bundle import MODEL, Manifest
from hemalens.errors import BundleError, one_line

FOLDER = Path(__file__).parent / "default"
"""Where the package keeps its bundle; CONTRIBUTING.md tells how it comes there."""
LARGEST_BYTES = 10_000_000
"""What all its files may take together: everyone who installs the package loads them."""
USE = "research use: a morphologist confirms every result"


def default_model_path() -> Path:
    """The folder of the default model, a bundle; raises `BundleError` where this installation has none."""
    if not (FOLDER / MANIFEST).is_file():
        raise BundleError(
            "this installation of hemalens has no default model",
            expected=f"a bundle in {one_line(FOLDER)}",
            remedy="Name a bundle of your own; `hemalens train` makes one.",
        )
    return FOLDER


def describe_default_model(manifest: Manifest) -> str:
    """The default model on one line: its name, what it was trained on, and what it is for."""
    backbone = manifest.config.get("backbone")
    name = f"{manifest.method} ({backbone})" if backbone else manifest.method
    return f"default model: {name}, trained on {manifest.trained_on}; {USE}"


def looks_like_bundle(path: Path) -> bool:
    """Whether a folder has the files of a bundle; nothing of them is checked."""
    return all((path / name).is_file() for name in (MANIFEST, MODEL))
