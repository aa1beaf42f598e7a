"""The protocol unlabelled: how few images without labels suffice, tested on other images of the same laboratory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hemalens.adaptation.adapt_unlabelled import FEWEST, refuse_lacking
from hemalens.adaptation.encoders import digests_of, open_embedders
from hemalens.adaptation.source_head import BaseHead
from hemalens.adaptation.unlabelled import Adapted, adapted_to, embeddings_beside
from hemalens.adaptation.unlabelled_config import PIECES, UnlabelledConfig
from hemalens.benchmark.protocols.k_shot import Embedded, embed, scores
from hemalens.benchmark.protocols.labelling import curve, split_target
from hemalens.benchmark.protocols.targets import NewLaboratory
from hemalens.bundle.bundle import Bundle
from hemalens.cache import FeatureCache
from hemalens.classifiers.few_shot import FewShotConfig
from hemalens.datasets import CellDataset
from hemalens.datasets.episodes import Episode
from hemalens.datasets.splits import seeded
from hemalens.errors import ConfigError, SplitError
from hemalens.evaluation.results import KShot
from hemalens.files import default_cache_dir
from hemalens.graphs.features import extract
from hemalens.progress import track

NUMBERS = (8, 16, 32, 64, 128)
COMPARED = ("batch_norm", "size+class_bias", "batch_norm+size+class_bias")
"""Pieces that are compared where none is named; together they are what `adapt --unlabelled` does."""
Answers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class UnlabelledPlan:
    """How many images without labels, which pieces follow them, and how often it is repeated.

    In each repeat a part of the target, `test_fraction`, is only tested, and the images without labels are drawn from the
    rest: the test is inductive. `beside` names what helps to find neighbours, as in `adapt_unlabelled`.
    """

    numbers: tuple[int, ...] = NUMBERS
    pieces: tuple[str, ...] = COMPARED
    strength: float = 0.5
    n_repeats: int = 10
    test_fraction: float = 0.4
    beside: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.pieces or not self.numbers or min(self.numbers) < FEWEST or len(set(self.numbers)) < len(self.numbers):
            raise SplitError(
                "cannot use these numbers of images",
                expected=f"different ones from {FEWEST} on",
                got=str(list(self.numbers)),
            )
        for words in self.pieces:
            self.config(words)

    def config(self, words: str) -> UnlabelledConfig:
        """The configuration of pieces joined by a plus; raises `ConfigError` for an unknown one."""
        wanted = [word.strip() for word in words.split("+")]
        unknown = [word for word in wanted if word not in PIECES]
        if unknown:
            raise ConfigError(f"unknown piece {unknown[0]!r}", expected=f"{', '.join(PIECES)}, or some with + between them")
        more = {"strength": self.strength} if "batch_norm" in wanted else {}
        return UnlabelledConfig.from_mapping({**{piece: piece in wanted for piece in PIECES}, **more}, source=words)


@dataclass(frozen=True, slots=True)
class Seen:
    """How a target is looked at: which images are tested (n,), `others` (n, d) what stands beside makes of all, and whether
    the encoder is another one than the bundle's, so that images are embedded `anew`.
    """

    test: NDArray[np.bool_]
    others: NDArray[np.float32]
    anew: bool


@dataclass(frozen=True, slots=True)
class UnlabelledCurves:
    """Scores against the number of images without labels, for each piece that follows them."""

    plan: UnlabelledPlan

    @property
    def described(self) -> str:
        """The protocol in words."""
        plan = self.plan
        beside = f", beside {', '.join(plan.beside)}" if plan.beside else ""
        return (
            f"{', '.join(map(str, plan.numbers))} images without labels, {', '.join(plan.pieces)}{beside}, strength "
            f"{plan.strength:g}, {plan.n_repeats} repeats, tested on other images (inductive)"
        )

    @property
    def beside(self) -> tuple[str, ...]:
        """What stands beside the bundle."""
        return self.plan.beside

    def check(self, laboratories: Sequence[NewLaboratory]) -> None:
        """Raise `SplitError` before anything is trained."""
        for laboratory in laboratories:
            target = laboratory.target
            n_free = len(target) - int(self._held(target)[0].sum())
            if n_free < min(self.plan.numbers):
                raise SplitError(
                    f"{target.name} has too few images", expected=f"{min(self.plan.numbers)} or more", got=str(n_free)
                )

    def request(self) -> dict[str, Any]:
        """All that the scores depend on."""
        return {"plan": asdict(self.plan), "beside": digests_of(self.plan.beside)}

    def run(self, bundle: Bundle, laboratory: NewLaboratory, *, source: str, seed: int) -> list[KShot]:
        """A curve for each piece; numbers that the target does not have are left out."""
        plan = self.plan
        for words in plan.pieces:
            refuse_lacking(bundle, plan.config(words))
        embedders = open_embedders(bundle, plan.beside, FewShotConfig())
        beside = [one.encoder for one in embedders.each[1:]]
        target = embed(embedders.each[0].encoder, laboratory.target)
        others = embeddings_beside(beside, target.dataset.records, FeatureCache(default_cache_dir()))
        held = self._held(target.dataset)
        numbers = [n for n in sorted(plan.numbers) if n <= min(int((~test).sum()) for test in held)]
        episodes = [Episode(np.zeros(0, np.int64), test) for test in held]
        alone = places_of(bundle, target.dataset)[
            BaseHead.of(bundle).logits(target.embeddings, bundle.manifest.labels).argmax(axis=1)
        ]
        before = np.tile(alone, (plan.n_repeats, 1))
        found = []
        with track("unlabelled", len(plan.pieces) * len(numbers) * plan.n_repeats) as progress:
            for words in plan.pieces:
                shots = [scores(0, target.dataset, episodes, before, seed=plan.seed)]
                for n in numbers:
                    rows = []
                    for repeat, test in enumerate(held):
                        drawn = self._drawn(test, n, repeat)
                        adapted = self._adapted(bundle, target.dataset.subset(drawn), words, beside)
                        seen = Seen(test, others, plan.config(words).batch_norm)
                        rows.append(self._answers(bundle, target, adapted, seen))
                        progress(1)
                    shots.append(scores(n, target.dataset, episodes, np.stack(rows), seed=plan.seed))
                about = f"{plan.test_fraction:.0%} of {target.dataset.name} are tested, images are drawn from the rest"
                found.append(
                    curve(
                        target,
                        shots,
                        method=bundle.manifest.method,
                        source=source,
                        support=about,
                        classifier=f"the model's own head; strength {plan.strength:g}",
                        variant=words,
                        against="unlabelled",
                    )
                )
        return found

    def _held(self, target: CellDataset) -> list[NDArray[np.bool_]]:
        plan = self.plan
        return [split_target(target, plan.test_fraction, plan.seed, "unlabelled", r) for r in range(plan.n_repeats)]

    def _drawn(self, test: NDArray[np.bool_], n: int, repeat: int) -> NDArray[np.int64]:
        """Indices of `n` images without labels, (n,): the first of one order, so that more images hold the fewer."""
        order = seeded(self.plan.seed, "unlabelled", "drawn", str(repeat)).permutation(np.flatnonzero(~test))
        return order[:n].astype(np.int64)

    def _adapted(self, bundle: Bundle, images: CellDataset, words: str, beside: Sequence[onnx.ModelProto]) -> Adapted:
        """The bundle after these images."""
        config = self.plan.config(words)
        # the encoder changes with batch norm only
        cache = None if config.batch_norm else FeatureCache(default_cache_dir())
        return adapted_to(bundle, images, config, self.plan.seed, cache=cache, beside=beside)

    def _answers(self, bundle: Bundle, target: Embedded, adapted: Adapted, seen: Seen) -> Answers:
        """Answers (n,) of what was adapted; those of images that are not tested mean nothing."""
        dataset = target.dataset
        answers, at = np.zeros(len(dataset), np.int64), np.flatnonzero(seen.test)
        records = [dataset.records[i] for i in at]
        embeddings = target.embeddings[at].astype(np.float32)
        if seen.anew:
            embeddings = extract(records, adapted.encoder, cache=None).complete()
        found = adapted.probabilities(embeddings, adapted.log_diameters(records), seen.others[at])
        answers[at] = places_of(bundle, dataset)[found.argmax(axis=1)]
        return answers


def places_of(bundle: Bundle, dataset: CellDataset) -> Answers:
    """Index of each of the bundle's labels among the target's classes, others behind, (K,)."""
    labels = bundle.manifest.labels
    order = (*dataset.classes, *(label for label in labels if label not in dataset.classes))
    return np.array([order.index(label) for label in labels], np.int64)
