"""Slides and their fields: a folder, a table of fields, a single image, or a TIFF of several pages."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hemalens.datasets.base import Listing, Record
from hemalens.datasets.images import plain_images, prepared, split_page
from hemalens.datasets.readers.csv_table import path_in_table
from hemalens.datasets.tables import WORKBOOKS, read_table, table_file
from hemalens.errors import DatasetError, InputError, one_line
from hemalens.imaging.reading import named
from hemalens.progress import Say
from hemalens.runs.counting.options import CountOptions, check_red_count, check_white_count

TABLES = (".csv", ".tsv", ".txt", *WORKBOOKS)
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "slide": ("slide_id", "slide_name", "smear"),
    "field": ("path", "file", "filename", "file_name", "image", "image_path"),
    "white_count": ("wbc",),
    "red_count": ("rbc",),
}
"""Columns of a table of fields, and what others call them."""
NEEDED = ("slide", "field")
LAYOUT = (
    "a CSV or .xlsx with the columns slide,field and optionally white_count,red_count; paths relative to the table, "
    "inside its folder"
)
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices."""
LONGEST_NAME = 60
_PARTS = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class SlideField:
    """A field of a slide: its image, its name in tables, and its name in file names, unique in the slide."""

    record: Record
    name: str
    file: str


@dataclass(frozen=True, slots=True)
class Slide:
    """A slide: its fields in a stable order, its name in file names, and the counts of the analyser, None where unknown."""

    name: str
    file: str
    fields: tuple[SlideField, ...]
    white_count: float | None = None
    red_count: float | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """Fields of slides before they have file names: (slide, name of the field, record), and counts by slide."""

    fields: Sequence[tuple[str, str, Record]]
    white_counts: Mapping[str, float]
    red_counts: Mapping[str, float]


def open_slides(source: Path, options: CountOptions, *, say: Say) -> tuple[Slide, ...]:
    """The slides at `source`, sorted by name, their fields likewise; raises `DatasetError` where there is no field.

    A folder is a slide with the images that lie in it, each folder below it one more. A table lists slides and fields. A
    single image, or a TIFF of several pages, is a slide. `say` is given a line on what is left out.
    """
    file, _ = table_file(source)
    given = _from_table(source, say) if file.suffix.lower() in TABLES and not file.is_dir() else _from_images(source, say)
    given = _with_options(given, options)
    by_slide: dict[str, dict[str, Record]] = {}
    twice: Counter[str] = Counter()
    for slide, name, record in given.fields:
        fields = by_slide.setdefault(slide, {})
        twice[slide] += name in fields
        fields[name] = record
    for slide, n in twice.items():
        if n:
            say(f"slide {one_line(slide)}: {n} field(s) listed twice are counted once")
    files = file_names(by_slide)
    return tuple(
        Slide(
            slide,
            files[slide],
            _slide_fields(by_slide[slide]),
            given.white_counts.get(slide),
            given.red_counts.get(slide),
        )
        for slide in sorted(by_slide, key=natural)
    )


def _slide_fields(records: Mapping[str, Record]) -> tuple[SlideField, ...]:
    stems = {name: named(Path(record.path.stem), record.page) for name, record in records.items()}
    files = file_names(records, stems)
    return tuple(SlideField(records[name], name, files[name]) for name in sorted(records, key=natural))


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts names as people number them: field 2 before field 10."""
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in _PARTS.split(name) if part]


def file_names(names: Iterable[str], shown: Mapping[str, str] | None = None) -> dict[str, str]:
    """A file name for each name, safe on every system and unique without regard to case.

    `shown` are the texts that they are made of, the names themselves by default. The order of `names` does not matter.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in sorted(names, key=natural):
        plain = safe_name(name if shown is None else shown[name])
        free, number = plain, 1
        while free.casefold() in taken:
            number += 1
            free = f"{plain}-{number}"
        taken.add(free.casefold())
        found[name] = free
    return found


def safe_name(text: str) -> str:
    """A text as a file name: letters, digits, dots and dashes, at most 60, never hidden, never a device's name."""
    plain = _UNSAFE.sub("_", text).strip("._-")[:LONGEST_NAME].rstrip("._-") or "unnamed"
    return f"_{plain}" if _RESERVED.fullmatch(plain) else plain


