"""Adapt a bundle to a new laboratory with a few labelled cells: its embedding stays, its classifier is learned anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hemalens.adaptation.encoders import Embedders, open_embedders
from hemalens.bundle.artifact import DataEntry, library_versions
from hemalens.bundle.bundle import (
    FILES,
    MODEL,
    SEEN,
    SEEN_UNLABELLED,
    Adaptation,
    Bundle,
    ExpectedAccuracy,
    Manifest,
    class_entries,
    open_bundle,
    seen_images,
    write_bundle,
)
from hemalens.bundle.export import check_parity
from hemalens.classifiers.calibration import fit_temperature, log_softmax
from hemalens.classifiers.few_shot import FewShotConfig, PrototypeClassifier, few_shot_graph, leave_one_out
from hemalens.datasets import READERS, CellDataset, Record
from hemalens.datasets.splits import Unreadable, units
from hemalens.errors import ConfigError, LabelError, SplitError, one_line
from hemalens.evaluation import metrics
from hemalens.files import claim_folder
from hemalens.graphs import build as graphs
from hemalens.progress import Say
from hemalens.runs.inputs import prepare
from hemalens.trust.reference import HOME, Home, home_bytes, moved_home

USUAL = "rule=base"
"""How a bundle is adapted where nothing is said of it: the best of what was measured (docs/few-labels.md)."""
WIDEST = 0.3
"""A 95 % interval of the expected accuracy that is wider than this tells too little."""


def adapt(
    bundle_path: Path,
    support_spec: str,
    *,
    out: Path,
    beside: Sequence[str | Path] = (),
    few_shot: Sequence[str] = (),
    allow_new: bool = False,
    drop_unreadable: bool = False,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Bundle:
    """Write a bundle `out` that classifies by the labelled cells of `support_spec`, with the embedding of `bundle_path`.

    `beside` names further bundles whose embeddings stand beside it, or the ImageNet network as it is (`IMAGENET`): two
    embedders that learned differently know more than either. The new bundle knows the classes of the support, those that
    the first bundle never had included when `allow_new` asks for them; `few_shot` are settings key=value of
    `FewShotConfig`. Where none is said it is rule=base, which keeps the first bundle's head, and with it the classes that
    the support lacks. Raises `LabelError` for labels unknown to the bundle and `SplitError` for a support of one class.
    """
    config = _asked(few_shot)
    claim_folder(out, FILES, "a bundle", overwrite=overwrite)
    base = open_bundle(bundle_path)
    refuse_prior(base, config)
    unreadable: Unreadable = "drop" if drop_unreadable else "refuse"
    embedders = open_embedders(base, beside, config)
    gone = "what the bundle knew of it stays" if config.uses_base else None
    support = open_support(base, support_spec, allow_new=allow_new, gone=gone, unreadable=unreadable, say=say)
    known = frozenset[str]().union(*(bundle.seen for bundle in embedders.bundles))
    if seen := sum(content in known for content in support.contents):
        say(f"{seen} support image(s) were in the bundle's training data: the expected accuracy is too good")
    embeddings = embedders.embed(support)
    known_logits = embedders.head.logits(embeddings, support.classes) if embedders.head else None
    learned = _learn(config, support, embeddings, known_logits, embedders.parts)
    place = {id(record): i for i, record in enumerate(support.records)}

    def reference(records: list[Record]) -> NDArray[np.float64]:
        chosen = [place[id(record)] for record in records]
        of_base = None if known_logits is None else known_logits[chosen]
        logits = learned.classifier.decision_function(embeddings[chosen], of_base)
        return np.exp(log_softmax(logits / learned.temperature))

    content = _graph(embedders, learned, support.classes).SerializeToString()
    parity, _ = check_parity(content, support.records, reference)
    manifest = _manifest(embedders, support, config, learned, parity)
    files = {MODEL: content, SEEN: seen_images(known.union(support.contents))}
    # several embeddings side by side are not the one that the first bundle knows its laboratory in
    if (home := _home(base if not beside else None, support, embeddings, learned)) is not None:
        files[HOME] = home_bytes(home)
    unlabelled = frozenset[str]().union(*(bundle.seen_unlabelled for bundle in embedders.bundles))
    if unlabelled:
        files[SEEN_UNLABELLED] = seen_images(unlabelled)
    return write_bundle(
        out, manifest, files | {name: more for stage in base.stages for name, more in stage.files().items()}
    )


def _asked(few_shot: Sequence[str]) -> FewShotConfig:
    """The way to classify that was asked for, or the usual one; raises `ConfigError` for one that cannot be."""
    config = FewShotConfig.load(None, few_shot or [USUAL])
    if config.transductive:
        raise ConfigError(
            "a bundle is adapted before the images it will see are there", expected="centre=none or centre=support"
        )
    return config


def refuse_prior(base: Bundle, config: FewShotConfig) -> None:
    """Raise `ConfigError` where a head is to be kept that answers by the shares of some laboratory: labels weigh alike."""
    if config.uses_base and base.manifest.unlabelled is not None and base.manifest.unlabelled.prior is not None:
        raise ConfigError(
            f"rule={config.rule} keeps the bundle's head, and that was brought to a prior",
            remedy="Adapt the bundle from before the prior, or say --few-shot rule=prototype.",
        )


@dataclass(frozen=True, slots=True)
class _Learned:
    classifier: PrototypeClassifier
    temperature: float
    expected: ExpectedAccuracy
    left_out: NDArray[np.float64]
    """Calibrated probabilities (n, k) of each support image when it was left out."""
    told: NDArray[np.bool_]
    """Which of them could be answered so, (n,)."""


def _learn(
    config: FewShotConfig,
    support: CellDataset,
    embeddings: NDArray[np.float64],
    base: NDArray[np.float64] | None,
    parts: tuple[int, ...],
) -> _Learned:
    """The classifier of the whole support; its temperature and what to expect of it from leaving each image out once."""
    unit = units(support)
    logits = leave_one_out(config, embeddings, support.targets, unit, base=base, parts=parts)
    told = np.isfinite(logits[np.arange(len(support)), support.targets])
    temperature = fit_temperature(logits[told], support.targets[told])
    left_out = np.zeros(logits.shape)
    left_out[told] = np.exp(log_softmax(logits[told] / temperature))
    classifier = config.make().fit(embeddings, support.targets, base=base, unit=unit, parts=parts)
    return _Learned(classifier, temperature, expected_accuracy(support, logits, told), left_out, told)


def _graph(embedders: Embedders, learned: _Learned, classes: tuple[str, ...]) -> onnx.ModelProto:
    """The encoder, the bundle's own head where it is kept, what was learned, and its temperature."""
    before = [embedders.head.graph_for(classes)] if embedders.head else []
    tail = graphs.temperature_graph(len(classes), learned.temperature)
    return graphs.join(embedders.encoder, *before, few_shot_graph(learned.classifier), tail, keep=("embedding",))


