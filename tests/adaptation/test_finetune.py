"""All weights trained on with a few labelled cells: what the bundle says of it, folds that leave out, and refusals."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import pytest

import trained
from bench import changed
from command import Command
from hemalens.adaptation.adapt import adapt
from hemalens.adaptation.ensemble import EnsembleClassifier
from hemalens.adaptation.finetune import left_out
from hemalens.adaptation.options import AdaptOptions
from hemalens.benchmark.protocols.finetuning import FinetuningProtocol
from hemalens.benchmark.protocols.k_shot import KShotProtocol
from hemalens.benchmark.saved_bundle import benchmark_bundle
from hemalens.bundle.bundle import MODEL, Bundle, open_bundle
from hemalens.classifiers.few_shot import FewShotConfig
from hemalens.datasets import CellDataset, open_dataset
from hemalens.datasets.walking import walk_files
from hemalens.errors import BundleError, ConfigError, LabelError, SplitError
from hemalens.graphs import build as graphs
from hemalens.graphs.runtime import run_rows
from hemalens.inference.predictor import Predictor
from hemalens.methods.few_shot_finetune import FewShotFinetuneConfig, FineTuner
from hemalens.report import read_report
from hemalens.report.k_shot import targets
from hemalens.trust.reference import read_reference

SHORT = ["steps=2", "batch_size=4", "precision=fp32", "folds=2"]
ALONE = [*SHORT, "classifier=false"]
TYPES = ("neutrophil", "eosinophil", "lymphocyte", "monocyte")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained.fitted(tmp_path_factory, "robust").bundle


@pytest.fixture(scope="module")
def abroad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.cells(tmp_path_factory) / "lab_b"


@pytest.fixture(scope="module")
def support(abroad: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cells a type."""
    folder = tmp_path_factory.mktemp("finetuning") / "support"
    for code in TYPES:
        (folder / code).mkdir(parents=True)
        for image in sorted((abroad / "images" / code).iterdir())[:3]:
            shutil.copy(image, folder / code)
    return folder


