"""The protocol labelling: which cells to label next, judged by what a model on top of its base then answers elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from hemalens.adaptation.active_learning import Pool, check_strategy, choose
from hemalens.benchmark.protocols.k_shot import Embedded, scores
from hemalens.classifiers.few_shot import FewShotConfig
from hemalens.datasets.base import CellDataset
from hemalens.datasets.episodes import Episode
from hemalens.datasets.splits import hold_out, seeded, units
from hemalens.errors import ConfigError, SplitError
from hemalens.evaluation.results import Against, KShot, Shots, Supervised
from hemalens.progress import track

BUDGETS = (8, 16, 24, 40, 60, 80)
COMPARED = ("random", "typical", "even")


@dataclass(frozen=True, slots=True)
class LabellingPlan:
    """How many cells are labelled in all, step by step, who chooses them, and how often it is repeated.

    In each repeat a part of the target, `test_fraction`, is only ever tested; cells are chosen from the rest.
    """

    budgets: tuple[int, ...] = BUDGETS
    strategies: tuple[str, ...] = COMPARED
    n_repeats: int = 10
    test_fraction: float = 0.4
    classifier: FewShotConfig = field(default_factory=lambda: FewShotConfig(rule="base"))
    seed: int = 0

    def __post_init__(self) -> None:
        for strategy in self.strategies:
            check_strategy(strategy)
        if not self.strategies or not self.budgets or min(self.budgets) < 1 or len(set(self.budgets)) < len(self.budgets):
            raise SplitError(
                "cannot use these budgets", expected="different numbers from 1 on", got=str(list(self.budgets))
            )
        if not self.classifier.uses_base or self.classifier.transductive:
            raise ConfigError(
                "labelling starts from what the model knows, and looks at no tested image",
                expected="rule=base, not centre=target",
                got=str(self.classifier),
            )


def split_target(target: CellDataset, test_fraction: float, seed: int, name: str, repeat: int) -> NDArray[np.bool_]:
    """Which images of the target are only tested in a repeat, (n,): drawn by class, whole units."""
    _, test = hold_out(target, test_fraction, seeded(seed, name, "test", str(repeat)))
    held = {id(record) for record in test.records}
    return np.array([id(record) in held for record in target.records])


def check_budgets(target: CellDataset, plan: LabellingPlan) -> None:
    """Raise `SplitError` where the rest of the target has fewer cells than the largest budget."""
    for repeat in range(plan.n_repeats):
        n_free = int((~split_target(target, plan.test_fraction, plan.seed, "labelling", repeat)).sum())
        if n_free < max(plan.budgets):
            raise SplitError(
                f"{target.name} has too few images to label {max(plan.budgets)}",
                expected=f"at least {max(plan.budgets)} beside the tested ones",
                got=str(n_free),
                remedy="Take smaller budgets, as in --labelling budgets=8,16.",
            )


def labelling(
    target: Embedded, plan: LabellingPlan, *, method: str, source: str, supervised: Supervised | None = None
) -> list[KShot]:
    """A curve for each strategy: scores against the number of labelled cells, 0 being the base alone.

    A strategy sees embeddings, the probabilities of the classifier so far, and which cells have been labelled; labels of
    those cells alone reach the classifier. Every strategy has the same repeats. Raises `ConfigError` without a head.
    """
    if target.head is None:
        raise ConfigError("labelling starts from a bundle's own head, and there is none")
    base = target.head.logits(target.embeddings, target.head.classes_with(target.dataset.classes))
    n_steps = len(plan.strategies) * plan.n_repeats
    held = [split_target(target.dataset, plan.test_fraction, plan.seed, "labelling", r) for r in range(plan.n_repeats)]
    found = []
    with track("labelling", n_steps) as progress:
        for strategy in plan.strategies:
            answers = _answers(target, base, plan, strategy, held=held, done=lambda: progress(1))
            # what is bought differs by strategy, and its indices are of no use to the scores
            episodes = [Episode(np.zeros(0, np.int64), test) for test in held]
            shots = [scores(k, target.dataset, episodes, a, seed=plan.seed) for k, a in sorted(answers.items())]
            about = f"{plan.test_fraction:.0%} of {target.dataset.name} are tested, cells are chosen from the rest"
            found.append(
                curve(
                    target,
                    shots,
                    method=method,
                    source=source,
                    support=about,
                    classifier=str(plan.classifier),
                    variant=strategy,
                    against="labelled",
                    supervised=supervised,
                )
            )
    return found


def curve(
    target: Embedded,
    shots: list[Shots],
    *,
    method: str,
    source: str,
    support: str,
    classifier: str,
    variant: str,
    against: Against,
    supervised: Supervised | None = None,
) -> KShot:
    """Scores against a number of the target's images, as a result."""
    records = target.dataset.records
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
        intervals="95 %: bootstrap of the mean over repeats (what is tested and what is drawn) and, within their classes, "
        f"over the tested {'groups' if any(r.group is not None for r in records) else 'images'} (1,000 repeats)",
        against=against,
        variant=variant,
    )


def _answers(
    target: Embedded,
    base: NDArray[np.float64],
    plan: LabellingPlan,
    strategy: str,
    *,
    held: list[NDArray[np.bool_]],
    done: Callable[[], None],
) -> dict[int, NDArray[np.int64]]:
    """By number of labelled cells the answers of every repeat for every image, (n_repeats, n), from `base` logits on."""
    dataset = target.dataset
    unit, content = units(dataset), np.unique(dataset.contents, return_inverse=True)[1]
    found = {k: np.zeros((plan.n_repeats, len(dataset)), np.int64) for k in (0, *plan.budgets)}
    for repeat, test in enumerate(held):
        rng = seeded(plan.seed, "labelling", strategy, str(repeat))
        rest = np.flatnonzero(~test)
        logits, bought = base, np.zeros(0, np.int64)
        found[0][repeat] = base.argmax(axis=1)
        for budget in sorted(plan.budgets):
            known = np.isin(rest, bought)
            pool = Pool(target.embeddings[rest], softmax(logits[rest], axis=1), known, content[rest])
            bought = np.concatenate([bought, rest[choose(strategy, pool, budget - len(bought), rng)]])
            truth = dataset.targets[bought]
            # cells of one type only tell nothing of the others: the model stays as it is
            if len(np.unique(truth)) > 1:
                fitted = plan.classifier.make(random_state=plan.seed)
                fitted.fit(target.embeddings[bought], truth, base=base[bought], unit=unit[bought], parts=target.parts)
                logits = np.asarray(fitted.decision_function(target.embeddings, base), np.float64)
            found[budget][repeat] = logits.argmax(axis=1)
        done()
    return found
