"""Tables and other blocks of a report, which `html` and `markdown` both render."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hemalens.evaluation import formatting
from hemalens.evaluation.results import ComparisonTable, Estimate, Evaluation
from hemalens.report.figures import Figures

# "0.91", "<0.01", "1,234", "0.91 ± 0.02", "0.91 (0.88–0.93)", "12 %"
_NUMBER = re.compile(r"[<>~+\-−]?\s?\d[\d\s.,%()±–-]*")


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: a value, its notes (interval, spread), a link, a warning `tag`, and (low, value, high) to draw."""

    text: str
    notes: tuple[str, ...] = ()
    href: str = ""
    limits: tuple[float, float, float] | None = None
    tag: str = ""

    def __str__(self) -> str:
        """The cell as text, without its tag: "0.800 (0.780-0.820; SD 0.010)"."""
        return f"{self.text} ({'; '.join(self.notes)})" if self.notes else self.text


@dataclass(frozen=True, slots=True)
class Column:
    """The head of a column; `numeric` columns are aligned right, the `heads` column names the row."""

    title: str
    numeric: bool = True
    heads: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Rows below a head of their own."""

    head: Cell
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its caption, the `heading` above it and the `note` below it; one cell per column in every row.

    In Markdown the heads of `groups` become a first column titled `grouped_by`. In a `stacked` table the notes of a cell
    are printed below its value. `kind` is a CSS class.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...] = ()
    groups: tuple[Group, ...] = ()
    grouped_by: str = ""
    stacked: bool = False
    heading: str = ""
    note: str = ""
    kind: str = ""
    where: str = ""
    """Completes the caption where several tables of a page share it."""


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; a "notice" is a warning."""

    text: str
    kind: str = "note"


@dataclass(frozen=True, slots=True)
class Items:
    """A list of lines."""

    lines: tuple[str, ...]
    heading: str = ""
    kind: str = "plain"


@dataclass(frozen=True, slots=True)
class Facts:
    """Terms, each with the lines that explain it."""

    pairs: tuple[tuple[str, tuple[str, ...]], ...]
    heading: str = ""
    tag: str = ""


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores in large print, each with its name."""

    cells: tuple[tuple[str, Cell], ...]


@dataclass(frozen=True, slots=True)
class Code:
    """Text in a fixed-width font."""

    text: str
    heading: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """One cell: pictures as (what they show, JPEG or PNG in base64 or an empty text), a caption and a file name.

    `href` is the path of a larger picture, which the first one opens.
    """

    images: tuple[tuple[str, str], ...]
    caption: str
    name: str
    href: str = ""


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures of cells, `n_abreast` of one cell side by side; `listed` introduces their names in Markdown.

    `kind` is a CSS class: "fields" and "overlays" for larger pictures.
    """

    pictures: tuple[Picture, ...]
    heading: str
    note: str = ""
    n_abreast: int = 1
    listed: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Fold:
    """Blocks that the reader unfolds, below a summary; a `titled` one has it as a heading in Markdown."""

    summary: str
    blocks: tuple[Block, ...]
    kind: str = ""
    is_open: bool = False
    titled: bool = False


@dataclass(frozen=True, slots=True)
class Card:
    """Blocks in a column of their own."""

    blocks: tuple[Block, ...]


