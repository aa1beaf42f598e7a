"""Results with a few labelled images a class as tables and words, from which HTML and Markdown are both written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hemalens.evaluation.report import formatting
from hemalens.evaluation.report.tables import Cell, Column, Group, Table, estimate_cell, left_out
from hemalens.evaluation.results import Estimate, KShot, Report, Shots

N_OTHERS = 3
"""So many methods, or more, with the same setting need not be named where the rest are."""
INTRODUCTION = (
    "Of each cell type, k labelled images are memorised, and the tested images are classified by them. "
    "This is repeated with other memorised images, and every score is the mean over the repeats."
)


@dataclass(frozen=True, slots=True)
class Line:
    """One k-shot result, with the words that tell it apart from the others on its target."""

    name: str
    result: KShot

    @property
    def tag(self) -> str:
        """A warning that goes wherever the result is shown, or an empty text."""
        return formatting.TRANSDUCTIVE if self.result.transductive else ""


@dataclass(frozen=True, slots=True)
class Target:
    """A laboratory with every k-shot result on it, in the order of the report."""

    number: int
    name: str
    lines: tuple[Line, ...]

    @property
    def anchor(self) -> str:
        """The HTML id of its section."""
        return f"k-shot-{self.number}"

    @property
    def ks(self) -> tuple[int, ...]:
        """Every k of any line, ascending."""
        return tuple(sorted({shots.k for line in self.lines for shots in line.result.shots}))

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of any line, in the order in which they come first."""
        return tuple(dict.fromkeys(code for line in self.lines for code in line.result.classes))


def targets(report: Report) -> tuple[Target, ...]:
    """The k-shot results of a report by target, in the order in which the targets come first."""
    by_target: dict[str, list[KShot]] = {}
    for result in report.k_shot:
        by_target.setdefault(result.target, []).append(result)
    return tuple(
        Target(number, formatting.visible(name), tuple(map(Line, _names(results), results)))
        for number, (name, results) in enumerate(by_target.items(), start=1)
    )


_NAMINGS: tuple[Callable[[KShot], tuple[str, ...]], ...] = (
    lambda result: (result.method,),
    lambda result: (result.name,),
    lambda result: (result.method, result.classifier),
    lambda result: (result.method, result.classifier, result.source, result.support),
)


def _names(results: Sequence[KShot]) -> list[str]:
    """The shortest naming that tells all results apart; where none does, with a number after each."""
    for naming in _NAMINGS:
        names = [", ".join(map(formatting.visible, naming(result))) for result in results]
        if len(set(names)) == len(names):
            return names
    return [f"{formatting.visible(result.name)} ({number})" for number, result in enumerate(results, start=1)]


def overview(report: Report) -> Table:
    """Balanced accuracy of every method (row) for every k (column), by target."""
    found = targets(report)
    ks = sorted({k for target in found for k in target.ks})
    has_reference = any(result.supervised for result in report.k_shot)
    titles = [f"k = {k}" for k in ks] + (["All labels"] if has_reference else [])
    return Table(
        "Balanced accuracy with k labelled images of each cell type, with 95 % intervals",
        (Column("Method", numeric=False, heads=True), *(Column(title) for title in titles)),
        groups=tuple(
            Group(
                Cell(target.name, href=f"#{target.anchor}"),
                tuple(_overview_row(line, ks, has_reference=has_reference) for line in target.lines),
            )
            for target in found
        ),
        grouped_by="Target",
    )


def _overview_row(line: Line, ks: Sequence[int], *, has_reference: bool) -> tuple[Cell, ...]:
    by_k = {shots.k: shots.balanced_accuracy for shots in line.result.shots}
    supervised = line.result.supervised
    estimates = [by_k.get(k) for k in ks] + (
        [supervised.balanced_accuracy if supervised else None] if has_reference else []
    )
    cells = (estimate_cell(e.model_copy(update={"std": None})) if e else Cell(formatting.MISSING) for e in estimates)
    return (Cell(line.name, tag=line.tag), *cells)


def scores(target: Target) -> Table:
    """All scores of every method for every k, and with all labels."""
    names = ("Balanced accuracy", "Accuracy", "Majority rate", "Macro F1")
    return Table(
        f"Scores on {target.name}: means over the repeats with 95 % intervals, and SD, the standard deviation over repeats",
        (Column("k", heads=True), Column("Repeats"), *(Column(name) for name in names)),
        groups=tuple(Group(Cell(line.name, tag=line.tag), _score_rows(line.result)) for line in target.lines),
        grouped_by="Method",
    )


def _score_rows(result: KShot) -> tuple[tuple[Cell, ...], ...]:
    rows = [
        (
            Cell(formatting.count(shots.k)),
            Cell(formatting.count(shots.n_repeats)),
            estimate_cell(shots.balanced_accuracy, drawn=True),
            estimate_cell(shots.accuracy),
            Cell(formatting.score(shots.majority_rate)),
            estimate_cell(shots.macro_f1),
        )
        for shots in result.shots
    ]
    if result.supervised:
        balanced, accuracy = result.supervised.balanced_accuracy, result.supervised.accuracy
        none = Cell(formatting.MISSING)
        rows.append(
            (Cell("all labels"), none, _without_repeats(balanced, drawn=True), _without_repeats(accuracy), none, none)
        )
    return tuple(rows)