def _home(base: Bundle | None, support: CellDataset, embeddings: NDArray[np.float64], learned: _Learned) -> Home | None:
    """What the adapted bundle keeps of its new laboratory: its support, each image as answered when it was left out."""
    if not learned.told.any():
        return None
    known = base.home if base is not None else None
    geometry = None if known is None else known.geometry
    return moved_home(geometry, embeddings, learned.left_out, support.targets, learned.told)


def _manifest(
    embedders: Embedders, support: CellDataset, config: FewShotConfig, learned: _Learned, parity: float
) -> Manifest:
    """The first base's manifest, changed in what adapting changes."""
    bases = embedders.bundles
    first = bases[0].manifest
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
            # the cells of the support teach classes, and nothing of finer types
            "fine": (),
            "temperature": learned.temperature,
            "data": (*(entry for bundle in bases for entry in bundle.manifest.data), DataEntry.of(support, "support")),
            "embedding_size": sum(one.size for one in embedders.each),
            "embedding_parts": embedders.parts,
            "frozen_backbone": all(bundle.manifest.frozen_backbone for bundle in bases),
            "adaptation": adaptation,
            # a new classifier knows nothing of the shares that the old one was brought to, nor of what that was taught
            "unlabelled": first.unlabelled
            and first.unlabelled.model_copy(
                update={"prior": None} | ({} if config.uses_base else {"taught": None, "bias": None})
            ),
            "nucleus_sizes": first.nucleus_sizes if support.classes == first.labels else (),
            "parity": parity,
            "versions": library_versions(),
        }
    )


