"""The confusion matrix of an evaluation: a figure, and the counts as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hemalens.evaluation import formatting
from hemalens.evaluation.results import Evaluation
from hemalens.report import figures
from hemalens.report.figures import CORRECT, INK, MUTED, SMALL, WRONG, Drawing, Panel
from hemalens.report.tables import Cell, Table, number_columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAD = "Confusion matrix."
NOTE = (
    "Rows are true cell types, columns predicted ones; numbers count images, empty cells none. Stronger colour: a larger "
    "share of the row. Blue cells are correct, orange ones wrong."
)
NOT_TESTED_NOTE = "Grey column names: cell types that are not tested."
N_CLASSES_LARGE = 10
"""With more classes the cells are smaller and the figure takes the whole width of the page."""
MOST_LETTERS = 26


def is_wide(evaluation: Evaluation) -> bool:
    """Whether the figure needs the whole width of the page."""
    return len(evaluation.classes) > N_CLASSES_LARGE


def panel(evaluation: Evaluation, *, name: str, where: str) -> Panel:
    """The figure with its caption; `where` completes the name of its region."""
    note = f"{NOTE} {NOT_TESTED_NOTE}" if evaluation.left_out else NOTE
    return Panel(figure(evaluation, name=name), HEAD, note, region=f"Confusion matrix, {where}")


def figure(evaluation: Evaluation, *, name: str) -> Drawing:
    """The confusion matrix: counts in cells, colour is the share of the row; blue is correct, orange wrong."""
    rows, columns = (
        [formatting.shortened(formatting.label(code), MOST_LETTERS) for code in codes]
        for codes in (evaluation.tested_classes, evaluation.classes)
    )
    cell = 36 if is_wide(evaluation) else 44
    left, top = max(96.0, 14 + 6.6 * max(map(len, rows), default=0)), max(44.0, 18 + 4.7 * max(map(len, columns)))
    right = max(8.0, 4.9 * len(columns[-1]) + 14 - cell / 2)
    shares = [[n / max(1, sum(counts)) for n in counts] for counts in evaluation.confusion]

    def draw(figure: Figure) -> None:
        axes = figures.axes_px(figure, left, top, right, 6)
        fills = [
            [_fill(true == predicted, share) for predicted, share in zip(evaluation.classes, of_row, strict=True)]
            for true, of_row in zip(evaluation.tested_classes, shares, strict=True)
        ]
        figures.grid_of_cells(axes, fills)
        for i, counts in enumerate(evaluation.confusion):
            for j, n in enumerate(counts):
                size, ink = SMALL if n < 10_000 else 0.8 * SMALL, figures.ink_on(*fills[i][j])
                if n:
                    axes.text(j + 0.5, i + 0.5, str(n), ha="center", va="center", color=ink, fontsize=size)
        for i, text in enumerate(rows):
            axes.text(-8 / cell, i + 0.5, text, ha="right", va="center", fontsize=SMALL)
        for j, (code, text) in enumerate(zip(evaluation.classes, columns, strict=True)):
            ink = INK if code in evaluation.tested_classes else MUTED
            axes.text(j + 0.5, -6 / cell, text, color=ink, fontsize=SMALL, rotation=45, rotation_mode="anchor", va="bottom")
        for y, text in ((-27, f"predicted {formatting.ARROW}"), (-11, "true \N{DOWNWARDS ARROW}")):
            axes.text(-8 / cell, y / cell, text, ha="right", va="center", color=MUTED, fontsize=SMALL)

    height = top + cell * max(len(rows), 1) + 6
    return Drawing(draw, (left + cell * len(columns) + right, height), name, _alt(evaluation))


def _fill(correct: bool, share: float) -> tuple[str, float]:
    """Colour and opacity of a cell with this share of its row."""
    if correct:
        return CORRECT, 0.08 + 0.92 * share
    return (WRONG, 0.08 + 0.92 * share) if share else (INK, 0.05)


def _alt(evaluation: Evaluation) -> str:
    right = sum(
        counts[evaluation.classes.index(code)]
        for code, counts in zip(evaluation.tested_classes, evaluation.confusion, strict=True)
        if code in evaluation.classes
    )
    n = sum(map(sum, evaluation.confusion))
    shape = f"{len(evaluation.tested_classes)} true by {len(evaluation.classes)} predicted cell types"
    return f"Confusion matrix, {shape}: {right} of {n} images on the diagonal. The counts follow as a table."


def table(evaluation: Evaluation, *, where: str) -> Table:
    """The confusion counts: rows are true, columns predicted."""
    return Table(
        "Confusion counts: true cell types in rows, predicted ones in columns",
        number_columns("True \\ predicted", [formatting.label(code) for code in evaluation.classes]),
        tuple(
            (Cell(formatting.label(code)), *(Cell(str(n)) for n in counts))
            for code, counts in zip(evaluation.tested_classes, evaluation.confusion, strict=True)
        ),
        kind="matrix",
        where=where,
    )
