"""The protocol finetuning: how many labelled cells suffice where a bundle's whole network is trained on with them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemalens.adaptation.encoders import digests_of, open_embedders
from hemalens.adaptation.ensemble import RULE as CLASSIFIER
from hemalens.adaptation.ensemble import KeptClassifier, mean_answer, refuse_without_classifier
from hemalens.benchmark.protocols.k_shot import embed, scores
from hemalens.benchmark.protocols.labelling import curve
from hemalens.benchmark.protocols.targets import NewLaboratory
from hemalens.benchmark.protocols.unlabelled import places_of
from hemalens.bundle.bundle import Bundle
from hemalens.datasets import CellDataset
from hemalens.datasets.episodes import Episode, draw_episodes
from hemalens.errors import SplitError, require_extra
from hemalens.evaluation.results import KShot
from hemalens.progress import track

SHOTS = (1, 10)
REPEATS = 3


@dataclass(frozen=True, slots=True)
class FinetuningPlan:
    """How many labelled images a class are drawn, how often, and how the network is trained on with them.

    `settings` are settings key=value of `FewCellsConfig`, `beside` names what stands beside the bundle's embedding in
    its classifier, as in `adapt`. What is not drawn is tested.
    """

    shots: tuple[int, ...] = SHOTS
    n_repeats: int = REPEATS
    settings: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.shots or min(self.shots) < 1 or len(set(self.shots)) < len(self.shots):
            raise SplitError("cannot use these k", expected="different whole numbers from 1 on", got=str(list(self.shots)))
        if self.n_repeats < 2:
            raise SplitError("too few repeats", expected="at least 2, for a spread", got=str(self.n_repeats))

    def episodes(self, target: CellDataset, k: int) -> list[Episode]:
        """Each (support, query); raises `SplitError` for a class of too few images."""
        return draw_episodes(target, None, k_shot=k, n_repeats=self.n_repeats, seed=self.seed, replacement=False)


@dataclass(frozen=True, slots=True)
class FinetuningCurves:
    """Scores against the number of labelled images a class that the whole network learns from."""

    plan: FinetuningPlan

    @property
    def described(self) -> str:
        """The protocol in words."""
        plan = self.plan
        settings = f", {', '.join(plan.settings)}" if plan.settings else ""
        settings += f", beside {', '.join(plan.beside)}" if plan.beside else ""
        return f"{', '.join(map(str, plan.shots))} labelled images a class, {plan.n_repeats} repeats, all weights{settings}"

    @property
    def beside(self) -> tuple[str, ...]:
        """What stands beside the bundle."""
        return self.plan.beside

    def check(self, laboratories: Sequence[NewLaboratory]) -> None:
        """Raise an error before anything is trained, for settings or numbers of images that cannot be."""
        refuse_without_classifier(self.plan.beside, self._config().classifier)
        for laboratory in laboratories:
            for k in self.plan.shots:
                self.plan.episodes(laboratory.target, k)

    def request(self) -> dict[str, Any]:
        """All that the scores depend on."""
        return {"plan": asdict(self.plan), "beside": digests_of(self.plan.beside)}

    def run(self, bundle: Bundle, laboratory: NewLaboratory, *, source: str, seed: int) -> list[KShot]:
        """The bundle trained on anew for each drawing; the drawings are those of k-shot without replacement."""
        from hemalens.methods.few_shot_finetune import TrainedOn

        plan, places = self.plan, places_of(bundle, laboratory.target)
        embedders = open_embedders(bundle, plan.beside, CLASSIFIER)
        target = embed(embedders.encoder, laboratory.target)
        known = target.dataset.under(bundle.manifest.labels)
        shots = []
        with tempfile.TemporaryDirectory(prefix="hemalens_") as scratch, self._progress() as done:
            config = self._config()
            way = TrainedOn(bundle, config, Path(scratch))
            way.check(known)
            kept = KeptClassifier.on(embedders, known) if config.classifier else None
            for k in plan.shots:
                episodes = plan.episodes(target.dataset, k)
                answers: NDArray[np.int64] = np.zeros((len(episodes), len(known)), np.int64)
                for i, episode in enumerate(episodes):
                    # runs are told apart by their seed
                    module = way.learn(known.subset(episode.support), seed=plan.seed + 1000 * k + i)
                    logits: NDArray[np.floating[Any]] = way.logits(module, known)
                    if kept is not None:
                        logits = mean_answer(logits, kept.logits(kept.learn(episode.support)))
                    answers[i] = places[logits.argmax(axis=1)]
                    done(1)
                shots.append(scores(k, target.dataset, episodes, answers, seed=plan.seed))
        return [
            curve(
                target,
                shots,
                method=bundle.manifest.method,
                source=source,
                support=f"{target.dataset.name} itself, the rest is tested",
                classifier=f"all weights trained on{', and a classifier' if config.classifier else ''}",
                variant="finetuned",
                against="shots",
            )
        ]

    def _progress(self) -> Any:
        return track("finetuning", len(self.plan.shots) * self.plan.n_repeats)

    def _config(self) -> Any:
        require_extra("torch", "train", "adapting by training on")
        from hemalens.methods.few_shot_finetune import FewCellsConfig

        return FewCellsConfig.load(None, self.plan.settings)
