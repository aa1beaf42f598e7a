"""The default model, which the package contains."""

from __future__ import annotations

from pathlib import Path

from hemalens.bundle.artifact import MANIFEST
from hemalens.bundle.bundle import MODEL, Manifest, bundle_folder
from hemalens.errors import BundleError, one_line
from hemalens.files import is_regular

FOLDER = Path(__file__).parent / "default"
"""Folder of the default bundle; CONTRIBUTING.md describes how it is made."""
LARGEST_BYTES = 13_000_000
"""Largest size of all its files together."""
USE = "research use: a morphologist confirms every result"


def default_model_path() -> Path:
    """Folder of the default bundle; raises `BundleError` where this installation has none."""
    if not (FOLDER / MANIFEST).is_file():
        raise BundleError(
            "this installation of hemalens has no default model",
            expected=f"a bundle in {one_line(FOLDER)}",
            remedy="Give a bundle; `hemalens train` makes one.",
        )
    return FOLDER


def describe_default_model(manifest: Manifest) -> str:
    """The default model on one line: name, training data and intended use."""
    backbone = manifest.config.get("backbone")
    name = f"{manifest.method} ({backbone})" if backbone else manifest.method
    return f"default model: {name}, trained on {manifest.trained_on}; {USE}"


def looks_like_bundle(path: Path) -> bool:
    """Whether a folder, or that of a run, has the files of a bundle, without a check of their content."""
    return all(is_regular(bundle_folder(path) / name) for name in (MANIFEST, MODEL))
