"""Compare two counts of white cells: two readers, reader and program, or a slide and last week's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hemalens.config import checked
from hemalens.datasets.tables import Table, read_table, table_file
from hemalens.differential.compare import compare_counts
from hemalens.differential.count import differential
from hemalens.differential.rules import CountRules, load_rules
from hemalens.errors import DatasetError, InputError, near_matches, one_line, public
from hemalens.evaluation.results import Report
from hemalens.files import PathLike, as_path, atomic_dir
from hemalens.outputs import claim_folder
from hemalens.progress import Say
from hemalens.report import read_report, report_files, write_report
from hemalens.report.compose import Results, make_report
from hemalens.taxonomy import LISTED, cell_type_of, cell_types

REPORT = "report.json"
TYPE_COLUMN = "type"


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """How counts are compared: a file of the laboratory's rules, and the names of two counts of one file or folder."""

    rules_file: str | None = None
    names: tuple[str, ...] = field(default=())


DEFAULTS = CompareOptions()
Counts = Mapping[str, Mapping[str, int]]
"""White cells by type, of each count by its name."""


@public
def compare(
    first: PathLike,
    second: PathLike | None = None,
    *,
    out: PathLike | None = None,
    options: CompareOptions = DEFAULTS,
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Report:
    """Compare counts, and write a report into the folder `out` where one is given.

    `first` and `second` are folders of `hemalens count` or tables with the columns type and count. Slides of the same name
    are compared; two counts of one name or another where each side has one. With `first` alone, two of its counts are
    compared: the columns of a table with type and two counts, or the slides that `options.names` names.
    """
    options = checked(options, CompareOptions)
    given = [as_path(first, "the first count"), *([] if second is None else [as_path(second, "the second count")])]
    rules = load_rules(None if options.rules_file is None else as_path(options.rules_file, "the rules"))
    pairs = _pairs([read_counts(path, rules) for path in given], given, options.names)
    compared = [
        compare_counts(a, b, rules, names=(names[0], names[1]), seed=seed)
        for names, (a, b) in ((names, counts) for names, counts in pairs)
    ]
    made = make_report(
        " against ".join(path.name or str(path) for path in given) if second else f"Counts of {given[0].name}",
        "two counts of white cells compared",
        Results(count_comparisons=compared),
        data=[],
        methods={"rules": rules.model_dump(mode="json")},
        seed=seed,
    )
    if out is not None:
        out = as_path(out, "out")
        with claim_folder(out, report_files, "a report", overwrite=overwrite, inputs=given):
            say(f"writing the report into {out}")
            with atomic_dir(out, report_files) as folder:
                write_report(made, folder)
    return made


Pair = tuple[tuple[str, str], tuple[Mapping[str, int], Mapping[str, int]]]


def _pairs(sides: list[Counts], given: list[Path], names: tuple[str, ...]) -> Iterator[Pair]:
    """The counts to compare, with their names."""
    if len(sides) == 1:
        (counts,) = sides
        chosen = names or tuple(counts)
        for name in chosen:
            if name not in counts:
                raise InputError(f"{one_line(given[0])} has no count {name!r}", remedy=near_matches(name, counts))
        if len(chosen) != 2 or chosen[0] == chosen[1]:
            found = f"{len(chosen)} of {', '.join(map(repr, list(counts)[:8]))}"
            raise InputError("two counts are compared", expected="two, named by --name", got=found)
        return iter([((chosen[0], chosen[1]), (counts[chosen[0]], counts[chosen[1]]))])
    if names:
        raise InputError("--name chooses two counts of one file or folder", got="two files or folders")
    one, two = sides
    shared = [name for name in one if name in two]
    if len(one) == len(two) == 1:
        pair = next(iter(one)), next(iter(two))
        labels = pair if pair[0] != pair[1] else (f"{given[0].name}: {pair[0]}", f"{given[1].name}: {pair[1]}")
        return iter([(labels, (one[pair[0]], two[pair[1]]))])
    if not shared:
        raise InputError(
            "no slide is in both counts", expected="slides of the same names", got=f"{_some(one)} and {_some(two)}"
        )
    labels_of = {name: (f"{given[0].name}: {name}", f"{given[1].name}: {name}") for name in shared}
    return ((labels_of[name], (one[name], two[name])) for name in shared)


def _some(counts: Counts) -> str:
    return ", ".join(map(repr, list(counts)[:3])) + (", ..." if len(counts) > 3 else "")


def read_counts(path: Path, rules: CountRules) -> dict[str, dict[str, int]]:
    """White cells by type of each slide of a count's folder, or of each column of a table; raises `InputError`."""
    if path.is_dir() or path.name == REPORT:
        report = read_report(path / REPORT if path.is_dir() else path)
        if not report.slides:
            raise DatasetError(f"the report of {one_line(path)} counts no slide", expected="a folder of `hemalens count`")
        return {slide.name: {each.code: each.count for each in slide.types if not each.total_of} for slide in report.slides}
    table = read_table(path, fits=lambda header: TYPE_COLUMN in map(str.casefold, header))
    return _of_table(table, path, rules)


def _of_table(table: Table, path: Path, rules: CountRules) -> dict[str, dict[str, int]]:
    file = table_file(path)[0]
    places = [i for i, name in enumerate(table.columns) if name.casefold() == TYPE_COLUMN]
    columns = {i: name for i, name in enumerate(table.columns) if i not in places}
    if len(places) != 1 or not columns:
        raise DatasetError(
            f"{one_line(file)} is no table of counts",
            expected="one column type, and a column of counts for each reader",
            got=", ".join(table.columns[:6]),
        )
    found: dict[str, dict[str, int]] = {name: {} for name in columns.values()}
    for number, row in table.rows:
        where = f"{one_line(file)}, line {number}"
        code = code_of(row[places[0]], rules, where=where)
        for i, name in columns.items():
            if code in found[name]:
                raise DatasetError(f"{where}: {code} is counted twice")
            found[name][code] = _whole(row[i], where=f"{where}, column {name!r}")
    named = {file.stem: next(iter(found.values()))} if len(columns) == 1 else found
    return {
        name: {code: int(each.count) for code, each in differential(counts, rules).shares.items()}
        for name, counts in named.items()
    }


def code_of(text: str, rules: CountRules, *, where: str) -> str:
    """The code of a cell type in any spelling, or a type of one's own; raises `DatasetError`."""
    if text in rules.own_types:
        return text
    code = cell_type_of(text)
    if code is None:
        raise DatasetError(
            f"{where}: unknown cell type {text!r}",
            remedy=near_matches(text, [*cell_types(), *rules.own_types], listed=LISTED),
        )
    return code


def _whole(text: str, *, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise DatasetError(f"{where}: a count is wrong", expected="a whole number from 0 on", got=repr(text[:40]))
    return int(text)
