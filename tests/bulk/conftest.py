"""Bundles and cells of bulk runs, shards computed in this process, and one small Ray for the tests that need it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import trained
from bulk_in_process import InProcess
from hemalens.bulk.options import BulkOptions
from hemalens.bundle.bundle import MODEL, Bundle, write_bundle
from hemalens.bundle.reference import reference_of
from hemalens.bundle.review import thresholds_of
from hemalens.datasets import open_dataset
from hemalens.trust.reference import REFERENCE_FILE, ImitatedImages, reference_bytes
from trained import Colour, colour_cells

STAIN: Mapping[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}
OTHER: Mapping[str, Colour] = {"neutrophil": (230, 110, 110), "lymphocyte": (110, 110, 230), "monocyte": (110, 230, 110)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with held-out images, imitated laboratories and thresholds for a review."""
    folder = tmp_path_factory.mktemp("bulk bundle")
    train = open_dataset(f"folder:{colour_cells(folder / 'home', STAIN, 20, seed=0, noise=8)}")
    held = open_dataset(f"folder:{colour_cells(folder / 'held', STAIN, 40, seed=1, noise=8)}")
    plain = trained.colour_bundle(folder / "plain", train)
    reference = reference_of(train, held, plain.graph, None)
    assert reference is not None
    rng = np.random.default_rng(0)
    targets = np.tile(np.arange(3), 40)
    probabilities = rng.dirichlet((1, 1, 1), 120) / 2 + np.eye(3)[targets] / 2
    imitated = ImitatedImages(probabilities.astype(np.float32), targets, np.repeat(np.arange(4), 30))
    reference = replace(reference, imitated=imitated)
    files = {MODEL: plain.graph_bytes, REFERENCE_FILE: reference_bytes(reference)}
    manifest = plain.manifest.model_copy(update={"review": thresholds_of(reference, plain.manifest.labels)})
    return write_bundle(folder / "bundle", manifest, files)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """45 images of a laboratory that the bundle does not know, one of them torn."""
    folder = colour_cells(tmp_path_factory.mktemp("foreign") / "foreign", OTHER, 15, seed=3, noise=8)
    (folder / "lymphocyte" / "torn.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """56 images of the bundle's own laboratory."""
    mix = {"neutrophil": 40, "lymphocyte": 6, "monocyte": 10}
    return colour_cells(tmp_path_factory.mktemp("home") / "home", STAIN, mix, seed=2, noise=8)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """Runs without Ray: what is tested here is not Ray's."""

    @contextmanager
    def connected(options: BulkOptions) -> Iterator[None]:
        yield None

    made = InProcess()
    for verb in ("predict", "count"):
        monkeypatch.setattr(f"hemalens.bulk.{verb}.connected", connected)
        monkeypatch.setattr(f"hemalens.bulk.{verb}.run_units", made.run_units)
    return made


@pytest.fixture(scope="session")
def ray_here() -> Iterator[object]:
    """A Ray of two processors in this process, which all runs of the tests use."""
    from hemalens.bulk.cluster import connected

    with connected(BulkOptions(n_actors=2)) as ray:
        yield ray
