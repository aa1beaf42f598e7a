"""Results in laboratories left out of the training: mean and worst, recalls, and imitated laboratories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hemalens.evaluation import formatting
from hemalens.evaluation.left_out import HARM, NONE
from hemalens.evaluation.results import Estimate, FormScores, ImitatedScores, LaboratoryScores, LeftOut, Worst
from hemalens.report import tables
from hemalens.report.tables import (
    Block,
    Cell,
    Facts,
    Fold,
    Section,
    Table,
    Text,
    estimate_cell,
    interval_cell,
    number_columns,
)

ANCHOR = "left-out"
HEADING = "Laboratories left out"
INTRODUCTION = (
    "Each model is trained on all laboratories but one and tested on that one. Rows: the model as it is (none), and "
    "adapted to the laboratory. unlabelled: with all images of the laboratory, without their labels. Labels: with so many "
    "labelled cells of each type, half of a type at most; the other cells are tested."
)
SCORE_NOTE = (
    "In small print: the 95 % interval, and the standard deviation over seeds (SD). Mean: over laboratories. Worst: the "
    "lowest of all laboratories and seeds."
)
ACCURACY_NOTE = "In small print: the 95 % interval, and the accuracy of always predicting the most frequent cell type."
IMITATED_NOTE = (
    "Imitated laboratories show cells of a left-out laboratory in another stain, light and optics, each with one mix of "
    "cell types. Gain: the difference in balanced accuracy from the model as it is, on the same images. Harmed: tests in "
    f"which it falls by more than {HARM}."
)


def sections(results: Sequence[LeftOut]) -> tuple[Section, ...]:
    """The section of all methods; none without results."""
    blocks = tuple(block for result in results for block in _blocks(result, several=len(results) > 1))
    return (Section(ANCHOR, HEADING, (Text(INTRODUCTION, ""), *blocks)),) if results else ()


def _blocks(result: LeftOut, *, several: bool) -> Iterator[Block]:
    where = f", {formatting.visible(result.method)}" if several else ""
    n_expected = len(result.laboratories) * len(result.seeds)
    if result.n_tests < n_expected:
        yield Text(f"{result.n_tests} of {n_expected} trainings{where} were tested; the others failed.", "notice")
    yield scores(result, where)
    yield accuracies(result, where)
    if result.imitated:
        yield imitated(result, where)
    recalls = tuple(recall(form, where) for form in result.forms)
    yield Fold(f"Recall of each cell type{where}", recalls, titled=True)
    yield Facts(tuple((term, lines) for term, lines in _facts(result) if lines))


def _facts(result: LeftOut) -> Iterator[tuple[str, tuple[str, ...]]]:
    first = result.forms[0].laboratories
    yield "Seeds", (", ".join(map(str, result.seeds)),)
    yield "Images", tuple(f"{formatting.visible(each.laboratory)}: {formatting.count(each.n_images)}" for each in first)
    yield (
        "Transductive",
        tuple(
            f"{formatting.visible(form.form)}: saw the tested images, unlabelled"
            for form in result.forms
            if form.transductive
        ),
    )
    yield "Intervals", (formatting.visible(result.intervals),)
    yield (
        "Not tested",
        tuple(
            f"{formatting.visible(each.laboratory)}: {line}" for each in first for line in tables.left_out(each.left_out)
        ),
    )
    yield (
        "Unreadable",
        tuple(f"{formatting.visible(each.laboratory)}: {len(each.unreadable)}" for each in first if each.unreadable),
    )


def _head(form: FormScores) -> Cell:
    return Cell(formatting.visible(form.form), tag=formatting.TRANSDUCTIVE if form.transductive else "")


def _names(result: LeftOut) -> list[str]:
    return [formatting.visible(name) for name in result.laboratories]


def scores(result: LeftOut, where: str = "") -> Table:
    """Balanced accuracy: a row a form, a column a laboratory, and the mean and the worst."""
    return Table(
        f"Balanced accuracy in each laboratory left out{where}",
        number_columns("Adapted", [*_names(result), "mean", "worst"]),
        tuple(
            (
                _head(form),
                *(estimate_cell(each.balanced_accuracy) for each in form.laboratories),
                estimate_cell(form.mean),
                _worst(form.worst),
            )
            for form in result.forms
        ),
        stacked=True,
        kind="transfers",
        note=SCORE_NOTE,
    )


def _worst(worst: Worst) -> Cell:
    return Cell(formatting.score(worst.value), (formatting.visible(worst.laboratory), f"seed {worst.seed}"))


def accuracies(result: LeftOut, where: str = "") -> Table:
    """Accuracy with the majority rate: a row a form, a column a laboratory, and the mean."""
    return Table(
        f"Accuracy in each laboratory left out{where}",
        number_columns("Adapted", [*_names(result), "mean"]),
        tuple(
            (
                _head(form),
                *(_accuracy(each.accuracy, each.majority_rate) for each in form.laboratories),
                _accuracy(form.accuracy, form.majority_rate),
            )
            for form in result.forms
        ),
        stacked=True,
        kind="transfers",
        note=ACCURACY_NOTE,
    )


def _accuracy(accuracy: Estimate, majority_rate: float) -> Cell:
    cell = interval_cell(accuracy)
    return Cell(cell.text, (*cell.notes, f"majority {formatting.score(majority_rate)}"))


def recall(form: FormScores, where: str = "") -> Table:
    """Recall of one form: a row a cell type, a column a laboratory."""
    types = dict.fromkeys(label for each in form.laboratories for label in each.recall)
    return Table(
        f"Recall of each cell type, adapted: {formatting.visible(form.form)}{where}",
        number_columns("Cell type", [formatting.visible(each.laboratory) for each in form.laboratories]),
        tuple((Cell(formatting.label(label)), *(_recall(each, label) for each in form.laboratories)) for label in types),
        stacked=True,
        kind="transfers",
    )


def _recall(scores: LaboratoryScores, label: str) -> Cell:
    return estimate_cell(scores.recall[label]) if label in scores.recall else Cell("not tested")


def imitated(result: LeftOut, where: str = "") -> Table:
    """Imitated laboratories: a row a form, a column a mix of types, and mean, worst, gain and harm."""
    first = result.imitated[0]
    mixes = list(first.by_mix)
    n = formatting.counted(first.n_laboratories, "imitated laboratory", "imitated laboratories")
    return Table(
        f"Balanced accuracy in {n}{where}",
        number_columns("Adapted", [*mixes, "mean", "worst", "gain", "harmed"]),
        tuple(_imitated_row(each, mixes) for each in result.imitated),
        stacked=True,
        kind="transfers",
        note=IMITATED_NOTE,
    )


def _imitated_row(scores: ImitatedScores, mixes: Sequence[str]) -> tuple[Cell, ...]:
    return (
        Cell(formatting.visible(scores.form)),
        *(Cell(formatting.score(scores.by_mix[mix])) for mix in mixes),
        interval_cell(scores.balanced_accuracy),
        _worst(scores.worst),
        interval_cell(scores.gain),
        Cell(_harmed(scores)),
    )


def _harmed(scores: ImitatedScores) -> str:
    return formatting.MISSING if scores.n_harmed is None else f"{scores.n_harmed} of {scores.n_tests}"


def by_laboratory(result: LeftOut) -> list[tuple[str, ...]]:
    """Balanced accuracy as text, with a head: a row a laboratory, the mean and the worst, a column a form."""

    def shown(estimate: Estimate) -> str:
        spread = "" if estimate.std is None else f"±{estimate.std:.3f}"
        return formatting.score(estimate.value) + spread

    transductive = {form.form for form in result.forms if form.transductive}
    heads = [f"{form.form}, TRANSDUCTIVE" if form.form in transductive else form.form for form in result.forms]
    by_name = [{each.laboratory: each.balanced_accuracy for each in form.laboratories} for form in result.forms]
    rows = [(formatting.visible(name), *(shown(form[name]) for form in by_name)) for name in result.laboratories]
    return [
        ("left out", *map(formatting.visible, heads)),
        *rows,
        ("mean", *(shown(form.mean) for form in result.forms)),
        ("worst", *(formatting.score(form.worst.value) for form in result.forms)),
    ]


def sentence(result: LeftOut) -> str:
    """The mean and the worst of each form."""
    n = formatting.counted(len(result.laboratories), "laboratory", "laboratories")
    forms = "; ".join(
        f"{'not adapted' if form.form == NONE else formatting.visible(form.form)} {interval_cell(form.mean)}, worst "
        f"{formatting.score(form.worst.value)} ({formatting.visible(form.worst.laboratory)}, seed {form.worst.seed})"
        for form in result.forms
    )
    return (
        f"{formatting.visible(result.method)}, {n} left out in turn, {formatting.counted(len(result.seeds), 'seed')}: mean "
        f"balanced accuracy {forms}."
    )


def harm_sentences(result: LeftOut) -> list[str]:
    """How often adapting harms in imitated laboratories."""
    harmed = [each for each in result.imitated if each.n_harmed is not None]
    if not harmed:
        return []
    counts = formatting.listed([f"{_harmed(each)} ({formatting.visible(each.form)})" for each in harmed])
    return [
        f"{formatting.visible(result.method)}: in imitated laboratories adapting loses more than {HARM} balanced accuracy "
        f"in {counts} tests."
    ]
