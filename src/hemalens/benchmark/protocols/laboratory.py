"""Protocols on a new laboratory: scores of a bundle against a number of the laboratory's images.

`LaboratoryProtocol` is their base class. `embed_laboratory` runs an encoder over the images once, `query_scores` scores
predictions on the images that each repeat tests.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray

from hemalens.adaptation.encoders import bundles_of, digests_of, folders_of
from hemalens.adaptation.source_head import SourceHead
from hemalens.benchmark.protocols.base import FitFold, Outcome, SourceProtocol, Task, Words, relative_path
from hemalens.benchmark.protocols.data import BenchmarkData, NewLaboratory
from hemalens.benchmark.protocols.folds import fit_whole
from hemalens.benchmark.protocols.scoring import Score, mean_estimate, unit_name
from hemalens.bundle.bundle import Bundle
from hemalens.cache import FeatureCache
from hemalens.classifiers.few_shot import unit_length
from hemalens.classifiers.heads import make_head
from hemalens.datasets import CellDataset
from hemalens.datasets.episodes import Episode
from hemalens.datasets.leaks import refuse_leaks
from hemalens.datasets.splits import hold_out, k_fold, seeded, units
from hemalens.errors import DatasetError, SplitError
from hemalens.evaluation import metrics
from hemalens.evaluation.results import Against, Estimate, KShot, Shots, Supervised
from hemalens.files import default_cache_dir
from hemalens.graphs.features import extract
from hemalens.progress import track
from hemalens.runs.curves import read_curves
from hemalens.runs.inputs import Inputs

N_SUPERVISED_FOLDS = 5
Labels = NDArray[np.int64]

# ---------------------------------------------------------------------------------------------------------- embeddings


@dataclass(frozen=True, slots=True)
class Embedded:
    """A dataset's readable images with their embeddings (n, d), and the errors of the others by path.

    `head` is the bundle's own classifier on these embeddings, where the encoder is a bundle's; `parts` are the widths of
    concatenated embeddings.
    """

    dataset: CellDataset
    embeddings: NDArray[np.float64]
    unreadable: dict[str, str] = field(default_factory=dict)
    head: SourceHead | None = None
    parts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class EmbeddedLaboratory:
    """Target and pool of a laboratory under one encoder, the scores with all labels, and the classes left out."""

    target: Embedded
    pool: Embedded | None = None
    supervised: Supervised | None = None
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def source(self) -> Embedded:
        """Where labelled images are drawn from: the pool, or the target itself."""
        return self.pool or self.target


def embed(encoder: onnx.ModelProto, dataset: CellDataset) -> Embedded:
    """Embeddings by a graph from `image` to `embedding`, through the cache; raises `DatasetError` if none is readable."""
    with track(f"embedding {dataset.name}", len(dataset)) as progress:
        found = extract(dataset.records, encoder, cache=FeatureCache(default_cache_dir()), progress=progress)
    if len(found.readable) == 0:
        raise DatasetError(f"no image of {dataset.name} can be read", got=next(iter(found.errors.values()), "no image"))
    unreadable = {dataset.records[i].name: error for i, error in found.errors.items()}
    return Embedded(dataset.subset(found.readable), found.embeddings.astype(np.float64), unreadable)


def embed_laboratory(
    laboratory: NewLaboratory,
    encoder: onnx.ModelProto,
    *,
    seed: int,
    head: SourceHead | None = None,
    parts: tuple[int, ...] = (),
) -> EmbeddedLaboratory:
    """Run an encoder (image -> embedding) over a laboratory's images; `head` and `parts` as in `Embedded`."""
    target = replace(embed(encoder, laboratory.target), head=head, parts=parts)
    pool = embed(encoder, laboratory.pool) if laboratory.pool else None
    supervised = supervised_reference(target, pool, seed=seed)
    return EmbeddedLaboratory(target, pool, supervised, laboratory.left_out)


def concatenate(parts: Sequence[EmbeddedLaboratory], *, seed: int) -> EmbeddedLaboratory:
    """The same laboratory under several encoders: embeddings at unit length, concatenated.

    The numbers are those of `graphs.side_by_side`, without running the networks again.
    """
    first = parts[0]
    target = _concatenated([part.target for part in parts])
    pool = _concatenated([part.pool for part in parts if part.pool]) if first.pool else None
    return EmbeddedLaboratory(target, pool, supervised_reference(target, pool, seed=seed), first.left_out)


def _concatenated(parts: Sequence[Embedded]) -> Embedded:
    embeddings = np.concatenate([unit_length(part.embeddings) for part in parts], axis=1)
    return replace(parts[0], embeddings=embeddings)


# -------------------------------------------------------------------------------------------------------------- scores


