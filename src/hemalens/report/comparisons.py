"""Methods compared on the same test images, as tables and in plain words, for HTML, Markdown and the summary alike."""

from __future__ import annotations

from collections.abc import Sequence

from hemalens.evaluation import formatting
from hemalens.evaluation.results import Comparison, Evaluation
from hemalens.evaluation.significance import Standing, not_compared, standings
from hemalens.report.curve_lines import listed
from hemalens.report.tables import Cell, Column, Table, chance, estimate_cell

ANCHOR = "comparisons"
HEADING = "Which method is better"
NOT_TOLD_APART = "not told apart"
ALONE_NOTE = (
    "Only first, only second right: images that one of the two alone answered rightly; where several models of a method "
    "answered an image, it counts by their share."
)
TEST_NOTES = {
    "McNemar, exact": "p of the accuracy: McNemar's exact test.",
    "sign flips, exact": "p of the accuracy: exact sign flips of each unit's difference in right answers; a unit is a "
    "group of images, or an image, with the answers of all models.",
}
DIFFERENCE_NOTE = (
    "Difference: balanced accuracy of the first less that of the second, with the 95 % interval of a paired bootstrap over "
    "the units within their cell types, not corrected, and too narrow where a cell type has few images; its p, which keeps "
    "to its level there too, is the larger of that of the bootstrap and of sign flips of what each unit adds. "
    "Both kinds of p are corrected (Holm) for all pairs on this source and target. Better: the corrected p of the "
    "difference is below 0.05. The tests are of these models on other such images; another training gives other models."
)
MOST_NAMES = 3
"""More methods than this are counted, not named."""

# --------------------------------------------------------------------------------------------------------------- tables


def tables(comparisons: Sequence[Comparison]) -> tuple[tuple[Table, str], ...]:
    """A table with its note for each source and target, in the order in which these come first."""
    by_laboratories: dict[tuple[str, str], list[Comparison]] = {}
    for pair in comparisons:
        by_laboratories.setdefault((pair.source, pair.target), []).append(pair)
    return tuple((_table(pairs), _note(pairs)) for pairs in by_laboratories.values())


def _note(pairs: Sequence[Comparison]) -> str:
    return " ".join((ALONE_NOTE, *(TEST_NOTES[test] for test in dict.fromkeys(p.test for p in pairs)), DIFFERENCE_NOTE))


def _table(pairs: Sequence[Comparison]) -> Table:
    transfer = f"{formatting.visible(pairs[0].source)} {formatting.ARROW} {formatting.visible(pairs[0].target)}"
    numbers = (
        *("Images", "Only first right", "Only second right", "p of accuracy (Holm)"),
        *("Difference in balanced accuracy", "p of difference (Holm)"),
    )
    return Table(
        f"Methods two by two on the same test images, {transfer}",
        (
            Column("First", numeric=False, heads=True),
            Column("Second", numeric=False),
            *(Column(name) for name in numbers),
            Column("Verdict", numeric=False),
        ),
        tuple(_row(pair) for pair in pairs),
        stacked=True,
    )


def _row(pair: Comparison) -> tuple[Cell, ...]:
    units = () if pair.n_units == pair.n_images else (formatting.counted(pair.n_units, "unit"),)
    return (
        _method(pair.first, pair.first_transductive),
        _method(pair.second, pair.second_transductive),
        Cell(formatting.count(pair.n_images), units),
        Cell(_mean_count(pair.first_only)),
        Cell(_mean_count(pair.second_only)),
        Cell(p_value(pair.p_accuracy_holm)),
        estimate_cell(pair.difference),
        Cell(p_value(pair.p_difference_holm)),
        Cell(verdict(pair)),
    )


def _method(name: str, transductive: bool) -> Cell:
    return Cell(formatting.visible(name), tag=formatting.TRANSDUCTIVE if transductive else "")


def _mean_count(n: float) -> str:
    """A count, or a mean of counts with one decimal."""
    whole = round(n)
    return formatting.count(whole) if abs(n - whole) < 1e-9 else f"{n:,.1f}"


def p_value(p: float) -> str:
    """A p with three decimals; one below 0.001 is "<0.001", and none is rounded up to the limit of 0.05."""
    if p < 0.001:
        return "<0.001"
    text = f"{p:.3f}"
    return "<0.050" if text == "0.050" and p < 0.05 else text


def verdict(pair: Comparison) -> str:
    """The pair in words: "A is better", or "not told apart"."""
    if pair.better is None:
        return NOT_TOLD_APART
    transductive = pair.first_transductive if pair.better == pair.first else pair.second_transductive
    return f"{_marked(formatting.visible(pair.better), transductive)} is better"


def _marked(name: str, transductive: bool) -> str:
    return f"{name} ({formatting.TRANSDUCTIVE})" if transductive else name


# ---------------------------------------------------------------------------------------------------------------- words


def sentences(comparisons: Sequence[Comparison], evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """For each source and target: the best method, or those that the data do not tell apart; then what is not compared.

    `comparisons` are those of all `evaluations`.
    """
    found = [_standing_sentence(standing) for standing in standings(evaluations, comparisons)]
    for gap in not_compared(evaluations):
        others = f" with {_named(gap.others)}" if gap.others else ""
        verb = "is" if len(gap.methods) == 1 else "are"
        where = _where(gap.source, gap.target)
        found.append(f"{where}: {_named(gap.methods)} {verb} not compared{others}: {gap.reason}.")
    return tuple(found)


def _where(source: str, target: str) -> str:
    return f"{formatting.visible(source)} -> {formatting.visible(target)}"


def _named(names: Sequence[str]) -> str:
    return listed([formatting.visible(name) for name in names])


def _standing_sentence(standing: Standing) -> str:
    highest = standing.highest
    scores = highest.scores
    score = formatting.score(scores.balanced_accuracy.value)
    limits = formatting.interval(scores.balanced_accuracy)
    reached = f"balanced accuracy, {score} ({limits})" if limits else f"balanced accuracy, {score}"
    name = _quoted(highest)
    corrected = f"corrected for {formatting.counted(standing.n_comparisons, 'comparison')}"
    if standing.is_best:
        said = (
            f"the best of {standing.n_methods} methods is {name}, with the highest {reached}: better than every other one "
            f"by the test, {corrected}"
        )
    elif standing.not_told_apart:
        said = (
            f"the data do not tell {name}, with the highest {reached}, apart from {_few(standing.not_told_apart)} "
            f"({corrected}), of {standing.n_methods} methods"
        )
    else:
        said = (
            f"{name} has the highest {reached}, of {standing.n_methods} methods, but was not compared with "
            f"{_few(standing.not_compared)}"
        )
    return (
        f"{_where(highest.source, highest.target)}: {said}; chance is {formatting.score(chance(highest))}, always "
        f"answering the most frequent class gives an accuracy of {formatting.score(scores.majority_rate)}."
    )


def _quoted(evaluation: Evaluation) -> str:
    return _marked(listed([formatting.visible(evaluation.method)]), evaluation.transductive)


def _few(evaluations: Sequence[Evaluation]) -> str:
    """Names, the highest balanced accuracy first; the rest of many is counted."""
    ranked = sorted(evaluations, key=lambda e: e.scores.balanced_accuracy.value or 0.0, reverse=True)
    more = len(ranked) - MOST_NAMES
    if more <= 1:
        return formatting.listed([_quoted(evaluation) for evaluation in ranked])
    return formatting.listed([*(_quoted(e) for e in ranked[:MOST_NAMES]), f"{more} others"])
