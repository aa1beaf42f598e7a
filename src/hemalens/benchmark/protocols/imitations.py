"""Imitated laboratories: sets of a left-out laboratory's cells, as another laboratory would show them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from hemalens.datasets import CellDataset, Record
from hemalens.datasets.splits import seeded
from hemalens.errors import ConfigError, near_matches, require_extra
from hemalens.files import scratch_folder


@dataclass(frozen=True, slots=True)
class Imitation:
    """The set of an imitated laboratory: its seed, its mix of cell types, and its cells."""

    seed: int
    mix: str
    cells: CellDataset


def check_mixes(mixes: Sequence[str]) -> None:
    """Raise `ConfigError` for an unknown mix of cell types, or for none."""
    from hemalens.datasets.mixes import MIXES

    unknown = [mix for mix in mixes if mix not in MIXES]
    if unknown or not mixes:
        raise ConfigError(
            f"unknown mix {unknown[0]!r}" if unknown else "no mix is named",
            expected=f"some of {', '.join(MIXES)}",
            remedy=near_matches(unknown[0], MIXES) if unknown else "Use mixes=balanced,blood.",
        )


def imitations_of(cells: CellDataset, n: int, mixes: Sequence[str], *, images: int, seed: int) -> tuple[Imitation, ...]:
    """`n` imitated laboratories of `images` cells each, which take turns through the mixes; no image is read.

    Raises `InputError` for a mix that the cells do not allow, and `MissingExtraError` without torch.
    """
    if not n:
        return ()
    require_extra("torch", "train", "imitated laboratories")
    from hemalens.datasets.mixes import mix_named
    from hemalens.training.imitated_laboratory import imitated

    first = int(seeded(seed, "imitated", cells.name).integers(2**31 - n))
    found = []
    for i in range(n):
        mix = mixes[i % len(mixes)]
        found.append(Imitation(first + i, mix, imitated(cells, first + i, mix_named(mix), images, seed)))
    return tuple(found)


@contextmanager
def on_disk(cells: CellDataset) -> Iterator[CellDataset]:
    """The same cells from files in a temporary folder, so that an imitation is computed once, however often it is read."""
    with scratch_folder() as folder:
        records = tuple(_written(record, folder / f"{i:04}.png") for i, record in enumerate(cells.records))
        yield CellDataset(cells.name, records, cells.classes, cells.label_map, cells.licence, cells.citation)


def _written(record: Record, path: Path) -> Record:
    Image.fromarray(record.unstaged().read()).save(path, compress_level=1)
    return Record(
        path,
        record.source_label,
        record.domain,
        group=record.group,
        cell_type=record.cell_type,
        label=record.label,
        before=record.before,
    )
