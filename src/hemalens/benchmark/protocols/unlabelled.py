"""The protocol unlabelled: how few unlabelled images suffice to adapt, tested on other images (inductive)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from hemalens.adaptation.adapt_unlabelled import refuse_lacking
from hemalens.adaptation.encoders import Embedder
from hemalens.adaptation.guards import FEWEST
from hemalens.adaptation.source_head import SourceHead
from hemalens.adaptation.unlabelled_config import PIECES, UnlabelledConfig
from hemalens.adaptation.unlabelled_steps import adapted_to
from hemalens.benchmark.protocols.base import Counts, Words
from hemalens.benchmark.protocols.data import NewLaboratory
from hemalens.benchmark.protocols.laboratory import (
    Embedded,
    Labels,
    LaboratoryProtocol,
    check_counts,
    class_indices,
    embed,
    query_scores,
    split_target,
)
from hemalens.bundle.bundle import Bundle
from hemalens.cache import FeatureCache
from hemalens.datasets import CellDataset
from hemalens.datasets.episodes import Episode
from hemalens.datasets.splits import seeded
from hemalens.errors import ConfigError, SplitError
from hemalens.evaluation.results import Against, KShot
from hemalens.files import default_cache_dir
from hemalens.progress import track

COMPARED = ("neighbours", "class_means", "neighbours+class_means")
"""Components that are compared by default; the last are those of `adapt --unlabelled`."""


class UnlabelledProtocol(LaboratoryProtocol):
    """For each of `pieces`, adaptation to each number of unlabelled `images`.

    Components that are used together are joined by a plus: `neighbours+class_means`. Each of `repeats` tests a part of the
    target, `test_fraction`; the unlabelled images are drawn from the rest.
    """

    against: ClassVar[Against] = "unlabelled"

    images: Counts = (8, 16, 32, 64, 128)
    pieces: Words = COMPARED
    repeats: int = Field(default=10, ge=2)
    test_fraction: float = Field(default=0.4, gt=0, lt=1)

    @model_validator(mode="after")
    def _check_settings(self) -> UnlabelledProtocol:
        check_counts(self.images, "numbers of images", at_least=FEWEST)
        if self.beside:
            raise ConfigError("images without labels have no use for beside", got=self.beside[0])
        if not self.pieces:
            raise ConfigError("no piece is named", expected=f"one or more of {', '.join(PIECES)}")
        for words in self.pieces:
            self.config(words)
        return self

    def config(self, words: str) -> UnlabelledConfig:
        """The configuration of components joined by a plus; raises `ConfigError` for an unknown one."""
        named = [word.strip() for word in words.split("+")]
        unknown = [word for word in named if word not in PIECES]
        if unknown:
            raise ConfigError(f"unknown piece {unknown[0]!r}", expected=f"{', '.join(PIECES)}, or some with + between them")
        return UnlabelledConfig.from_mapping({piece: piece in named for piece in PIECES}, source=words)

    @property
    def description(self) -> str:
        """The protocol in words."""
        return (
            f"{', '.join(map(str, self.images))} images without labels, {', '.join(self.pieces)}, {self.repeats} repeats, "
            "tested on other images (inductive)"
        )

    def check(self, laboratories: Sequence[NewLaboratory], *, seed: int) -> None:
        """Raise `SplitError` where the rest of a target has fewer images than the smallest number."""
        for laboratory in laboratories:
            target = laboratory.target
            n_free = len(target) - int(self._tested(target, seed=seed)[0].sum())
            if n_free < min(self.images):
                raise SplitError(
                    f"{target.name} has too few images", expected=f"{min(self.images)} or more", got=str(n_free)
                )

    def run(self, bundle: Bundle, laboratory: NewLaboratory, *, source: str, seed: int) -> list[KShot]:
        """A curve for each entry of `pieces`; numbers of images that the target does not have are left out."""
        for words in self.pieces:
            refuse_lacking(bundle, self.config(words))
        target = embed(Embedder.of(bundle).encoder, laboratory.target)
        tested = self._tested(target.dataset, seed=seed)
        numbers = [n for n in sorted(self.images) if n <= min(int((~test).sum()) for test in tested)]
        episodes = [Episode(np.zeros(0, np.int64), test) for test in tested]
        logits = SourceHead.of(bundle).logits(target.embeddings, bundle.manifest.labels)
        before = np.tile(class_indices(bundle, target.dataset)[logits.argmax(axis=1)], (self.repeats, 1))
        found = []
        with track("unlabelled", len(self.pieces) * len(numbers) * self.repeats) as progress:
            for words in self.pieces:
                config = self.config(words)
                shots = [query_scores(0, target.dataset, episodes, before, seed=seed)]
                for n in numbers:
                    rows = []
                    for repeat, test in enumerate(tested):
                        images = target.dataset.subset(_drawn(test, n, repeat, seed=seed))
                        rows.append(_predict(bundle, target, images, config, test=test, seed=seed))
                        progress(1)
                    shots.append(query_scores(n, target.dataset, episodes, np.stack(rows), seed=seed))
                found.append(
                    self.curve(
                        target,
                        shots,
                        method=bundle.manifest.method,
                        source=source,
                        support=f"{self.test_fraction:.0%} of {target.dataset.name} are tested, images are drawn from the "
                        "rest",
                        classifier="the model's own head",
                        variant=words,
                    )
                )
        return found

    def _tested(self, target: CellDataset, *, seed: int) -> list[NDArray[np.bool_]]:
        """The images that each repeat tests, (n,) each."""
        return [split_target(target, self.test_fraction, seed, "unlabelled", repeat) for repeat in range(self.repeats)]


def _drawn(test: NDArray[np.bool_], n: int, repeat: int, *, seed: int) -> Labels:
    """Indices of `n` unlabelled images, (n,): the first of one order, so that larger draws hold the smaller ones."""
    order = seeded(seed, "unlabelled", "drawn", str(repeat)).permutation(np.flatnonzero(~test))
    return order[:n].astype(np.int64)


def _predict(
    bundle: Bundle, target: Embedded, images: CellDataset, config: UnlabelledConfig, *, test: NDArray[np.bool_], seed: int
) -> Labels:
    """Predictions (n,) of the bundle adapted to `images`, for the images of `test`; 0 for the rest."""
    dataset, at = target.dataset, np.flatnonzero(test)
    adapted = adapted_to(bundle, images, config, seed, cache=FeatureCache(default_cache_dir()))
    records = [dataset.records[i] for i in at]
    probabilities = adapted.probabilities(target.embeddings[at].astype(np.float32), records)
    predicted = np.zeros(len(dataset), np.int64)
    predicted[at] = class_indices(bundle, dataset)[probabilities.argmax(axis=1)]
    return predicted