def open_support(
    base: Bundle, spec: str, *, allow_new: bool | None, gone: str | None, unreadable: Unreadable, say: Say
) -> CellDataset:
    """The labelled cells, in the bundle's label order, new classes behind.

    `allow_new`: whether labels unknown to the bundle become classes; None where that cannot be. Classes without a cell are
    kept where `gone` says what becomes of them, and otherwise left out. Raises `LabelError` for labels unknown to the
    bundle, where new ones are not allowed, and `SplitError` for cells of one class only.
    """
    known = base.manifest.labels
    reader = READERS.get(spec.partition(":")[0])
    # words of the user's own are meant; what a published set holds beyond the label map is left out as everywhere
    own_words = reader is not None and reader.own_labels
    given = prepare(
        spec,
        labels=base.manifest.label_map,
        role="support",
        unreadable=unreadable,
        keep=lambda label: bool(allow_new) or own_words or label in known,
        stages=base.stages,
    )
    for note in given.notes:
        say(note)
    support = given.dataset
    new = [c for c in support.classes if c not in known]
    if new and not allow_new:
        raise LabelError(
            f"label(s) unknown to the bundle: {', '.join(f'{one_line(c)} ({support.class_counts[c]})' for c in new)}",
            expected=", ".join(known),
            remedy="Leave them out, or adapt without --finetune."
            if allow_new is None
            else "To learn them as new classes, say --allow-new.",
        )
    present = (*(c for c in known if c in support.classes), *new)
    if len(present) < 2:
        counts = ", ".join(f"{name} ({n})" for name, n in support.class_counts.items())
        raise SplitError("the support has one class only", expected="labelled cells of two classes or more", got=counts)
    absent = [c for c in known if c not in present]
    if absent:
        say(f"not in the support, so {gone or 'the adapted bundle cannot answer'}: {', '.join(absent)}")
    return support.under((*known, *new) if gone else present)


def expected_accuracy(
    support: CellDataset,
    logits: NDArray[np.floating[Any]],
    told: NDArray[np.bool_],
    *,
    how: str = "leaving each of {n} support images out once",
) -> ExpectedAccuracy:
    """Scores of the support from logits (n, k) that do not know the image, where `told` (n,), and whether they tell much.

    `how` says in words how that was done.
    """
    n, k = int(told.sum()), len(support.classes)
    if not n:
        verdict = "too small to tell: no class has two images (or groups), so none can be left out"
        nothing = dict.fromkeys(("accuracy", "low", "high", "balanced_accuracy", "majority_rate"))
        return ExpectedAccuracy(n=0, **nothing, tells=False, verdict=verdict)  # type: ignore[arg-type]
    counts = metrics.confusion(support.targets[told], logits[told].argmax(axis=1), k)
    right = int(np.trace(counts))
    low, high = metrics.exact_interval(right, n)
    lone = [c for i, c in enumerate(support.classes) if support.class_counts[c] and not counts[i].sum()]
    reasons = []
    if lone:
        reasons.append(f"one image (or group) only of {', '.join(lone)}")
    if high - low > WIDEST:
        reasons.append(f"the interval is {high - low:.2f} wide, {WIDEST} would tell")
    if low <= metrics.majority_rate(counts):
        reasons.append(f"it may be no better than the most frequent class ({metrics.majority_rate(counts):.2f})")
    scored = f"expected accuracy {right / n:.2f} (95 % {low:.2f}-{high:.2f}), {how.format(n=n)}"
    return ExpectedAccuracy(
        n=n,
        accuracy=right / n,
        low=low,
        high=high,
        balanced_accuracy=metrics.balanced_accuracy(counts),
        majority_rate=metrics.majority_rate(counts),
        tells=not reasons,
        verdict=f"{scored}; too small to tell: {'; '.join(reasons)}" if reasons else scored,
    )
