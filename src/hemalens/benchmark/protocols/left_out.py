"""The protocol leave-one-laboratory-out: trained on all laboratories but one, tested on that one, each in turn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from hemalens.adaptation.guards import FEWEST
from hemalens.benchmark.protocols.adapted_forms import BOTH, FORMS, UNLABELLED, AdaptedForms
from hemalens.benchmark.protocols.base import FitFold, Outcome, ProtocolConfig, Sources, Task, Words, relative_path
from hemalens.benchmark.protocols.data import BenchmarkData
from hemalens.benchmark.protocols.folds import fit_whole
from hemalens.benchmark.protocols.fractions import without_checkpoints
from hemalens.benchmark.protocols.imitations import Imitation, check_mixes, imitations_of, on_disk
from hemalens.benchmark.protocols.laboratory import Labels
from hemalens.benchmark.protocols.left_out_laboratories import (
    FEWEST_TYPES,
    LeftOutLaboratory,
    laboratories_of,
    notes_on,
    refuse_sources,
    training_without,
)
from hemalens.bundle.bundle import Bundle
from hemalens.datasets import CellDataset
from hemalens.datasets.leaks import refuse_leaks
from hemalens.datasets.splits import check_classes, units
from hemalens.errors import ConfigError, InputError, one_line
from hemalens.evaluation import metrics
from hemalens.evaluation.evaluate import plan_test
from hemalens.evaluation.left_out import NONE
from hemalens.evaluation.results import DataCard, FormAnswers, ImitatedTest, LeftOutTest
from hemalens.runs.curves import read_curves


class LeaveOneOutProtocol(ProtocolConfig):
    """All laboratories but one train, the left-out one tests, with each of `seeds` seeds of the training.

    `adapt` names the forms of a model that are tested: none, unlabelled (`adapt --unlabelled`), shots (`adapt --support`
    on `shots` labelled cells of each type, drawn `repeats` times), and unlabelled+shots. Of each left-out laboratory's
    cells, `imitated` imitated laboratories of `images` cells test the forms too; they take turns through `mixes`.
    """

    seeds: int = Field(default=3, ge=1)
    adapt: Words = FORMS
    shots: int = Field(default=10, ge=1)
    repeats: int = Field(default=5, ge=1)
    imitated: int = Field(default=0, ge=0)
    mixes: Words = ("balanced", "blood", "absent", "lymphocytic", "eosinophilic")
    images: int = Field(default=150, ge=FEWEST)

    @model_validator(mode="after")
    def _check_settings(self) -> LeaveOneOutProtocol:
        unknown = [name for name in self.adapt if name not in FORMS]
        if unknown or not self.adapt:
            named = f"unknown form {unknown[0]!r}" if unknown else "no form is named"
            raise ConfigError(f"adapt: {named}", expected=f"some of {', '.join(FORMS)}")
        if self.imitated and NONE not in self.adapt:
            raise ConfigError(
                "imitated laboratories compare each form with the model as it is",
                expected=f"adapt={NONE},{','.join(self.adapt)}",
                got=f"adapt={','.join(self.adapt)}",
            )
        return self

    @property
    def forms(self) -> AdaptedForms:
        """The forms that are tested, in one order."""
        return AdaptedForms(tuple(name for name in FORMS if name in self.adapt), self.shots, self.repeats)

    @property
    def description(self) -> str:
        """The protocol in words."""
        forms = "; ".join(map(self.forms.title, self.forms.names))
        words = f"trained on all laboratories but one, tested on that one, {self.seeds} seed(s), adapted: {forms}"
        imitated = f", {self.imitated} imitated laboratories of each ({', '.join(self.mixes)})" if self.imitated else ""
        return words + imitated

    def tasks(self, name: str, sources: Sources, data: BenchmarkData) -> list[Task]:
        """A task for each laboratory that can be tested."""
        specs = [spec for spec, _ in sources]
        refuse_sources(specs, name)
        if self.imitated:
            check_mixes(self.mixes)
        inputs = [data.laboratory(spec) for spec in specs]
        laboratories = laboratories_of(inputs, min_per_class=data.min_per_class)
        tested = [each for each in laboratories if len(each.tested) >= FEWEST_TYPES]
        if len(laboratories) < 2 or not tested:
            names = ", ".join(one_line(each.name) for each in laboratories)
            raise InputError(
                f"the protocol {name} needs two laboratories or more, one of them to test",
                expected=f"each with {FEWEST_TYPES} cell types of {data.min_per_class} cells or more",
                got=f"one laboratory, {names}" if len(laboratories) < 2 else f"none to test among {names}",
                remedy="Name more data with --source.",
            )
        cards, notes = tuple(each.card for each in inputs), tuple(note for each in inputs for note in each.notes)
        return [
            LeftOutTask(
                protocol=name,
                description=self.description,
                source=training_without(each, laboratories, min_per_class=data.min_per_class),
                seed=data.seed,
                tested=(each.cells,),
                cards=cards,
                notes=(*notes, *notes_on(laboratories)),
                config=self,
                laboratory=each,
                laboratories=tuple(one.name for one in laboratories),
                imitations=imitations_of(
                    each.cells.under(each.tested), self.imitated, self.mixes, images=self.images, seed=data.seed
                ),
            )
            for each in tested
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOutTask(Task):
    """One laboratory left out: a model of all others for each seed, tested on its cells and on imitations of it."""

    config: LeaveOneOutProtocol
    laboratory: LeftOutLaboratory
    laboratories: tuple[str, ...]
    imitations: tuple[Imitation, ...]

    @property
    def trained_on(self) -> str:
        """All laboratories."""
        return " + ".join(self.laboratories)

    @property
    def source_cards(self) -> tuple[DataCard, ...]:
        """None: the cards of the laboratories hold all images."""
        return ()

    @property
    def tests(self) -> tuple[str, ...]:
        """The laboratory, with each seed."""
        return tuple(f"{self.laboratory.name}, seed {self._seed(i)}" for i in range(self.config.seeds))

    def _seed(self, i: int) -> int:
        return self.seed + i

    def check(self) -> None:
        """Raise `InputError` before anything is trained."""
        source, cells = self.source.dataset, self.laboratory.cells
        refuse_leaks(set(source.contents), cells)
        check_classes(source, n_units=2, purpose="training and validation")
        plan_test(source.classes, cells.under(self.laboratory.tested))
        if {UNLABELLED, BOTH} & set(self.config.adapt) and len(cells) < FEWEST:
            raise InputError(
                f"{one_line(cells.name)} has too few images to adapt to",
                expected=f"at least {FEWEST}",
                got=str(len(cells)),
                remedy="Leave it out, or use --leave-one-laboratory-out adapt=none.",
            )

    def request(self, i: int) -> dict[str, Any]:
        """The laboratory's images, the seed of the training, and the forms."""
        return {
            "protocol": self.protocol,
            "target": self.laboratory.cells.fingerprint,
            "tested": self.laboratory.tested,
            "training": self._seed(i),
            "imitated": [(each.seed, each.mix, each.cells.fingerprint) for each in self.imitations],
            **self.config.forms.request,
        }

    def folder(self, i: int, run_dir: Path) -> Path:
        """The folder of training `i` below that of all trainings."""
        return run_dir / re.sub(r"\W", "_", f"{self.source.dataset.name}_seed_{self._seed(i)}")

    def run(self, i: int, fit: FitFold, run_dir: Path) -> Outcome:
        """The forms of one training."""
        seed, source, folder = self._seed(i), self.source.dataset, self.folder(i, run_dir)
        bundle = fit_whole(without_checkpoints(fit), source, seed=seed, run_dir=folder)
        refuse_leaks(bundle.seen, self.laboratory.cells)
        found = self._test(bundle, i)
        curves = tuple(read_curves([folder], "", group=f"{source.name}, seed {seed}"))
        return Outcome(left_out=(found,), curves=curves, model=relative_path(bundle, run_dir))

    def _test(self, bundle: Bundle, i: int) -> LeftOutTest:
        """The predictions in the laboratory, and the scores in its imitations."""
        laboratory, forms = self.laboratory, self.config.forms
        plan = plan_test(bundle.manifest.labels, laboratory.cells.under(laboratory.tested))
        cells, predicted, unreadable = forms.predict(bundle, laboratory.cells, plan.tested, seed=self.seed)
        known = (*plan.tested, *(label for label in bundle.manifest.labels if label not in plan.tested))
        seen = not bundle.seen_unlabelled.isdisjoint(cells.contents)
        lacking = {label: reason for label, reason in plan.left_out.items() if label in laboratory.tested}
        return LeftOutTest(
            name=f"{bundle.manifest.method}: {self.source.dataset.name} -> {self.tests[i]}",
            method=bundle.manifest.method,
            source=self.source.dataset.name,
            laboratory=laboratory.name,
            seed=self._seed(i),
            classes=known,
            n_tested=len(plan.tested),
            truth=tuple(cells.targets.tolist()),
            units=tuple(units(cells).tolist()),
            grouped=any(record.group is not None for record in cells.records),
            forms=tuple(
                FormAnswers(
                    form=forms.title(name),
                    transductive=seen or name in (UNLABELLED, BOTH),
                    answers=tuple(map(tuple, rows.tolist())),
                )
                for name, rows in predicted.items()
            ),
            imitated=tuple(self._imitated(bundle, each, plan.tested) for each in self.imitations),
            left_out={**laboratory.left_out, **lacking},
            unreadable=dict(unreadable),
        )

    def _imitated(self, bundle: Bundle, imitation: Imitation, tested: Sequence[str]) -> ImitatedTest:
        """The balanced accuracy of each form in an imitated laboratory."""
        forms = self.config.forms
        with on_disk(imitation.cells) as cells:
            present = [label for label in tested if cells.class_counts.get(label)]
            readable, predicted, _ = forms.predict(bundle, cells, present, seed=self.seed)
        return ImitatedTest(
            seed=imitation.seed,
            mix=imitation.mix,
            n_images=len(readable),
            balanced_accuracy={forms.title(name): _mean_balanced(readable, rows) for name, rows in predicted.items()},
            gains={
                forms.title(name): _mean_balanced(readable, rows) - _mean_balanced(readable, predicted[NONE], rows >= 0)
                for name, rows in predicted.items()
                if name != NONE
            },
        )


def _mean_balanced(cells: CellDataset, rows: Labels, tested: np.ndarray[Any, np.dtype[np.bool_]] | None = None) -> float:
    """Mean balanced accuracy of predictions (r, n) on the images that each row tests, or on those of `tested` (r, n)."""
    masks = rows >= 0 if tested is None else tested
    k = max(len(cells.classes), int(rows.max()) + 1)
    scores = [
        metrics.balanced_accuracy(metrics.confusion(cells.targets[mask], row[mask], k))
        for mask, row in zip(masks, np.broadcast_to(rows, masks.shape), strict=True)
    ]
    return float(np.mean(scores))
