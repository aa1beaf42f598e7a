"""Results with a few labelled images a class as tables, words and curves, for HTML and Markdown alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hemalens.evaluation import formatting
from hemalens.evaluation.results import Against, Estimate, KShot, Shots
from hemalens.report import curve_lines as lines
from hemalens.report import curves
from hemalens.report.curve_lines import Line, Naming, Section, Target
from hemalens.report.curves import Axis, Curve
from hemalens.report.tables import Cell, Column, Group, Table, estimate_cell

OVERVIEW_NOTE = (
    "In small print: the 95 % interval. All labels: a classifier that learned from all labels instead of k images of each "
    "cell type, on the same embeddings. Chance: the balanced accuracy of guessing. Majority rate: the accuracy of always "
    "answering the most frequent cell type; the images left to test depend on k. n/a: not available."
)


@dataclass(frozen=True, slots=True)
class _Words:
    """What is said of the number k, which counts labelled images of each cell type, labelled images, or images."""

    anchor: str
    heading: str
    introduction: str
    axis: str
    counted: str


_WORDS: dict[Against, _Words] = {
    "shots": _Words(
        "k-shot",
        "Few labelled cells",
        "Of each cell type, k labelled images are memorised, and the tested images are classified by them. "
        "This is repeated with other memorised images, and every score is the mean over the repeats.",
        "labelled images of each cell type, k",
        "labelled images of each cell type",
    ),
    "labelled": _Words(
        "labelled",
        "Which cells to label",
        "From the model as it is (k = 0), k cells are labelled step by step, as each strategy chooses them, and the model "
        "learns from them. Tested are images that no strategy could choose. This is repeated with another part tested, and "
        "every score is the mean over the repeats.",
        "labelled images, k",
        "labelled images",
    ),
    "unlabelled": _Words(
        "unlabelled",
        "Images without labels",
        "From the model as it is (k = 0), parts of it follow k images without labels. Tested are other images than those: "
        "the test is inductive. This is repeated with another part tested and other images, and every score is the mean "
        "over the repeats.",
        "images without labels, k",
        "images without labels",
    ),
}


_NAMINGS: tuple[Naming[KShot], ...] = (
    lambda result: (result.method,),
    lambda result: (result.variant or result.method,),
    lambda result: (result.method, result.variant),
    lambda result: (result.name,),
    lambda result: (result.method, result.classifier),
    lambda result: (result.method, result.classifier, result.source, result.support),
)


def targets(results: Sequence[KShot]) -> tuple[Target[KShot], ...]:
    """The results by what their scores stand against and by target, in the order in which the targets come first."""
    found: list[Target[KShot]] = []
    for against, words in _WORDS.items():
        found += lines.targets(
            [result for result in results if result.against == against],
            anchor=words.anchor,
            namings=_NAMINGS,
            tag=lambda result: formatting.TRANSDUCTIVE if result.transductive else "",
        )
    return tuple(found)


def against(target: Target[KShot]) -> Against:
    """What the scores on a target stand against."""
    return target.lines[0].result.against


def _of(target: Target[KShot]) -> _Words:
    return _WORDS[against(target)]


def _ks(target: Target[KShot]) -> tuple[int, ...]:
    """Every k of any line, ascending."""
    return tuple(sorted({shots.k for line in target.lines for shots in line.result.shots}))


def overviews(results: Sequence[KShot]) -> tuple[tuple[Table, str], ...]:
    """For each thing that scores stand against the overview of its results, with a note."""
    kinds = [[r for r in results if r.against == kind] for kind in _WORDS]
    return tuple((overview(kind), OVERVIEW_NOTE) for kind in kinds if kind)


def overview(results: Sequence[KShot]) -> Table:
    """Balanced accuracy of every method (row) for every k (column), by target; all stand against the same."""
    found = targets(results)
    counted = _of(found[0]).counted if found else _WORDS["shots"].counted
    ks = sorted({k for target in found for k in _ks(target)})
    has_reference = any(result.supervised for result in results)
    titles = [*(f"k = {k}" for k in ks), *(["All labels"] if has_reference else []), *lines.GUESSES]
    return Table(
        f"Balanced accuracy with k {counted}, with 95 % intervals",
        (Column("Method", numeric=False, heads=True), *(Column(title) for title in titles)),
        groups=tuple(
            Group(
                Cell(target.name, href=f"#{target.anchor}"),
                tuple(_overview_row(line, ks, has_reference=has_reference) for line in target.lines),
            )
            for target in found
        ),
        grouped_by="Target",
        stacked=True,
    )


def _overview_row(line: Line[KShot], ks: Sequence[int], *, has_reference: bool) -> tuple[Cell, ...]:
    by_k = {shots.k: shots.balanced_accuracy for shots in line.result.shots}
    supervised = line.result.supervised
    estimates = [by_k.get(k) for k in ks] + (
        [supervised.balanced_accuracy if supervised else None] if has_reference else []
    )
    cells = (estimate_cell(e.model_copy(update={"std": None})) if e else Cell(formatting.MISSING) for e in estimates)
    rates = [shots.majority_rate for shots in line.result.shots]
    return (Cell(line.name, tag=line.tag), *cells, *lines.guesses(line.result.classes, rates))


def section(target: Target[KShot]) -> Section:
    """What the report says of one target."""
    return Section(
        anchor=target.anchor,
        target=target.name,
        heading=f"{_of(target).heading}: {target.name}",
        introduction=_of(target).introduction,
        warnings=lines.warning(
            target.lines,
            lambda result: result.transductive,
            head="Transductive",
            one="Before this method classified, it had looked at the tested images, without their labels.",
            several="Before these methods classified, they had looked at the tested images, without their labels.",
            others="The others had not: compare with care.",
        ),
        caption=_caption(target),
        n_classes=len(target.classes),
        facts=lines.facts(
            target.lines,
            (
                ("Images", lambda result: formatting.count(result.n_images)),
                ("Cell types", lines.cell_types),
                ("Embedder trained on", lambda result: formatting.visible(result.source)),
                ("Memorised images from", lambda result: formatting.visible(result.support)),
                *([("Drawn", _drawing)] if against(target) == "shots" else []),
                ("Classifier", lambda result: formatting.visible(result.classifier)),
                ("Transductive", _transductive),
                ("All labels", _all_labels),
                ("Intervals", lines.intervals),
                ("Not tested", lines.not_tested),
            ),
        ),
        tables=(("Every score", scores(target)), ("Every cell type", class_scores(target))),
        unreadable=lines.unreadable(target.lines),
    )


def _caption(target: Target[KShot]) -> tuple[str, str]:
    return (
        "Scores against k,",
        f"the number of {_of(target).counted}. Points: means over the repeats; upright lines: 95 % intervals. "
        "At each k the methods stand side by side.",
    )


def _drawing(result: KShot) -> str:
    if result.replacement:
        return "with replacement: an image may be memorised twice"
    return "without replacement: no image is memorised twice"


def _transductive(result: KShot) -> str:
    return "yes: looked at the tested images, without labels, before any was classified" if result.transductive else "no"


def _all_labels(result: KShot) -> str:
    return formatting.visible(result.supervised.what) if result.supervised else formatting.MISSING


def figures(target: Target[KShot]) -> tuple[str, str]:
    """Balanced accuracy and accuracy against k as two SVGs."""
    ks = _ks(target)
    axis = Axis(_of(target).axis, {k: formatting.count(k) for k in ks})
    shown = formatting.listed(list(axis.ticks.values())) if ks else formatting.MISSING
    methods = formatting.counted(len(target.lines), "method")
    return curves.line_figures(
        [
            Curve(style, tuple((s.k, s) for s in line.result.shots), len(line.result.classes), line.result.supervised)
            for line, style in zip(target.lines, curves.line_styles(target.lines), strict=True)
        ],
        axis,
        name=target.anchor,
        against=f"on {target.name} against the number k of {_of(target).counted}, k = {shown}, {methods}",
    )


def scores(target: Target[KShot]) -> Table:
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
        balanced, accuracy = (
            estimate_cell(result.supervised.balanced_accuracy, drawn=True, with_spread=True),
            estimate_cell(result.supervised.accuracy, with_spread=True),
        )
        none = Cell(formatting.MISSING)
        rows.append((Cell("all labels"), none, balanced, accuracy, none, none))
    return tuple(rows)


def class_scores(target: Target[KShot]) -> Table:
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