Block = Text | Items | Facts | Scores | Code | Table | Figures | Gallery | Fold | Card


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report with the HTML id `anchor`; evaluations have a `number`."""

    anchor: str
    heading: str
    blocks: tuple[Block, ...]
    kind: str = "chapter"
    number: int = 0


def evaluation_anchor(number: int) -> str:
    """The HTML id of the section of an evaluation, counted from 1."""
    return f"evaluation-{number}"


def chance(evaluation: Evaluation) -> float | None:
    """The balanced accuracy of guessing: one over the number of tested classes; None without any."""
    return 1 / len(evaluation.tested_classes) if evaluation.tested_classes else None


def quoted(names: Sequence[str]) -> str:
    """Names, which may hold commas, as a list in a sentence."""
    return formatting.listed([f"\N{LEFT DOUBLE QUOTATION MARK}{name}\N{RIGHT DOUBLE QUOTATION MARK}" for name in names])


def majority(*rates: float | None) -> str:
    """The accuracy of always predicting the most frequent class, in words."""
    found = formatting.listed(list(dict.fromkeys(map(formatting.score, rates))))
    return f"always predicting the most frequent class gives an accuracy of {found}"


def estimate_cell(estimate: Estimate, *, drawn: bool = False, with_spread: bool = False) -> Cell:
    """An estimate with its interval and standard deviation, where they are known.

    `drawn` adds the limits as numbers, `with_spread` prints "n/a" for a missing standard deviation.
    """
    spread = formatting.spread(estimate) or (f"SD {formatting.MISSING}" if with_spread else "")
    notes = tuple(text for text in (formatting.interval(estimate), spread) if text)
    limits = None
    if drawn and estimate.value is not None and estimate.low is not None and estimate.high is not None:
        limits = (estimate.low, estimate.value, estimate.high)
    return Cell(formatting.score(estimate.value), notes, limits=limits)


def interval_cell(estimate: Estimate | None) -> Cell:
    """An estimate with its interval alone; "n/a" for None."""
    return estimate_cell(estimate.model_copy(update={"std": None})) if estimate else Cell(formatting.MISSING)


def text_table(caption: str, titles: Sequence[str], rows: Sequence[Sequence[str]], *, heading: str = "") -> Table:
    """A table of texts; the first column names the rows."""
    columns = tuple(Column(title, numeric=False, heads=i == 0) for i, title in enumerate(titles))
    cells = tuple(tuple(Cell(formatting.visible(text) or formatting.MISSING) for text in row) for row in rows)
    return Table(caption, columns, cells, heading=heading, kind="pairs")


def number_columns(first: str, titles: Sequence[str], *, numeric: bool = False) -> tuple[Column, ...]:
    """A first column that names the rows, and a column of numbers for each title."""
    return (Column(first, numeric=numeric, heads=True), *(Column(title) for title in titles))


def study_table(table: ComparisonTable) -> Table:
    """A study's own table; a column that holds numbers alone, as values or as text, is aligned right."""
    columns = tuple(
        Column(formatting.visible(title), numeric=i > 0 and all(_is_number(row[i]) for row in table.rows), heads=i == 0)
        for i, title in enumerate(table.columns)
    )
    rows = tuple(tuple(_study_cell(value) for value in row) for row in table.rows)
    return Table(formatting.visible(table.title), columns, rows, note=sentence(table.note), kind="comparison")


def _is_number(value: str | float | None) -> bool:
    return not isinstance(value, str) or _NUMBER.fullmatch(value) is not None


def _study_cell(value: str | int | float | None) -> Cell:
    if isinstance(value, int):
        return Cell(formatting.count(value))
    return Cell(formatting.visible(value) if isinstance(value, str) else formatting.score(value))


def sentence(text: str) -> str:
    """A user's text with a full stop at its end; an empty text stays empty."""
    text = formatting.visible(text).rstrip()
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."


def reasons(counts: Mapping[str, int]) -> tuple[str, ...]:
    """One line per reason, with its count."""
    return tuple(f"{formatting.visible(reason)}: {formatting.count(n)}" for reason, n in counts.items())


def left_out(reason_of: Mapping[str, str]) -> tuple[str, ...]:
    """The classes that are not tested, one line per reason."""
    by_reason: dict[str, list[str]] = {}
    for code, reason in reason_of.items():
        by_reason.setdefault(formatting.visible(reason), []).append(formatting.label(code))
    return tuple(f"{formatting.listed(names)}: {reason}" for reason, names in by_reason.items())


def unreadable(files: Mapping[str, str] | Sequence[tuple[str, str]]) -> tuple[Fold, ...]:
    """The images that could not be read, with the reasons; nothing where there are none."""
    pairs = list(files.items() if isinstance(files, Mapping) else files)
    if not pairs:
        return ()
    lines = tuple(f"{formatting.visible(name)}: {formatting.visible(reason)}" for name, reason in pairs)
    n = formatting.counted(len(pairs), "unreadable image")
    return (Fold(f"{n}, not in any score", (Items(lines, kind="plain files"),), is_open=len(pairs) <= 12, titled=True),)
