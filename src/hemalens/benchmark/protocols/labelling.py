"""The protocol labelling: which cells to label next (active learning), scored on other cells of the laboratory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.special import softmax

from hemalens.adaptation.active_learning import Pool, check_strategy, choose
from hemalens.adaptation.encoders import open_embedders
from hemalens.benchmark.protocols.base import Counts, Words
from hemalens.benchmark.protocols.data import NewLaboratory
from hemalens.benchmark.protocols.laboratory import (
    Embedded,
    EmbeddedLaboratory,
    Labels,
    LaboratoryProtocol,
    check_counts,
    embed_laboratory,
    query_scores,
    split_target,
)
from hemalens.bundle.bundle import Bundle
from hemalens.classifiers.few_shot import FewShotConfig
from hemalens.datasets import CellDataset
from hemalens.datasets.episodes import Episode
from hemalens.datasets.splits import seeded, units
from hemalens.errors import ConfigError, SplitError
from hemalens.evaluation.results import Against, KShot
from hemalens.progress import track

COMPARED = ("random", "typical", "even")


class LabellingProtocol(LaboratoryProtocol):
    """For each of `strategies`, the cells it chooses to label, step by step up to each of `budgets`.

    Each of `repeats` tests a part of the target, `test_fraction`; cells are chosen from the rest. `few_shot` is the
    classifier fitted on the labelled cells; it starts from the bundle's head.
    """

    against: ClassVar[Against] = "labelled"

    budgets: Counts = (8, 16, 24, 40, 60, 80)
    strategies: Words = COMPARED
    repeats: int = Field(default=10, ge=2)
    test_fraction: float = Field(default=0.4, gt=0, lt=1)
    few_shot: FewShotConfig = FewShotConfig(rule="base")

    @model_validator(mode="after")
    def _check_settings(self) -> LabellingProtocol:
        if not self.strategies:
            raise ConfigError("no strategy is named", expected=f"one or more of {', '.join(COMPARED)}")
        for strategy in self.strategies:
            check_strategy(strategy)
        check_counts(self.budgets, "budgets")
        if not self.few_shot.uses_base or self.few_shot.transductive:
            raise ConfigError(
                "labelling starts from the bundle's head, and sees no tested image",
                expected="rule=base, not centre=target",
                got=str(self.few_shot),
            )
        return self

    @property
    def description(self) -> str:
        """The protocol in words."""
        words = f"{', '.join(map(str, self.budgets))} labelled cells chosen by {', '.join(self.strategies)}, "
        words += f"{self.repeats} repeats, {self.few_shot}"
        return words + (f", with {', '.join(self.beside)}" if self.beside else "")

    def check(self, laboratories: Sequence[NewLaboratory], *, seed: int) -> None:
        """Raise `SplitError` where the rest of a target has fewer cells than the largest budget."""
        largest = max(self.budgets)
        for laboratory in laboratories:
            for test in self._tested(laboratory.target, seed=seed):
                n_free = int((~test).sum())
                if n_free < largest:
                    raise SplitError(
                        f"{laboratory.target.name} has too few images to label {largest}",
                        expected=f"at least {largest} besides the tested ones",
                        got=str(n_free),
                        remedy="Take smaller budgets, as in --labelling budgets=8,16.",
                    )

    def run(self, bundle: Bundle, laboratory: NewLaboratory, *, source: str, seed: int) -> list[KShot]:
        """A curve for each strategy."""
        embedders = open_embedders(bundle, self.beside, self.few_shot)
        seen = embed_laboratory(laboratory, embedders.encoder, seed=seed, head=embedders.head, parts=embedders.parts)
        return self.score(seen, method=bundle.manifest.method, source=source, seed=seed)

    def score(self, seen: EmbeddedLaboratory, *, method: str, source: str, seed: int) -> list[KShot]:
        """A curve for each strategy against the number of labelled cells; 0 is the bundle's own head.

        A strategy sees embeddings, the current probabilities, and which cells are labelled. Only labels of those cells
        reach the classifier. All strategies have the same repeats. Raises `ConfigError` without a head.
        """
        target = seen.target
        if target.head is None:
            raise ConfigError("labelling starts from a bundle's own head, and there is none")
        base = target.head.logits(target.embeddings, target.head.classes_with(target.dataset.classes))
        tested = self._tested(target.dataset, seed=seed)
        # the support differs by strategy, and scores read the query alone
        episodes = [Episode(np.zeros(0, np.int64), test) for test in tested]
        found = []
        with track("labelling", len(self.strategies) * self.repeats) as progress:
            for strategy in self.strategies:
                predicted = self._predict(target, base, strategy, tested=tested, seed=seed, done=lambda: progress(1))
                shots = [query_scores(k, target.dataset, episodes, p, seed=seed) for k, p in sorted(predicted.items())]
                found.append(
                    self.curve(
                        target,
                        shots,
                        method=method,
                        source=source,
                        support=f"{self.test_fraction:.0%} of {target.dataset.name} are tested, cells are chosen from the "
                        "rest",
                        classifier=str(self.few_shot),
                        variant=strategy,
                        supervised=seen.supervised,
                    )
                )
        return found

    def _tested(self, target: CellDataset, *, seed: int) -> list[NDArray[np.bool_]]:
        """The images that each repeat tests, (n,) each."""
        return [split_target(target, self.test_fraction, seed, "labelling", repeat) for repeat in range(self.repeats)]

    def _predict(
        self,
        target: Embedded,
        base: NDArray[np.float64],
        strategy: str,
        *,
        tested: Sequence[NDArray[np.bool_]],
        seed: int,
        done: Callable[[], None],
    ) -> dict[int, Labels]:
        """By number of labelled cells the predictions of every repeat, (n_repeats, n); `base` are the head's logits."""
        dataset = target.dataset
        unit, content = units(dataset), np.unique(dataset.contents, return_inverse=True)[1]
        found = {k: np.zeros((self.repeats, len(dataset)), np.int64) for k in (0, *self.budgets)}
        for repeat, test in enumerate(tested):
            rng = seeded(seed, "labelling", strategy, str(repeat))
            rest = np.flatnonzero(~test)
            logits, labelled = base, np.zeros(0, np.int64)
            found[0][repeat] = base.argmax(axis=1)
            for budget in sorted(self.budgets):
                pool = Pool(target.embeddings[rest], softmax(logits[rest], axis=1), np.isin(rest, labelled), content[rest])
                labelled = np.concatenate([labelled, rest[choose(strategy, pool, budget - len(labelled), rng)]])
                truth = dataset.targets[labelled]
                # cells of one type say nothing of the others: the model stays as it is
                if len(np.unique(truth)) > 1:
                    fitted = self.few_shot.make(random_state=seed)
                    fitted.fit(
                        target.embeddings[labelled], truth, base=base[labelled], unit=unit[labelled], parts=target.parts
                    )
                    logits = np.asarray(fitted.decision_function(target.embeddings, base), np.float64)
                found[budget][repeat] = logits.argmax(axis=1)
            done()
        return found
