"""Batch norm on balanced batches and a head taught by its own answers, on a network drawn by hand. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from command import Command
from hemalens import open_bundle
from hemalens.adaptation.adapt_unlabelled import adapt_to_both, adapt_unlabelled
from hemalens.adaptation.few_labels import adapt
from hemalens.adaptation.logit_adjustment import class_bias
from hemalens.bundle.artifact import DataEntry
from hemalens.bundle.bundle import (
    FINE,
    MODEL,
    SEEN,
    STATISTICS,
    Bundle,
    Manifest,
    Unlabelled,
    class_entries,
    fine_entries,
    seen_images,
    statistics_bytes,
    write_bundle,
)
from hemalens.classifiers.few_shot import FewShotConfig
from hemalens.datasets import Record, open_dataset
from hemalens.datasets.splits import seeded
from hemalens.errors import ConfigError, InputError
from hemalens.graphs import build as graphs
from hemalens.graphs.batch_norm import OP_TYPE
from hemalens.graphs.runtime import session_of
from hemalens.imaging.reading import Preprocessing
from hemalens.inference.predictor import list_images
from trained import Colour, colour_cells

HOME: Mapping[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}
AWAY: Mapping[str, Colour] = {"neutrophil": (180, 96, 96), "lymphocyte": (96, 96, 180), "monocyte": (96, 180, 96)}
SKEWED = {"neutrophil": 90, "lymphocyte": 4, "monocyte": 4}
CODES = ("neutrophil", "lymphocyte", "monocyte")
PREPROCESSING = Preprocessing(size_px=16)
TEMPERATURE = 1.3
ALONE = ["size=false", "class_bias=false"]
BATCH_NORM = [*ALONE, "strength=1", "batch_size=16"]
BALANCE = [*BATCH_NORM, "class_balance=true"]
PSEUDO = [*ALONE, "batch_norm=false", "pseudo_labels=true"]
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
    files = {MODEL: graph.SerializeToString(), SEEN: seen_images(cells.contents), STATISTICS: statistics_bytes(points)}
    return write_bundle(folder / "bundle", manifest, files)


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
    records = [Record(path, "", domain="") for path in list_images(folder)]
    rows = [session.run(list(names), {"image": record.read()[None]}) for record in records]
    truth = np.array([CODES.index(record.path.parent.name) for record in records])
    return [*(np.concatenate([row[i] for row in rows]).astype(np.float64) for i in range(len(names))), truth]


def _recalls(bundle: Bundle, folder: Path) -> list[float]:
    probabilities, truth = _given(bundle, folder, "probabilities")
    return [float((probabilities[truth == c].argmax(axis=1) == c).mean()) for c in np.unique(truth)]


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _statistics(bundle: Bundle) -> list[np.ndarray]:
    """Mean and variance (3,) of the one batch norm."""
    told = {tensor.name: numpy_helper.to_array(tensor) for tensor in bundle.graph.graph.initializer}
    node = next(node for node in bundle.graph.graph.node if node.op_type == OP_TYPE)
    return [told[name] for name in node.input[3:5]]


# ------------------------------------------------------------------------------------------------------- class balance


def test_balance_keeps_what_a_skewed_mix_of_cells_ruins(base: Bundle, skewed: Path, tmp_path: Path) -> None:
    plain = adapt_unlabelled(base.path, str(skewed), out=tmp_path / "plain", settings=BATCH_NORM)
    even = adapt_unlabelled(base.path, str(skewed), out=tmp_path / "even", settings=BALANCE)
    assert _recalls(plain, skewed)[0] < 0.7
    assert min(_recalls(even, skewed)) > 0.95
    # with classes alike, the middle of the classes lies at nothing, as it does at home
    off = []
    for bundle in (plain, even):
        embeddings, truth = _given(bundle, skewed, "embedding")
        off.append(np.abs(np.mean([embeddings[truth == c].mean(axis=0) for c in range(3)], axis=0)).max())
    assert off[0] > 1
    assert off[1] < 0.5
    assert even.manifest.parity <= 1e-3
    assert even.statistics is not None
    assert even.manifest.unlabelled is not None
    assert even.manifest.unlabelled.settings["class_balance"] is True


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_the_batches_are_drawn_twice_by_the_weights(base: Bundle, skewed: Path, tmp_path: Path, strength: float) -> None:
    settings = [*BALANCE, f"strength={strength}"]
    made = adapt_unlabelled(base.path, str(skewed), out=tmp_path / "made", settings=settings, seed=3)
    embeddings, logits, _ = _given(base, skewed, "embedding", "logits")
    own = _statistics(base)
    colours = embeddings * np.sqrt(own[1] + 1e-5) + own[0]
    told = {tensor.name: numpy_helper.to_array(tensor) for tensor in base.graph.graph.initializer}
    weight, bias = (next(v for n, v in told.items() if n.endswith(end)) for end in ("_weight", "_bias"))
    rng = seeded(3, "unlabelled", "class_balance")
    for _ in range(2):
        probabilities = _softmax(logits)
        chance = (probabilities / np.maximum(probabilities.sum(axis=0), 3)).sum(axis=1)
        drawn = rng.choice(len(colours), (12, 16), p=chance / chance.sum()).ravel()
        new = colours[drawn].mean(axis=0), colours[drawn].var(axis=0, ddof=1)
        mean, variance = ((1 - strength) * o + strength * n for o, n in zip(own, new, strict=True))
        logits = ((colours - mean) / np.sqrt(variance + 1e-5) @ weight.T + bias) / TEMPERATURE
    found = _statistics(made)
    np.testing.assert_allclose(found[0], mean, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found[1], variance, rtol=1e-3)


def test_the_seed_draws_them(base: Bundle, skewed: Path, tmp_path: Path) -> None:
    made = [
        adapt_unlabelled(base.path, str(skewed), out=tmp_path / f"{i}", settings=BALANCE, seed=seed)
        for i, seed in enumerate((0, 0, 1))
    ]
    assert made[0].graph_bytes == made[1].graph_bytes
    assert made[0].graph_bytes != made[2].graph_bytes


# ------------------------------------------------------------------------------------------------------- pseudo-labels


def test_the_most_certain_answers_teach_the_head(base: Bundle, skewed: Path, tmp_path: Path) -> None:
    made = adapt_unlabelled(base.path, str(skewed), out=tmp_path / "made", settings=PSEUDO)
    embeddings, logits, before, fine, _ = _given(base, skewed, "embedding", "logits", "probabilities", FINE)
    chosen: list[int] = []
    for c in range(3):
        of_class = [i for i in range(len(before)) if before[i].argmax() == c]
        # as certain as the probability, which in double precision does not round to 1
        of_class.sort(key=lambda i: -_softmax(logits)[i].max())
        chosen += of_class[: max(3, (len(of_class) + 1) // 2)]
    chosen.sort()
    answers = before.argmax(axis=1)
    learned = FewShotConfig(rule="base").make().fit(embeddings[chosen], answers[chosen], base=logits[chosen])
    expected = _softmax(learned.decision_function(embeddings, logits) / made.manifest.temperature)
    after, kept, same, _ = _given(made, skewed, "probabilities", "embedding", FINE)
    np.testing.assert_allclose(after, expected, atol=1e-3)
    assert np.abs(after - before).max() > 1e-3
    assert after.max(axis=1).mean() == pytest.approx(before.max(axis=1).mean(), abs=1e-3)
    np.testing.assert_array_equal(kept, embeddings)
    np.testing.assert_array_equal(same, fine)
    manifest = made.manifest
    assert manifest.unlabelled is not None
    assert manifest.unlabelled.taught == _counts(answers[chosen])
    assert manifest.fine == base.manifest.fine
    assert manifest.classes == base.manifest.classes
    assert made.statistics is None, "the head expects what it was taught by"
    assert 0 <= manifest.parity <= 1e-3
    again = adapt_unlabelled(base.path, str(skewed), out=tmp_path / "again", settings=PSEUDO)
    assert again.graph_bytes == made.graph_bytes


def _counts(answers: np.ndarray) -> dict[str, int]:
    return {code: int((answers == c).sum()) for c, code in enumerate(CODES)}


def test_a_class_without_answers_keeps_what_the_head_knew(base: Bundle, tmp_path: Path) -> None:
    two = colour_cells(tmp_path / "two", {c: AWAY[c] for c in CODES[:2]}, 12, seed=2, noise=10)
    made = adapt_unlabelled(base.path, str(two), out=tmp_path / "made", settings=PSEUDO)
    assert made.manifest.unlabelled is not None
    assert made.manifest.unlabelled.taught == {"neutrophil": 6, "lymphocyte": 6, "monocyte": 0}
    assert min(_recalls(made, colour_cells(tmp_path / "all", AWAY, 6, seed=3, noise=10))) > 0.8
    one = colour_cells(tmp_path / "one", {"neutrophil": AWAY["neutrophil"]}, 12, seed=2)
    with pytest.raises(
        InputError, match=r"teach fewer than two classes; expected at least 3 images.*got neutrophil \(12\)"
    ):
        adapt_unlabelled(base.path, str(one), out=tmp_path / "no", settings=PSEUDO)
    assert not (tmp_path / "no").exists()


def test_all_pieces_go_together_and_the_prior_comes_last(base: Bundle, skewed: Path, tmp_path: Path) -> None:
    settings = [*BALANCE, "standardise=true", "pseudo_labels=true"]
    without = adapt_unlabelled(base.path, str(skewed), out=tmp_path / "without", settings=settings)
    made = adapt_unlabelled(base.path, str(skewed), out=tmp_path / "made", settings=[*settings, "prior=true"])
    assert made.manifest.parity <= 1e-3
    assert made.manifest.unlabelled is not None
    assert made.manifest.unlabelled.prior is not None
    before, after = (_given(b, skewed, "probabilities")[0] for b in (without, made))
    weighed = before * np.array(made.manifest.unlabelled.prior) * 3
    np.testing.assert_allclose(after, weighed / weighed.sum(axis=1, keepdims=True), atol=1e-4)
    names = [{value.name for value in bundle.graph.graph.output} for bundle in (base, made)]
    assert names[0] == names[1]


def test_a_taught_bundle_is_taught_again_and_learns_from_labels(base: Bundle, skewed: Path, tmp_path: Path) -> None:
    once = adapt_unlabelled(base.path, str(skewed), out=tmp_path / "once", settings=[*ALONE, "pseudo_labels=true"])
    twice = adapt_unlabelled(once.path, str(skewed), out=tmp_path / "twice", settings=PSEUDO)
    assert twice.manifest.parity <= 1e-3
    support = f"folder:{colour_cells(tmp_path / 'support', AWAY, 4, seed=5)}"
    kept = adapt(twice.path, support, out=tmp_path / "kept").manifest
    assert kept.unlabelled == twice.manifest.unlabelled
    assert kept.fine == ()
    forgot = adapt(twice.path, support, out=tmp_path / "forgot", few_shot=["rule=prototype"]).manifest
    assert forgot.unlabelled is not None
    assert forgot.unlabelled.taught is None
    with pytest.raises(ConfigError, match="pseudo-labels have nothing to teach; expected pseudo_labels=false"):
        adapt_to_both(base.path, str(skewed), support, out=tmp_path / "no", settings=PSEUDO)


# --------------------------------------------------------------------------------------------------------- a class bias

NOTHING = ["batch_norm=false"]


@pytest.mark.parametrize("others", [NOTHING, ["class_balance=true", "standardise=true", "pseudo_labels=true"]])
def test_the_bias_comes_last_and_alone_changes_the_answers(
    base: Bundle, skewed: Path, tmp_path: Path, others: list[str]
) -> None:
    names = ("logits", "probabilities", "embedding", FINE)
    without = base
    if others != NOTHING:
        without = adapt_unlabelled(base.path, str(skewed), out=tmp_path / "without", settings=[*ALONE, *others])
    made = adapt_unlabelled(base.path, str(skewed), out=tmp_path / "made", settings=["size=false", *others])
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
    assert (made.statistics is None) == (without.statistics is None)


def test_a_bundle_with_a_bias_is_adapted_again(base: Bundle, skewed: Path, tmp_path: Path) -> None:
    once = adapt_unlabelled(base.path, str(skewed), out=tmp_path / "once")
    twice = adapt_unlabelled(once.path, str(skewed), out=tmp_path / "twice")
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
        adapt_unlabelled(bundle.path, str(skewed), out=tmp_path / name, settings=settings)
        for name, bundle in (("alike", base), ("made", with_basophils))
    )
    assert alike.manifest.unlabelled is not None
    assert made.manifest.unlabelled is not None
    assert alike.manifest.unlabelled.bias is not None
    assert made.manifest.unlabelled.bias is not None
    difference = np.subtract(made.manifest.unlabelled.bias, alike.manifest.unlabelled.bias)
    np.testing.assert_allclose(difference, [0, 0, np.log(scarce or 0.5)], atol=1e-6)
    for share in (scarce or 0.5, 0.125):
        again = adapt_unlabelled(
            made.path, str(skewed), out=tmp_path / f"again_{share}", settings=["size=false", *NOTHING, f"scarce={share}"]
        )
        after, before = (_given(bundle, skewed, "logits")[0] for bundle in (again, made))
        alike = before - [0, 0, np.log(scarce or 0.5)]
        expected = alike + class_bias(alike) + [0, 0, np.log(share)]
        np.testing.assert_allclose(after, expected, atol=2e-2)


def test_the_command_says_which_types_are_scarce(
    base: Bundle, with_basophils: Bundle, skewed: Path, tmp_path: Path, hemalens: Command
) -> None:
    told = "scarce in any blood, so taken to be 0.5 times as frequent: basophil"
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


def test_a_manifest_of_before_opens(base: Bundle) -> None:
    entry = {"settings": {}, "base_model_sha256": "0", "n_images": 9, "n_unreadable": 0, "fingerprint": "f", "prior": None}
    opened = Unlabelled.model_validate(entry)
    assert (opened.taught, opened.typical_nucleus_px, opened.size_widening, opened.bias) == (None, None, None, None)
    assert open_bundle(base.path).manifest.unlabelled is None


def test_the_command_takes_both(base: Bundle, skewed: Path, tmp_path: Path, hemalens: Command) -> None:
    wanted = ("class_balance=true", "pseudo_labels=true", "class_bias=false")
    call = ("adapt", base.path, "--unlabelled", skewed, *(word for each in wanted for word in ("--set", each)))
    ended = hemalens(*call, "--out", tmp_path / "out")
    assert ended.code == 0, ended.error
    first, second, _ = ended.out.splitlines()
    assert first.startswith("adapted to 98 images without labels: batch norm, class balance, pseudo-labels;")
    assert second.startswith("taught by its own answers: neutrophil (")
    ended = hemalens(*call, "--support", f"folder:{skewed}", "--out", tmp_path / "no")
    assert ended.code == 2
    assert "pseudo-labels have nothing to teach" in ended.error
