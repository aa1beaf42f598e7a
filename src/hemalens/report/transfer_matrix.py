"""Balanced accuracy from every source to every target: a heat map per method, and the same numbers as a table."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hemalens.evaluation import formatting
from hemalens.evaluation.results import Evaluation, Failure
from hemalens.report import figures
from hemalens.report.figures import CORRECT, INK, LARGE, MUTED, SMALL, Drawing, Figures, Key, Legend, Panel
from hemalens.report.tables import Cell, Group, Section, Table, chance, evaluation_anchor, number_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ANCHOR = "transfer"
HEADING = "Across laboratories"
CAPTION = (
    "Balanced accuracy of each method, trained on the laboratory of the row and tested on that of the column. Stronger "
    "colour: higher, on one scale for all methods. Framed: in-domain, trained and tested on the same laboratory."
)
NOTE = (
    "In small print: the 95 % interval. In-domain: tested on held-out images of the training laboratory. Chance: one over "
    "the number of tested cell types; it differs where targets have different cell types. Not tested: no result for this "
    "pair."
)
IN_DOMAIN, NOT_TESTED, FAILED = "in-domain", "not tested", "failed"
PALEST, DARKEST = 0.08, 0.92
CELL_PX = (98.0, 70.0)
LINE_PX = 14.0
LETTER_PX = 6.6
LARGEST = 1.15


@dataclass(frozen=True, slots=True)
class Matrix:
    """The evaluations of one method, with their numbers in the report, by (source, target)."""

    method: str
    cells: dict[tuple[str, str], tuple[int, Evaluation]]
    failed: frozenset[tuple[str, str]]
    """Pairs that ended with an error."""

    def empty(self, source: str, target: str) -> str:
        """The words in a cell without an evaluation."""
        return FAILED if (source, target) in self.failed else NOT_TESTED


@dataclass(frozen=True, slots=True)
class Matrices:
    """The matrices of all methods over the same sources and targets; laboratories that are both come first.

    `limits` are the balanced accuracies at the ends of the colour scale.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    matrices: tuple[Matrix, ...]
    limits: tuple[float, float]


def matrices(evaluations: Sequence[Evaluation], failures: Sequence[Failure] = ()) -> Matrices | None:
    """One matrix per method, a further one for second results of a pair; None where no method has two pairs."""
    pairs = {(evaluation.method, evaluation.source, evaluation.target) for evaluation in evaluations}
    if max(Counter(method for method, *_ in pairs).values(), default=0) < 2:
        return None
    sources = tuple(dict.fromkeys(evaluation.source for evaluation in evaluations))
    targets = tuple(dict.fromkeys(evaluation.target for evaluation in evaluations))
    both = [name for name in sources if name in targets]
    found: dict[str, list[dict[tuple[str, str], tuple[int, Evaluation]]]] = {}
    for number, evaluation in enumerate(evaluations, start=1):
        pair = evaluation.source, evaluation.target
        of_method = found.setdefault(evaluation.method, [])
        free = next((cells for cells in of_method if pair not in cells), None)
        if free is None:
            of_method.append(free := {})
        free[pair] = number, evaluation
    return Matrices(
        tuple(dict.fromkeys([*both, *sources])),
        tuple(dict.fromkeys([*both, *targets])),
        tuple(
            Matrix(formatting.visible(method) + (f" ({i})" if len(several) > 1 else ""), cells, _failed(method, failures))
            for method, several in found.items()
            for i, cells in enumerate(several, start=1)
        ),
        _limits([evaluation.scores.balanced_accuracy.value for evaluation in evaluations]),
    )


def _failed(method: str, failures: Sequence[Failure]) -> frozenset[tuple[str, str]]:
    of_method = [failure for failure in failures if failure.method == method]
    return frozenset((failure.source, target) for failure in of_method for target in failure.target.split(", "))


