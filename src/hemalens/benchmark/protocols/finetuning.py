"""The protocol finetuning: how many labelled cells a class suffice when all weights of a bundle are fine-tuned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from hemalens.adaptation.encoders import open_embedders
from hemalens.adaptation.ensemble import RULE, EnsembleClassifier, mean_log_probabilities, refuse_without_classifier
from hemalens.benchmark.protocols.base import Counts, Words
from hemalens.benchmark.protocols.data import NewLaboratory
from hemalens.benchmark.protocols.laboratory import (
    LaboratoryProtocol,
    check_counts,
    class_indices,
    embed,
    query_scores,
)
from hemalens.bundle.bundle import Bundle
from hemalens.datasets import CellDataset
from hemalens.datasets.episodes import Episode, draw_episodes
from hemalens.errors import require_extra
from hemalens.evaluation.results import KShot
from hemalens.files import scratch_folder
from hemalens.progress import track

if TYPE_CHECKING:
    from hemalens.methods.few_shot_finetune import FewShotFinetuneConfig


class FinetuningProtocol(LaboratoryProtocol):
    """For each k of `shots`, `repeats` fine-tunings on k images a class; the other images are tested.

    `training` are settings key=value of `FewShotFinetuneConfig`. The drawings are those of k-shot without replacement.
    """

    shots: Counts = (1, 10)
    repeats: int = Field(default=3, ge=2)
    training: Words = ()

    @model_validator(mode="after")
    def _check_shots(self) -> FinetuningProtocol:
        check_counts(self.shots, "k")
        return self

    @property
    def description(self) -> str:
        """The protocol in words."""
        words = f"{', '.join(map(str, self.shots))} labelled images a class, {self.repeats} repeats, all weights"
        words += f", {', '.join(self.training)}" if self.training else ""
        return words + (f", with {', '.join(self.beside)}" if self.beside else "")

    def check(self, laboratories: Sequence[NewLaboratory], *, seed: int) -> None:
        """Raise an error for settings of the training, or numbers of images, that do not fit."""
        refuse_without_classifier(self.beside, self._training().classifier)
        for laboratory in laboratories:
            for k in self.shots:
                self._episodes(laboratory.target, k, seed=seed)

    def run(self, bundle: Bundle, laboratory: NewLaboratory, *, source: str, seed: int) -> list[KShot]:
        """One curve: the bundle fine-tuned from its own weights for each drawing."""
        from hemalens.methods.few_shot_finetune import FineTuner

        config, indices = self._training(), class_indices(bundle, laboratory.target)
        embedders = open_embedders(bundle, self.beside, RULE)
        target = embed(embedders.encoder, laboratory.target)
        cells = target.dataset.under(bundle.manifest.labels)
        shots = []
        n_trainings = len(self.shots) * self.repeats
        with scratch_folder() as scratch, track("finetuning", n_trainings) as progress:
            network = FineTuner(bundle, config, scratch)
            network.check(cells)
            kept = EnsembleClassifier.on(embedders, cells) if config.classifier else None
            for k in self.shots:
                episodes = self._episodes(target.dataset, k, seed=seed)
                predicted: NDArray[np.int64] = np.zeros((len(episodes), len(cells)), np.int64)
                for i, episode in enumerate(episodes):
                    # each training has a seed of its own
                    module = network.learn(cells.subset(episode.support), seed=seed + 1000 * k + i)
                    logits: NDArray[np.floating[Any]] = network.logits(module, cells)
                    if kept is not None:
                        logits = mean_log_probabilities(logits, kept.logits(kept.learn(episode.support)))
                    predicted[i] = indices[logits.argmax(axis=1)]
                    progress(1)
                shots.append(query_scores(k, target.dataset, episodes, predicted, seed=seed))
        return [
            self.curve(
                target,
                shots,
                method=bundle.manifest.method,
                source=source,
                support=f"{target.dataset.name} itself, the rest is tested",
                classifier=f"all weights fine-tuned{', and a classifier' if config.classifier else ''}",
                variant="finetuned",
            )
        ]

    def _episodes(self, target: CellDataset, k: int, *, seed: int) -> list[Episode]:
        return draw_episodes(target, None, k_shot=k, n_repeats=self.repeats, seed=seed, replacement=False)

    def _training(self) -> FewShotFinetuneConfig:
        require_extra("torch", "train", "fine-tuning")
        from hemalens.methods.few_shot_finetune import FewShotFinetuneConfig

        return FewShotFinetuneConfig.load(None, self.training)
