"""The class bias and scarce types, on a network drawn by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from command import Command
from hemalens.adaptation.adapt import adapt
from hemalens.adaptation.class_bias import class_bias
from hemalens.adaptation.options import AdaptOptions
from hemalens.bundle.artifact import DataEntry
from hemalens.bundle.bundle import FINE, MODEL, Bundle, Manifest, class_entries, fine_entries, write_bundle
from hemalens.bundle.seen import SEEN, seen_images
from hemalens.datasets import Record, open_dataset
from hemalens.datasets.walking import walk_files
from hemalens.graphs import build as graphs
from hemalens.graphs.batch_norm import OP_TYPE
from hemalens.graphs.runtime import session_of
from hemalens.imaging.reading import Preprocessing
from trained import Colour, colour_cells

HOME: Mapping[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}
AWAY: Mapping[str, Colour] = {"neutrophil": (180, 96, 96), "lymphocyte": (96, 96, 180), "monocyte": (96, 180, 96)}
SKEWED = {"neutrophil": 90, "lymphocyte": 4, "monocyte": 4}
CODES = ("neutrophil", "lymphocyte", "monocyte")
PREPROCESSING = Preprocessing(size_px=16)
TEMPERATURE = 1.3
ALONE = ["size=false", "class_bias=false"]
FINER = (("band_neutrophil", 0), ("segmented_neutrophil", 0), ("lymphocyte", 1), ("monocyte", 2))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Mean colours behind batch norm, and the nearest class mean; finer types of neutrophils by how red they are."""
    folder = tmp_path_factory.mktemp("base")
    cells = open_dataset(f"folder:{colour_cells(folder / 'home', HOME, 12, seed=0, noise=15)}")
    assert cells.classes == CODES
    front = graphs.join(graphs.resize_graph(PREPROCESSING), graphs.normalise_graph(PREPROCESSING))
    session = session_of(front.SerializeToString())
    colours = np.stack([session.run(["pixels"], {"image": r.read()[None]})[0][0].mean(axis=(1, 2)) for r in cells.records])
    mean, variance = colours.mean(axis=0), colours.var(axis=0)
    points = (colours - mean) / np.sqrt(variance + 1e-5)
    centres = np.stack([points[cells.targets == i].mean(axis=0) for i in range(3)])
    constants = {
        "one": np.ones(3),
        "zero": np.zeros(3),
        "bn_mean": mean,
        "bn_variance": variance,
        "weight": 2 * centres,
        "bias": -(centres**2).sum(axis=1),
        "red": np.array([[1.0, 0, 0]]),
        "whole": np.array([1.0]),
    }
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["colour"]),
        helper.make_node(OP_TYPE, ["colour", "one", "zero", "bn_mean", "bn_variance"], ["embedding"]),
        helper.make_node("Gemm", ["embedding", "weight", "bias"], ["raw_logits"], transB=1),
        helper.make_node("Gemm", ["embedding", "red"], ["redness"], transB=1),
        helper.make_node("Sigmoid", ["redness"], ["first"]),
        helper.make_node("Sub", ["whole", "first"], ["second"]),
        helper.make_node("Add", ["first", "second"], ["lone"]),
        helper.make_node("Concat", ["first", "second", "lone", "lone"], [FINE], axis=1),
    ]
    body = graphs.make_model(
        nodes,
        [graphs.float_value("pixels", ["n", 3, 16, 16])],
        [graphs.float_value(name, ["n", k]) for name, k in (("embedding", 3), ("raw_logits", 3), (FINE, 4))],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in constants.items()],
    )
    graph = graphs.join(front, body, graphs.temperature_graph(3, TEMPERATURE))
    manifest = Manifest(
        created="2026-01-01T00:00:00+00:00",
        method="normed_colour",
        config={},
        label_map=cells.label_map,
        classes=class_entries(cells.classes),
        preprocessing=PREPROCESSING,
        embedding_size=3,
        frozen_backbone=True,
        temperature=TEMPERATURE,
        fine=fine_entries((code, CODES[of]) for code, of in FINER),
        data=(DataEntry.of(cells, "train"),),
        parity=0.0,
        versions={},
    )
    return write_bundle(folder / "bundle", manifest, {MODEL: graph.SerializeToString(), SEEN: seen_images(cells.contents)})


