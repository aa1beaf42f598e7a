"""Adapt a bundle by fine-tuning its whole network on a few labelled cells, together with a few-shot classifier."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hemalens.adaptation.encoders import open_embedders
from hemalens.adaptation.ensemble import RULE as CLASSIFIER
from hemalens.adaptation.ensemble import EnsembleClassifier, mean_log_probabilities, refuse_without_classifier
from hemalens.adaptation.few_labels import expected_accuracy, note_seen, open_support
from hemalens.adaptation.options import DEFAULTS, AdaptOptions
from hemalens.bundle.adaptations import Adaptation, ExpectedAccuracy
from hemalens.bundle.artifact import WEIGHTS, DataEntry, library_versions
from hemalens.bundle.bundle import MODEL, Bundle, Manifest, open_bundle
from hemalens.bundle.export import Reference, check_parity
from hemalens.bundle.review import thresholds_of
from hemalens.classifiers.calibration import fit_temperature, log_softmax
from hemalens.datasets import CellDataset, Record
from hemalens.datasets.splits import k_fold, seeded, units
from hemalens.errors import require_extra
from hemalens.files import scratch_folder
from hemalens.graphs import build as graphs
from hemalens.progress import Say
from hemalens.runs.folders import RunOptions
from hemalens.trust.reference import REFERENCE_FILE, ReferenceStatistics, reference_bytes

if TYPE_CHECKING:
    from hemalens.methods.few_shot_finetune import FewShotFinetuneConfig, FineTuner
    from hemalens.training.fit import ModulePredictions

RULE = "finetune"
"""The manifest's name of this classifier, next to the rules of `FewShotConfig`."""
Logits = NDArray[np.float64]


def adapt_finetuned(
    bundle_path: Path,
    support_spec: str,
    *,
    run: RunOptions,
    options: AdaptOptions = DEFAULTS,
    say: Say = lambda text: None,
) -> Bundle:
    """Fine-tune the network of a bundle of `robust` on the labelled cells of `support_spec`.

    `options.settings` are those of `FewShotFinetuneConfig`. Unless `classifier=false`, the result is an ensemble with
    a few-shot classifier on the old bundle and `options.beside`. The classes stay those of the bundle. Raises
    `LabelError` for unknown labels, `SplitError` for a support of one class, and `BundleError` for a bundle whose network
    cannot be rebuilt.
    """
    require_extra("torch", "train", "fine-tuning")
    from hemalens.methods.few_shot_finetune import FewShotFinetuneConfig, FineTuner

    config = FewShotFinetuneConfig.load(None, options.settings)
    refuse_without_classifier(options.beside, config.classifier)
    base = open_bundle(bundle_path)
    embedders = open_embedders(base, options.beside, CLASSIFIER)
    absent = "after fine-tuning they are rarely predicted"
    support = open_support(base, support_spec, options, new=None, absent=absent, say=say)
    note_seen(embedders.bundles, support, say)
    with scratch_folder() as scratch:
        tuner = FineTuner(base, config, scratch)
        tuner.check(support)
        logits = left_out(tuner, support, seed=run.seed)
        classifier = EnsembleClassifier.on(embedders, support) if config.classifier else None
        if classifier is not None:
            logits = mean_log_probabilities(logits, classifier.left_out())
        return _fine_tune(tuner, support, logits, classifier, run)


def left_out(tuner: FineTuner, support: CellDataset, *, seed: int) -> Logits:
    """Cross-validated logits (n, k) of the support; minus infinity if a class is too small for two folds."""
    found = np.full((len(support), len(support.classes)), -np.inf)
    present = support.under(tuple(c for c in support.classes if support.class_counts[c]))
    unit = units(present)
    smallest = min(len(np.unique(unit[present.targets == i])) for i in range(len(present.classes)))
    n_folds = min(tuner.config.folds, smallest)
    if n_folds < 2:
        return found
    place = {id(record): i for i, record in enumerate(support.records)}
    for i, (_, test) in enumerate(k_fold(present, n_folds, seeded(seed, "folds"))):
        held = np.array([place[id(record)] for record in test.records])
        module = tuner.learn(support.subset(np.setdiff1d(np.arange(len(support)), held)), seed=seed + i + 1)
        found[held] = tuner.logits(module, support.subset(held))
    return found