def split_target(target: CellDataset, test_fraction: float, seed: int, name: str, repeat: int) -> NDArray[np.bool_]:
    """The images of the target that a repeat tests, (n,): drawn by class, whole units."""
    _, test = hold_out(target, test_fraction, seeded(seed, name, "test", str(repeat)))
    held = {id(record) for record in test.records}
    return np.array([id(record) in held for record in target.records])


def class_indices(bundle: Bundle, dataset: CellDataset) -> Labels:
    """Index of each of the bundle's labels among the target's classes, (K,); labels of the bundle alone come behind."""
    labels = bundle.manifest.labels
    order = (*dataset.classes, *(label for label in labels if label not in dataset.classes))
    return np.array([order.index(label) for label in labels], np.int64)


def query_scores(k: int, target: CellDataset, episodes: Sequence[Episode], predicted: Labels, *, seed: int) -> Shots:
    """Scores of predictions (n_repeats, n), each on its episode's query; one beyond the target's classes is wrong."""
    unit, n_classes = units(target), max(len(target.classes), int(predicted.max(initial=0)) + 1)
    models = [
        metrics.Predictions(target.targets[e.query], p[e.query], unit[e.query])
        for e, p in zip(episodes, predicted, strict=True)
    ]
    counts = np.stack([metrics.confusion(m.target, m.predicted, n_classes) for m in models])
    resampled = metrics.resampled_confusions(models, n_classes, rng=np.random.default_rng(seed))
    if resampled is None:  # every episode tests every class
        raise DatasetError(f"no image of {target.name} is left to test")

    # with large k few images of a class are tested: a resample without any of them is left out of that class's interval
    present = resampled.sum(axis=-1) > 0  # (repeats, resamples, k)
    whole = present[..., : len(target.classes)].all(axis=-1)

    def estimate(score: Score, used: NDArray[np.bool_] | None = None) -> Estimate:
        return mean_estimate(score, counts, resampled, seed=seed, used=used)

    return Shots(
        k=k,
        n_repeats=len(episodes),
        accuracy=estimate(metrics.accuracy),
        majority_rate=float(np.mean(metrics.majority_rate(counts))),
        balanced_accuracy=estimate(metrics.balanced_accuracy, whole),
        macro_f1=estimate(metrics.macro_f1, whole),
        f1={
            label: estimate(lambda c, i=i: metrics.f1(c)[..., i], present[..., i])  # type: ignore[misc]
            for i, label in enumerate(target.classes)
        },
    )


def supervised_reference(target: Embedded, pool: Embedded | None, *, seed: int) -> Supervised | None:
    """Logistic regression on all labels: of the pool, or of the target's other folds; None where folds cannot be made."""
    dataset = target.dataset
    unit, predicted = units(dataset), np.zeros(len(dataset), np.int64)
    if pool is not None:
        head = make_head("lr", seed=seed)
        head.fit(pool.embeddings, pool.dataset.targets)
        predicted = head.predict_proba(target.embeddings).argmax(axis=1)
        what = f"logistic regression on all {len(pool.dataset)} images of {pool.dataset.name}"
    else:
        smallest = min(len(np.unique(unit[dataset.targets == i])) for i in range(len(dataset.classes)))
        n_folds = min(N_SUPERVISED_FOLDS, smallest)
        if n_folds < 2:
            return None
        position = {id(record): i for i, record in enumerate(dataset.records)}
        for train, test in k_fold(dataset, n_folds, seeded(seed, "supervised")):
            learn, held = (np.array([position[id(r)] for r in part.records]) for part in (train, test))
            head = make_head("lr", seed=seed)
            head.fit(target.embeddings[learn], dataset.targets[learn])
            predicted[held] = head.predict_proba(target.embeddings[held]).argmax(axis=1)
        what = f"logistic regression on all labels, {n_folds} folds of {dataset.name}"
    pooled = metrics.Predictions(dataset.targets, predicted, unit)

    def estimate(score: Score) -> Estimate:
        k = len(dataset.classes)
        low, high = metrics.bootstrap_interval(score, [pooled], k, rng=np.random.default_rng(seed))
        return Estimate(value=float(score(metrics.confusion(pooled.target, pooled.predicted, k))), low=low, high=high)

    return Supervised(what=what, accuracy=estimate(metrics.accuracy), balanced_accuracy=estimate(metrics.balanced_accuracy))


# ----------------------------------------------------------------------------------------------------------- protocols


def check_counts(counts: Sequence[int], what: str, *, at_least: int = 1) -> None:
    """Raise `SplitError` for numbers of images that are none, too small, or given twice."""
    if not counts or min(counts) < at_least or len(set(counts)) < len(counts):
        expected = f"different whole numbers from {at_least} on"
        raise SplitError(f"cannot use these {what}", expected=expected, got=str(list(counts)))


