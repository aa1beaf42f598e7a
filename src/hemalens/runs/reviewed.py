"""A count corrected by the cells that a person has reviewed, without finding any cell again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hemalens.datasets.tables import Table, read_table
from hemalens.differential.reviewed import reviewed_slide
from hemalens.differential.rules import CountRules
from hemalens.errors import DatasetError, InputError, check_seed, one_line, public
from hemalens.evaluation import formatting
from hemalens.evaluation.results import Report, SlideResult
from hemalens.files import PathLike, as_path, atomic_dir
from hemalens.imaging.boxes import KINDS, WHITE
from hemalens.outputs import check_outside, claim_folder
from hemalens.report import read_report, report_files, write_report
from hemalens.report.compose import Results, make_report
from hemalens.runs.compare import code_of
from hemalens.runs.counting.review import PLACE, REVIEWED
from hemalens.runs.counting.rows import CELLS_CSV

REPORT = "report.json"
SHEET = "the sheet that `hemalens count --review N` writes, or cells.csv with a column reviewed"
Place = tuple[str, ...]


@public
def apply_review(
    counted: PathLike, sheet: PathLike, *, out: PathLike | None = None, seed: int = 0, overwrite: bool = False
) -> Report:
    """Correct the count in the folder `counted` by reviewed cells, and write a report into the folder `out`, where given.

    `sheet` has the columns slide, field, x_min, y_min, x_max, y_max and reviewed; a row without a label is a cell that was
    not reviewed. The reviewed cells must be drawn at random. The rules of counting are those of the count. Slides without a
    reviewed cell stay as they are.
    """
    check_seed(seed)
    folder, sheet = as_path(counted, "the count"), as_path(sheet, "the reviewed cells")
    report, rules = _count_in(folder)
    cells = _counted_cells(folder / CELLS_CSV, rules)
    labels = _labels(sheet, rules, folder / CELLS_CSV)
    slides = [_corrected(slide, cells[slide.name], labels, rules, seed=seed) for slide in report.slides]
    n = sum(slide.n_reviewed for slide in slides)
    if not n:
        raise InputError(
            f"no counted cell is reviewed in {one_line(sheet)}",
            expected="the type of each cell that you have looked at, in the column reviewed",
        )
    made = make_report(
        f"{report.title}, {formatting.counted(n, 'cell')} reviewed",
        f"The count of {one_line(folder)}, corrected by the cells reviewed in {one_line(sheet)}.",
        Results(slides=slides),
        data=report.data,
        methods=report.methods,
        seed=seed,
    )
    if out is not None:
        out = as_path(out, "out")
        check_outside(out, folder, "--out")
        inputs = [folder, sheet]
        with (
            claim_folder(out, report_files, "a report", overwrite=overwrite, inputs=inputs),
            atomic_dir(out, report_files) as place,
        ):
            write_report(made, place)
    return made


def _count_in(folder: Path) -> tuple[Report, CountRules]:
    """The report of a count and its rules."""
    if not (folder / REPORT).is_file() or not (folder / CELLS_CSV).is_file():
        raise InputError(
            f"{one_line(folder)} is no count", expected=f"a folder of `hemalens count` with {REPORT} and {CELLS_CSV}"
        )
    report = read_report(folder / REPORT)
    given: Any = report.methods.get("count", {}).get("rules")
    try:
        rules = CountRules.model_validate(given)
    except ValidationError as error:
        raise DatasetError(f"the report of {one_line(folder)} has no rules of counting", expected="a count") from error
    return report, rules


def _counted_cells(file: Path, rules: CountRules) -> dict[str, list[tuple[Place, str]]]:
    """The place and the type of the counted white cells of each slide, in the order of counting."""
    found: dict[str, list[tuple[Place, str]]] = defaultdict(list)
    for where, row in _rows(_cells_table(file), file, (*PLACE, "kind", "type", "counted")):
        if row["kind"] == KINDS[WHITE] and row["counted"] == "True" and rules.is_white_cell(row["type"]):
            found[row["slide"]].append((_place(row, where), row["type"]))
    return found


def _labels(sheet: Path, rules: CountRules, cells: Path) -> dict[Place, str]:
    """The reviewer's type of each reviewed cell; raises `DatasetError` for one that the count does not have."""
    table = read_table(sheet, fits=lambda names: REVIEWED in map(str.casefold, names))
    known = {_place(row, where) for where, row in _rows(_cells_table(cells), cells, PLACE) if row["x_min"]}
    found: dict[Place, str] = {}
    for where, row in _rows(table, sheet, (*PLACE, REVIEWED)):
        if not row[REVIEWED].strip():
            continue
        place, code = _place(row, where), code_of(row[REVIEWED].strip(), rules, where=where)
        if place not in known:
            raise DatasetError(
                f"{where}: the count has no such cell", expected=f"a cell of {one_line(cells)}", got=" ".join(place)
            )
        if found.setdefault(place, code) != code:
            raise DatasetError(f"{where}: a cell has two labels", expected="one", got=f"{found[place]} and {code}")
    return found


def _cells_table(file: Path) -> Table:
    return read_table(file, fits=lambda names: "x_min" in names)


def _rows(table: Table, file: Path, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row by the names of its columns, and where it is."""
    names = [name.casefold() for name in table.columns]
    missing = [name for name in needed if name not in names]
    if missing:
        raise DatasetError(
            f"{one_line(file)} lacks the column(s) {', '.join(missing)}",
            expected=SHEET,
            got=", ".join(table.columns)[:200] or "no header",
        )
    for line, row in table.rows:
        yield f"{one_line(file)}, line {line}", dict(zip(names, row, strict=True))


def _place(row: Mapping[str, str], where: str) -> Place:
    """What names a cell; spreadsheets write numbers in their own way."""
    try:
        corners = [f"{float(row[name].replace(',', '.')):.1f}" for name in PLACE[2:]]
    except ValueError:
        got = " ".join(row[name] for name in PLACE[2:])
        raise DatasetError(f"{where}: the box is wrong", expected="four numbers, as in cells.csv", got=got[:80]) from None
    return row["slide"], row["field"], *corners


def _corrected(
    slide: SlideResult, cells: Sequence[tuple[Place, str]], labels: Mapping[Place, str], rules: CountRules, *, seed: int
) -> SlideResult:
    if len(cells) != slide.total:
        raise DatasetError(
            f"the report and the cells of slide {one_line(slide.name)} do not fit each other",
            expected=f"{slide.total} white cells",
            got=str(len(cells)),
        )
    reviewed = [labels.get(place) for place, _ in cells]
    if not any(reviewed):
        return slide
    return reviewed_slide(slide, [code for _, code in cells], reviewed, rules, seed=seed)
