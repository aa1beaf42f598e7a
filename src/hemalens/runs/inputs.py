"""Open datasets by name, clean them, and report what is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hemalens.bundle.outcomes import outcomes_of
from hemalens.bundle.stages import Stage
from hemalens.datasets import CellDataset, Keep, open_dataset, together
from hemalens.datasets.base import NO_LABEL, NO_TYPE
from hemalens.datasets.copy_names import name_note
from hemalens.datasets.file_checks import file_checks
from hemalens.datasets.leaks import seen_among, traces
from hemalens.datasets.open import check_specs
from hemalens.datasets.splits import Cleaning, Unreadable, clean, leave_out_small
from hemalens.errors import DatasetError, InputError, LabelError, near_matches, one_line
from hemalens.evaluation.results import DataCard
from hemalens.files import PathLike
from hemalens.imaging.segmentation import FOUND, Outcome
from hemalens.progress import Say
from hemalens.report.compose import data_card
from hemalens.taxonomy import AS_LABELLED, LISTED


@dataclass(frozen=True, slots=True)
class Inputs:
    """A clean dataset with its card and notes, the classes left out with their reasons, and the result of cleaning.

    `doubtful` are the outcomes of images without one sure cell, by content id; empty for whole images.
    """

    dataset: CellDataset
    card: DataCard
    notes: tuple[str, ...]
    left_out: dict[str, str]
    cleaning: Cleaning
    doubtful: Mapping[str, Outcome] = field(default_factory=dict)

    def unseen(self, seen: Collection[str]) -> Inputs:
        """The inputs without images whose content digests are in `seen`; the card and a note count them."""
        fresh = np.flatnonzero(~seen_among(self.dataset, seen)).tolist()
        n_seen = len(self.dataset) - len(fresh)
        dataset = self.dataset.subset(fresh)
        card = self.card.model_copy(
            update={
                "n_images": len(dataset),
                "class_counts": dataset.class_counts,
                "fingerprint": dataset.fingerprint,
                "dropped": {**self.card.dropped, "seen in training": n_seen},
                "audit": file_checks(dataset, self.cleaning),
            }
        )
        note = f"{dataset.name}: left out {n_seen} image(s) seen in training"
        return replace(self, dataset=dataset, card=card, notes=(*self.notes, note))

    def without_laboratories(self, names: Collection[str], min_per_class: int = 1) -> Inputs:
        """The inputs without the images of some laboratories, and without copies and parts of these under another name.

        Classes that are then of fewer than `min_per_class` images are left out. Raises `InputError` for a laboratory that
        the data do not have, and where no other is left.
        """
        if not names:
            return self
        every = (*self.dataset.records, *self.cleaning.copies)
        _check_laboratories(dict.fromkeys(record.domain for record in every), names)
        hidden = replace(self.dataset, records=tuple(record for record in every if record.domain in names))
        gone = seen_among(self.dataset, traces(hidden)) | [record.domain in names for record in self.dataset.records]
        domains = Counter(record.domain for record, is_gone in zip(self.dataset.records, gone, strict=True) if is_gone)
        dataset = self.dataset.subset(np.flatnonzero(~gone).tolist())
        dataset, small = leave_out_small(dataset, min_per_class)
        dropped = {f"laboratory left out, {name}": n for name, n in sorted(domains.items())}
        dropped |= {f"class {name}, fewer than {min_per_class} images": n for name, n in small.items()}
        card = self.card.model_copy(
            update={
                "n_images": len(dataset),
                "class_counts": dataset.class_counts,
                "fingerprint": dataset.fingerprint,
                "dropped": {**self.card.dropped, **dropped},
                "audit": file_checks(dataset, self.cleaning),
            }
        )
        notes = [
            f"{dataset.name}: laboratory {one_line(name)} left out, {n} image(s)" for name, n in sorted(domains.items())
        ]
        notes += [f"{dataset.name}: left out class {one_line(name)}, {n} image(s) remain" for name, n in small.items()]
        left_out = {name: f"{n} image(s), at least {min_per_class} required" for name, n in small.items()}
        return replace(self, dataset=dataset, card=card, notes=(*self.notes, *notes), left_out=self.left_out | left_out)

    def through(self, stages: tuple[Stage, ...]) -> Inputs:
        """The inputs with these stages; the card and a note count the cells that each finds."""
        if not stages:
            return self
        dataset, found = self.dataset.through(stages), outcomes_of(self.dataset, stages)
        told = [_describe_cells(counts, stage) for counts, stage in zip(found.counts, stages, strict=True)]
        card = self.card.model_copy(update={"notes": (*self.card.notes, *told)})
        notes = (*self.notes, *(f"{dataset.name}: {note}" for note in told))
        return replace(self, dataset=dataset, card=card, notes=notes, doubtful=found.doubtful)


def open_inputs(
    specs: PathLike | Sequence[PathLike],
    *,
    labels: str,
    role: str,
    unreadable: Unreadable = "refuse",
    min_per_class: int = 1,
    keep: Keep = lambda label: False,
    stages: tuple[Stage, ...] = (),
    strict: bool = False,
) -> Inputs:
    """Open and clean datasets, and leave out classes of fewer than `min_per_class` images.

    `keep` and `strict` are as in `open_dataset`.

    Several `specs` give one dataset of all their images. `stages` process each image when it is read.
    """
    named = list(dict.fromkeys(check_specs(specs, "the data")))
    opened = together([open_dataset(spec, labels=labels, keep=keep, strict=strict) for spec in named])
    _check_known(opened)
    cleaned, cleaning = clean(opened, unreadable=unreadable)
    if not len(cleaned):
        raise DatasetError(
            f"no image of {opened.name} is left",
            expected="readable images, each under one label",
            got=str(cleaning),
            remedy="`hemalens data audit` lists them.",
        )
    kept, small = leave_out_small(cleaned, min_per_class)
    notes = list(opened.notes)
    notes += [
        f"{n} row(s) without a label are not used" if reason == NO_LABEL else f"{n} image(s) outside {labels}: {reason}"
        for reason, n in opened.excluded_counts.items()
    ]
    if any(cleaning.counts().values()):
        notes.append(str(cleaning))
    by_name = name_note(kept.records) if "train" in role else None
    notes += [by_name] if by_name else []
    dropped = {f"class {name}, fewer than {min_per_class} images": n for name, n in small.items()}
    notes += [f"left out {what}: {n}" for what, n in dropped.items()]
    left_out = {name: f"{n} image(s), at least {min_per_class} required" for name, n in small.items()}
    card = data_card(kept, role, cleaning, **dropped)
    inputs = Inputs(kept, card, tuple(f"{opened.name}: {note}" for note in notes), left_out, cleaning)
    return inputs.through(stages)


def _check_laboratories(known: Collection[str], names: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise InputError(
                f"--leave-out {one_line(name)} is no laboratory of the training data",
                expected=f"some of {', '.join(map(one_line, known))}",
                remedy=near_matches(name, known),
            )
    if set(known) <= set(names):
        raise InputError(
            "--leave-out names every laboratory of the training data",
            expected="one laboratory or more to learn from",
            got=", ".join(map(one_line, known)),
        )


def _check_known(dataset: CellDataset) -> None:
    """Raise `LabelError` where unknown labels leave fewer than two classes: nothing could be learned or compared."""
    unknown = [f"{reason}: {n}" for reason, n in dataset.excluded_counts.items() if NO_TYPE in reason]
    if unknown and len(dataset.classes) < 2:
        raise LabelError(
            f"{dataset.name} has {len(dataset.classes)} class(es) under {dataset.label_map}",
            expected="two or more",
            got="; ".join(unknown),
            remedy=f"`{LISTED}` lists the names. To keep labels as they are: --labels {AS_LABELLED}",
        )


def report_inputs(say: Say, opened: Iterable[Inputs], *more: str | None) -> None:
    """Report the notes of all inputs, and `more`, each once."""
    notes = [note for each in opened for note in each.notes]
    for note in dict.fromkeys([*notes, *(note for note in more if note)]):
        say(note)


def _describe_cells(counts: Mapping[Outcome, int], stage: Stage) -> str:
    """How many cells were cut out, how many of them are in doubt and why, and how many images show none."""
    without = counts.get("no white cell", 0)
    doubts = {what: n for what, n in counts.items() if FOUND[what] in ("doubtful", "several")}
    told = "".join(f", {what} {n}" for what, n in sorted(doubts.items()))
    return (
        f"cells cut out ({stage.name}): {sum(counts.values())}; {sum(doubts.values())} in doubt{told}; "
        f"no cell found in {without} image(s), which are not cropped"
    )
