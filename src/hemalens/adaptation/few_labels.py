"""Adapt a bundle with a few labelled cells: a few-shot classifier on top of its embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hemalens.adaptation.doubtful_labels import doubtful_labels
from hemalens.adaptation.encoders import Embedders, open_embedders
from hemalens.adaptation.options import DEFAULTS, AdaptOptions
from hemalens.bundle.adaptations import Adaptation, ExpectedAccuracy
from hemalens.bundle.artifact import DataEntry, library_versions
from hemalens.bundle.bundle import (
    Bundle,
    Manifest,
    class_entries,
    open_bundle,
)
from hemalens.bundle.export import check_parity
from hemalens.bundle.review import thresholds_of
from hemalens.classifiers.calibration import fit_temperature, log_softmax
from hemalens.classifiers.few_shot import FewShotConfig, PrototypeClassifier, few_shot_graph, leave_one_out
from hemalens.datasets import READERS, CellDataset, Record
from hemalens.datasets.leaks import traces
from hemalens.datasets.parts import given_part, without
from hemalens.datasets.splits import units
from hemalens.errors import ConfigError, LabelError, SplitError, one_line
from hemalens.evaluation import metrics
from hemalens.graphs import build as graphs
from hemalens.progress import Say
from hemalens.runs.folders import RunOptions
from hemalens.runs.inputs import open_inputs
from hemalens.trust.reference import REFERENCE_FILE, ReferenceStatistics, adapt_reference, reference_bytes

DEFAULT_RULE = "rule=base"
"""The few-shot classifier where none is named: the best of those measured (docs/reference/results/few-labels.md)."""
MAX_INTERVAL = 0.3
"""Widest 95 % interval of the expected accuracy that counts as conclusive."""


def adapt_few_labels(
    bundle_path: Path,
    support_spec: str,
    *,
    run: RunOptions,
    options: AdaptOptions = DEFAULTS,
    say: Say = lambda text: None,
) -> Bundle:
    """Fit a few-shot classifier on the labelled cells of `support_spec`, on top of the bundle's embedding.

    The default rule, "base", fine-tunes the bundle's head and keeps classes that the support lacks; other rules know the
    classes of the support only. Raises `LabelError` for labels unknown to the bundle, unless `options.allow_new`, and
    `SplitError` for a support of one class.
    """
    config = few_shot_config(options)
    base = open_bundle(bundle_path)
    embedders = open_embedders(base, options.beside, config)
    absent = "the prediction of it stays the head's" if config.uses_base else None
    support = open_support(base, support_spec, options, new=options.allow_new, absent=absent, say=say)
    note_seen(embedders.bundles, support, say)
    embeddings = embedders.embed(support)
    known_logits = embedders.head.logits(embeddings, support.classes) if embedders.head else None
    learned = _fit(config, support, embeddings, known_logits, embedders.parts)
    if known_logits is not None and (warning := doubtful_labels(support, learned.left_out, known_logits)):
        say(f"warning: {warning}")
    place = {id(record): i for i, record in enumerate(support.records)}

    def reference(records: list[Record]) -> NDArray[np.float64]:
        chosen = [place[id(record)] for record in records]
        of_base = None if known_logits is None else known_logits[chosen]
        logits = learned.classifier.decision_function(embeddings[chosen], of_base)
        return np.exp(log_softmax(logits / learned.temperature))

    content = _graph(embedders, learned, support.classes).SerializeToString()
    parity, _ = check_parity(content, support.records, reference)
    # the reference statistics of one bundle do not describe concatenated embeddings
    reference_statistics = _reference(None if options.beside else base, support, embeddings, learned)
    files = {} if reference_statistics is None else {REFERENCE_FILE: reference_bytes(reference_statistics)}
    manifest = _manifest(embedders, support, config, learned, parity)
    # with too few labelled cells the thresholds of the bundle stay
    review = thresholds_of(reference_statistics, support.classes) or manifest.review
    manifest = manifest.model_copy(update={"review": review})
    return base.derive(run.out, manifest, content, others=embedders.bundles, seen=traces(support), files=files)


def few_shot_config(options: AdaptOptions) -> FewShotConfig:
    """The few-shot classifier of the options; raises `ConfigError` for one that needs unlabelled target images."""
    config = FewShotConfig.load(None, options.few_shot or [DEFAULT_RULE])
    if config.transductive:
        raise ConfigError("a saved bundle cannot be centred on its target", expected="centre=none or centre=support")
    return config


def note_seen(bundles: Sequence[Bundle], support: CellDataset, say: Say) -> None:
    """Report support images that are training images of the bundles."""
    known = frozenset[str]().union(*(bundle.seen for bundle in bundles))
    if n := sum(content in known for content in support.contents):
        say(f"{n} support image(s) are training images of the bundle: the expected accuracy is too high")


@dataclass(frozen=True, slots=True)
class _Learned:
    classifier: PrototypeClassifier
    temperature: float
    expected: ExpectedAccuracy
    left_out: NDArray[np.float64]
    """Calibrated leave-one-out probabilities (n, k) of the support."""
    scored: NDArray[np.bool_]
    """Which support images have them, (n,)."""


def _fit(
    config: FewShotConfig,
    support: CellDataset,
    embeddings: NDArray[np.float64],
    base: NDArray[np.float64] | None,
    parts: tuple[int, ...],
) -> _Learned:
    """Fit on the whole support; temperature and expected accuracy come from leave-one-out."""
    unit = units(support)
    logits = leave_one_out(config, embeddings, support.targets, unit, base=base, parts=parts)
    scored = np.isfinite(logits[np.arange(len(support)), support.targets])
    temperature = fit_temperature(logits[scored], support.targets[scored])
    left_out = np.zeros(logits.shape)
    left_out[scored] = np.exp(log_softmax(logits[scored] / temperature))
    classifier = config.make().fit(embeddings, support.targets, base=base, unit=unit, parts=parts)
    return _Learned(classifier, temperature, expected_accuracy(support, logits, scored), left_out, scored)


def _graph(embedders: Embedders, learned: _Learned, classes: tuple[str, ...]) -> onnx.ModelProto:
    """Join encoder, the bundle's head where it is kept, the new classifier, and its temperature."""
    before = [embedders.head.graph_for(classes)] if embedders.head else []
    tail = graphs.temperature_graph(len(classes), learned.temperature)
    return graphs.join(embedders.encoder, *before, few_shot_graph(learned.classifier), tail, keep=("embedding",))