@pytest.fixture(scope="module")
def skewed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another stain, and nine in ten cells are neutrophils."""
    return colour_cells(tmp_path_factory.mktemp("skewed") / "new laboratory", AWAY, SKEWED, seed=1, noise=10)


@pytest.fixture
def hemalens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def _given(bundle: Bundle, folder: Path, *names: str) -> list[np.ndarray]:
    """What the graph gives for every image below a folder, in order, and at the end the classes of the images."""
    session = session_of(bundle.graph_bytes)
    records = [Record(path, "", domain="") for path in walk_files(folder)]
    rows = [session.run(list(names), {"image": record.read()[None]}) for record in records]
    truth = np.array([CODES.index(record.path.parent.name) for record in records])
    return [*(np.concatenate([row[i] for row in rows]).astype(np.float64) for i in range(len(names))), truth]


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


# --------------------------------------------------------------------------------------------------------- a class bias

NOTHING = ["batch_norm=false"]


@pytest.mark.parametrize("others", [NOTHING, []])
def test_the_bias_comes_last_and_alone_changes_the_answers(
    base: Bundle, skewed: Path, tmp_path: Path, others: list[str]
) -> None:
    names = ("logits", "probabilities", "embedding", FINE)
    without = base
    if others != NOTHING:
        without = adapt(
            base.path, out=tmp_path / "without", unlabelled=str(skewed), options=AdaptOptions(settings=[*ALONE, *others])
        )
    made = adapt(
        base.path, out=tmp_path / "made", unlabelled=str(skewed), options=AdaptOptions(settings=["size=false", *others])
    )
    (logits, before, *same, _), (_, after, *kept, _) = (_given(b, skewed, *names) for b in (without, made))
    how = made.manifest.unlabelled
    assert how is not None
    assert how.bias is not None
    np.testing.assert_allclose(how.bias, class_bias(logits), atol=1e-2)
    np.testing.assert_allclose(after, _softmax(logits + np.array(how.bias)), atol=1e-3)
    assert np.abs(after - before).max() > 1e-3
    for one, other in zip(same, kept, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)
    assert made.manifest.temperature == pytest.approx(without.manifest.temperature), "it was the softer one"
    assert made.manifest.parity <= 1e-3


def test_a_bundle_with_a_bias_is_adapted_again(base: Bundle, skewed: Path, tmp_path: Path) -> None:
    once = adapt(base.path, out=tmp_path / "once", unlabelled=str(skewed))
    twice = adapt(once.path, out=tmp_path / "twice", unlabelled=str(skewed))
    assert twice.manifest.parity <= 1e-3
    names = [{value.name for value in bundle.graph.graph.output} for bundle in (base, twice)]
    assert names[0] == names[1]


@pytest.fixture
def with_basophils(base: Bundle, tmp_path: Path) -> Bundle:
    """The same bundle, whose last class is called basophil and not monocyte."""
    renamed = [(code.replace("monocyte", "basophil"), CODES[of].replace("monocyte", "basophil")) for code, of in FINER]
    classes = class_entries((*CODES[:2], "basophil"))
    manifest = base.manifest.model_copy(update={"classes": classes, "fine": fine_entries(renamed)})
    return write_bundle(
        tmp_path / "renamed", manifest, {MODEL: base.graph.SerializeToString(), SEEN: seen_images(base.seen)}
    )


@pytest.mark.parametrize("scarce", [None, 0.25, 1.0])
def test_basophils_are_taken_to_be_scarce_once(
    base: Bundle, with_basophils: Bundle, skewed: Path, tmp_path: Path, scarce: float | None
) -> None:
    settings = ["size=false", *NOTHING, *([] if scarce is None else [f"scarce={scarce}"])]
    alike, made = (
        adapt(bundle.path, out=tmp_path / name, unlabelled=str(skewed), options=AdaptOptions(settings=settings))
        for name, bundle in (("alike", base), ("made", with_basophils))
    )
    assert alike.manifest.unlabelled is not None
    assert made.manifest.unlabelled is not None
    assert alike.manifest.unlabelled.bias is not None
    assert made.manifest.unlabelled.bias is not None
    difference = np.subtract(made.manifest.unlabelled.bias, alike.manifest.unlabelled.bias)
    np.testing.assert_allclose(difference, [0, 0, np.log(scarce or 0.5)], atol=1e-6)
    for share in (scarce or 0.5, 0.125):
        again = adapt(
            made.path,
            out=tmp_path / f"again_{share}",
            unlabelled=str(skewed),
            options=AdaptOptions(settings=["size=false", *NOTHING, f"scarce={share}"]),
        )
        after, before = (_given(bundle, skewed, "logits")[0] for bundle in (again, made))
        alike = before - [0, 0, np.log(scarce or 0.5)]
        expected = alike + class_bias(alike) + [0, 0, np.log(share)]
        np.testing.assert_allclose(after, expected, atol=2e-2)


def test_the_command_says_which_types_are_scarce(
    base: Bundle, with_basophils: Bundle, skewed: Path, tmp_path: Path, hemalens: Command
) -> None:
    told = "class prior of scarce types multiplied by 0.5: basophil"
    for name, bundle, settings, expected in (
        ("with", with_basophils, (), True),
        ("off", with_basophils, ("--set", "scarce=1"), False),
        ("no bias", with_basophils, ("--set", "class_bias=false"), False),
        ("without", base, (), False),
        (
            "of labels alone",
            with_basophils,
            ("--support", f"folder:{skewed}", "--few-shot", "rule=prototype", "--allow-new"),
            False,
        ),
    ):
        call = ("adapt", bundle.path, "--unlabelled", skewed, "--set", "size=false", *settings, "--out", tmp_path / name)
        ended = hemalens(*call)
        assert ended.code == 0, ended.error
        assert (told in ended.out.splitlines()) is expected, name


# -------------------------------------------------------------------------------------------------------- the bundle
