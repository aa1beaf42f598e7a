"""Balanced accuracy from every source to every target: a heat map a method, and the same as a table."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from hemalens.evaluation import formatting
from hemalens.evaluation.results import Evaluation, Failure
from hemalens.report import tables
from hemalens.report.svg import INK, element, ink_on
from hemalens.report.tables import Cell, Column, Group, Table

ANCHOR = "domains"
HEADING = "From domain to domain"
CAPTION = (
    "Balanced accuracy of every method, trained on the domain of the row and tested on that of the column. The stronger "
    "the colour, the higher, on the same scale for all methods."
)
NOTE = (
    "In small print: the 95 % interval. At home: trained and tested on the same domain, on images that were not trained "
    "on. Chance: one over the number of tested cell types, which may differ from target to target, and with it how hard "
    "the test is. Not tested: there is no result for this pair."
)
AT_HOME, NOT_TESTED, FAILED = "at home", "not tested", "failed"
COLOUR = "#0072B2"
PALEST, DARKEST = 0.08, 0.92
CELL_PX = (86.0, 70.0)
_LINE_PX = 14.0
_LETTER_PX = 6.6


@dataclass(frozen=True, slots=True)
class Matrix:
    """The evaluations of one method, with their numbers in the report, by (source, target)."""

    method: str
    cells: dict[tuple[str, str], tuple[int, Evaluation]]
    failed: frozenset[tuple[str, str]]
    """Pairs that ended with an error."""

    def empty(self, source: str, target: str) -> str:
        """What stands where there is no evaluation."""
        return FAILED if (source, target) in self.failed else NOT_TESTED


@dataclass(frozen=True, slots=True)
class Matrices:
    """The matrices of all methods over the same sources and targets, those that are both first, in the same order.

    `limits` are the balanced accuracies at the ends of the colour scale.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    matrices: tuple[Matrix, ...]
    limits: tuple[float, float]


def matrices(evaluations: Sequence[Evaluation], failures: Sequence[Failure] = ()) -> Matrices | None:
    """One matrix a method, another where it has a second result for a pair; None for fewer than two pairs."""
    if len({(evaluation.source, evaluation.target) for evaluation in evaluations}) < 2:
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


def table(found: Matrices) -> Table:
    """Every cell of every matrix with its interval, chance and images; rows are sources, columns targets."""
    return Table(
        "Balanced accuracy by source (rows) and target (columns), with 95 % intervals",
        (Column("Trained on", numeric=False, heads=True), *(Column(formatting.visible(t)) for t in found.targets)),
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
    )


def _table_cell(matrix: Matrix, source: str, target: str) -> Cell:
    if (source, target) not in matrix.cells:
        return Cell(matrix.empty(source, target))
    number, evaluation = matrix.cells[source, target]
    estimate = evaluation.scores.balanced_accuracy
    notes = (
        formatting.interval(estimate),
        f"chance {formatting.score(tables.chance(evaluation))}, {formatting.counted(evaluation.n_images, 'image')}",
        AT_HOME if is_at_home(evaluation) else "",
    )
    return Cell(
        formatting.score(estimate.value),
        tuple(note for note in notes if note),
        href=f"#{tables.anchor(number)}",
        tag=formatting.TRANSDUCTIVE if evaluation.transductive else "",
    )


def is_at_home(evaluation: Evaluation) -> bool:
    """Whether the model was tested on the domain it was trained on."""
    return evaluation.source == evaluation.target


# -------------------------------------------------------------------------------------------------------------- figures


def figures(found: Matrices) -> tuple[tuple[str, str], ...]:
    """(method, SVG) of each heat map."""
    return tuple((matrix.method, _figure(matrix, found)) for matrix in found.matrices)


def width_px(found: Matrices) -> int:
    """How wide each heat map is laid out."""
    return round(_left_px(found) + CELL_PX[0] * len(found.targets) + 3)


def _left_px(found: Matrices) -> float:
    """Width of the names of the rows."""
    return max(84.0, 10 + _LETTER_PX * max(len(line) for source in found.sources for line in _wrapped(source, 18)))


def scale(found: Matrices) -> tuple[tuple[str, float], ...]:
    """(score, opacity of the colour) of the steps of the scale, palest first: tenths, or every other one of many."""
    first, last = (round(10 * limit) for limit in found.limits)
    steps = range(first, last + 1, 1 if last - first <= 5 else 2)
    return tuple((f"{step / 10:.1f}", _opacity(step / 10, found.limits)) for step in steps)