class LaboratoryProtocol(SourceProtocol):
    """A bundle from the whole source, tested on new laboratories of which some images are known.

    `beside`: bundles, or the word imagenet, whose embeddings are concatenated with those of the model, as in `adapt`.
    """

    needs_target: ClassVar[bool] = True
    takes_target: ClassVar[bool] = True
    against: ClassVar[Against] = "shots"
    """What k counts in the results."""

    beside: Words = ()

    @property
    def beside_folders(self) -> list[Path]:
        """The folders of the bundles beside it."""
        return folders_of(self.beside)

    @property
    @abstractmethod
    def description(self) -> str:
        """The protocol in words."""

    @abstractmethod
    def check(self, laboratories: Sequence[NewLaboratory], *, seed: int) -> None:
        """Raise `InputError`, before anything is trained, for settings that the laboratories do not allow."""

    @abstractmethod
    def run(self, bundle: Bundle, laboratory: NewLaboratory, *, source: str, seed: int) -> list[KShot]:
        """The scores on a laboratory of a bundle that was trained on `source`."""

    def request(self) -> dict[str, Any]:
        """Everything that the scores depend on, except the bundle, the laboratory and the seed."""
        settings = self.model_dump(mode="json", exclude={"beside", "support", "target_labels"})
        return {"settings": settings, "beside": digests_of(self.beside)}

    def open(self, name: str, source: Inputs, targets: Sequence[str], data: BenchmarkData) -> Task:
        """The task on the laboratories of the targets."""
        laboratories = data.laboratories(targets)
        return LaboratoryTask(
            protocol=name,
            description=self.description,
            source=source,
            seed=data.seed,
            tested=tuple(laboratory.target for laboratory in laboratories),
            cards=tuple(card for laboratory in laboratories for card in laboratory.cards),
            notes=tuple(note for laboratory in laboratories for note in laboratory.notes),
            config=self,
            laboratories=laboratories,
        )

    def curve(
        self,
        target: Embedded,
        shots: Sequence[Shots],
        *,
        method: str,
        source: str,
        support: str,
        classifier: str,
        variant: str,
        supervised: Supervised | None = None,
    ) -> KShot:
        """Scores against a number of the target's images, as a result."""
        return KShot(
            name=f"{method}, {variant}: {source} -> {target.dataset.name}",
            method=method,
            source=source,
            target=target.dataset.name,
            support=support,
            classifier=classifier,
            replacement=False,
            transductive=False,
            n_images=len(target.dataset),
            classes=target.dataset.classes,
            unreadable=target.unreadable,
            shots=tuple(shots),
            supervised=supervised,
            intervals="95 %: bootstrap of the mean over repeats (what is tested and what is drawn) and, within their "
            f"classes, over the tested {unit_name(target.dataset)} (1,000 repeats)",
            against=self.against,
            variant=variant,
        )


def score_bundle(
    config: LaboratoryProtocol, bundle: Bundle, laboratory: NewLaboratory, *, source: str, seed: int
) -> list[KShot]:
    """The scores of a bundle; transductive where it, or a bundle beside it, has seen the tested images unlabelled.

    Raises `SplitError` for images that a bundle beside it was trained on.
    """
    others, contents = bundles_of(config.beside), laboratory.target.contents
    for other in others:
        refuse_leaks(other.seen, laboratory.target)
    seen = any(not one.seen_unlabelled.isdisjoint(contents) for one in (bundle, *others))
    results = config.run(bundle, laboratory, source=source, seed=seed)
    return [result.model_copy(update={"transductive": result.transductive or seen}) for result in results]


@dataclass(frozen=True, slots=True, kw_only=True)
class LaboratoryTask(Task):
    """One bundle from the whole source, except for a validation part; tested in every laboratory."""

    config: LaboratoryProtocol
    laboratories: Sequence[NewLaboratory]

    def check(self) -> None:
        """Raise `InputError` before anything is trained."""
        for laboratory in self.laboratories:
            laboratory.refuse_source(self.source.dataset)
        self.config.check(self.laboratories, seed=self.seed)

    def request(self, i: int) -> dict[str, Any]:
        """The laboratory's images and the protocol's settings."""
        laboratory = self.laboratories[i]
        parts = [part.fingerprint for part in (laboratory.target, laboratory.pool) if part is not None]
        return {"protocol": self.protocol, "target": parts, **self.config.request()}

    def run(self, i: int, fit: FitFold, run_dir: Path) -> Outcome:
        """The bundle on laboratory `i`."""
        source = self.source.dataset
        bundle = fit_whole(fit, source, seed=self.seed, run_dir=run_dir / "whole")
        found = score_bundle(self.config, bundle, self.laboratories[i], source=source.name, seed=self.seed)
        curves = tuple(read_curves([bundle.path.parent], "", group=f"{source.name}, whole"))
        return Outcome(k_shot=tuple(found), curves=curves, model=relative_path(bundle, run_dir))
