"""Which fields a detector learns from, and which are held out: laboratories left out, copies, test part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from hemalens.datasets.base import CellDataset, Record
from hemalens.datasets.fields.base import FieldDataset
from hemalens.datasets.parts import given_part
from hemalens.datasets.splits import Unreadable, part_of, seeded
from hemalens.errors import DatasetError, ImageError, InputError, near_matches, one_line
from hemalens.imaging.boxes import KINDS, WHITE
from hemalens.taxonomy import AS_LABELLED
from hemalens.training.detector.sheets import with_remedy

LEFT_OUT, COPY, BROKEN = "laboratory left out", "copy of another field", "unreadable"
"""Why a field is neither learned nor tested."""


@dataclass(frozen=True, slots=True)
class FieldParts:
    """The fields to learn from and those held out, one dataset for each that was given.

    `dropped` counts, for each dataset, the fields that are in neither by reason, and `left_out` those of the laboratories
    left out. `masks` is a digest of the masks to learn from, `protocol` describes the test part.
    """

    learn: tuple[FieldDataset, ...]
    test: tuple[FieldDataset, ...]
    dropped: tuple[dict[str, int], ...]
    left_out: dict[str, int]
    masks: str
    protocol: str

    @property
    def notes(self) -> tuple[str, ...]:
        """What is said of the fields before training."""
        notes = [f"{name}: laboratory left out of training, {n} field(s)" for name, n in self.left_out.items()]
        for dataset, reasons in zip(self.learn, self.dropped, strict=True):
            more = {why: n for why, n in reasons.items() if why != LEFT_OUT}
            notes += [f"{dataset.name}: left out {n} field(s), {why}" for why, n in more.items()]
            notes += [f"{dataset.name}: {note}" for note in dataset.notes]
            notes += [f"{dataset.name}: left out {n} box(es), {why}" for why, n in dataset.dropped]
        return tuple(dict.fromkeys(notes))


def split_fields(
    given: Sequence[FieldDataset], *, leave_out: Sequence[str], test_fraction: float, seed: int, unreadable: Unreadable
) -> FieldParts:
    """Fields to learn from and to test on, of several datasets.

    Fields of the laboratories `leave_out` are in neither part, and no copy of them under another name. Of byte-identical
    fields the first is kept. The test part is the given one of a dataset that has it, otherwise about `test_fraction` of
    its fields by whole groups; with 0 a given test part is left out. Raises `InputError` for an unknown laboratory, and
    `DatasetError` where nothing is left to learn, and `ImageError` for an unreadable field of the test part.
    """
    _check_laboratories(given, leave_out)
    records = _records(given)
    reasons = _reasons(records, leave_out, unreadable)
    kept = [i for i, reason in enumerate(reasons) if reason is None]
    if not kept:
        raise DatasetError(
            f"no field of {records.name} is left to learn from",
            expected="one field or more",
            got=_counted(Counter(filter(None, reasons))),
        )
    held, protocol = _held_out(records.subset(kept), test_fraction, seed)
    held = {kept[i] for i in held}
    learned = sorted(set(kept) - held)
    learn, masks = _parts(given, learned), records.subset(learned).mask_fingerprint
    if not sum(dataset.counts[KINDS[WHITE]] for dataset in learn):
        raise DatasetError(
            f"no field of {records.name} to learn from has a box of a white cell",
            expected="boxes of white cells",
            got=f"{len(learned)} field(s) without one",
        )
    sources = [record.source for record in records.records]
    dropped = [Counter(r for r, s in zip(reasons, sources, strict=True) if r and s == i) for i in range(len(given))]
    domains = [record.domain for record in records.records]
    left_out = Counter(domain for domain, reason in zip(domains, reasons, strict=True) if reason == LEFT_OUT)
    test = tuple(part for part in _parts(given, held if test_fraction else set()) if len(part))
    with with_remedy():
        for field in (field for dataset in test for field in dataset.fields):
            field.read()
    return FieldParts(learn, test, tuple(map(dict, dropped)), dict(sorted(left_out.items())), masks, protocol)


def _records(given: Sequence[FieldDataset]) -> CellDataset:
    """The images of all fields, in order, each with the number of its dataset."""
    return CellDataset(
        name=" + ".join(dataset.name for dataset in given),
        records=tuple(replace(field.record, source=i) for i, dataset in enumerate(given) for field in dataset.fields),
        classes=(),
        label_map=AS_LABELLED,
        licence="; ".join(dict.fromkeys(dataset.licence for dataset in given)),
        citation="; ".join(dict.fromkeys(dataset.citation for dataset in given)),
    )


def _parts(given: Sequence[FieldDataset], places: Collection[int]) -> tuple[FieldDataset, ...]:
    """Of each dataset the fields at these places among all fields."""
    parts, first, chosen = [], 0, set(places)
    for dataset in given:
        parts.append(dataset.subset(i for i in range(len(dataset)) if first + i in chosen))
        first += len(dataset)
    return tuple(parts)


def _check_laboratories(given: Sequence[FieldDataset], leave_out: Sequence[str]) -> None:
    known = list(dict.fromkeys(field.record.domain for dataset in given for field in dataset.fields))
    if not known:
        raise DatasetError("the training data have no field", expected="one field or more")
    for name in leave_out:
        if name not in known:
            raise InputError(
                f"leave_out names the laboratory {one_line(name)}, which the training data do not have",
                expected=f"some of {', '.join(map(one_line, known))}",
                remedy=near_matches(name, known),
            )
    if set(known) <= set(leave_out):
        raise InputError(
            "leave_out names every laboratory of the training data",
            expected="one laboratory or more to learn from",
            got=", ".join(map(one_line, known)),
        )


def _reasons(records: CellDataset, leave_out: Sequence[str], unreadable: Unreadable) -> list[str | None]:
    """Why each field is left out, or None."""
    pairs = list(zip(records.contents, records.records, strict=True))
    hidden = {content for content, record in pairs if record.domain in leave_out}
    known: set[str] = set()
    reasons: list[str | None] = []
    for content, record in pairs:
        reason = LEFT_OUT if content in hidden else COPY if content in known else None
        if reason is None and unreadable == "drop" and not _readable(record):
            reason = BROKEN
        known.add(content)
        reasons.append(reason)
    return reasons


def _readable(record: Record) -> bool:
    try:
        record.read()
    except ImageError:
        return False
    return True


def _held_out(records: CellDataset, fraction: float, seed: int) -> tuple[set[int], str]:
    """Indices of the test part, or of a given one that is left out, and how it was chosen."""
    given = given_part(records, "test")
    if not fraction:
        return given, "no test part"
    having = {records.records[i].source for i in given}
    others = [i for i, record in enumerate(records.records) if record.source not in having]
    if not others:
        return given, f"one split: the given test part, {len(given)} field(s)"
    drawn_from = records.subset(others)
    _, part = part_of(drawn_from, fraction, seeded(seed, "test"))
    drawn = {id(record) for record in part.records}
    held = {i for i in others if id(records.records[i]) in drawn}
    words = f"one split: {fraction:.0%} of the fields held out for the test, {len(held)} field(s)"
    return given | held, words + (f", and the given test part, {len(given)} field(s)" if given else "")


def _counted(reasons: Counter[str]) -> str:
    return "; ".join(f"{reason}: {n}" for reason, n in reasons.items())