def _fine_tune(
    tuner: FineTuner, support: CellDataset, logits: Logits, classifier: EnsembleClassifier | None, run: RunOptions
) -> Bundle:
    """Fine-tune on all of the support, calibrate on the cross-validated logits, and write the bundle."""
    from hemalens.training.checkpoints import tensor_bytes
    from hemalens.training.fit import ModulePredictions, graph_of

    base = tuner.base
    scored: NDArray[np.bool_] = np.isfinite(logits.min(axis=1))
    # without folds there is nothing to calibrate on: the network keeps its temperature, the mean of two models has none
    temperature = base.manifest.temperature if classifier is None else 1.0
    if scored.any():
        temperature = fit_temperature(logits[scored], support.targets[scored])
    module = tuner.learn(support, seed=run.seed)
    tail = graphs.temperature_graph(len(support.classes), temperature)
    graph = graph_of(module)
    network = ModulePredictions(module, support, tuner.scratch, temperature if classifier is None else 1.0)
    fine: Reference | None = network.fine if module.finer else None
    reference: Reference = network.probabilities
    if classifier is not None:
        fitted = classifier.learn()
        graph, reference = (
            classifier.joined(graph, fitted),
            _mean_of(network, classifier, classifier.logits(fitted), temperature),
        )
    content = graphs.join(graph, tail, keep=("embedding",)).SerializeToString()
    parity, size = check_parity(content, support.records, reference, fine=fine)
    manifest = _manifest(base, support, tuner.config, _expected(support, tuner.config, logits, scored), classifier)
    manifest = manifest.model_copy(update={"temperature": temperature, "parity": parity, "embedding_size": size})
    if classifier is not None:
        inner = sum(one.size for one in classifier.embedders.each)
        parts = (size - inner, *(width for one in classifier.embedders.each for width in one.widths))
        manifest = manifest.model_copy(update={"embedding_parts": parts})
    files = {WEIGHTS: tensor_bytes(module.weights())}
    if scored.any():
        # the embedding has moved: reference statistics hold predictions only
        probabilities = np.exp(log_softmax(logits[scored] / temperature))
        reference_statistics = ReferenceStatistics(probabilities, support.targets[scored])
        files[REFERENCE_FILE] = reference_bytes(reference_statistics)
        review = thresholds_of(reference_statistics, support.classes) or manifest.review
        manifest = manifest.model_copy(update={"review": review})
    return base.derive(run.out, manifest, content, others=_others(classifier), seen=support.contents, files=files)


def _others(classifier: EnsembleClassifier | None) -> list[Bundle]:
    """The further bundles of the few-shot classifier."""
    return classifier.embedders.bundles[1:] if classifier else []


def _mean_of(
    network: ModulePredictions, classifier: EnsembleClassifier, logits: NDArray[Any], temperature: float
) -> Reference:
    """Reference probabilities of the mean of network and classifier logits (n, k)."""
    place = {id(record): i for i, record in enumerate(classifier.cells.records)}

    def reference(records: list[Record]) -> NDArray[np.float64]:
        own = np.log(np.maximum(network.probabilities(records), np.finfo(np.float32).tiny))
        mean = mean_log_probabilities(own, logits[[place[id(record)] for record in records]])
        return np.exp(log_softmax(mean / temperature))

    return reference


def _expected(
    support: CellDataset, config: FewShotFinetuneConfig, logits: Logits, scored: NDArray[np.bool_]
) -> ExpectedAccuracy:
    expected = expected_accuracy(support, logits, scored, how="cross-validated over {n} support images")
    if not config.folds:
        return expected.model_copy(update={"verdict": "no expected accuracy without cross-validation (folds=0)"})
    return expected


def _manifest(
    base: Bundle,
    support: CellDataset,
    config: FewShotFinetuneConfig,
    expected: ExpectedAccuracy,
    classifier: EnsembleClassifier | None,
) -> Manifest:
    """The bundle's manifest, updated."""
    adaptation = Adaptation(
        base_model_sha256=classifier.embedders.digests if classifier else (base.manifest.files[MODEL].sha256,),
        beside=classifier.embedders.beside if classifier else (),
        few_shot={"rule": RULE, **config.model_dump(mode="json")},
        support_images=support.contents,
        new_classes=(),
        expected=expected,
    )
    changed: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": (
            *base.manifest.data,
            *(entry for other in _others(classifier) for entry in other.manifest.data),
            DataEntry.of(support, "support"),
        ),
        "adaptation": adaptation,
        # weights were rounded to 16 bits before fine-tuning, not after
        "quantisation": None,
        "versions": library_versions(),
    }
    return base.manifest.model_copy(update=changed)
