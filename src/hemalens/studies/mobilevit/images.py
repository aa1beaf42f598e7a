"""The images of the study: which are used, and how they are divided."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hemalens.datasets import CellDataset
from hemalens.datasets.splits import capped, check_classes, hold_out, part_of, seeded
from hemalens.errors import InputError, SplitError
from hemalens.runs.inputs import Inputs, open_inputs
from hemalens.studies.mobilevit.settings import MobileVitStudyConfig


@dataclass(frozen=True, slots=True)
class Cells:
    """The images that the study uses, the counts of their classes before the draw, and the size of the whole set."""

    inputs: Inputs
    available: dict[str, int]
    n_found: int


def draw_cells(spec: str, config: MobileVitStudyConfig, seed: int) -> Cells:
    """Open the cells and draw `config.n_images` of them; raises `InputError` where there are fewer."""
    given = open_inputs(spec, role="cells", labels=config.labels, min_per_class=config.min_per_class)
    whole, card = given.dataset, given.card
    n_found = card.n_images + sum(card.dropped.values()) + sum(card.excluded.values())
    if config.n_images > len(whole):
        raise InputError(
            f"{whole.name} has fewer images than the study uses",
            expected=f"{config.n_images}",
            got=str(len(whole)),
            remedy="Use --set n_images=NUMBER with a smaller one, or 0 for all.",
        )
    if config.n_images in (0, len(whole)):
        return Cells(given, whole.class_counts, n_found)
    drawn = capped(whole, config.n_images, seeded(seed, "images"), larger=config.class_mix)
    dropped = {"images that the study leaves out": len(whole) - len(drawn)}
    update = {"n_images": len(drawn), "class_counts": drawn.class_counts, "dropped": {**card.dropped, **dropped}}
    shown = ", ".join(f"{label} {count}" for label, count in drawn.class_counts.items())
    note = f"{drawn.name}: {len(drawn)} images drawn: {shown}"
    used = replace(given, dataset=drawn, card=card.model_copy(update=update), notes=(*given.notes, note))
    return Cells(used, whole.class_counts, n_found)


@dataclass(frozen=True, slots=True)
class Parts:
    """The training part, the part that each epoch is scored on, and the test part; the last two may be the same."""

    train: CellDataset
    scored: CellDataset
    test: CellDataset


def divide(cells: CellDataset, config: MobileVitStudyConfig, seed: int) -> Parts:
    """A test part, a validation part where the settings have one, and the rest for training.

    Copies of an image stay on one side. Raises `SplitError` for a class without a training image, or too small a class.
    """
    n_parts = 3 if config.validation_fraction else 2
    check_classes(cells, n_units=n_parts, purpose=f"{n_parts} parts")
    take = hold_out if config.stratified else part_of
    train, test = take(cells, config.test_fraction, seeded(seed, "test"))
    scored = test
    if config.validation_fraction:
        train, scored = take(train, config.validation_fraction, seeded(seed, "validation"))
    missing = [label for label, n in train.class_counts.items() if n == 0]
    if missing:
        raise SplitError(
            f"the random split leaves no training image of {', '.join(missing)}",
            remedy="Use --set stratified=true, another --seed, or a larger --set min_per_class.",
        )
    return Parts(train, scored, test)