def _reference(
    base: Bundle | None, support: CellDataset, embeddings: NDArray[np.float64], learned: _Learned
) -> ReferenceStatistics | None:
    """Reference statistics of the new laboratory: the support with its leave-one-out predictions."""
    if not learned.scored.any():
        return None
    known = base.reference if base is not None else None
    geometry = None if known is None else known.geometry
    return adapt_reference(geometry, embeddings, learned.left_out, support.targets, learned.scored)


def _manifest(
    embedders: Embedders, support: CellDataset, config: FewShotConfig, learned: _Learned, parity: float
) -> Manifest:
    """The first bundle's manifest, updated."""
    bundles = embedders.bundles
    first = bundles[0].manifest
    adaptation = Adaptation(
        base_model_sha256=embedders.digests,
        beside=embedders.beside,
        few_shot=config.model_dump(mode="json"),
        support_images=support.contents,
        new_classes=tuple(c for c in support.classes if c not in first.labels),
        expected=learned.expected,
    )
    return first.model_copy(
        update={
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "classes": class_entries(support.classes),
            # labels of the support name classes, not finer types
            "fine": (),
            "temperature": learned.temperature,
            "data": (*(entry for bundle in bundles for entry in bundle.manifest.data), DataEntry.of(support, "support")),
            "embedding_size": sum(one.size for one in embedders.each),
            "embedding_parts": embedders.parts,
            "frozen_backbone": all(bundle.manifest.frozen_backbone for bundle in bundles),
            "adaptation": adaptation,
            "nucleus_sizes": first.nucleus_sizes if support.classes == first.labels else (),
            "parity": parity,
            "versions": library_versions(),
        }
    )


