"""From a dataset's name to records fit for training or testing, with what was left out on the way."""

from __future__ import annotations

from dataclasses import dataclass

from hemalens.datasets import CellDataset, open_dataset
from hemalens.evaluation.results import DataCard
from hemalens.jobs.reporting import data_card
from hemalens.sampling import Unreadable, clean, leave_out_small


@dataclass(frozen=True, slots=True)
class Prepared:
    """A clean dataset, its card, and notes for the terminal."""

    dataset: CellDataset
    card: DataCard
    notes: tuple[str, ...]


def prepare(
    spec: str,
    *,
    labels: str,
    role: str,
    unreadable: Unreadable = "refuse",
    min_per_class: int = 1,
) -> Prepared:
    """Open, clean, and leave out the classes of fewer than `min_per_class` images."""
    opened = open_dataset(spec, labels=labels)
    cleaned, cleaning = clean(opened, unreadable=unreadable)
    kept, small = leave_out_small(cleaned, min_per_class)
    notes = list(opened.notes)
    notes += [f"{n} image(s) outside {labels}: {reason}" for reason, n in opened.excluded_counts.items()]
    if any(cleaning.counts().values()):
        notes.append(str(cleaning))
    dropped = {f"class {name}, fewer than {min_per_class} images": n for name, n in small.items()}
    notes += [f"left out {what}: {n}" for what, n in dropped.items()]
    return Prepared(kept, data_card(kept, role, cleaning, **dropped), tuple(f"{opened.name}: {note}" for note in notes))
