"""Laboratories that are left out in turn: their cells, and the training set of all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hemalens.datasets import CellDataset, together
from hemalens.datasets.fields.readers import FIELD_READERS
from hemalens.datasets.splits import clean, leave_out_small
from hemalens.errors import InputError, SplitError, one_line
from hemalens.report.compose import data_card
from hemalens.runs.evaluate_fields import is_fields
from hemalens.runs.inputs import Inputs

FEWEST_TYPES = 2
"""A laboratory with fewer types to test is trained on alone."""


@dataclass(frozen=True, slots=True)
class LeftOutLaboratory:
    """The cells of a laboratory, the classes among them that are tested, and why others are not."""

    cells: CellDataset
    tested: tuple[str, ...]
    left_out: Mapping[str, str]

    @property
    def name(self) -> str:
        """The laboratory's name."""
        return self.cells.name


def refuse_sources(specs: Sequence[str], protocol: str) -> None:
    """Raise `InputError` for fields, and for a source that is given twice."""
    fields = [spec for spec in specs if is_fields(spec)]
    if fields:
        others = len(fields) < len(specs)
        raise InputError(
            f"the protocol {protocol} got fields{' and single cells' if others else ' without a detector'}",
            expected=f"single cells alone, or fields alone ({', '.join(f'{name}:PATH' for name in FIELD_READERS)})",
            got=one_line(fields[0]),
            remedy="Run it once for each." if others else "Use --methods detector.",
        )
    twice = [spec for i, spec in enumerate(specs) if spec in specs[:i]]
    if twice:
        raise InputError("a laboratory is given twice", got=one_line(twice[0]), remedy="Name each --source once.")


def laboratories_of(inputs: Sequence[Inputs], *, min_per_class: int) -> list[LeftOutLaboratory]:
    """The laboratories of some datasets, by their domains; sets of one domain are one laboratory.

    Classes of `min_per_class` images or more are tested.
    """
    parts: dict[str, list[CellDataset]] = {}
    for each in inputs:
        records = each.dataset.records
        for domain in dict.fromkeys(record.domain for record in records):
            own = each.dataset.subset(i for i, record in enumerate(records) if record.domain == domain)
            parts.setdefault(domain, []).append(own)
    return [_laboratory(name, own, min_per_class=min_per_class) for name, own in parts.items()]


def _laboratory(name: str, parts: Sequence[CellDataset], *, min_per_class: int) -> LeftOutLaboratory:
    joined = together(parts)
    if len(parts) > 1:  # each part is clean already
        joined, _ = clean(joined, unreadable="keep")
    present = joined.only_classes([c for c, n in joined.class_counts.items() if n])
    kept, small = leave_out_small(present, min_per_class)
    left_out = {label: f"{n} image(s), at least {min_per_class} required" for label, n in small.items()}
    return LeftOutLaboratory(renamed(present, name), kept.classes, left_out)


def renamed(dataset: CellDataset, name: str) -> CellDataset:
    """The same images under another name."""
    found = replace(dataset, name=name)
    found.__dict__["contents"] = dataset.contents
    return found


def notes_on(laboratories: Sequence[LeftOutLaboratory]) -> list[str]:
    """Which classes are not tested, and which laboratories."""
    notes = [
        f"{each.name}: {label} is not tested: {reason}" for each in laboratories for label, reason in each.left_out.items()
    ]
    few = [each for each in laboratories if len(each.tested) < FEWEST_TYPES]
    return notes + [f"{each.name}: trained on and never left out: {len(each.tested)} cell type(s) to test" for each in few]


def training_without(
    left_out: LeftOutLaboratory, laboratories: Sequence[LeftOutLaboratory], *, min_per_class: int
) -> Inputs:
    """All other laboratories as one training set, without images that the left-out one holds too.

    Copies are counted. Classes of fewer than `min_per_class` images are left out. Raises `SplitError` where nothing is
    left.
    """
    joined = together([each.cells for each in laboratories if each is not left_out])
    cleaned, cleaning = clean(joined, unreadable="keep")
    tested = set(left_out.cells.contents)
    fresh = [i for i, content in enumerate(cleaned.contents) if content not in tested]
    if not fresh:
        raise SplitError(
            f"without the images of {one_line(left_out.name)} nothing is left to train on",
            got=f"{len(cleaned)} image(s), all of them copies",
            remedy="Name laboratories with images of their own.",
        )
    unseen = cleaned.subset(fresh)
    kept, small = leave_out_small(unseen.only_classes([c for c, n in unseen.class_counts.items() if n]), min_per_class)
    n_copies = len(cleaned) - len(fresh)
    dropped = {f"class {name}, fewer than {min_per_class} images": n for name, n in small.items()}
    notes = [f"left out {what}: {n}" for what, n in dropped.items()]
    notes += [str(cleaning)] if any(cleaning.counts().values()) else []
    notes += [f"left out {n_copies} image(s) that {left_out.name} holds too"] if n_copies else []
    dataset = renamed(kept, f"all but {left_out.name}")
    dropped |= {"copies of tested images": n_copies}
    return Inputs(
        dataset,
        data_card(dataset, "train", None, **dropped),
        tuple(f"{dataset.name}: {note}" for note in notes),
        {name: f"{n} image(s) in the training" for name, n in small.items()},
        cleaning,
    )
