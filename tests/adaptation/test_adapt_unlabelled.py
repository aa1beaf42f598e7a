"""Adapting a bundle to images without labels: what changes, what it says of itself, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import trained
from command import Command
from hemalens import evaluate, open_bundle
from hemalens.adaptation.adapt import adapt
from hemalens.adaptation.options import AdaptOptions
from hemalens.bundle.bundle import MODEL, SEEN_UNLABELLED, Bundle
from hemalens.bundle.seen import SEEN
from hemalens.bundle.stages import CellImageStage, ClassicalSegmenter
from hemalens.datasets import open_dataset
from hemalens.datasets.walking import walk_files
from hemalens.errors import DatasetError, InputError, OutputError
from hemalens.imaging.segmentation import CellImageConfig
from hemalens.inference.predictor import Predictor
from hemalens.runs.evaluate import EvaluateOptions
from networks import conv_bundle
from trained import Colour, colour_cells

HOME: Mapping[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}
AWAY: Mapping[str, Colour] = {"neutrophil": (150, 110, 90), "lymphocyte": (80, 110, 160), "monocyte": (80, 180, 90)}
NUMBERS = {"neutrophil": 24, "lymphocyte": 8, "monocyte": 8}
UNSIZED = ["size=false"]


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The nearest mean colour."""
    folder = tmp_path_factory.mktemp("colours")
    cells = open_dataset(f"folder:{colour_cells(folder / 'home', HOME, 10, seed=0, noise=15)}")
    return trained.colour_bundle(folder / "bundle", cells, scale=30.0)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small residual network with batch norm."""
    return trained.fitted(tmp_path_factory, "finetune").bundle


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells of another laboratory, one class three times as frequent as the others."""
    return colour_cells(tmp_path_factory.mktemp("away") / "new laboratory", AWAY, NUMBERS, seed=1, noise=15)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"synthetic:{trained.cells(tmp_path_factory) / 'lab_b'}"


@pytest.fixture(scope="module")
def adapted(network: Bundle, drawn: str, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hemalens.adaptation.guards.FEWEST_MOVED", 0)
        patch.setattr("hemalens.adaptation.guards.ONE_TYPE", 1)
        return adapt(
            network.path,
            out=tmp_path_factory.mktemp("bn") / "bundle",
            unlabelled=drawn,
            options=AdaptOptions(settings=UNSIZED),
        )


@pytest.fixture
def hemalens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def _images(place: Path | str) -> list[Path]:
    """The images of a folder or of a dataset."""
    return walk_files(place) if isinstance(place, Path) else [record.path for record in open_dataset(place).records]


def _digests(place: Path | str) -> set[str]:
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in _images(place)}


