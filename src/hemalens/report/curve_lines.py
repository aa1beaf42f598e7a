"""Several results on one target as the lines of a figure: their names, and what of them must be told in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from hemalens.evaluation import formatting
from hemalens.evaluation.results import FractionCurve, KShot
from hemalens.report.tables import Cell, Table, left_out

R_co = TypeVar("R_co", bound=KShot | FractionCurve, covariant=True)
T = TypeVar("T", bound=KShot | FractionCurve)
Facts = tuple[tuple[str, tuple[str, ...]], ...]
"""Pairs of a term and the lines that explain it."""

N_OTHERS = 3
"""So many methods, or more, with the same setting need not be named where the rest are."""

GUESSES = ("Chance", "Majority rate")
"""Titles of the columns that `guesses` fills."""


@dataclass(frozen=True, slots=True)
class Line(Generic[R_co]):
    """One result, with the words that tell it apart from the others on its target.

    `tag` is a warning that goes wherever the result is shown, or an empty text.
    """

    name: str
    result: R_co
    tag: str


@dataclass(frozen=True, slots=True)
class Target(Generic[R_co]):
    """A laboratory with every result on it, in the order of the report; `anchor` is the HTML id of its section."""

    anchor: str
    name: str
    lines: tuple[Line[R_co], ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of any line, in the order in which they come first."""
        return tuple(dict.fromkeys(code for line in self.lines for code in line.result.classes))


@dataclass(frozen=True, slots=True)
class Section:
    """A target in words and tables, without its figures.

    `caption` is the head and the rest of what is said of the figure. `tables` come with the headings over them.
    `unreadable` are file and reason.
    """

    anchor: str
    target: str
    heading: str
    introduction: str
    warnings: tuple[str, ...]
    caption: tuple[str, str]
    n_classes: int
    facts: Facts
    tables: tuple[tuple[str, Table], ...]
    unreadable: tuple[tuple[str, str], ...]


Naming = Callable[[T], tuple[str, ...]]
"""The texts that make up the name of a result."""


def targets(
    results: Sequence[T], *, anchor: str, namings: Sequence[Naming[T]], tag: Callable[[T], str]
) -> tuple[Target[T], ...]:
    """Results by target, in the order in which the targets come first; ids are `anchor` with a number."""
    by_target: dict[str, list[T]] = {}
    for result in results:
        by_target.setdefault(result.target, []).append(result)
    return tuple(
        Target(
            f"{anchor}-{number}",
            formatting.visible(name),
            tuple(Line(words, result, tag(result)) for words, result in zip(_names(here, namings), here, strict=True)),
        )
        for number, (name, here) in enumerate(by_target.items(), start=1)
    )


def _names(results: Sequence[T], namings: Sequence[Naming[T]]) -> list[str]:
    """The first naming that tells all results apart; where none does, the names with a number after each."""
    for naming in namings:
        names = [", ".join(map(formatting.visible, naming(result))) for result in results]
        if len(set(names)) == len(names):
            return names
    return [f"{formatting.visible(result.name)} ({number})" for number, result in enumerate(results, start=1)]


def facts(lines: Sequence[Line[T]], terms: Sequence[tuple[str, Callable[[T], str]]]) -> Facts:
    """What each term says of the lines; where they differ, each text says whose it is."""
    return tuple((term, _shared(lines, words)) for term, words in terms)


def _shared(lines: Sequence[Line[T]], words: Callable[[T], str]) -> tuple[str, ...]:
    """The text that all lines share, or each text after the names of its lines; most lines are "the others"."""
    by_text: dict[str, list[str]] = {}
    for line in lines:
        by_text.setdefault(words(line.result), []).append(line.name)
    if len(by_text) == 1:
        return tuple(by_text)
    most = max(map(len, by_text.values()))
    ordered = sorted(by_text.items(), key=lambda item: len(item[1]))
    heads = [listed(names) for _, names in ordered[:-1]]
    heads.append("the others" if most >= N_OTHERS else listed(ordered[-1][1]))
    return tuple(f"{head}: {text}" for head, (text, _) in zip(heads, ordered, strict=True))


def cell_types(result: KShot | FractionCurve) -> str:
    """Number and names of the classes of a result."""
    return f"{len(result.classes)}: {', '.join(map(formatting.label, result.classes))}"


def intervals(result: KShot | FractionCurve) -> str:
    """How the intervals of a result were made."""
    return formatting.visible(result.intervals)


def not_tested(result: KShot | FractionCurve) -> str:
    """The classes that are not tested, with the reasons."""
    return "; ".join(left_out(result.left_out)) or "every cell type is tested"


def warning(
    lines: Sequence[Line[T]], meant: Callable[[T], bool], *, head: str, one: str, several: str, others: str
) -> tuple[str, ...]:
    """What a reader must know of the lines that are `meant`, or nothing where there are none.

    `one` or `several` is said of them, and `others` where there are lines that are not meant.
    """
    names = [line.name for line in lines if meant(line.result)]
    if not names:
        return ()
    rest = f" {others}" if len(names) < len(lines) else ""
    return (f"{head}: {listed(names)}. {one if len(names) == 1 else several}{rest}",)


def listed(names: Sequence[str]) -> str:
    """Names, which may hold commas, as a list in a sentence."""
    return formatting.listed([f"\N{LEFT DOUBLE QUOTATION MARK}{name}\N{RIGHT DOUBLE QUOTATION MARK}" for name in names])


def guesses(classes: Sequence[str], majority_rates: Sequence[float]) -> tuple[Cell, Cell]:
    """The balanced accuracy of guessing, and the accuracy of always giving the most frequent answer, or its range."""
    chance = formatting.score(1 / len(classes) if classes else None)
    ends = [formatting.score(end(majority_rates)) for end in (min, max)] if majority_rates else [formatting.MISSING]
    return Cell(chance), Cell(formatting.EN_DASH.join(dict.fromkeys(ends)))


def unreadable(lines: Sequence[Line[T]]) -> tuple[tuple[str, str], ...]:
    """File and reason of every image that could not be read, once; with the methods where it is not all of them."""
    found = Counter(item for line in lines for item in line.result.unreadable.items())
    rows = []
    for (file, reason), n in found.items():
        names = [line.name for line in lines if line.result.unreadable.get(file) == reason]
        whose = "" if n == len(lines) else f" ({listed(names)})"
        rows.append((file, formatting.visible(reason) + whose))
    return tuple(rows)
