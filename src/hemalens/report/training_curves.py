"""The section of training curves: one figure a group, its numbers as a table, and the figure as a file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hemalens.evaluation import formatting
from hemalens.evaluation.results import TrainingCurve
from hemalens.report.curves import LineStyle
from hemalens.report.figures import Figures, Key, Legend, Panel, line_colour
from hemalens.report.tables import Block, Cell, Fold, Section, Table, Text, number_columns
from hemalens.report.training_panels import CurvePanel, Line, drawings, mean_of, panels, picture, quantities, rings

FOLDER = "curves"
"""The folder of the picture files, beside the report."""
N_OPEN = 6
"""With more groups, each is folded."""
INTRODUCTION = "Loss and scores after every epoch of each training."
HOW_TO_READ = "How to read the curves."
_SEVERAL = "Thick: the mean over seeds, up to the epoch that all of them reached. Thin: each seed."
_RING = "Ring: the epoch whose weights were kept."
_LAST = "The weights of the last epoch were kept."
_GAP = "A gap: no finite value."


@dataclass(frozen=True, slots=True)
class CurveGroup:
    """The curves of one figure: `anchor` is unique on the page, `file` the name of its picture."""

    anchor: str
    name: str
    file: str
    lines: tuple[Line, ...]

    @property
    def curves(self) -> tuple[TrainingCurve, ...]:
        """The curves of all lines."""
        return tuple(curve for line in self.lines for curve in line.curves)

    @property
    def panels(self) -> list[CurvePanel]:
        """What the figure shows."""
        return panels(self.lines)


def groups(curves: Sequence[TrainingCurve]) -> list[CurveGroup]:
    """Curves by group and name, in the order in which these come first; a name has one colour in all groups."""
    styles = {name: LineStyle(i) for i, name in enumerate(dict.fromkeys(curve.name for curve in curves))}
    found: dict[str, dict[str, list[TrainingCurve]]] = {}
    for curve in curves:
        found.setdefault(curve.group, {}).setdefault(curve.name, []).append(curve)
    files = _file_names(list(found))
    return [
        CurveGroup(
            f"curves-{number}",
            formatting.visible(group),
            files[group],
            tuple(Line(formatting.visible(name), styles[name], tuple(each)) for name, each in by_name.items()),
        )
        for number, (group, by_name) in enumerate(found.items(), start=1)
    ]


def _file_names(names: Sequence[str]) -> dict[str, str]:
    """A file name for each group, of lower-case letters, digits and hyphens; a number tells equal ones apart."""
    found: dict[str, str] = {}
    for name in names:
        words = re.sub(r"[^a-z0-9.]+", "-", name.lower().replace("%", "percent")).strip("-.")[:60] or "training"
        alike = sum(file.rpartition("_")[0] == words or file == f"{words}.svg" for file in found.values())
        found[name] = f"{words}_{alike + 1}.svg" if alike else f"{words}.svg"
    return found


def files(curves: Sequence[TrainingCurve]) -> dict[str, str]:
    """The text of each picture file, by its name."""
    return {group.file: picture(shown) for group in groups(curves) if (shown := group.panels)}


def section(curves: Sequence[TrainingCurve]) -> Section:
    """All groups; without curves the section has no block."""
    found = groups(curves)
    blocks: list[Block] = [Text(INTRODUCTION, "setting")] if found else []
    for group in found:
        if len(found) > N_OPEN:
            blocks.append(Fold(group.name or "Training", tuple(_blocks(group, heading="")), titled=True))
        else:
            blocks += _blocks(group, heading=group.name)
    return Section("training-curves", "Training curves", tuple(blocks))


def _blocks(group: CurveGroup, *, heading: str) -> Iterator[Block]:
    shown = group.panels
    if shown:
        drawn = tuple(map(Panel, drawings(shown, name=group.anchor, group=group.name)))
        caption = _caption(group)
        yield Figures(drawn, caption, HOW_TO_READ if caption else "", _legends(group), heading=heading)
    yield _table(group)
    if shown:
        yield Text(f"The figure as a file: {FOLDER}/{group.file}")


def _caption(group: CurveGroup) -> str:
    several = any(len(line.curves) > 1 for line in group.lines)
    gaps = any(value is None for curve in group.curves for _, values in curve.series() for value in values)
    last = all(curve.kept == curve.epoch[-1] for curve in group.curves)
    said = ((_SEVERAL, several), (_RING, rings(group.lines)), (_LAST, last), (_GAP, gaps))
    return " ".join(text for text, holds in said if holds)


def _legends(group: CurveGroup) -> tuple[Legend, ...]:
    if len(group.lines) == 1:
        return ()
    keys = tuple(Key(line.name, line_colour(line.style.number), line.style.marker, stroke="solid") for line in group.lines)
    return (Legend("Trainings", keys),)


def _table(group: CurveGroup) -> Table:
    """Every quantity at the kept epoch, and the best of each score."""
    found = quantities(group.curves)
    several = any(len(line.curves) > 1 for line in group.lines)
    titles = [*(["Seeds"] if several else []), "Epochs", "Kept epoch"]
    titles += [quantity.short[0].upper() + quantity.short[1:] for quantity in found]
    titles += [f"Best {quantity.short} (epoch)" for quantity in found if quantity.is_score]
    rows = []
    for line in group.lines:
        cells = [Cell(line.name), *([Cell(formatting.count(len(line.curves)))] if several else [])]
        cells.append(Cell(_range([len(curve.epoch) for curve in line.curves])))
        cells.append(Cell(_range([curve.kept for curve in line.curves if curve.kept is not None])))
        for quantity in found:
            value = _mean([_at_kept(curve, quantity.of(curve)) for curve in line.curves])
            cells.append(Cell(formatting.score(value) if quantity.is_score else formatting.amount(value)))
        cells += [_best(mean_of(line.curves, quantity.of)) for quantity in found if quantity.is_score]
        rows.append(tuple(cells))
    parts = formatting.listed(list(dict.fromkeys(formatting.visible(curve.part) for curve in group.curves)))
    caption = f"Losses, and scores on the {parts} part" if any(q.is_score for q in found) else "Losses"
    known = all(curve.kept is not None for curve in group.curves)
    note = "Values are those of the kept epoch" + ("" if known else ", or of the last where none is known")
    note += "; means over seeds." if several else "."
    return Table(caption, number_columns("Training", titles), tuple(rows), note=note, where=group.name)


def _range(numbers: Sequence[int]) -> str:
    if not numbers:
        return formatting.MISSING
    low, high = min(numbers), max(numbers)
    return formatting.count(low) if low == high else f"{formatting.count(low)}{formatting.EN_DASH}{formatting.count(high)}"


def _at_kept(curve: TrainingCurve, values: Sequence[float | None]) -> float | None:
    return values[curve.epoch.index(curve.kept) if curve.kept is not None else -1] if values else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) and known else None


def _best(means: dict[int, float | None]) -> Cell:
    known = {epoch: value for epoch, value in means.items() if value is not None}
    if not known:
        return Cell(formatting.MISSING)
    epoch = max(known, key=lambda epoch: known[epoch])
    return Cell(f"{formatting.score(known[epoch])} ({formatting.count(epoch)})")