def _answered(bundle: Bundle, place: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (n, k) and embeddings (n, d)."""
    found = list(Predictor(bundle, embeddings=True).predict(_images(place)))
    embeddings = [p.embedding for p in found if p.embedding is not None]
    return np.stack([p.probabilities for p in found if p.probabilities is not None]), np.stack(embeddings)


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


# --------------------------------------------------------------------------------------------------------- the bundle


def test_the_manifest_says_how_it_came_to_be(network: Bundle, adapted: Bundle, drawn: str) -> None:
    manifest, how = adapted.manifest, adapted.manifest.unlabelled
    assert network.manifest.unlabelled is None
    assert how is not None
    assert how.settings == {"size": False, "neighbours": True, "class_means": True}
    assert how.pieces == ("neighbours", "class_means")
    assert how.left_out == {}
    assert 0 < how.changed < 1
    assert how.base_model_sha256 == hashlib.sha256((network.path / MODEL).read_bytes()).hexdigest()
    assert (how.n_images, how.n_unreadable) == (len(_images(drawn)), 0)
    assert (how.typical_nucleus_px, how.size_widening) == (None, None)
    *before, entry = manifest.data
    assert tuple(before) == network.manifest.data
    assert (entry.role, entry.name, entry.fingerprint) == ("unlabelled", "lab_b", how.fingerprint)
    assert entry.class_counts == {"unlabelled": how.n_images}
    assert entry.dropped == {"unreadable": 0, "copies": 0, "no white cell": 0}
    assert adapted.seen == network.seen
    assert adapted.seen_unlabelled == _digests(drawn)
    assert _names(adapted.path) == {"manifest.json", MODEL, SEEN, SEEN_UNLABELLED}
    for key in ("method", "config", "classes", "temperature", "preprocessing", "embedding_size", "label_map"):
        assert getattr(manifest, key) == getattr(network.manifest, key)
    assert open_bundle(adapted.path).manifest == manifest


@pytest.mark.usefixtures("undrawn")
def test_a_test_on_those_images_is_transductive_and_on_others_it_is_not(
    colours: Bundle, away: Path, tmp_path: Path, hemalens: Command
) -> None:
    bundle = adapt(colours.path, out=tmp_path / "b", unlabelled=str(away), options=AdaptOptions(settings=UNSIZED))
    fresh = colour_cells(tmp_path / "fresh", AWAY, 4, seed=9, noise=15)
    for folder, transductive in ((away, True), (fresh, False)):
        report = evaluate(
            bundle.path, f"folder:{folder}", out=tmp_path / f"{transductive}", options=EvaluateOptions(explain="none")
        )
        assert report.evaluations[0].transductive == transductive
    said = hemalens("evaluate", bundle.path, "--data", f"folder:{away}", "--out", tmp_path / "shown")
    assert "(transductive)" in said.out.replace("\n", " ")


def test_labels_are_not_read(colours: Bundle, away: Path, tmp_path: Path) -> None:
    """The same images in one heap, under wrong names, or in a published layout's folders give the same bundle."""
    heap = tmp_path / "new laboratory"
    heap.mkdir()
    for i, path in enumerate(walk_files(away)):
        shutil.copy(path, heap / f"{i:03d}.png")
    made = [
        adapt(colours.path, out=tmp_path / f"out {i}", unlabelled=spec, options=AdaptOptions(settings=UNSIZED))
        for i, spec in enumerate((str(away), f"folder:{away}", f"folder:{heap}"))
    ]
    for other in made[1:]:
        assert other.graph == made[0].graph
        assert other.manifest.unlabelled == made[0].manifest.unlabelled


def test_copies_and_unreadable_images_are_counted_and_left_out(colours: Bundle, away: Path, tmp_path: Path) -> None:
    folder, said = shutil.copytree(away, tmp_path / "mixed"), list[str]()
    whole = walk_files(folder)[0]
    shutil.copy(whole, folder / "copy.png")
    (folder / "empty.png").write_bytes(b"")
    (folder / "half.png").write_bytes(whole.read_bytes()[:-300])
    bundle = adapt(
        colours.path, out=tmp_path / "out", unlabelled=str(folder), options=AdaptOptions(settings=UNSIZED), say=said.append
    )
    assert bundle.manifest.unlabelled is not None
    assert (bundle.manifest.unlabelled.n_images, bundle.manifest.unlabelled.n_unreadable) == (40, 2)
    assert bundle.manifest.data[-1].dropped == {"unreadable": 2, "copies": 1, "no white cell": 0}
    assert said[:2] == [
        "mixed: 40 image(s), labels not read",
        "mixed: left out 2 unreadable image(s), 1 copies",
    ]


def test_few_images_and_images_of_the_training_are_told_and_fewer_than_eight_refused(
    colours: Bundle, away: Path, tmp_path: Path
) -> None:
    few = colour_cells(tmp_path / "few", AWAY, 3, seed=4)
    said: list[str] = []
    adapt(colours.path, out=tmp_path / "nine", unlabelled=str(few), options=AdaptOptions(settings=UNSIZED), say=said.append)
    assert any("9 images are few" in line for line in said)
    for path in walk_files(few)[:2]:
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"'few' has too few images to adapt to; expected at least 8 different.*got 7"):
        adapt(colours.path, out=tmp_path / "seven", unlabelled=str(few), options=AdaptOptions(settings=UNSIZED))
    home = colour_cells(tmp_path / "home", HOME, 10, seed=0, noise=15)
    said.clear()
    adapt(colours.path, out=tmp_path / "own", unlabelled=str(home), options=AdaptOptions(settings=UNSIZED), say=said.append)
    assert any("30 image(s) are training images" in line for line in said)


