"""The report as Markdown: the same content as the HTML, without figures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from hemalens.evaluation import formatting
from hemalens.evaluation.results import DataCard, Evaluation, Report
from hemalens.report import comparisons, efficiency, fractions, k_shot, pictures, tables
from hemalens.report import confusion_matrix as matrix
from hemalens.report import trust as trust_tables
from hemalens.report.curve_lines import Section
from hemalens.report.tables import Cell, Table

_ALWAYS_ESCAPED = re.compile(r"([\\`*\[\]|~])")
# an underscore inside a word is no emphasis, so file names stay readable
_OUTER_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
_BLOCK_MARK = re.compile(r"^(\s*)([#+=-](?!\d)|\d+(?=[.)](?:\s|$)))")


def escape(text: str) -> str:
    """A text that Markdown prints as it is, on one line, in a table cell too."""
    text = formatting.visible(text)
    text = _ALWAYS_ESCAPED.sub(r"\\\1", text)
    text = _OUTER_UNDERSCORE.sub(r"\\_", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _BLOCK_MARK.sub(_escaped_mark, text)


def _escaped_mark(match: re.Match[str]) -> str:
    space, mark = match.groups()
    return f"{space}{mark}\\" if mark.isdigit() else f"{space}\\{mark}"


def render_markdown(report: Report) -> str:
    """The whole report as Markdown (GitHub's tables), ending in a newline."""
    blocks: list[str] = [f"# {escape(report.title)}"]
    if report.synthetic:
        blocks.append(f"> **{formatting.synthetic_notice(report)}**")
    blocks.append(f"{escape(report.created)} \N{MIDDLE DOT} protocol: {escape(report.protocol)}")
    blocks.extend(_items(report.summary))
    blocks.extend(_results(report))
    if report.data:
        blocks.append("## Data")
    for card in report.data:
        blocks.extend(_data_card(card))
    if report.methods:
        blocks.append("## Methods")
    for name, values in report.methods.items():
        told = [pair for card in report.method_cards if card.name == name for pair in tables.method_card(card)]
        blocks.extend([f"### {escape(name)}", *_items([f"{heading}: {text}" for heading, text in told])])
        blocks.append(_table(tables.configuration(name, values)))
    blocks.extend(["## Environment", _table(tables.pairs("Software", ("Name", "Value"), report.environment))])
    blocks.extend(["## Command", _code(report.command), f"Seed: {report.seed}", f"**{formatting.RESEARCH_USE}**"])
    return "\n\n".join(blocks) + "\n"


def _results(report: Report) -> Iterator[str]:
    if report.failures:
        failed = tables.failures(report)
        yield from ("## What failed", escape(failed.caption), _table(failed))
    yield from _overview(report)
    if found := matrix.matrices(report.evaluations, report.failures):
        yield from _tables(matrix.HEADING, [(matrix.table(found), matrix.NOTE)])
    yield from _tables(comparisons.HEADING, comparisons.tables(report.comparisons))
    yield from _tables(efficiency.HEADING, efficiency.tables(report.efficiency) if report.efficiency else ())
    for number, evaluation in enumerate(report.evaluations, start=1):
        yield from _evaluation(number, evaluation)
    for few in k_shot.targets(report.k_shot):
        yield from _section(k_shot.section(few))
    for fewer in fractions.targets(report.fractions):
        yield from _section(fractions.section(fewer))
    if report.tables:
        yield "## Tables"
    for comparison in report.tables:
        yield f"### {escape(comparison.title)}"
        yield _table(tables.comparison(comparison))
        if comparison.note:
            yield escape(comparison.note)
    yield from _pictures(report)


def _overview(report: Report) -> Iterator[str]:
    if report.evaluations or report.k_shot or report.fractions:
        yield "## Overview"
    if report.evaluations:
        yield _table(tables.overview(report))
        yield escape(tables.OVERVIEW_NOTE)
        if transductive := tables.transductive(report):
            yield transductive
    for table, note in k_shot.overviews(report.k_shot):
        yield from _captioned(table, note)
    if report.fractions:
        yield from _captioned(fractions.overview(report.fractions), fractions.OVERVIEW_NOTE)


def _pictures(report: Report) -> Iterator[str]:
    shown = pictures.shown(report)
    if shown:
        yield "## Pictures"
    for table in shown:
        yield f"### {escape(table.title)}"
        if table.note:
            yield escape(table.note)
        yield escape(pictures.introduction(table))
        yield from _items(map(pictures.line, table.rows))


def _tables(heading: str, shown: Sequence[tuple[Table, str]]) -> Iterator[str]:
    """Tables with their notes under one heading; nothing where there are none."""
    if shown:
        yield f"## {heading}"
    for table, note in shown:
        yield f"### {escape(table.caption)}"
        yield _table(table)
        yield escape(note)


def _evaluation(number: int, evaluation: Evaluation) -> Iterator[str]:
    yield f"## {number}. {escape(evaluation.name)}"
    yield escape(tables.setting(evaluation))
    yield from _items(f"{name}: {_estimate(cell)}" for name, cell in tables.score_cells(evaluation))
    yield f"Intervals: {escape(evaluation.intervals)}"
    if evaluation.left_out:
        yield "Cell types that are not tested:"
        yield from _items(tables.left_out(evaluation.left_out))
    for table in (tables.per_class(evaluation), tables.confusion(evaluation), tables.reliability(evaluation)):
        yield f"### {escape(table.caption)}"
        yield _table(table)
    if evaluation.trust:
        yield from (f"### {trust_tables.HEADING}", _table(trust_tables.table(evaluation.trust)), escape(trust_tables.NOTE))
    if evaluation.most_confident_errors:
        yield "### Most confident errors"
        yield from _items(f"{tables.wrong_call(c)} ({c.name})" for c in evaluation.most_confident_errors)
    if evaluation.unreadable:
        yield "### Unreadable images"
        yield from _items(f"{name}: {reason}" for name, reason in evaluation.unreadable.items())


def _captioned(table: Table, note: str) -> Iterator[str]:
    yield escape(table.caption)
    yield _table(table)
    yield escape(note)


def _section(section: Section) -> Iterator[str]:
    yield f"## {escape(section.heading)}"
    yield escape(section.introduction)
    for warning in section.warnings:
        yield f"> **{escape(warning)}**"
    yield from _items(f"{term}: {line}" for term, lines in section.facts for line in lines)
    for _, table in section.tables:
        yield f"### {escape(table.caption)}"
        yield _table(table)
    if section.unreadable:
        yield f"### Unreadable images of {escape(section.target)}"
        yield from _items(f"{file}: {reason}" for file, reason in section.unreadable)


def _data_card(card: DataCard) -> Iterator[str]:
    yield f"### {escape(card.role)}: {escape(card.name)}"
    facts = [
        formatting.counted(card.n_images, "image"),
        f"Licence: {card.licence}",
        f"Citation: {card.citation}",
        f"Fingerprint: {formatting.fingerprint(card.fingerprint)}",
    ]
    if card.synthetic:
        facts.append("Synthetic")
    facts.extend(f"Excluded: {line}" for line in tables.reasons(card.excluded))
    facts.extend(f"Dropped: {line}" for line in tables.reasons(card.dropped))
    facts.extend(card.notes)
    facts.extend(f"Audit: {line}" for line in tables.audit(card))
    yield from _items(facts)
    yield _table(tables.class_counts(card))


def _estimate(cell: Cell) -> str:
    return f"{cell.text} ({'; '.join(cell.notes)})" if cell.notes else cell.text


def _items(lines: Iterable[str]) -> Iterator[str]:
    text = "\n".join(f"- {escape(line)}" for line in lines)
    if text:
        yield text


def _code(text: str) -> str:
    """A fenced block of code; the fence is longer than any run of backticks inside."""
    text = formatting.visible(text)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def _table(table: Table) -> str:
    """A table; the heads of groups are repeated in a first column, as Markdown has no rows across columns."""
    head = [escape(column.title) for column in table.columns]
    rule = ["---:" if column.numeric else "---" for column in table.columns]
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    if table.groups:
        head, rule = [escape(table.grouped_by), *head], ["---", *rule]
        rows = [[_cell(cell) for cell in (group.head, *row)] for group in table.groups for row in group.rows]
    if not rows:
        return f"{formatting.MISSING}"
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def _cell(cell: Cell) -> str:
    return escape(_estimate(cell)) + (f" **{escape(cell.tag)}**" if cell.tag else "")
