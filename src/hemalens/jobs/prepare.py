"""From a dataset's name to records fit for training or testing, with what was left out on the way."""

from __future__ import annotations

from dataclasses import dataclass

from hemalens.datasets import CellDataset, Keep, open_dataset
from hemalens.evaluation.results import DataCard
from hemalens.jobs.reporting import data_card
from hemalens.sampling import Unreadable, clean, leave_out_small


@dataclass(frozen=True, slots=True)
class Prepared:
    """A clean dataset, its card, notes for the terminal, and the classes left out as too small, each with the reason."""

    dataset: CellDataset
    card: DataCard
    notes: tuple[str, ...]
    left_out: dict[str, str]


def prepare(
    spec: str,
    *,
    labels: str,
    role: str,
    unreadable: Unreadable = "refuse",
    min_per_class: int = 1,
    keep: Keep = lambda label: False,
) -> Prepared:
    """Open, clean, and leave out the classes of fewer than `min_per_class` images; `keep` as in `open_dataset`."""
    opened = open_dataset(spec, labels=labels, keep=keep)
    cleaned, cleaning = clean(opened, unreadable=unreadable)
    kept, small = leave_out_small(cleaned, min_per_class)
    notes = list(opened.notes)
    notes += [f"{n} image(s) outside {labels}: {reason}" for reason, n in opened.excluded_counts.items()]
    if any(cleaning.counts().values()):
        notes.append(str(cleaning))
    dropped = {f"class {name}, fewer than {min_per_class} images": n for name, n in small.items()}
    notes += [f"left out {what}: {n}" for what, n in dropped.items()]
    left_out = {name: f"{n} image(s), at least {min_per_class} asked for" for name, n in small.items()}
    card = data_card(kept, role, cleaning, **dropped)
    return Prepared(kept, card, tuple(f"{opened.name}: {note}" for note in notes), left_out)