def test_the_bundle_s_stages_come_first(tmp_path: Path) -> None:
    stage = CellImageStage(ClassicalSegmenter(), CellImageConfig(size_px=24))
    cells = open_dataset(f"folder:{colour_cells(tmp_path / 'home', HOME, 5, seed=0)}").through((stage,))
    base = conv_bundle(tmp_path / "base", cells)
    fresh = colour_cells(tmp_path / "fresh", AWAY, 4, seed=1)
    bundle = adapt(base.path, out=tmp_path / "out", unlabelled=str(fresh), options=AdaptOptions(settings=UNSIZED))
    assert bundle.manifest.before_graph == base.manifest.before_graph
    shown = [r for r in open_dataset(f"folder:{fresh}").records if stage.cut(r.read()).outcome != "no white cell"]
    assert 8 <= len(shown) < 12
    assert bundle.seen_unlabelled == {hashlib.sha256(record.path.read_bytes()).hexdigest() for record in shown}


# ------------------------------------------------------------------------------------------------------------ refusals


def test_what_is_no_data_or_would_overwrite_is_refused(colours: Bundle, away: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for spec, message in (("foldr:x", "unknown dataset 'foldr'"), ("nothing", "cannot read the dataset name")):
        with pytest.raises(DatasetError, match=message):
            adapt(colours.path, out=out, unlabelled=spec, options=AdaptOptions(settings=UNSIZED))
    with pytest.raises(DatasetError, match="there is no image or folder"):
        adapt(colours.path, out=out, unlabelled=f"folder:{tmp_path / 'gone'}", options=AdaptOptions(settings=UNSIZED))
    assert _names(tmp_path) == set()
    adapt(colours.path, out=out, unlabelled=str(away), options=AdaptOptions(settings=UNSIZED))
    with pytest.raises(OutputError, match="exists already"):
        adapt(colours.path, out=out, unlabelled=str(away), options=AdaptOptions(settings=UNSIZED))
    for bundle, place in ((out, out), (colours.path, away)):
        with pytest.raises(OutputError, match=r"would replace the input .*apart from all inputs"):
            adapt(bundle, out=place, overwrite=True, unlabelled=str(away), options=AdaptOptions(settings=UNSIZED))
    assert open_bundle(out).manifest.unlabelled is not None


# ---------------------------------------------------------------------------------------------------------------- CLI


def test_the_command_says_what_it_did(colours: Bundle, away: Path, tmp_path: Path, hemalens: Command) -> None:
    settings = ("--set", "size=false")
    call = ("adapt", colours.path, "--unlabelled", f"folder:{away}", *settings)
    ended = hemalens(*call, "--out", tmp_path / "out")
    assert ended.code == 0
    assert "new laboratory: 40 image(s), labels not read" in ended.err
    first, *_, last = ended.out.splitlines()
    assert first.startswith("adapted to 40 unlabelled images: ")
    assert last == f"bundle: {tmp_path / 'out'}"
    printed = json.loads(hemalens(*call, "--out", tmp_path / "json", "--json", "--quiet").out)
    assert printed["unlabelled"]["n_images"] == 40
    support = colour_cells(tmp_path / "support", AWAY, 5, seed=5)
    ended = hemalens(*call, "--support", f"folder:{support}", "--out", tmp_path / "both")
    assert ended.code == 0
    assert ended.out.splitlines()[0].startswith("adapted to 40 unlabelled images: ")
    assert "adapted to neutrophil (5), lymphocyte (5), monocyte (5)" in ended.out.splitlines()


WITHOUT_TORCH = """
import importlib.abc, sys
FORBIDDEN = {"torch", "torchvision", "timm", "lightning", "skl2onnx", "xgboost", "matplotlib"}
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise ModuleNotFoundError(f"{name} is forbidden here")
sys.meta_path.insert(0, Blocker())
from pathlib import Path
from hemalens.adaptation.adapt import adapt
from hemalens.adaptation.options import AdaptOptions
base, images, out = sys.argv[1:]
for name, settings in (("first", ()), ("second", ["class_means=false"])):
    made = adapt(Path(base), out=Path(out) / name, unlabelled=images, options=AdaptOptions(settings=settings))
    print(made.manifest.unlabelled.n_images)
"""


def test_it_needs_no_torch(network: Bundle, drawn: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", WITHOUT_TORCH, str(network.path), drawn, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(len(_images(drawn)))] * 2
