"""The protocol k-shot: classify a new laboratory from k labelled images a class, over many drawings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from pydantic import Field, model_validator

from hemalens.adaptation.encoders import open_embedders
from hemalens.benchmark.protocols.base import Counts
from hemalens.benchmark.protocols.data import NewLaboratory
from hemalens.benchmark.protocols.laboratory import (
    Embedded,
    EmbeddedLaboratory,
    Labels,
    LaboratoryProtocol,
    check_counts,
    embed_laboratory,
    query_scores,
)
from hemalens.benchmark.protocols.scoring import unit_name
from hemalens.bundle.bundle import Bundle
from hemalens.classifiers.few_shot import FewShotConfig
from hemalens.datasets import CellDataset
from hemalens.datasets.episodes import Episode, Generator, Shared, draw_episodes, refuse_overlap
from hemalens.datasets.splits import units
from hemalens.errors import SplitError
from hemalens.evaluation.projection import scatter
from hemalens.evaluation.results import KShot
from hemalens.progress import track

PUBLISHED_SHOTS = (1, 2, 3, 5, 10, 15, 20, 30, 50)


class KShotProtocol(LaboratoryProtocol):
    """For each k of `shots`, `repeats` support sets of k images a class, and the few-shot classifier fitted on them.

    With `replacement` an image may be drawn twice (as published). `generator`: as in `draw_episodes`. `support` names a
    pool to draw from, and all of the target is tested; without it images come from the target, and the rest is tested.
    `shared_groups`: refuse or allow groups, such as patients, in both the pool and the target. `target_labels` is the
    target's label map, where it is not that of the source.
    """

    shots: Counts = PUBLISHED_SHOTS
    repeats: int = Field(default=100, ge=2)
    replacement: bool = True
    generator: Generator = "each"
    shared_groups: Shared = "refuse"
    few_shot: FewShotConfig = FewShotConfig()
    support: str | None = None
    target_labels: str | None = None

    @model_validator(mode="after")
    def _check_shots(self) -> KShotProtocol:
        check_counts(self.shots, "k")
        return self

    @property
    def description(self) -> str:
        """The protocol in words."""
        words = f"{', '.join(map(str, self.shots))} labelled images a class, {self.repeats} repeats, {self.few_shot}"
        words += f", with {', '.join(self.beside)}" if self.beside else ""
        return words + (" (transductive)" if self.few_shot.transductive else "")

    def check(self, laboratories: Sequence[NewLaboratory], *, seed: int) -> None:
        """Raise `SplitError` for too large a k, or a pool that overlaps with the target."""
        for laboratory in laboratories:
            if laboratory.pool is not None:
                refuse_overlap(laboratory.pool, laboratory.target, groups=self.shared_groups)
            for k in self.shots:
                self.episodes(laboratory.target, laboratory.pool, k, seed=seed)

    def possible(self, laboratory: NewLaboratory, *, seed: int) -> tuple[KShotProtocol, tuple[int, ...]]:
        """The protocol with those k that the laboratory's classes allow, and the k left out."""
        allowed = []
        for k in self.shots:
            try:
                self.model_copy(update={"shots": (k,)}).check([laboratory], seed=seed)
            except SplitError:
                continue
            allowed.append(k)
        if not allowed:
            self.check([laboratory], seed=seed)  # raises the reason
        return self.model_copy(update={"shots": tuple(allowed)}), tuple(k for k in self.shots if k not in allowed)

    def episodes(self, target: CellDataset, pool: CellDataset | None, k: int, *, seed: int) -> list[Episode]:
        """The (support, query) of each repeat; raises `SplitError` for too large a k."""
        return draw_episodes(
            target,
            pool,
            k_shot=k,
            n_repeats=self.repeats,
            seed=seed,
            replacement=self.replacement,
            generator=self.generator,
        )

    def run(self, bundle: Bundle, laboratory: NewLaboratory, *, source: str, seed: int) -> list[KShot]:
        """The scores of a bundle's embedding, with those of `beside` concatenated."""
        embedders = open_embedders(bundle, self.beside, self.few_shot)
        seen = embed_laboratory(laboratory, embedders.encoder, seed=seed, head=embedders.head, parts=embedders.parts)
        return [self.score(seen, method=" + ".join(one.name for one in embedders.each), source=source, seed=seed)]

    def score(self, seen: EmbeddedLaboratory, *, method: str, source: str, seed: int) -> KShot:
        """Scores for each k: means over the repeats, with intervals over repeats and test units.

        Raises `SplitError` as `check` does.
        """
        target, pool = seen.target, seen.pool
        if pool is not None:
            refuse_overlap(pool.dataset, target.dataset, groups=self.shared_groups)
        shots = []
        predicted: Labels = np.zeros((1, len(target.dataset)), np.int64)
        with track("k-shot", len(self.shots) * self.repeats) as progress:
            for k in self.shots:
                episodes = self.episodes(target.dataset, pool.dataset if pool else None, k, seed=seed)
                predicted = self.predict(seen, episodes, seed=seed, done=lambda: progress(1))
                shots.append(query_scores(k, target.dataset, episodes, predicted, seed=seed))
        labels, records = self._classes(target), target.dataset.records
        points = [(str(r.label), labels[p], r.domain) for r, p in zip(records, predicted[0], strict=True)]
        return KShot(
            name=f"{method}: {source} -> {target.dataset.name}",
            method=method,
            source=source,
            target=target.dataset.name,
            support=pool.dataset.name if pool else f"{target.dataset.name} itself, the rest is tested",
            classifier=str(self.few_shot),
            replacement=self.replacement,
            transductive=self.few_shot.transductive,
            n_images=len(target.dataset),
            classes=target.dataset.classes,
            left_out=seen.left_out,
            unreadable=target.unreadable | (pool.unreadable if pool else {}),
            shots=tuple(shots),
            supervised=seen.supervised,
            scatter=scatter(target.embeddings, points, seed=seed),
            intervals="95 %: bootstrap of the mean over repeats (drawings of the support) and, within their classes, over "
            f"the tested {unit_name(target.dataset)} (1,000 repeats)",
        )

    def predict(
        self, seen: EmbeddedLaboratory, episodes: Sequence[Episode], *, seed: int, done: Callable[[], None]
    ) -> Labels:
        """Predictions of each episode's classifier for all target images, (n_repeats, n); only its query counts.

        A prediction is an index into `_classes`.
        """
        target, source = seen.target, seen.source
        classes, head = self._classes(target), target.head if self.few_shot.uses_base else None
        of_target = head.logits(target.embeddings, classes) if head else None
        of_source = head.logits(source.embeddings, classes) if head else None
        unit = units(source.dataset)
        predicted = np.zeros((len(episodes), len(target.dataset)), np.int64)
        for row, episode in zip(predicted, episodes, strict=True):
            classifier = self.few_shot.make(random_state=seed)
            support = source.embeddings[episode.support]
            # support images are not part of the unlabelled target
            unlabelled = target.embeddings[episode.query] if self.few_shot.transductive else None
            truth = source.dataset.targets[episode.support]
            if of_source is None:
                classifier.fit(support, truth, unlabelled)
            else:
                base = of_source[episode.support]
                classifier.fit(support, truth, unlabelled, base=base, unit=unit[episode.support], parts=target.parts)
            row[:] = classifier.predict(target.embeddings, of_target)
            done()
        return predicted

    def _classes(self, target: Embedded) -> tuple[str, ...]:
        """What may be predicted: the target's classes, and behind them those that a kept head knows in addition."""
        keeps = self.few_shot.uses_base and target.head is not None
        return target.head.classes_with(target.dataset.classes) if keeps and target.head else target.dataset.classes
