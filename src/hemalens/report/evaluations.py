"""One evaluation of a report: scores, cell types, confusion matrix, reliability, embedding, wrong cells."""

from __future__ import annotations

from hemalens.evaluation import formatting
from hemalens.evaluation.results import Evaluation, Report, WrongCell
from hemalens.report import confusion_matrix, reliability, trust
from hemalens.report.embeddings import NamedScatter, embedded
from hemalens.report.figures import Figures
from hemalens.report.tables import (
    Block,
    Cell,
    Column,
    Fold,
    Gallery,
    Items,
    Picture,
    Scores,
    Section,
    Table,
    Text,
    chance,
    estimate_cell,
    evaluation_anchor,
    left_out,
    number_columns,
    sentence,
    unreadable,
)

OVERVIEW_NOTE = (
    "In small print: the 95 % interval, and SD, the standard deviation over folds. Majority rate: the accuracy of always "
    "predicting the most frequent cell type. Chance: the balanced accuracy of guessing, one over the number of tested cell "
    "types. Tested classes: only tested cell types may be predicted. ECE: expected calibration error. NLL: negative "
    "log-likelihood per image, in nats. n/a: not available."
)
TRANSDUCTIVE_NOTE = "Transductive: test images were seen in training, without their labels."
NOT_DRAWN = "With this many evaluations, reliability is shown as a table, and embeddings once per method and source."
N_POINTS_SHOWN = 15_000
N_ERRORS_SHOWN = 240
"""At most this many points and wrong cells on a page, divided among the evaluations, so that its file stays small."""
FEWEST_POINTS, FEWEST_ERRORS = 200, 3
MOST_DRAWN = 60
"""With more evaluations, reliability is a table, and embeddings are drawn once per method and source."""
N_LISTED = 6
"""With more evaluations, the contents and all but the scores of each are folded."""


def all_drawn(report: Report) -> bool:
    """Whether every evaluation has all its figures."""
    return len(report.evaluations) <= MOST_DRAWN


