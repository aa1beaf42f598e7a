"""Forms of a model that are tested: as it is, adapted to unlabelled images, to a few labels, or to both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hemalens.adaptation.adapt_unlabelled import adapt_unlabelled
from hemalens.adaptation.few_labels import few_shot_config
from hemalens.adaptation.options import DEFAULTS
from hemalens.adaptation.source_head import SourceHead
from hemalens.adaptation.unlabelled_config import UnlabelledConfig
from hemalens.benchmark.protocols.k_shot import KShotProtocol
from hemalens.benchmark.protocols.laboratory import Embedded, EmbeddedLaboratory, Labels, class_indices
from hemalens.bundle.bundle import Bundle
from hemalens.datasets import CellDataset
from hemalens.datasets.episodes import Episode, draw_labelled
from hemalens.datasets.splits import seeded
from hemalens.evaluation.evaluate import DatasetPredictions, predict_dataset
from hemalens.evaluation.left_out import NONE
from hemalens.files import scratch_folder
from hemalens.runs.folders import RunOptions

UNLABELLED, SHOTS, BOTH = "unlabelled", "shots", "unlabelled+shots"
FORMS = (NONE, UNLABELLED, SHOTS, BOTH)


@dataclass(frozen=True, slots=True)
class AdaptedForms:
    """Which forms are tested, in the order of `FORMS`: with `shots` labelled cells of each type, drawn `repeats` times."""

    names: Sequence[str]
    shots: int
    repeats: int

    def title(self, name: str) -> str:
        """A form in words."""
        labels = f"{self.shots} label{'s' * (self.shots != 1)}"
        return {SHOTS: labels, BOTH: f"unlabelled, then {labels}"}.get(name, name)

    @property
    def request(self) -> dict[str, object]:
        """Everything that the adaptation depends on."""
        request: dict[str, object] = {"forms": list(self.names)}
        if {UNLABELLED, BOTH} & set(self.names):
            request["unlabelled"] = UnlabelledConfig().model_dump(mode="json")
        if {SHOTS, BOTH} & set(self.names):
            request |= {"shots": self.shots, "repeats": self.repeats}
            request["few_shot"] = few_shot_config(DEFAULTS).model_dump(mode="json")
        return request

    def predict(
        self, bundle: Bundle, cells: CellDataset, tested: Sequence[str], *, seed: int
    ) -> tuple[CellDataset, Mapping[str, Labels], Mapping[str, str]]:
        """The readable cells of the `tested` classes (n), by form the predictions (r, n), and what could not be read.

        A prediction is an index into the tested classes, followed by the bundle's others; -1 where a cell is not tested.
        All forms with labels have the same drawings. `cells` are adapted to as a whole, without their labels: those forms
        are transductive.
        """
        chosen = cells.under(tuple(tested))
        plain = predict_dataset(bundle, chosen)
        readable = chosen.subset(plain.index)
        drawn = [draw_labelled(readable, self.shots, seeded(seed, "labelled", str(i))) for i in range(self.repeats)]
        found: dict[str, Labels] = {}
        if NONE in self.names:
            found[NONE] = _answers(bundle, readable, plain)
        if SHOTS in self.names:
            found[SHOTS] = self._with_labels(bundle, readable, plain, drawn, seed=seed)
        if {UNLABELLED, BOTH} & set(self.names):
            with scratch_folder() as folder:
                adapted = adapt_unlabelled(bundle.path, cells, run=RunOptions(folder / "bundle", seed))
                there = predict_dataset(adapted, readable)
                if UNLABELLED in self.names:
                    found[UNLABELLED] = _answers(adapted, readable, there)
                if BOTH in self.names:
                    found[BOTH] = self._with_labels(adapted, readable, there, drawn, seed=seed)
        return readable, {name: found[name] for name in self.names}, plain.unreadable

    def _with_labels(
        self, bundle: Bundle, cells: CellDataset, seen: DatasetPredictions, drawn: Sequence[Episode], *, seed: int
    ) -> Labels:
        """Predictions after learning from each drawing, (r, n); the classifier is that of `adapt --support`."""
        embedded = Embedded(
            cells,
            seen.embeddings.astype(np.float64),
            head=SourceHead.of(bundle),
            parts=bundle.manifest.embedding_parts,
        )
        protocol = KShotProtocol(few_shot=few_shot_config(DEFAULTS))
        predicted = protocol.predict(EmbeddedLaboratory(embedded), drawn, seed=seed, done=lambda: None)
        return np.asarray(np.where([episode.query for episode in drawn], predicted, -1), np.int64)


def _answers(bundle: Bundle, cells: CellDataset, found: DatasetPredictions) -> Labels:
    """The classes that a bundle predicts, (1, n)."""
    return np.asarray(class_indices(bundle, cells)[found.probabilities.argmax(axis=1)][None], np.int64)
