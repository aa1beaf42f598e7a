"""Bundles in 8 bits: what they say of themselves, how close they answer, and what is refused."""

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
from hemalens.bundle.artifact import MANIFEST, WEIGHTS
from hemalens.bundle.bundle import MODEL, SEEN_UNLABELLED, Bundle
from hemalens.bundle.seen import SEEN
from hemalens.bundle.stages import SEGMENTER, CellImageStage, ClassicalSegmenter, GraphSegmenter
from hemalens.datasets import CellDataset, open_dataset
from hemalens.datasets.walking import walk_files
from hemalens.errors import BundleError, DatasetError, ImageError, InputError, OutputError, SplitError
from hemalens.imaging.segmentation import CellImageConfig
from hemalens.inference.predictor import Predictor
from hemalens.runs.quantize import QuantizeOptions, drawn_evenly, quantize
from networks import conv_bundle
from trained import Colour, colour_cells

COLOURS: Mapping[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("base")
    cells = open_dataset(f"folder:{colour_cells(folder / 'home', COLOURS, 6, seed=0, noise=20)}")
    return conv_bundle(folder / "bundle", cells)


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells for calibration, one class rare."""
    numbers = {"neutrophil": 9, "lymphocyte": 2, "monocyte": 5}
    return colour_cells(tmp_path_factory.mktemp("calibration") / "new cells", COLOURS, numbers, seed=1, noise=20)


@pytest.fixture(scope="module")
def small(base: Bundle, calibration: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return quantize(base.path, f"folder:{calibration}", out=tmp_path_factory.mktemp("int8") / "bundle")


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    return colour_cells(tmp_path / "fresh", COLOURS, 3, seed=2, noise=20)


@pytest.fixture
def hemalens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def _digests(folder: Path) -> set[str]:
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in walk_files(folder)}


def _probabilities(bundle: Bundle, folder: Path) -> np.ndarray:
    found = list(Predictor(bundle).predict(walk_files(folder)))
    return np.stack([p.probabilities for p in found if p.probabilities is not None])


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


# --------------------------------------------------------------------------------------------------------- the bundle


def test_the_int8_bundle_answers_as_the_other_and_is_smaller(base: Bundle, small: Bundle, fresh: Path) -> None:
    before, after = _probabilities(base, fresh), _probabilities(small, fresh)
    assert 0 < np.abs(before - after).max() < 0.1
    np.testing.assert_array_equal(before.argmax(axis=1), after.argmax(axis=1))
    assert small.manifest.files[MODEL].n_bytes < 0.6 * base.manifest.files[MODEL].n_bytes


def test_the_manifest_says_how_it_was_made_and_how_far_it_lies(base: Bundle, small: Bundle, calibration: Path) -> None:
    how = small.manifest.quantisation
    assert base.manifest.quantisation is None
    assert how is not None
    assert (how.precision, how.method, how.n_images) == ("int8", "minmax", 16)
    assert how.settings == {"fp32_layers": 2, "reduce_range": False}
    assert how.base_model_sha256 == hashlib.sha256((base.path / MODEL).read_bytes()).hexdigest()
    entry = small.manifest.data[-1]
    assert (entry.role, entry.name, entry.fingerprint) == ("calibration", "new cells", how.fingerprint)
    assert small.manifest.data[:-1] == base.manifest.data
    before, after = _probabilities(base, calibration), _probabilities(small, calibration)
    assert how.largest_difference == pytest.approx(np.abs(before - after).max(), abs=1e-6)
    assert how.mean_difference == pytest.approx(np.abs(before - after).mean(), abs=1e-6)
    assert how.agreement == np.mean(before.argmax(axis=1) == after.argmax(axis=1))
    sizes = [len(bundle.graph.SerializeToString()) for bundle in (base, small)]
    assert how.size_ratio == pytest.approx(sizes[1] / sizes[0])
    assert small.manifest.parity == how.largest_difference
    same = ("classes", "label_map", "temperature", "preprocessing", "method", "config", "embedding_size", "frozen_backbone")
    for key in same:
        assert getattr(small.manifest, key) == getattr(base.manifest, key)
    assert small.manifest.created > base.manifest.created
    assert open_bundle(small.path).manifest == small.manifest


def test_the_calibration_images_count_as_seen_without_labels(base: Bundle, small: Bundle, calibration: Path) -> None:
    assert small.seen == base.seen
    assert small.seen_unlabelled == _digests(calibration)
    assert WEIGHTS in base.manifest.files
    assert _names(small.path) == {MANIFEST, MODEL, SEEN, SEEN_UNLABELLED}


@pytest.mark.usefixtures("undrawn")
def test_it_is_evaluated_and_calibration_images_make_it_transductive(
    base: Bundle, small: Bundle, calibration: Path, fresh: Path, tmp_path: Path
) -> None:
    results = [
        evaluate(bundle.path, f"folder:{fresh}", out=tmp_path / name).evaluations[0]
        for name, bundle in (("fp32", base), ("int8", small))
    ]
    assert results[0].scores.accuracy.value == results[1].scores.accuracy.value
    assert [r.transductive for r in results] == [False, False]
    assert evaluate(small.path, f"folder:{calibration}", out=tmp_path / "seen").evaluations[0].transductive
    home = next(p for p in base.path.parent.iterdir() if p.name == "home")
    with pytest.raises(SplitError, match="were trained on"):
        evaluate(small.path, f"folder:{home}", out=tmp_path / "leak")


def test_a_large_difference_does_not_keep_a_bundle_from_opening(small: Bundle, tmp_path: Path) -> None:
    how = small.manifest.quantisation
    assert how is not None
    far = {"parity": 0.9, "quantisation": how.model_copy(update={"largest_difference": 0.9})}
    copy = small.derive(tmp_path / "copy", small.manifest.model_copy(update=far), small.graph_bytes)
    assert open_bundle(copy.path).manifest.parity == 0.9


def test_a_bundle_from_before_there_was_the_field_opens(base: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(base.path, tmp_path / "copy"))
    manifest = json.loads((copy / MANIFEST).read_text())
    del manifest["quantisation"]
    (copy / MANIFEST).write_text(json.dumps(manifest))
    assert open_bundle(copy).manifest == base.manifest


# ------------------------------------------------------------------------------------------------------- the images


def test_the_images_are_drawn_evenly_by_seed(base: Bundle, calibration: Path, tmp_path: Path) -> None:
    spec = f"folder:{calibration}"
    made = [
        quantize(base.path, spec, out=tmp_path / str(i), options=QuantizeOptions(n_images=8), seed=seed)
        for i, seed in enumerate((0, 0, 1))
    ]
    assert made[0].manifest.data[-1].class_counts == {"lymphocyte": 2, "monocyte": 3, "neutrophil": 3}
    assert made[0].graph == made[1].graph
    assert made[0].seen_unlabelled == made[1].seen_unlabelled != made[2].seen_unlabelled
    assert made[0].manifest.quantisation != made[2].manifest.quantisation


@pytest.mark.parametrize(("n", "counts"), [(1, [0, 0, 1]), (3, [1, 1, 1]), (11, [2, 4, 5]), (99, [2, 5, 9])])
def test_what_cannot_be_shared_evenly_goes_by_lot(calibration: Path, n: int, counts: list[int]) -> None:
    dataset = open_dataset(f"folder:{calibration}", labels="as_labelled")
    parts = [drawn_evenly(dataset, n, np.random.default_rng(seed)) for seed in range(4)]
    for part in parts:
        assert sorted(part.class_counts.values()) == counts
        places = [dataset.records.index(record) for record in part.records]
        assert places == sorted(set(places))
    if n == 1:
        assert len({part.records[0].label for part in parts}) > 1
    more = drawn_evenly(dataset, n + 2, np.random.default_rng(0))
    assert set(parts[0].contents) <= set(more.contents)


def test_one_image_is_enough_and_labels_do_not_matter(base: Bundle, calibration: Path, fresh: Path, tmp_path: Path) -> None:
    folder = tmp_path / "unsorted" / "whatever"
    folder.mkdir(parents=True)
    for image in walk_files(calibration):
        shutil.copy(image, folder / image.name)
    said: list[str] = []
    made = quantize(
        base.path, f"folder:{folder.parent}", out=tmp_path / "out", options=QuantizeOptions(n_images=1), say=said.append
    )
    assert said[-1] == "calibrating on 1 of 16 images: 'whatever' (1)"
    assert made.manifest.labels == base.manifest.labels
    assert made.manifest.quantisation is not None
    assert made.manifest.quantisation.n_images == 1
    assert _probabilities(made, fresh).shape == (9, 3)


def test_unreadable_images_are_refused_or_dropped(base: Bundle, calibration: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(calibration, tmp_path / "broken"))
    (folder / "monocyte" / "empty.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"1 of 17 images cannot be read, first: .*empty\.png.*--drop-unreadable"):
        quantize(base.path, f"folder:{folder}", out=tmp_path / "out")
    whole = next((calibration / "monocyte").iterdir()).read_bytes()
    # the header is whole, the pixels are not
    (folder / "monocyte" / "empty.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"empty\.png"):
        quantize(base.path, f"folder:{folder}", out=tmp_path / "out")
    assert _names(tmp_path) == {"broken"}
    made = quantize(base.path, f"folder:{folder}", out=tmp_path / "out", options=QuantizeOptions(drop_unreadable=True))
    assert made.manifest.data[-1].class_counts["monocyte"] == 5


# --------------------------------------------------------------------------------------------------- bundles of all kinds


def test_an_adapted_bundle_and_two_side_by_side_are_quantised(base: Bundle, calibration: Path, tmp_path: Path) -> None:
    spec = f"folder:{calibration}"
    second = conv_bundle(tmp_path / "second", open_dataset(spec), seed=1)
    fresh = colour_cells(tmp_path / "fresh", COLOURS, 2, seed=4, noise=20)
    for name, beside in (("alone", []), ("both", [second.path])):
        adapted = adapt(base.path, out=tmp_path / f"adapted {name}", support=spec, options=AdaptOptions(beside=beside))
        made = quantize(adapted.path, spec, out=tmp_path / name)
        assert made.manifest.adaptation == adapted.manifest.adaptation
        assert [entry.role for entry in made.manifest.data][-2:] == ["support", "calibration"]
        assert made.seen == adapted.seen
        assert np.abs(_probabilities(adapted, fresh) - _probabilities(made, fresh)).max() < 0.2


def test_an_int8_bundle_is_adapted(small: Bundle, calibration: Path, fresh: Path, tmp_path: Path) -> None:
    made = adapt(small.path, out=tmp_path / "adapted", support=f"folder:{calibration}")
    assert made.seen_unlabelled == small.seen_unlabelled
    labels = [p.label for p in Predictor(made).predict(walk_files(fresh))]
    assert labels == [path.parent.name for path in walk_files(fresh)]


@pytest.mark.parametrize("segmenter", ["classical", "trained"])
def test_cells_are_cut_out_before_calibration(
    segmenter: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cut = ClassicalSegmenter() if segmenter == "classical" else GraphSegmenter(SEGMENTER, trained.dark_graph())
    stage = CellImageStage(cut, CellImageConfig(size_px=48))
    cells = trained.laboratory(tmp_path_factory).subset(range(0, 32, 3)).through((stage,))
    base = conv_bundle(tmp_path / "base", cells)
    spec = f"synthetic:{trained.cells(tmp_path_factory) / 'lab_b'}"
    made = quantize(base.path, spec, out=tmp_path / "out", options=QuantizeOptions(n_images=6))
    assert made.manifest.before_graph == base.manifest.before_graph
    assert (SEGMENTER in made.manifest.files) == (segmenter == "trained")
    # ranges come from what the graph will see: cell images, by the bundle's own stage
    plain = conv_bundle(tmp_path / "plain", cells.through(()))
    assert (
        quantize(plain.path, spec, out=tmp_path / "other", options=QuantizeOptions(n_images=6)).graph_bytes
        != made.graph_bytes
    )
    answer = next(Predictor(made).predict([cells.records[0].path]))
    assert answer.label in made.manifest.labels


@pytest.mark.parametrize("method", ["linear_probe", "finetune"])
def test_a_trained_bundle_is_quantised(method: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A classical head on a frozen backbone, and a network: only what lies before the embedding changes."""
    base = trained.fitted(tmp_path_factory, method).bundle
    away: CellDataset = trained.laboratory(tmp_path_factory, "lab_b")
    made = quantize(
        base.path,
        f"synthetic:{trained.cells(tmp_path_factory) / 'lab_b'}",
        out=tmp_path / "out",
        options=QuantizeOptions(n_images=12),
    )
    assert made.manifest.quantisation is not None
    assert made.manifest.quantisation.size_ratio < 0.8
    assert WEIGHTS not in made.manifest.files
    kinds = ["LinearClassifier", "Normalizer", "Softmax", "Resize"]
    before, after = ([sum(n.op_type == kind for n in b.graph.graph.node) for kind in kinds] for b in (base, made))
    assert before == after
    images = [record.path for record in away.records]
    old, new = (np.stack([p.probabilities for p in Predictor(b).predict(images)]) for b in (base, made))
    assert np.abs(old - new).mean() < 0.1


# ------------------------------------------------------------------------------------------------------------ refusals


def test_an_int8_bundle_and_one_without_a_network_are_refused(small: Bundle, calibration: Path, tmp_path: Path) -> None:
    spec = f"folder:{calibration}"
    with pytest.raises(BundleError, match=r"the bundle '.*bundle' is int8 already") as caught:
        quantize(small.path, spec, out=tmp_path / "out")
    assert "\n" not in str(caught.value)
    colour = trained.colour_bundle(tmp_path / "colour", open_dataset(spec))
    with pytest.raises(BundleError, match="nothing to quantise"):
        quantize(colour.path, spec, out=tmp_path / "out")
    assert _names(tmp_path) == {"colour"}


def test_outputs_and_inputs_that_cannot_be_are_refused(base: Bundle, calibration: Path, tmp_path: Path) -> None:
    spec, out = f"folder:{calibration}", tmp_path / "out"
    with pytest.raises(InputError, match=r"n_images .* greater than or equal to 1; got 0"):
        quantize(base.path, spec, out=out, options=QuantizeOptions(n_images=0))
    with pytest.raises(BundleError, match="there is no bundle folder"):
        quantize(tmp_path / "gone", spec, out=out)
    with pytest.raises(DatasetError, match="there is no folder"):
        quantize(base.path, "folder:gone", out=out)
    quantize(base.path, spec, out=out, options=QuantizeOptions(n_images=2))
    with pytest.raises(OutputError, match="exists already"):
        quantize(base.path, spec, out=out)
    quantize(base.path, spec, out=out, options=QuantizeOptions(n_images=3), overwrite=True)
    mine = shutil.copytree(calibration, tmp_path / "mine")
    with pytest.raises(OutputError, match="something else than a bundle"):
        quantize(base.path, spec, out=mine, overwrite=True)
    for place in (base.path, calibration):
        with pytest.raises(OutputError, match=r"would replace the input .*apart from all inputs"):
            quantize(base.path, spec, out=place, overwrite=True)
    assert WEIGHTS in _names(base.path)


QUANTISE_AND_PREDICT = """
import importlib.abc, json, sys
FORBIDDEN = {"torch", "torchvision", "timm", "lightning", "skl2onnx", "sympy"}
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise ModuleNotFoundError(f"{name} is forbidden here")
sys.meta_path.insert(0, Blocker())
from pathlib import Path
base, cells, bundle, images = sys.argv[1:]
from hemalens import predict
from hemalens.runs.quantize import QuantizeOptions, quantize
quantize(Path(base), f"folder:{cells}", out=Path(bundle), options=QuantizeOptions(n_images=4))
found = predict(Path(bundle), images, out=Path(bundle).parent / "answers.csv")
print(json.dumps(found.by_label))
"""


def test_neither_quantising_nor_predicting_needs_torch(
    base: Bundle, calibration: Path, fresh: Path, tmp_path: Path
) -> None:
    given = [str(path) for path in (base.path, calibration, tmp_path / "b", fresh)]
    command = [sys.executable, "-W", "error", "-c", QUANTISE_AND_PREDICT, *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sum(json.loads(done.stdout).values()) == 9


# ---------------------------------------------------------------------------------------------------------------- CLI


def test_the_command_prints_sizes_agreement_and_what_to_run(
    base: Bundle, calibration: Path, tmp_path: Path, hemalens: Command
) -> None:
    out = tmp_path / "out"
    call = ("quantize", base.path, "--calibrate", f"folder:{calibration}", "--out", out, "--images", 6)
    ended = hemalens(*call, "--set", "reduce_range=true", "--quiet")
    assert (ended.code, ended.err) == (0, "")
    how = open_bundle(out).manifest.quantisation
    assert how is not None
    lines = ended.out.splitlines()
    assert lines[0].startswith("int8, calibrated on 6 images: 0.0")
    assert f"({how.size_ratio:.2f})" in lines[0]
    assert "100.0% of these images; probabilities differ by " in lines[1]
    assert f"hemalens evaluate {out} --data SPEC --out REPORT" in lines[2]
    assert lines[3] == f"bundle: {out}"
    assert "--overwrite" in hemalens(*call).error
    again = hemalens(*call, "--overwrite", "--json", "--seed", 3)
    assert again.code == 0
    assert "calibrating on 6 of 16 images" in again.err
    assert json.loads(again.out) == open_bundle(out).manifest.model_dump(mode="json")


def test_the_command_refuses_in_one_line(
    base: Bundle, small: Bundle, calibration: Path, tmp_path: Path, hemalens: Command
) -> None:
    spec = f"folder:{calibration}"
    for bundle, data, more, message in (
        (small.path, spec, (), "is int8 already"),
        (tmp_path / "gone", spec, (), "there is no bundle folder"),
        (base.path, "foldr:x", (), "unknown dataset 'foldr'"),
        (base.path, spec, ("--set", "method=minmax"), "unknown key 'method'"),
        (base.path, spec, ("--set", "fp32_layers=4"), "nothing to quantise"),
        (base.path, spec, ("--images", 0), ""),
    ):
        ended = hemalens("quantize", bundle, "--calibrate", data, "--out", tmp_path / "out", *more)
        assert (ended.code, ended.out) == (2, "")
        assert message in ended.error
    assert _names(tmp_path) == set()