def n_points(report: Report) -> int:
    """How many points of each scatter are drawn."""
    return max(FEWEST_POINTS, N_POINTS_SHOWN // max(1, len(report.evaluations)))


def overview(report: Report) -> Table:
    """One row for each evaluation."""
    names = (
        *("Accuracy", "Majority rate", "Balanced accuracy", "Chance", "Macro F1"),
        *("Bal. acc., tested classes", "ECE", "NLL", "Images", "Folds"),
    )
    transfer = Column(f"Trained on {formatting.ARROW} tested on", numeric=False)
    columns = (Column("No."), Column("Method", numeric=False, heads=True), transfer, *map(Column, names))
    rows = tuple(
        (
            Cell(str(number), href=f"#{evaluation_anchor(number)}"),
            Cell(
                formatting.visible(evaluation.method),
                href=f"#{evaluation_anchor(number)}",
                tag=formatting.TRANSDUCTIVE if evaluation.transductive else "",
            ),
            Cell(f"{formatting.visible(evaluation.source)} {formatting.ARROW} {formatting.visible(evaluation.target)}"),
            *(cell for _, cell in score_cells(evaluation)),
            Cell(formatting.count(evaluation.n_images)),
            Cell(str(evaluation.n_folds)),
        )
        for number, evaluation in enumerate(report.evaluations, start=1)
    )
    seen = any(evaluation.transductive for evaluation in report.evaluations)
    note = f"{OVERVIEW_NOTE} {TRANSDUCTIVE_NOTE}" if seen else OVERVIEW_NOTE
    return Table("Every evaluation, with 95 % intervals", columns, rows, kind="overview", note=note)


def score_cells(evaluation: Evaluation) -> tuple[tuple[str, Cell], ...]:
    """The scores of an evaluation by name, in the order in which they are printed everywhere."""
    scores = evaluation.scores
    return (
        ("Accuracy", estimate_cell(scores.accuracy)),
        ("Majority rate", Cell(formatting.score(scores.majority_rate))),
        ("Balanced accuracy", estimate_cell(scores.balanced_accuracy)),
        ("Chance", Cell(formatting.score(chance(evaluation)))),
        ("Macro F1", estimate_cell(scores.macro_f1)),
        ("Balanced accuracy, tested classes only", estimate_cell(scores.balanced_accuracy_restricted)),
        ("ECE", Cell(formatting.score(scores.ece))),
        ("NLL", Cell(formatting.score(scores.nll))),
    )


def section(number: int, report: Report) -> Section:
    """The section of the evaluation with this number, from 1; in a long report all but the scores is folded."""
    evaluation = report.evaluations[number - 1]
    scores: list[Block] = [
        Text(_setting(evaluation), "setting"),
        Scores(score_cells(evaluation)),
        Text(sentence(evaluation.intervals)),
    ]
    details = _details(number, report)
    if len(report.evaluations) > N_LISTED:
        details = [Fold(f"Cell types, errors and confidence of evaluation {number}", tuple(details), "whole")]
    heading = formatting.visible(evaluation.name)
    return Section(evaluation_anchor(number), heading, (*scores, *details), "evaluation", number)


def _details(number: int, report: Report) -> list[Block]:
    evaluation, name, where = report.evaluations[number - 1], evaluation_anchor(number), f"evaluation {number}"
    blocks: list[Block] = []
    if evaluation.left_out:
        blocks.append(Items(left_out(evaluation.left_out), heading="Not tested"))
    blocks.append(_per_class(evaluation, where=where))
    panels = []
    if evaluation.classes:
        panels.append(confusion_matrix.panel(evaluation, name=f"{name}-confusion", where=where))
    if all_drawn(report):
        panels.append(reliability.panel(evaluation, name=f"{name}-reliability"))
    else:
        blocks.append(Text(NOT_DRAWN))
    kind = "figures stacked" if confusion_matrix.is_wide(evaluation) else "figures"
    blocks += [Figures(tuple(panels), kind=kind, heading="Errors and confidence")] if panels else []
    blocks += [
        Fold("Confusion counts as a table", (confusion_matrix.table(evaluation, where=where),)),
        Fold("Reliability bins as a table", (reliability.table(evaluation, where=where),)),
    ]
    if evaluation.trust:
        blocks.append(trust.table(evaluation.trust, where=where))
    if evaluation.scatter and all_drawn(report):
        named = NamedScatter(formatting.visible(evaluation.method), "", evaluation.scatter)
        cells = f"of {formatting.visible(evaluation.target)}"
        blocks += embedded([named], name=f"{name}-scatter", cells=cells, n_points=n_points(report), heading="Embedding")
    blocks += _wrong_cells(evaluation, max(FEWEST_ERRORS, N_ERRORS_SHOWN // len(report.evaluations)))
    return [*blocks, *unreadable(evaluation.unreadable)]


def _setting(evaluation: Evaluation) -> str:
    """Method, source and target, images and folds of an evaluation on one line."""
    parts = [
        formatting.visible(evaluation.method),
        f"trained on {formatting.visible(evaluation.source)}, tested on {formatting.visible(evaluation.target)}",
        formatting.counted(evaluation.n_images, "image"),
        formatting.counted(evaluation.n_folds, "fold"),
    ]
    return " \N{MIDDLE DOT} ".join(parts)


def _per_class(evaluation: Evaluation, *, where: str) -> Table:
    """Precision and recall of each class with their exact limits."""
    return Table(
        "Scores of each cell type, with exact 95 % binomial limits",
        number_columns("Cell type", ("Images", "Predictions", "Precision", "Recall", "F1")),
        tuple(
            (
                Cell(formatting.label(scores.label)),
                Cell(formatting.count(scores.n)),
                Cell(formatting.count(scores.n_answered)),
                estimate_cell(scores.precision, drawn=True),
                estimate_cell(scores.recall, drawn=True),
                Cell(formatting.score(scores.f1)),
            )
            for scores in evaluation.per_class
        ),
        heading="Cell types",
        kind="perclass",
        where=where,
    )


def _wrong_cells(evaluation: Evaluation, n_shown: int) -> tuple[Gallery, ...]:
    pictures = tuple(
        Picture((("", cell.thumbnail),), _wrong_call(cell), formatting.visible(cell.name))
        for cell in evaluation.most_confident_errors[:n_shown]
    )
    note = "The most confident wrong predictions, with their probability."
    return (Gallery(pictures, "Most confident errors", note),) if pictures else ()


def _wrong_call(cell: WrongCell) -> str:
    """The true and the predicted type with its probability: "true monocyte, predicted neutrophil, 0.98"."""
    types = f"true {formatting.label(cell.label)}, predicted {formatting.label(cell.predicted)}"
    return f"{types}, {formatting.probability(cell.probability)}"
