"""The confusion of a model from the report of its test."""

from __future__ import annotations

from hemalens.differential.confusion import Confusion
from hemalens.errors import DatasetError, InputError, near_matches, one_line, public
from hemalens.files import PathLike, as_path
from hemalens.report import read_report


@public
def read_confusion(report: PathLike, name: str | None = None) -> Confusion:
    """The confusion in a report of `train` or `evaluate`, its folder or report.json; `name` chooses among evaluations."""
    path = as_path(report, "the report")
    found = read_report(path / "report.json" if path.is_dir() else path)
    by_name = {each.name: each for each in found.evaluations}
    if not by_name:
        raise DatasetError(f"the report {one_line(path)} has no test", expected="a report of train or evaluate")
    if name is None and len(by_name) > 1:
        raise InputError(f"the report {one_line(path)} has {len(by_name)} tests", expected="one", got=", ".join(by_name))
    chosen = next(iter(by_name)) if name is None else name
    if chosen not in by_name:
        raise InputError(f"the report {one_line(path)} has no test {chosen!r}", remedy=near_matches(chosen, by_name))
    return Confusion.of(by_name[chosen])