def _opacity(value: float, limits: tuple[float, float]) -> float:
    low, high = limits
    return PALEST + (DARKEST - PALEST) * min(1.0, max(0.0, (value - low) / (high - low)))


def _figure(matrix: Matrix, found: Matrices) -> str:
    rows, columns = [_wrapped(s, 18) for s in found.sources], [_wrapped(t, 13) for t in found.targets]
    wide, high = CELL_PX
    left = _left_px(found)
    top = 24 + _LINE_PX * max(map(len, columns))
    parts = [_lines(("tested on \N{RIGHTWARDS ARROW}",), left + 2, 8, "pale start")]
    parts.append(_lines(("trained on \N{DOWNWARDS ARROW}",), left - 8, top - 6 - _LINE_PX / 2, "pale end"))
    parts += [
        _lines(lines, left + wide * (i + 0.5), top - 6 - _LINE_PX * (len(lines) - 0.5), "")
        for i, lines in enumerate(columns)
    ]
    for i, (source, lines) in enumerate(zip(found.sources, rows, strict=True)):
        y = top + high * i
        parts.append(_lines(lines, left - 8, y + high / 2 - _LINE_PX * (len(lines) - 1) / 2, "end"))
        for j, target in enumerate(found.targets):
            place = left + wide * j, y
            if (source, target) in matrix.cells:
                parts.append(_cell(matrix.cells[source, target][1], place, found.limits))
            else:
                words = _lines((matrix.empty(source, target),), place[0] + wide / 2, y + high / 2, "pale")
                parts.append(f'<rect class="untested" {_box(place)}/>{words}')
    width, height = width_px(found), top + high * len(rows) + 3
    style = f"max-width:{1.15 * width:.0f}px;min-width:{0.85 * width:.0f}px"
    return element(f'<g class="heat">{"".join(parts)}</g>', (width, height), alt=_alt(matrix, found), style=style)


def _wrapped(name: str, n_letters: int) -> tuple[str, ...]:
    """A name in at most three lines."""
    text = formatting.visible(name)
    return tuple(textwrap.wrap(text, n_letters, max_lines=3, placeholder="\N{HORIZONTAL ELLIPSIS}")) or (text,)


def _lines(lines: Sequence[str], x: float, y: float, kind: str) -> str:
    """Lines of text, the first at the height `y`."""
    from markupsafe import escape

    head = f'<text class="{kind}"' if kind else "<text"
    return "".join(f'{head} x="{x:.1f}" y="{y + 4 + _LINE_PX * i:.1f}">{escape(t)}</text>' for i, t in enumerate(lines))


def _box(place: tuple[float, float]) -> str:
    wide, high = CELL_PX
    return f'x="{place[0] + 1.5:.1f}" y="{place[1] + 1.5:.1f}" width="{wide - 3:g}" height="{high - 3:g}"'


def _cell(evaluation: Evaluation, place: tuple[float, float], limits: tuple[float, float]) -> str:
    """A value over its interval, and whether it is at home or transductive."""
    estimate = evaluation.scores.balanced_accuracy
    opacity = 0.0 if estimate.value is None else _opacity(estimate.value, limits)
    words = (
        formatting.interval(estimate),
        AT_HOME if is_at_home(evaluation) else "",
        formatting.TRANSDUCTIVE if evaluation.transductive else "",
    )
    small = [text for text in words if text]
    ink = "currentColor" if ink_on(COLOUR, opacity) == INK else "white"
    middle, first = place[0] + CELL_PX[0] / 2, place[1] + (CELL_PX[1] - _LINE_PX * len(small)) / 2
    home = f'<rect class="home" {_box(place)}/>' if is_at_home(evaluation) else ""
    return (
        f'<rect fill="{COLOUR}" fill-opacity="{opacity:.2f}" {_box(place)}/>{home}<g fill="{ink}">'
        + _lines((formatting.score(estimate.value),), middle, first, "value")
        + _lines(small, middle, first + 16, "small")
        + "</g>"
    )


def _alt(matrix: Matrix, found: Matrices) -> str:
    told = (
        f"{formatting.visible(source)} to {formatting.visible(target)} "
        f"{formatting.score(matrix.cells[source, target][1].scores.balanced_accuracy.value)}"
        for source in found.sources
        for target in found.targets
        if (source, target) in matrix.cells
    )
    return f"Balanced accuracy of {matrix.method}: {', '.join(told)}. The intervals follow in a table."