def _without_repeats(estimate: Estimate, *, drawn: bool = False) -> Cell:
    cell = estimate_cell(estimate, drawn=drawn)
    return cell if estimate.std is not None else replace(cell, notes=(*cell.notes, f"SD {formatting.MISSING}"))


def class_scores(target: Target) -> Table:
    """F1 of every cell type for every method and k: mean and standard deviation over repeats."""
    classes = target.classes
    return Table(
        f"F1 of each cell type on {target.name}: mean \N{PLUS-MINUS SIGN} standard deviation over the repeats",
        (Column("k", heads=True), *(Column(formatting.label(code)) for code in classes)),
        groups=tuple(
            Group(Cell(line.name, tag=line.tag), tuple(_class_row(shots, classes) for shots in line.result.shots))
            for line in target.lines
        ),
        grouped_by="Method",
    )


def _class_row(shots: Shots, classes: Sequence[str]) -> tuple[Cell, ...]:
    return (Cell(formatting.count(shots.k)), *(_mean_and_spread(shots.f1.get(code)) for code in classes))


def _mean_and_spread(estimate: Estimate | None) -> Cell:
    if estimate is None or estimate.std is None:
        return Cell(formatting.score(estimate.value if estimate else None))
    return Cell(formatting.score(estimate.value), (f"\N{PLUS-MINUS SIGN} {formatting.score(estimate.std)}",))


def warning(target: Target) -> str:
    """What a reader must know of transductive results, or an empty text where there are none."""
    names = [line.name for line in target.lines if line.tag]
    if not names:
        return ""
    these, they = ("this method", "it") if len(names) == 1 else ("these methods", "they")
    others = " The others had not: compare with care." if len(names) < len(target.lines) else ""
    return (
        f"Transductive: {_listed(names)}. Before {these} classified, {they} had looked at the tested images, "
        f"without their labels.{others}"
    )


def facts(target: Target) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """How it was measured, as pairs of a term and its lines; where methods differ, each line says whose it is."""
    terms: tuple[tuple[str, Callable[[KShot], str]], ...] = (
        ("Images", lambda result: formatting.count(result.n_images)),
        ("Cell types", lambda result: f"{len(result.classes)}: {', '.join(map(formatting.label, result.classes))}"),
        ("Embedder trained on", lambda result: formatting.visible(result.source)),
        ("Memorised images from", lambda result: formatting.visible(result.support)),
        ("Drawn", _drawing),
        ("Classifier", lambda result: formatting.visible(result.classifier)),
        ("Transductive", _transductive),
        (
            "All labels",
            lambda result: formatting.visible(result.supervised.what) if result.supervised else formatting.MISSING,
        ),
        ("Intervals", lambda result: formatting.visible(result.intervals)),
        ("Not tested", lambda result: "; ".join(left_out(result.left_out)) or "every cell type is tested"),
    )
    return tuple((term, _shared(target.lines, words)) for term, words in terms)


def _drawing(result: KShot) -> str:
    if result.replacement:
        return "with replacement: an image may be memorised twice"
    return "without replacement: no image is memorised twice"


def _transductive(result: KShot) -> str:
    return "yes: looked at the tested images, without labels, before any was classified" if result.transductive else "no"


def _shared(lines: Sequence[Line], words: Callable[[KShot], str]) -> tuple[str, ...]:
    """The text that all lines share, or each text after the names of its lines; most lines are "the others"."""
    by_text: dict[str, list[str]] = {}
    for line in lines:
        by_text.setdefault(words(line.result), []).append(line.name)
    if len(by_text) == 1:
        return tuple(by_text)
    most = max(map(len, by_text.values()))
    ordered = sorted(by_text.items(), key=lambda item: len(item[1]))
    heads = [_listed(names) for _, names in ordered[:-1]]
    heads.append("the others" if most >= N_OTHERS else _listed(ordered[-1][1]))
    return tuple(f"{head}: {text}" for head, (text, _) in zip(heads, ordered, strict=True))


def _listed(names: Sequence[str]) -> str:
    """Names, which may hold commas, as a list in a sentence."""
    return formatting.listed([f"\N{LEFT DOUBLE QUOTATION MARK}{name}\N{RIGHT DOUBLE QUOTATION MARK}" for name in names])


def unreadable(target: Target) -> tuple[tuple[str, str], ...]:
    """File and reason of every image that could not be read, once; with the methods where it is not all of them."""
    found = Counter(item for line in target.lines for item in line.result.unreadable.items())
    rows = []
    for (file, reason), n in found.items():
        names = [line.name for line in target.lines if line.result.unreadable.get(file) == reason]
        whose = "" if n == len(target.lines) else f" ({_listed(names)})"
        rows.append((file, formatting.visible(reason) + whose))
    return tuple(rows)
