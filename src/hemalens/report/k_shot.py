"""Results with few labelled images per class, as tables and curves."""

from __future__ import annotations

from collections.abc import Sequence

from hemalens.evaluation import formatting
from hemalens.evaluation.results import Against, KShot
from hemalens.report import curve_sections as sections
from hemalens.report.curve_sections import Naming, Point, Target, Words
from hemalens.report.embeddings import NamedScatter, embedded
from hemalens.report.tables import Cell, Section, Table

OVERVIEW_NOTE = (
    "In small print: the 95 % interval. All labels: a classifier trained on all labels instead of k images of each cell "
    "type, on the same embeddings. Chance: the balanced accuracy of guessing. Majority rate: the accuracy of always "
    "predicting the most frequent cell type; the test images depend on k. n/a: not available."
)


def _words(anchor: str, heading: str, introduction: str, counted: str) -> Words:
    caption = (
        f"Scores against the number k of {counted}; higher is better. Points: means over the repeats; vertical lines: 95 % "
        "intervals. At each k the methods are drawn side by side."
    )
    against = f"the number k of {counted}, k ="
    return Words(anchor, heading, introduction, caption, f"{counted}, k", against, "k", "Repeats", "F1", "repeats")


_COUNTED: dict[Against, str] = {
    "shots": "labelled images of each cell type",
    "labelled": "labelled images",
    "unlabelled": "images without labels",
}
_WORDS: dict[Against, Words] = {
    "shots": _words(
        "k-shot",
        "Few labelled cells",
        "The support set has k labelled images of each cell type; the test images are classified with it. Scores are means "
        "over repeats with other support sets.",
        _COUNTED["shots"],
    ),
    "labelled": _words(
        "labelled",
        "Which cells to label",
        "At k = 0 the model is unchanged. Each strategy then chooses k cells to label, step by step, and the model learns "
        "from them. Test images cannot be chosen. Scores are means over repeats with other test images.",
        _COUNTED["labelled"],
    ),
    "unlabelled": _words(
        "unlabelled",
        "Images without labels",
        "At k = 0 the model is unchanged. It is then adapted to k images without labels. The test is inductive: test "
        "images are other images. Scores are means over repeats with other images.",
        _COUNTED["unlabelled"],
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
    """The results by the meaning of k and by target, in the order in which the targets come first."""
    found: list[Target[KShot]] = []
    for against, words in _WORDS.items():
        found += sections.targets(
            [result for result in results if result.against == against],
            anchor=words.anchor,
            namings=_NAMINGS,
            tag=lambda result: formatting.TRANSDUCTIVE if result.transductive else "",
            points=_points,
        )
    return tuple(found)


def _points(result: KShot) -> tuple[Point, ...]:
    return tuple(
        Point(shots.k, formatting.count(shots.k), Cell(formatting.count(shots.n_repeats)), shots, shots.f1)
        for shots in sorted(result.shots, key=lambda shots: shots.k)
    )


def overviews(results: Sequence[KShot]) -> tuple[Table, ...]:
    """An overview for each meaning of k."""
    by_meaning = {kind: targets([result for result in results if result.against == kind]) for kind in _WORDS}
    return tuple(
        sections.overview(
            found, f"Balanced accuracy with k {_COUNTED[kind]}, with 95 % intervals", OVERVIEW_NOTE, prefix="k = "
        )
        for kind, found in by_meaning.items()
        if found
    )


def section(target: Target[KShot], *, n_points: int) -> Section:
    """The section of one target, with `n_points` of each embedding at most."""
    against = target.lines[0].result.against
    warnings = sections.warning(
        target.lines,
        lambda result: result.transductive,
        head="Transductive",
        one="This method saw the test images, without their labels, before it classified them.",
        several="These methods saw the test images, without their labels, before they classified them.",
        others="The others did not: compare with care.",
    )
    scatters = [NamedScatter(ln.name, ln.tag, ln.result.scatter) for ln in target.lines if ln.result.scatter and n_points]
    cells = " or ".join(dict.fromkeys(formatting.visible(each.scatter.cells) or target.name for each in scatters))
    return sections.section(
        target,
        _WORDS[against],
        warnings=warnings,
        terms=(
            ("Images", lambda result: formatting.count(result.n_images)),
            ("Cell types", sections.cell_types),
            ("Embedder trained on", lambda result: formatting.visible(result.source)),
            ("Support set from", lambda result: formatting.visible(result.support)),
            *([("Drawn", _drawing)] if against == "shots" else []),
            ("Classifier", lambda result: formatting.visible(result.classifier)),
            ("Transductive", _transductive),
            ("All labels", _all_labels),
            ("Intervals", sections.intervals),
            ("Not tested", sections.not_tested),
        ),
        embeddings=embedded(scatters, name=f"{target.anchor}-scatter", cells=f"of {cells}", n_points=n_points),
    )


def _drawing(result: KShot) -> str:
    if result.replacement:
        return "with replacement: an image may be drawn twice"
    return "without replacement: no image is drawn twice"


def _transductive(result: KShot) -> str:
    return "yes: the test images were seen, without labels, before they were classified" if result.transductive else "no"


def _all_labels(result: KShot) -> str:
    return formatting.visible(result.supervised.what) if result.supervised else formatting.MISSING
