"""Reports: every number in `report.json`, the same as text in `report.md`, with figures in `report.html`.

Begin with `write_report` and `contents.sections`, the list of sections that `html` and `markdown` render. `tables` holds
the blocks of a section, `figures` the style of all figures. One module per part: `evaluations`, `confusion_matrix`,
`reliability`, `embeddings`, `trust`, `transfer_matrix`, `comparisons`, `efficiency`, `tradeoffs`, `k_shot`, `fractions`,
`detection`, `curves`, `curve_sections`, `training_curves`, `training_panels`. `compose` builds a `Report`, `gallery` its
pictures of cells, `summary` its sentences, `model_card` the card of a bundle.
Imports `evaluation` and the rooms below; no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hemalens.errors import HemalensError, ReportError, one_line
from hemalens.evaluation.results import Report
from hemalens.files import SEAL, atomic_dir, open_regular, parse_json, read_sealed, write_sealed, write_text
from hemalens.report import training_curves
from hemalens.report.html import render_html
from hemalens.report.markdown import render_markdown

__all__ = ["read_report", "render_html", "render_markdown", "report_files", "write_report"]

JSON_NAME, MARKDOWN_NAME, HTML_NAME = "report.json", "report.md", "report.html"


def write_report(report: Report, folder: Path) -> None:
    """Write `report.json`, `report.md` and `report.html` into `folder`, each whole or not at all.

    Training curves are written as SVG files into `folder`/curves too, which replaces that folder.
    Everything is rendered before anything is written. Raises `OutputError` where `folder` cannot be written and
    `HemalensError` for a report that holds NaN or infinity.
    """
    values = report.model_dump(mode="json")
    for key in _not_finite(values):
        raise HemalensError(f"the report's {key} is no number", expected="a finite number or None", got="NaN or infinity")
    markdown, html, drawn = render_markdown(report), render_html(report), training_curves.files(report.curves)
    write_sealed(folder / JSON_NAME, values)
    write_text(folder / MARKDOWN_NAME, markdown)
    write_text(folder / HTML_NAME, html)
    if drawn:
        with atomic_dir(folder / training_curves.FOLDER) as curves:
            for name, text in drawn.items():
                write_text(curves / name, text)


def report_files(folder: Path) -> list[str] | None:
    """The files of a report without training curves in a folder; None for a folder without one."""
    try:
        with open_regular(folder / JSON_NAME) as file:
            title = parse_json(file.read()).get("title")
    except (OSError, ValueError, AttributeError):
        return None
    return [JSON_NAME, MARKDOWN_NAME, HTML_NAME] if isinstance(title, str) else None


def _not_finite(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield key
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _not_finite(part, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from _not_finite(part, f"{key}[{i}]")


def read_report(path: Path) -> Report:
    """Read a `report.json`; raises `ReportError` when it is missing, damaged, edited or not a report of this schema."""
    try:
        with open_regular(path) as file:
            content = file.read()
    except OSError as error:
        raise ReportError(
            f"cannot read the report {one_line(path)}", expected="a report.json", got=error.strerror or str(error)
        ) from error
    sealed = read_sealed(path)
    try:
        report = Report.model_validate_json(_without_seal(content) if sealed is None else json.dumps(sealed))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ReportError(
            f"the report {one_line(path)} is damaged or not a hemalens report",
            expected=first["msg"],
            got=f"{key} as it is",
            remedy="Make the report again, or give the report.json that `hemalens` wrote.",
        ) from error
    if sealed is None:
        raise ReportError(
            f"the report {one_line(path)} was edited or written by another program",
            expected="the digest of its content",
            remedy="Make the report again, or give the report.json that `hemalens` wrote.",
        )
    return report


def _without_seal(content: bytes) -> bytes | str:
    """An object without its digest; anything else as it is."""
    try:
        value = parse_json(content)
    except ValueError:
        return content
    return json.dumps({name: part for name, part in value.items() if name != SEAL}) if isinstance(value, dict) else content