def open_support(
    base: Bundle, spec: str, options: AdaptOptions, *, new: bool | None, absent: str | None, say: Say
) -> CellDataset:
    """Open the labelled cells, in the bundle's label order, new classes last.

    `new`: whether unknown labels become classes; None if they never can. Classes without a cell are kept if `absent` says
    what becomes of them. Raises `LabelError` for unknown labels and `SplitError` for cells of one class.
    """
    known = base.manifest.labels
    reader = READERS.get(spec.partition(":")[0])
    # a published dataset holds labels beyond the label map, which are left out; the user's own labels are all meant
    own_labels = reader is not None and reader.own_labels
    given = open_inputs(
        spec,
        labels=base.manifest.label_map,
        role="support",
        unreadable=options.unreadable,
        keep=lambda label: bool(new) or own_labels or label in known,
        stages=base.stages,
    )
    for note in given.notes:
        say(note)
    tested = given_part(given.dataset, "test")
    if tested:
        say(f"{given.dataset.name}: left out the given test part, {len(tested)} image(s)")
    support = without(given.dataset, tested)
    unknown = [c for c in support.classes if c not in known and support.class_counts[c]]
    if unknown and not new:
        raise LabelError(
            f"label(s) unknown to the bundle: {', '.join(f'{one_line(c)} ({support.class_counts[c]})' for c in unknown)}",
            expected=", ".join(known),
            remedy="Leave them out, or adapt without --finetune."
            if new is None
            else "To learn them as new classes, use --allow-new.",
        )
    present = (*(c for c in known if support.class_counts.get(c)), *unknown)
    if len(present) < 2:
        counts = ", ".join(f"{name} ({n})" for name, n in support.class_counts.items())
        raise SplitError("the support has one class only", expected="labelled cells of two classes or more", got=counts)
    lacking = [c for c in known if c not in present]
    if lacking:
        say(f"no labelled cell of {', '.join(lacking)}; {absent or 'the adapted bundle cannot predict them'}")
    return support.under((*known, *unknown) if absent else present)


def expected_accuracy(
    support: CellDataset,
    logits: NDArray[np.floating[Any]],
    scored: NDArray[np.bool_],
    *,
    how: str = "leave-one-out over {n} support images",
) -> ExpectedAccuracy:
    """Score held-out logits (n, k) of the support images in the mask `scored` (n,); `how` describes them in words."""
    n, k = int(scored.sum()), len(support.classes)
    if not n:
        verdict = "too few images to estimate the accuracy: no class has two images (or groups)"
        nothing = dict.fromkeys(("accuracy", "low", "high", "balanced_accuracy", "majority_rate"))
        return ExpectedAccuracy(n=0, **nothing, tells=False, verdict=verdict)  # type: ignore[arg-type]
    counts = metrics.confusion(support.targets[scored], logits[scored].argmax(axis=1), k)
    right = int(np.trace(counts))
    low, high = metrics.exact_interval(right, n)
    lone = [c for i, c in enumerate(support.classes) if support.class_counts[c] and not counts[i].sum()]
    reasons = []
    if lone:
        reasons.append(f"one image (or group) of {', '.join(lone)}")
    if high - low > MAX_INTERVAL:
        reasons.append(f"the interval is wider than {MAX_INTERVAL}")
    if low <= metrics.majority_rate(counts):
        reasons.append(f"the interval includes the majority rate ({metrics.majority_rate(counts):.2f})")
    found = f"expected accuracy {right / n:.2f} (95 % {low:.2f}-{high:.2f}), {how.format(n=n)}"
    return ExpectedAccuracy(
        n=n,
        accuracy=right / n,
        low=low,
        high=high,
        balanced_accuracy=metrics.balanced_accuracy(counts),
        majority_rate=metrics.majority_rate(counts),
        tells=not reasons,
        verdict=f"{found}; inconclusive: {'; '.join(reasons)}" if reasons else found,
    )
