"""Paired tests between methods on the same test images, as tables and as sentences."""

from __future__ import annotations

from collections.abc import Sequence

from hemalens.evaluation import formatting
from hemalens.evaluation.results import Comparison, Evaluation
from hemalens.evaluation.significance import Standing, not_compared, standings
from hemalens.report.tables import Cell, Column, Table, chance, estimate_cell, interval_cell, majority, quoted

ANCHOR = "comparisons"
HEADING = "Which method is better"
NO_DIFFERENCE = "no significant difference"
COUNT_NOTE = (
    "Only first, only second correct: images that one method alone classifies correctly; with several models per method, "
    "an image counts by their share."
)
TEST_NOTES = {
    "McNemar, exact": "p of the accuracy: McNemar's exact test.",
    "sign flips, exact": "p of the accuracy: exact sign flips of the difference in correct predictions per unit (a group "
    "of images, or an image).",
}
DIFFERENCE_NOTE = (
    "Difference: balanced accuracy of the first minus that of the second, with the uncorrected 95 % interval of a paired "
    "bootstrap within cell types; it is too narrow for cell types with few images. Its p is the larger of the bootstrap's "
    "and of sign flips per unit. Both p are corrected (Holm) for all pairs of this source and target. Better: the "
    "corrected p of the difference is below 0.05. The tests compare these models; another training gives other models."
)
MOST_NAMES = 3
"""Further methods are counted, not named."""

# --------------------------------------------------------------------------------------------------------------- tables


def tables(comparisons: Sequence[Comparison]) -> tuple[Table, ...]:
    """A table for each source and target, in their order; a note that several share is below the last."""
    by_laboratories: dict[tuple[str, str], list[Comparison]] = {}
    for pair in comparisons:
        by_laboratories.setdefault((pair.source, pair.target), []).append(pair)
    notes = [_note(pairs) for pairs in by_laboratories.values()]
    return tuple(
        _table(pairs, "" if notes[i : i + 2] == [note, note] else note)
        for i, (pairs, note) in enumerate(zip(by_laboratories.values(), notes, strict=True))
    )


def _note(pairs: Sequence[Comparison]) -> str:
    return " ".join((COUNT_NOTE, *(TEST_NOTES[test] for test in dict.fromkeys(p.test for p in pairs)), DIFFERENCE_NOTE))


def _table(pairs: Sequence[Comparison], note: str) -> Table:
    transfer = f"{formatting.visible(pairs[0].source)} {formatting.ARROW} {formatting.visible(pairs[0].target)}"
    numbers = (
        *("Images", "Only first correct", "Only second correct", "p of accuracy (Holm)"),
        *("Difference in balanced accuracy", "p of difference (Holm)"),
    )
    return Table(
        f"Pairs of methods on the same test images, {transfer}",
        (
            Column("First", numeric=False, heads=True),
            Column("Second", numeric=False),
            *(Column(name) for name in numbers),
            Column("Verdict", numeric=False),
        ),
        tuple(_row(pair) for pair in pairs),
        stacked=True,
        kind="pairwise",
        note=note,
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
    """A p with three decimals; "<0.001" below that, and "<0.050" where it would be rounded up to the limit."""
    if p < 0.001:
        return "<0.001"
    text = f"{p:.3f}"
    return "<0.050" if text == "0.050" and p < 0.05 else text


def verdict(pair: Comparison) -> str:
    """The pair in words: "A is better", or "no significant difference"."""
    if pair.better is None:
        return NO_DIFFERENCE
    transductive = pair.first_transductive if pair.better == pair.first else pair.second_transductive
    return f"{_marked(formatting.visible(pair.better), transductive)} is better"


def _marked(name: str, transductive: bool) -> str:
    return f"{name} ({formatting.TRANSDUCTIVE})" if transductive else name


# ---------------------------------------------------------------------------------------------------------------- words


def sentences(comparisons: Sequence[Comparison], evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """For each source and target: the best method, or those without a significant difference; then those not compared.

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
    return quoted([formatting.visible(name) for name in names])


def _standing_sentence(standing: Standing) -> str:
    highest = standing.highest
    reached = f"balanced accuracy, {interval_cell(highest.scores.balanced_accuracy)}"
    name, where = _quoted(highest), _where(highest.source, highest.target)
    corrected = f"corrected for {formatting.counted(standing.n_comparisons, 'comparison')}"
    if standing.is_best:
        found = f"it is significantly the best ({corrected})"
    elif standing.not_told_apart:
        found = f"the difference to {_few(standing.not_told_apart)} is not significant ({corrected})"
    else:
        found = f"it is not compared with {_few(standing.not_compared)}"
    return (
        f"{where}: {name} has the highest {reached}, of {standing.n_methods} methods; {found}; chance is "
        f"{formatting.score(chance(highest))}, {majority(highest.scores.majority_rate)}."
    )


def _quoted(evaluation: Evaluation) -> str:
    return _marked(_named([evaluation.method]), evaluation.transductive)


def _few(evaluations: Sequence[Evaluation]) -> str:
    """Names, the highest balanced accuracy first; the rest of many is counted."""
    ranked = sorted(evaluations, key=lambda e: e.scores.balanced_accuracy.value or 0.0, reverse=True)
    more = len(ranked) - MOST_NAMES
    if more <= 1:
        return formatting.listed([_quoted(evaluation) for evaluation in ranked])
    return formatting.listed([*(_quoted(e) for e in ranked[:MOST_NAMES]), f"{more} others"])
