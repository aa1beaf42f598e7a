"""Adapt a bundle to a new laboratory by training its whole network on with a few labelled cells; it takes minutes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hemalens.adaptation.encoders import open_embedders
from hemalens.adaptation.ensemble import RULE as CLASSIFIER
from hemalens.adaptation.ensemble import KeptClassifier, mean_answer, refuse_without_classifier
from hemalens.adaptation.few_labels import expected_accuracy, open_support, refuse_prior
from hemalens.bundle.artifact import WEIGHTS, DataEntry, library_versions
from hemalens.bundle.bundle import (
    FILES,
    MODEL,
    Adaptation,
    Bundle,
    ExpectedAccuracy,
    Manifest,
    open_bundle,
)
from hemalens.bundle.export import Reference, check_parity
from hemalens.classifiers.calibration import fit_temperature, log_softmax
from hemalens.datasets import CellDataset, Record
from hemalens.datasets.splits import Unreadable, k_fold, seeded, units
from hemalens.errors import require_extra
from hemalens.files import claim_folder
from hemalens.graphs import build as graphs
from hemalens.progress import Say
from hemalens.trust.reference import REFERENCE_FILE, ReferenceStatistics, reference_bytes

if TYPE_CHECKING:
    from hemalens.methods.few_shot_finetune import FewCellsConfig, TrainedOn
    from hemalens.training.fit import ModuleAnswers

RULE = "finetune"
"""How the manifest names this way among those of `FewShotConfig`."""
Logits = NDArray[np.float64]


def adapt_finetuned(
    bundle_path: Path,
    support_spec: str,
    *,
    out: Path,
    beside: Sequence[str | Path] = (),
    settings: Sequence[str] = (),
    drop_unreadable: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Bundle:
    """Write a bundle `out`: the network of `bundle_path`, trained on with the labelled cells of `support_spec` alone.

    Beside it stays the bundle as it was, with a classifier of the same cells, and with what `beside` names, as in `adapt`;
    the answer is the mean of both. `settings` are settings key=value of `FewCellsConfig`. The classes stay those of the
    bundle. Cells of a class that the support lacks will hardly be answered any more, and it is said. Raises `LabelError`
    for labels unknown to the bundle, `SplitError` for a support of one class, and `BundleError` for a bundle whose network
    cannot be taken up.
    """
    require_extra("torch", "train", "adapting by training on")
    from hemalens.methods.few_shot_finetune import FewCellsConfig, TrainedOn

    config = FewCellsConfig.load(None, settings)
    refuse_without_classifier(beside, config.classifier)
    claim_folder(out, FILES, "a bundle", overwrite=overwrite)
    base = open_bundle(bundle_path)
    refuse_prior(base, CLASSIFIER)
    embedders = open_embedders(base, beside, CLASSIFIER)
    unreadable: Unreadable = "drop" if drop_unreadable else "refuse"
    gone = "it will hardly be answered any more"
    support = open_support(base, support_spec, allow_new=None, gone=gone, unreadable=unreadable, say=say)
    known = frozenset[str]().union(*(bundle.seen for bundle in embedders.bundles))
    if seen := sum(content in known for content in support.contents):
        say(f"{seen} support image(s) were in the bundle's training data: the expected accuracy is too good")
    with tempfile.TemporaryDirectory(prefix="hemalens_") as scratch:
        way = TrainedOn(base, config, Path(scratch))
        way.check(support)
        logits = left_out(way, support, seed=seed)
        kept = KeptClassifier.on(embedders, support) if config.classifier else None
        if kept is not None:
            logits = mean_answer(logits, kept.left_out())
        return _trained_on(way, support, logits, kept, out=out, seed=seed)


def left_out(way: TrainedOn, support: CellDataset, *, seed: int) -> Logits:
    """Logits (n, k) of each support image by a training on the folds without it; minus infinity where that cannot be."""
    found = np.full((len(support), len(support.classes)), -np.inf)
    present = support.under(tuple(c for c in support.classes if support.class_counts[c]))
    unit = units(present)
    smallest = min(len(np.unique(unit[present.targets == i])) for i in range(len(present.classes)))
    n_folds = min(way.config.folds, smallest)
    if n_folds < 2:
        return found
    place = {id(record): i for i, record in enumerate(support.records)}
    for i, (_, test) in enumerate(k_fold(present, n_folds, seeded(seed, "folds"))):
        held = np.array([place[id(record)] for record in test.records])
        module = way.learn(support.subset(np.setdiff1d(np.arange(len(support)), held)), seed=seed + i + 1)
        found[held] = way.logits(module, support.subset(held))
    return found


def _trained_on(
    way: TrainedOn, support: CellDataset, logits: Logits, kept: KeptClassifier | None, *, out: Path, seed: int
) -> Bundle:
    """Train on all of the support, calibrate by the logits of the folds, and write the bundle."""
    from hemalens.training.checkpoints import tensor_bytes
    from hemalens.training.fit import ModuleAnswers, graph_of

    base = way.base
    told: NDArray[np.bool_] = np.isfinite(logits.min(axis=1))
    # without folds nothing tells: the network's is that of its base, and a classifier's mean with it has none
    temperature = base.manifest.temperature if kept is None else 1.0
    if told.any():
        temperature = fit_temperature(logits[told], support.targets[told])
    module = way.learn(support, seed=seed)
    tail = graphs.temperature_graph(len(support.classes), temperature)
    graph = graph_of(module, base.manifest.preprocessing)
    answers = ModuleAnswers(module, support, base.manifest.preprocessing, way.scratch, temperature if kept is None else 1.0)
    fine: Reference | None = answers.fine if module.finer else None
    reference: Reference = answers.probabilities
    if kept is not None:
        learned = kept.learn()
        graph, reference = kept.joined(graph, learned), _mean_of(answers, kept, kept.logits(learned), temperature)
    content = graphs.join(graph, tail, keep=("embedding",)).SerializeToString()
    parity, size = check_parity(content, support.records, reference, fine=fine)
    manifest = _manifest(base, support, way.config, _expected(support, way.config, logits, told), kept)
    manifest = manifest.model_copy(update={"temperature": temperature, "parity": parity, "embedding_size": size})
    if kept is not None:
        inner = sum(one.size for one in kept.embedders.each)
        parts = (size - inner, *(width for one in kept.embedders.each for width in one.widths))
        manifest = manifest.model_copy(update={"embedding_parts": parts})
    files = {WEIGHTS: tensor_bytes(module.weights())}
    if told.any():
        # the network has changed, so the base's embedding statistics do not apply
        probabilities = np.exp(log_softmax(logits[told] / temperature))
        files[REFERENCE_FILE] = reference_bytes(ReferenceStatistics(probabilities, support.targets[told]))
    return base.derive(out, manifest, content, others=_others(kept), seen=support.contents, files=files)


def _others(kept: KeptClassifier | None) -> list[Bundle]:
    """The bundles that stand beside the one that is trained on."""
    return kept.embedders.bundles[1:] if kept else []


def _mean_of(answers: ModuleAnswers, kept: KeptClassifier, logits: NDArray[Any], temperature: float) -> Reference:
    """Probabilities of support images: the mean of what the network answers and the classifier's logits (n, k), over T."""
    place = {id(record): i for i, record in enumerate(kept.cells.records)}

    def reference(records: list[Record]) -> NDArray[np.float64]:
        own = np.log(np.maximum(answers.probabilities(records), np.finfo(np.float32).tiny))
        mean = mean_answer(own, logits[[place[id(record)] for record in records]])
        return np.exp(log_softmax(mean / temperature))

    return reference