def _limits(values: Sequence[float | None]) -> tuple[float, float]:
    """The range of the known values, widened to tenths and to two tenths at least."""
    known = [value for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    first, last = math.floor(10 * low + 1e-9), math.ceil(10 * high - 1e-9)
    return max(0, min(first, last - 2)) / 10, max(last, 2) / 10


def section(found: Matrices) -> Section:
    """The heat maps and the table."""
    scale = Legend("Scale", (Key("balanced accuracy"), *(Key(text, CORRECT, opacity=o) for text, o in _scale(found))))
    panels = tuple(
        Panel(_figure(matrix, found, i), matrix.method, region=f"Balanced accuracy of {matrix.method} as a heat map")
        for i, matrix in enumerate(found.matrices, start=1)
    )
    maps = Figures(panels, CAPTION, legends=(scale,), kind="maps", width_px=round(_size_px(found)[0]))
    return Section(ANCHOR, HEADING, (maps, table(found)))


def table(found: Matrices) -> Table:
    """Each pair with its interval, chance and images; rows are sources, columns targets."""
    return Table(
        "Balanced accuracy by source (rows) and target (columns), with 95 % intervals",
        number_columns("Trained on", [formatting.visible(target) for target in found.targets]),
        groups=tuple(
            Group(
                Cell(matrix.method),
                tuple(
                    (Cell(formatting.visible(s)), *(_table_cell(matrix, s, t) for t in found.targets))
                    for s in found.sources
                ),
            )
            for matrix in found.matrices
        ),
        grouped_by="Method",
        stacked=True,
        kind="transfers",
        note=NOTE,
    )


def _table_cell(matrix: Matrix, source: str, target: str) -> Cell:
    if (source, target) not in matrix.cells:
        return Cell(matrix.empty(source, target))
    number, evaluation = matrix.cells[source, target]
    estimate = evaluation.scores.balanced_accuracy
    notes = (
        formatting.interval(estimate),
        f"chance {formatting.score(chance(evaluation))}, {formatting.counted(evaluation.n_images, 'image')}",
        IN_DOMAIN if is_in_domain(evaluation) else "",
    )
    return Cell(
        formatting.score(estimate.value),
        tuple(note for note in notes if note),
        href=f"#{evaluation_anchor(number)}",
        tag=formatting.TRANSDUCTIVE if evaluation.transductive else "",
    )


def is_in_domain(evaluation: Evaluation) -> bool:
    """Whether the model is tested on the laboratory it was trained on."""
    return evaluation.source == evaluation.target


# -------------------------------------------------------------------------------------------------------------- figures


def _scale(found: Matrices) -> tuple[tuple[str, float], ...]:
    """(score, opacity of the colour) of the steps of the scale, palest first: tenths, or every other one of many."""
    first, last = (round(10 * limit) for limit in found.limits)
    steps = range(first, last + 1, 1 if last - first <= 5 else 2)
    return tuple((f"{step / 10:.1f}", _opacity(step / 10, found.limits)) for step in steps)


def _opacity(value: float, limits: tuple[float, float]) -> float:
    low, high = limits
    return PALEST + (DARKEST - PALEST) * min(1.0, max(0.0, (value - low) / (high - low)))


def _left_px(found: Matrices) -> float:
    """Width of the names of the rows."""
    return max(84.0, 10 + LETTER_PX * max(len(line) for s in found.sources for line in _wrapped(s, 18).split("\n")))


def _top_px(found: Matrices) -> float:
    """Height of the names of the columns."""
    return 24 + LINE_PX * max(1 + _wrapped(target, 14).count("\n") for target in found.targets)


def _size_px(found: Matrices) -> tuple[float, float]:
    wide, high = CELL_PX
    return _left_px(found) + wide * len(found.targets) + 3, _top_px(found) + high * len(found.sources) + 3


def _wrapped(name: str, n_letters: int) -> str:
    """A name on at most three lines."""
    text = formatting.visible(name)
    return textwrap.fill(text, n_letters, max_lines=3, placeholder="\N{HORIZONTAL ELLIPSIS}") or text


def _figure(matrix: Matrix, found: Matrices, number: int) -> Drawing:
    def draw(figure: Figure) -> None:
        axes = figures.axes_px(figure, _left_px(found), _top_px(found), 3, 3)
        values = [[_value(matrix, source, target) for target in found.targets] for source in found.sources]
        fills = [[(CORRECT, 0.0 if v is None else _opacity(v, found.limits)) for v in row] for row in values]
        figures.grid_of_cells(axes, fills)
        for i, source in enumerate(found.sources):
            axes.text(-8 / CELL_PX[0], i + 0.5, _wrapped(source, 18), ha="right", va="center")
            for j, target in enumerate(found.targets):
                if (source, target) in matrix.cells:
                    _write_cell(axes, matrix.cells[source, target][1], (i, j), figures.ink_on(*fills[i][j]))
                else:
                    _frame(axes, (i, j), color=MUTED, linestyle=(0, (3, 3)), linewidth=0.7)
                    axes.text(j + 0.5, i + 0.5, matrix.empty(source, target), ha="center", va="center", color=MUTED)
        for j, target in enumerate(found.targets):
            axes.text(j + 0.5, -6 / CELL_PX[1], _wrapped(target, 14), ha="center", va="bottom")
        row, column = "trained on \N{DOWNWARDS ARROW}", f"tested on {formatting.ARROW}"
        axes.text(-8 / CELL_PX[0], -6 / CELL_PX[1], row, ha="right", va="bottom", color=MUTED, fontsize=SMALL)
        axes.text(0.02, (4 - _top_px(found)) / CELL_PX[1], column, ha="left", va="top", color=MUTED, fontsize=SMALL)

    return Drawing(draw, _size_px(found), f"{ANCHOR}-{number}", _alt(matrix, found), LARGEST)


def _value(matrix: Matrix, source: str, target: str) -> float | None:
    cell = matrix.cells.get((source, target))
    return cell[1].scores.balanced_accuracy.value if cell else None


def _frame(axes: Axes, place: tuple[int, int], **style: Any) -> None:
    i, j = place
    axes.plot([j + 0.02, j + 0.98, j + 0.98, j + 0.02, j + 0.02], [i + 0.02, i + 0.02, i + 0.98, i + 0.98, i + 0.02],
              clip_on=False, **style)  # fmt: skip


def _write_cell(axes: Axes, evaluation: Evaluation, place: tuple[int, int], ink: str) -> None:
    """A value above its interval, and whether it is in-domain or transductive."""
    i, j = place
    estimate = evaluation.scores.balanced_accuracy
    words = (
        formatting.interval(estimate),
        IN_DOMAIN if is_in_domain(evaluation) else "",
        formatting.TRANSDUCTIVE if evaluation.transductive else "",
    )
    small = [text for text in words if text]
    if is_in_domain(evaluation):
        _frame(axes, place, color=INK, linewidth=1.8)
    step = LINE_PX / CELL_PX[1]
    first = i + 0.5 - step * len(small) / 2
    axes.text(
        j + 0.5, first, formatting.score(estimate.value), ha="center", va="center", color=ink, fontsize=LARGE, weight="bold"
    )
    for k, text in enumerate(small, start=1):
        axes.text(j + 0.5, first + step * (k + 0.15), text, ha="center", va="center", color=ink, fontsize=0.95 * SMALL)


def _alt(matrix: Matrix, found: Matrices) -> str:
    pairs = (
        f"{formatting.visible(source)} to {formatting.visible(target)} {formatting.score(_value(matrix, source, target))}"
        for source in found.sources
        for target in found.targets
        if (source, target) in matrix.cells
    )
    return f"Balanced accuracy of {matrix.method}: {', '.join(pairs)}. The intervals follow in a table."