@pytest.fixture(scope="module")
def finetuned(base: Bundle, support: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("finetuned") / "bundle"
    return adapt(base.path, out=out, support=f"folder:{support}", options=AdaptOptions(settings=SHORT, finetune=True))


@pytest.fixture(scope="module")
def alone(base: Bundle, support: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The network that was trained on, without the classifier beside it."""
    out = tmp_path_factory.mktemp("alone") / "bundle"
    return adapt(base.path, out=out, support=f"folder:{support}", options=AdaptOptions(settings=ALONE, finetune=True))


def _probabilities(bundle: Bundle, folder: Path) -> Any:
    return np.array([answer.probabilities for answer in Predictor(bundle).predict(walk_files(folder))])


def test_the_manifest_says_how_it_came_to_be(base: Bundle, finetuned: Bundle) -> None:
    manifest = finetuned.manifest
    assert (manifest.method, manifest.labels, manifest.config) == ("robust", base.manifest.labels, base.manifest.config)
    how = manifest.adaptation
    assert how is not None
    assert (how.few_shot["rule"], how.few_shot["steps"], how.new_classes) == ("finetune", 2, ())
    assert how.base_model_sha256 == (base.manifest.files[MODEL].sha256,)
    assert how.expected.n == 12
    assert "cross-validated over 12 support images" in how.expected.verdict
    assert [entry.role for entry in manifest.data] == ["train", "validation", "support"]
    assert finetuned.seen == base.seen | set(how.support_images)
    assert manifest.parity < 1e-3


def test_what_was_answered_by_the_folds_is_kept_as_its_home(finetuned: Bundle) -> None:
    reference = finetuned.reference
    assert reference is not None
    assert (reference.geometry, len(reference.targets)) == (None, 12)
    np.testing.assert_allclose(reference.probabilities.sum(axis=1), 1, atol=1e-5)
    content = (finetuned.path / "home.npz").read_bytes()
    read_reference(content, n_features=finetuned.manifest.embedding_size, n_classes=len(finetuned.manifest.labels))


def test_it_answers_otherwise_than_its_base_and_can_be_trained_on_again(
    base: Bundle, alone: Bundle, finetuned: Bundle, support: Path, tmp_path: Path
) -> None:
    assert not np.allclose(_probabilities(base, support), _probabilities(alone, support), atol=1e-4)
    again = adapt(
        alone.path,
        out=tmp_path / "again",
        support=f"folder:{support}",
        options=AdaptOptions(settings=[*ALONE, "folds=0"], finetune=True),
    )
    assert again.manifest.adaptation is not None
    assert again.manifest.adaptation.expected.verdict.endswith("(folds=0)")
    assert again.reference is None
    assert again.manifest.temperature == alone.manifest.temperature
    with pytest.raises(BundleError, match="no linear head of its own"):
        adapt(
            finetuned.path,
            out=tmp_path / "no",
            support=f"folder:{support}",
            options=AdaptOptions(settings=SHORT, finetune=True),
        )


def _logs(bundle: Bundle, folder: Path) -> np.ndarray:
    """Logarithms of what the bundle answered before its temperature."""
    logits = np.log(_probabilities(bundle, folder)) * bundle.manifest.temperature
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


def test_the_answer_is_the_mean_of_the_network_s_and_the_classifier_s(
    base: Bundle, finetuned: Bundle, alone: Bundle, support: Path, tmp_path: Path
) -> None:
    """Both made by commands of their own."""
    classifier = adapt(base.path, out=tmp_path / "classifier", support=f"folder:{support}")
    mean = (_logs(alone, support) + _logs(classifier, support)) / 2
    powers = np.exp(mean / finetuned.manifest.temperature)
    np.testing.assert_allclose(
        _probabilities(finetuned, support), powers / powers.sum(axis=1, keepdims=True), rtol=0.02, atol=2e-3
    )
    manifest = finetuned.manifest
    assert manifest.embedding_size == 2 * base.manifest.embedding_size
    assert manifest.fine == base.manifest.fine
    head = graphs.cut(finetuned.graph, ["embedding"], ["probabilities"]).SerializeToString()
    found = list(Predictor(finetuned, embeddings=True).predict(walk_files(support)))
    rows = {"embedding": np.stack([np.asarray(answer.embedding, np.float32) for answer in found])}
    told = run_rows(head, rows, ["probabilities"])["probabilities"]
    np.testing.assert_allclose(told, _probabilities(finetuned, support), atol=1e-5)


def test_what_stands_beside_is_for_the_classifier(base: Bundle, support: Path, tmp_path: Path) -> None:
    wider = adapt(
        base.path,
        out=tmp_path / "wider",
        support=f"folder:{support}",
        options=AdaptOptions(beside=[base.path], settings=[*SHORT, "folds=0"], finetune=True),
    )
    assert wider.manifest.embedding_size == 3 * base.manifest.embedding_size
    assert wider.manifest.adaptation is not None
    assert wider.manifest.adaptation.beside == ("robust",)
    assert len(wider.manifest.adaptation.base_model_sha256) == 2
    assert wider.manifest.temperature == 1
    with pytest.raises(ConfigError, match="classifier=true"):
        adapt(
            base.path,
            out=tmp_path / "no",
            support=f"folder:{support}",
            options=AdaptOptions(beside=[base.path], settings=ALONE, finetune=True),
        )


def test_images_seen_without_labels_stay_known(base: Bundle, abroad: Path, support: Path, tmp_path: Path) -> None:
    followed = adapt(base.path, out=tmp_path / "followed", unlabelled=str(abroad / "images"))
    both = adapt(
        followed.path,
        out=tmp_path / "both",
        support=f"folder:{support}",
        options=AdaptOptions(settings=[*SHORT, "folds=0"], finetune=True),
    )
    assert both.seen_unlabelled == followed.seen_unlabelled
    assert both.manifest.unlabelled == followed.manifest.unlabelled
    assert both.manifest.unlabelled is not None


# ------------------------------------------------------------------------------------------------------------- folds


@dataclass
class _Recorded:
    """Stands for `FineTuner`: remembers what each training was shown, and answers with its number."""

    config: FewShotFinetuneConfig
    shown: list[set[str]] = field(default_factory=list)

    def learn(self, cells: CellDataset, *, seed: int) -> int:
        assert cells.classes == ("neutrophil", "eosinophil", "basophil", "lymphocyte", "monocyte")
        self.shown.append(set(cells.contents))
        return len(self.shown) - 1

    def logits(self, module: int, records: CellDataset) -> Any:
        return np.full((len(records), len(records.classes)), float(module))


@pytest.mark.parametrize("folds", [0, 2, 3, 5])
def test_no_image_is_answered_by_a_training_that_saw_it(support: Path, folds: int) -> None:
    cells = open_dataset(f"folder:{support}").under(("neutrophil", "eosinophil", "basophil", "lymphocyte", "monocyte"))
    way = _Recorded(FewShotFinetuneConfig(folds=folds))
    logits = left_out(way, cells, seed=0)  # type: ignore[arg-type]
    assert len(way.shown) == min(folds, 3), "no more folds than cells of a type"
    for content, row in zip(cells.contents, logits, strict=True):
        assert np.isfinite(row).all() == bool(folds)
        if folds:
            assert content not in way.shown[int(row[0])]


# ---------------------------------------------------------------------------------------------------------- protocol


@pytest.mark.usefixtures("undrawn")
def test_network_and_classifier_learn_the_same_drawing(
    base: Bundle, abroad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[list[str]] = []
    classifier, network = EnsembleClassifier.learn, FineTuner.learn

    def classifier_learns(self: EnsembleClassifier, rows: Any = None) -> Any:
        learned.append([self.cells.contents[row] for row in rows])
        return classifier(self, rows)

    def network_learns(self: FineTuner, cells: CellDataset, *, seed: int) -> Any:
        learned.append(list(cells.contents))
        return network(self, cells, seed=seed)

    monkeypatch.setattr(EnsembleClassifier, "learn", classifier_learns)
    monkeypatch.setattr(FineTuner, "learn", network_learns)
    plan = FinetuningProtocol(shots=(2,), repeats=2, training=tuple(SHORT))
    benchmark_bundle(base.path, [f"synthetic:{abroad}"], {"finetuning": plan}, out=tmp_path / "out")
    assert [len(drawn) for drawn in learned] == [8] * 4
    assert learned[0] == learned[1]
    assert learned[2] == learned[3]
    assert learned[0] != learned[2]


@pytest.mark.usefixtures("undrawn")
def test_the_protocol_tests_what_it_did_not_draw(base: Bundle, abroad: Path, tmp_path: Path) -> None:
    curves = FinetuningProtocol(shots=(1, 2), repeats=2, training=tuple(SHORT))
    report = benchmark_bundle(base.path, [f"synthetic:{abroad}"], {"finetuning": curves}, out=tmp_path / "out")
    assert report.k_shot[0].classifier == "all weights fine-tuned, and a classifier"
    (result,) = report.k_shot
    assert [(shots.k, shots.n_repeats) for shots in result.shots] == [(1, 2), (2, 2)]
    assert (result.against, result.variant, result.replacement, result.transductive) == ("shots", "finetuned", False, False)
    assert read_report(tmp_path / "out" / "report.json").k_shot[0] == result
    frozen = KShotProtocol(shots=(1, 2), repeats=2, replacement=False, few_shot=FewShotConfig(rule="base"))
    both = {"k-shot": frozen, "finetuning": curves}
    report = benchmark_bundle(base.path, [f"synthetic:{abroad}"], both, out=tmp_path / "both")
    (target,) = targets(report.k_shot)
    assert [line.name for line in target.lines] == ["robust", "finetuned"]
    lone = changed(curves, shots=(2,), training=tuple(ALONE))
    others = changed(curves, shots=(2,), beside=(str(base.path),))
    asked = {"finetuning": lone}
    (result,) = benchmark_bundle(base.path, [f"synthetic:{abroad}"], asked, out=tmp_path / "lone").k_shot
    assert result.classifier == "all weights fine-tuned"
    report = benchmark_bundle(base.path, [f"synthetic:{abroad}"], {"finetuning": others}, out=tmp_path / "others")
    assert f"with {base.path}" in report.protocol
    assert others.request() != curves.request()
    idle = changed(curves, training=tuple(ALONE), beside=(str(base.path),))
    with pytest.raises(ConfigError, match="classifier=true"):
        benchmark_bundle(base.path, [f"synthetic:{abroad}"], {"finetuning": idle}, out=tmp_path / "idle")
    with pytest.raises(SplitError, match="cannot use these k"):
        FinetuningProtocol(shots=())
    with pytest.raises(ConfigError, match="repeats"):
        FinetuningProtocol.from_mapping({"repeats": 1})
    all_of_them = FinetuningProtocol(shots=(8,), training=tuple(SHORT))
    with pytest.raises(SplitError):
        benchmark_bundle(base.path, [f"synthetic:{abroad}"], {"finetuning": all_of_them}, out=tmp_path / "many")


# ---------------------------------------------------------------------------------------------------------- refusals


def test_a_label_that_the_bundle_does_not_know_is_refused(base: Bundle, support: Path, tmp_path: Path) -> None:
    shutil.copytree(support, tmp_path / "odd")
    (tmp_path / "odd" / "neutrophil").rename(tmp_path / "odd" / "my odd cell")
    with pytest.raises(LabelError, match=r"unknown to the bundle: 'my odd cell' \(3\).* Leave them out, or adapt without"):
        adapt(
            base.path,
            out=tmp_path / "out",
            support=f"folder:{tmp_path / 'odd'}",
            options=AdaptOptions(settings=SHORT, finetune=True),
        )
    assert not (tmp_path / "out").exists()


def test_the_command(
    base: Bundle, support: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hemalens = Command(monkeypatch, capsys)
    call = ("adapt", base.path, "--support", f"folder:{support}", "--finetune", "--out", tmp_path / "out")
    shutil.copytree(support, tmp_path / "few" / "support")
    shutil.rmtree(tmp_path / "few" / "support" / "monocyte")
    settings = [word for setting in SHORT for word in ("--set", setting)]
    few = ("adapt", base.path, "--support", f"folder:{tmp_path / 'few' / 'support'}", "--finetune", *settings)
    ended = hemalens(*few, "--out", tmp_path / "made")
    assert ended.code == 0, ended.error
    assert "no labelled cell of monocyte" in ended.err
    assert "adapted to neutrophil (3), eosinophil (3), lymphocyte (3)" in ended.out
    assert open_bundle(tmp_path / "made").manifest.labels == base.manifest.labels
    for more, message in {
        ("--few-shot", "rule=base"): "--finetune and --few-shot do not go together",
        ("--unlabelled", "x"): "--finetune and --unlabelled do not go together",
        ("--allow-new",): "--finetune and --allow-new do not go together",
        ("--set", "strength=1"): "unknown key 'strength'",
    }.items():
        refused = hemalens(*call, *more)
        assert refused.code == 2
        assert message in refused.error
    alone = hemalens("adapt", base.path, "--unlabelled", "x", "--finetune", "--out", tmp_path / "out")
    assert "--finetune needs --support" in alone.error
    assert not (tmp_path / "out").exists()