def _from_images(source: Path, say: Say) -> _Found:
    listing = plain_images(source)
    for note in listing.notes:
        say(note)
    file, _ = split_page(source)
    if not file.is_dir():
        fields = [(file.stem, named(Path(file.name), record.page), record) for record in listing.records]
        return _Found(fields, {}, {})
    places = [Path(os.path.relpath(record.path, file)) for record in listing.records]
    below = {place.parent.as_posix() for place in places}
    own = Path(os.path.abspath(file)).name or "slide"
    # a folder in it may have its name
    own = f"./{own}" if own in below else own
    fields = []
    for place, record in zip(places, listing.records, strict=True):
        slide = own if place.parent == Path(".") else place.parent.as_posix()
        fields.append((slide, named(Path(place.name), record.page), record))
    return _Found(fields, {}, {})


def _from_table(source: Path, say: Say) -> _Found:
    file, _ = table_file(source)
    if not file.is_file():
        raise DatasetError(f"there is no table {one_line(file)}", expected=LAYOUT)
    table = read_table(source, fits=lambda names: all(_place(names, wanted) is not None for wanted in NEEDED))
    places = {wanted: _place(table.columns, wanted) for wanted in COLUMNS}
    missing = [wanted for wanted in NEEDED if places[wanted] is None]
    if missing:
        raise DatasetError(
            f"{one_line(file)} lacks the column(s) {', '.join(missing)}",
            expected=LAYOUT,
            got=", ".join(table.columns)[:200] or "no header",
        )
    if not table.rows:
        raise DatasetError(f"{one_line(file)} lists no field", expected=LAYOUT)
    records: list[Record] = []
    counts: dict[str, dict[str, float]] = {"white_count": {}, "red_count": {}}
    for line, row in table.rows:
        values = {wanted: row[place].strip() for wanted, place in places.items() if place is not None}
        where = f"{one_line(file)}, line {line}"
        if not values["slide"]:
            raise DatasetError(f"{where}: the slide has no name")
        records.append(_record(file.parent, values, where))
        for kind, known in counts.items():
            _add_count(known, kind, values, where)
    listing = prepared(Listing(records, [table.read_as] if table.read_as else []), file.parent)
    for note in listing.notes:
        say(note)
    folder = os.path.abspath(file.parent)
    fields = [
        (str(record.group), named(Path(os.path.relpath(record.path, folder)), record.page), record)
        for record in listing.records
    ]
    return _Found(fields, counts["white_count"], counts["red_count"])


def _place(columns: Sequence[str], wanted: str) -> int | None:
    """The index of a column: that of its name, otherwise the first of a like name."""
    folded = ["_".join(name.casefold().replace("-", " ").replace("_", " ").split()) for name in columns]
    names = (wanted, *COLUMNS[wanted])
    return next((folded.index(name) for name in names if name in folded), None)


def _record(folder: Path, values: Mapping[str, str], where: str) -> Record:
    name = values["field"]
    _, page = split_page(folder / name)
    path = path_in_table(folder, name if page is None else name.removesuffix(f"#{page}"), where)
    return Record(path, source_label="", domain=folder.name, group=values["slide"], page=page)


def _add_count(known: dict[str, float], kind: str, values: Mapping[str, str], where: str) -> None:
    """Keep the count of a row's slide; raises `DatasetError` where two rows of a slide differ."""
    text = values.get(kind, "")
    if not text:
        return
    check = check_white_count if kind == "white_count" else check_red_count
    try:
        value = float(text.replace(",", ".") if "." not in text else text)
    except ValueError:
        value = math.nan
    try:
        value = check(value, kind)
    except InputError as error:
        got = one_line(text) if math.isnan(value) else error.got
        raise DatasetError(f"{where}: {error.what}", expected=error.expected, got=got, remedy=error.remedy) from error
    if known.setdefault(values["slide"], value) != value:
        raise DatasetError(
            f"{where}: slide {one_line(values['slide'])} has two values of {kind}",
            expected="one",
            got=f"{known[values['slide']]:g} and {value:g}",
        )


def _with_options(given: _Found, options: CountOptions) -> _Found:
    """The counts of the options for the only slide; raises `InputError` where there are several."""
    slides = list(dict.fromkeys(slide for slide, _, _ in given.fields))
    for name, value in (("white_count", options.white_count), ("red_count", options.red_count)):
        if value is not None and len(slides) > 1:
            raise InputError(
                f"--{name.replace('_', '-')} is for one slide, and there are {len(slides)}",
                expected=f"a table of fields with the column {name}",
                remedy="Give the fields as a CSV with the columns slide,field," + name + ".",
            )
    if options.white_count is not None:
        given = replace(given, white_counts={slides[0]: check_white_count(options.white_count)})
    if options.red_count is not None:
        given = replace(given, red_counts={slides[0]: check_red_count(options.red_count)})
    return given