def _expected(support: CellDataset, config: FewCellsConfig, logits: Logits, told: NDArray[np.bool_]) -> ExpectedAccuracy:
    expected = expected_accuracy(support, logits, told, how="each of {n} support images answered by a training on others")
    if not config.folds:
        return expected.model_copy(update={"verdict": "the accuracy to expect was not asked for (folds=0)"})
    return expected


def _manifest(
    base: Bundle, support: CellDataset, config: FewCellsConfig, expected: ExpectedAccuracy, kept: KeptClassifier | None
) -> Manifest:
    """The base's manifest, changed in what the training changes."""
    adaptation = Adaptation(
        base_model_sha256=kept.embedders.digests if kept else (base.manifest.files[MODEL].sha256,),
        beside=kept.embedders.beside if kept else (),
        few_shot={"rule": RULE, **config.model_dump(mode="json")},
        support_images=support.contents,
        new_classes=(),
        expected=expected,
    )
    changed: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": (
            *base.manifest.data,
            *(entry for other in _others(kept) for entry in other.manifest.data),
            DataEntry.of(support, "support"),
        ),
        "adaptation": adaptation,
        # weights in 16 bits were rounded before this training, not after it
        "quantisation": None,
        "versions": library_versions(),
    }
    return base.manifest.model_copy(update=changed)
