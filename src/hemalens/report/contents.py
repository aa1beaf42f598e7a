"""The sections of a report in their order, which `html` and `markdown` both render."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hemalens.evaluation import formatting
from hemalens.evaluation.results import DataCard, MethodCard, PictureTable, Report
from hemalens.report import (
    comparisons,
    count_comparisons,
    detection,
    efficiency,
    evaluations,
    fractions,
    k_shot,
    left_out,
    review,
    slides,
    training_curves,
    transfer_matrix,
)
from hemalens.report.embeddings import NamedScatter, embedded
from hemalens.report.tables import (
    Block,
    Card,
    Cell,
    Code,
    Facts,
    Fold,
    Gallery,
    Items,
    Picture,
    Section,
    Table,
    Text,
    number_columns,
    reasons,
    sentence,
    study_table,
    text_table,
)

N_ABREAST = 7
"""Most pictures side by side, so that they stay large enough on a phone."""


def sections(report: Report) -> Iterator[Section]:
    """Every section that has content."""
    lines = Items(tuple(map(formatting.visible, report.summary)), kind="summary")
    differences = (Items(tuple(map(formatting.visible, report.differences))),) if report.differences else ()
    pictures = _galleries(report.pictures)
    found = transfer_matrix.matrices(report.evaluations, report.failures)
    n_points = evaluations.n_points(report) if evaluations.all_drawn(report) else 0
    possible = (
        Section("summary", "Summary", (lines,) if report.summary else (), ""),
        Section("failures", "What failed", _failures(report), "failures"),
        slides.section(report.slides),
        count_comparisons.section(report.count_comparisons),
        Section("tables", "Tables", tuple(map(study_table, report.tables))),
        Section("differences", "What differs from the paper", differences),
        *left_out.sections(report.left_out),
        Section("overview", "Overview", _overviews(report), ""),
        *([transfer_matrix.section(found)] if found else []),
        Section(comparisons.ANCHOR, comparisons.HEADING, comparisons.tables(report.comparisons)),
        Section("embeddings", "Embeddings", tuple(_joint_embeddings(report))),
        *([efficiency.section(report.efficiency)] if report.efficiency else []),
        *(evaluations.section(number, report) for number in range(1, len(report.evaluations) + 1)),
        review.section(report.review, _galleries([report.review.cells] if report.review else [])),
        *(detection.section(number, report) for number in range(1, len(report.detections) + 1)),
        *(k_shot.section(target, n_points=n_points) for target in k_shot.targets(report.k_shot)),
        *map(fractions.section, fractions.targets(report.fractions)),
        training_curves.section(report.curves),
        Section("pictures", "Pictures", pictures),
        Section("data", "Data", tuple(map(_data, report.data)), "chapter cards"),
        Section("making", "How it was made", tuple(_making(report))),
    )
    return (section for section in possible if section.blocks)


def _overviews(report: Report) -> tuple[Table, ...]:
    tables = [evaluations.overview(report)] if report.evaluations else []
    tables += k_shot.overviews(report.k_shot)
    tables += detection.overview(report.detections)
    return (*tables, *([fractions.overview(report.fractions)] if report.fractions else []))


def _failures(report: Report) -> tuple[Table, ...]:
    """Every part of a benchmark that ended with an error."""
    if not report.failures:
        return ()
    table = text_table(
        "Parts that ended with an error and have no result; the others completed",
        ("Method", "Protocol", "Source", "Target", "Error"),
        [(f.method, f.protocol, f.source, f.target, f.error) for f in report.failures],
    )
    return (Table(table.caption, table.columns, table.rows, kind="failed"),)


def _joint_embeddings(report: Report) -> Iterator[Block]:
    for number, joint in enumerate(report.scatters, start=1):
        names = [formatting.visible(name) for name in (joint.source, *joint.targets)]
        method = formatting.visible(joint.method)
        yield from embedded(
            [NamedScatter(method, "", joint.scatter)],
            name=f"joint-{number}",
            cells=f"of {formatting.listed(list(dict.fromkeys(names)))}",
            n_points=evaluations.n_points(report),
            heading=f"{method}, trained on {names[0]}",
        )


def n_abreast(n_columns: int) -> int:
    """How many pictures of a cell are side by side, in lines of about the same length."""
    return math.ceil(n_columns / math.ceil(n_columns / N_ABREAST))


def _galleries(tables: Sequence[PictureTable]) -> tuple[Block, ...]:
    """A gallery for each table; of one without rows the reason, where it has one."""
    return tuple(_gallery(table) if table.rows else _reason(table) for table in tables if table.rows or table.reason)


def _reason(table: PictureTable) -> Items:
    return Items((f"{formatting.visible(table.title)}. {sentence(table.reason)}",))


def _gallery(table: PictureTable) -> Gallery:
    n = sum(picture != "" for row in table.rows for picture in row.pictures)
    columns = tuple(map(formatting.visible, table.columns))
    pictures = tuple(
        Picture(
            tuple(zip(columns, row.pictures, strict=True)),
            formatting.visible(row.caption),
            formatting.visible(row.name),
            row.link,
        )
        for row in table.rows
    )
    named = f" ({', '.join(columns)})" if any(columns) else ""
    listed = f"The HTML report shows {formatting.counted(n, 'picture')}{named}:"
    heading = formatting.visible(table.title)
    return Gallery(
        pictures, heading, sentence(table.note), n_abreast(len(columns)), listed, "overlays" if table.large else ""
    )


def _data(card: DataCard) -> Card:
    audit = tuple(f"{formatting.visible(check)}: {formatting.visible(found)}" for check, found in card.audit.items())
    facts = (
        ("Images", (formatting.count(card.n_images),)),
        ("Licence", (formatting.visible(card.licence),)),
        ("Citation", (formatting.visible(card.citation),)),
        ("Fingerprint", (formatting.fingerprint(card.fingerprint),)),
        ("Excluded", reasons(card.excluded)),
        ("Dropped", reasons(card.dropped)),
        ("Notes", tuple(map(formatting.visible, card.notes))),
        ("Audit", audit or ("not made",)),
    )
    name = f"{formatting.visible(card.role)}: {formatting.visible(card.name)}"
    boxes = card.counted == "boxes"
    counts = Table(
        "Boxes of each kind" if boxes else "Images of each cell type",
        number_columns("Kind", ("Boxes",)) if boxes else number_columns("Cell type", ("Images",)),
        tuple((Cell(formatting.label(code)), Cell(formatting.count(n))) for code, n in card.class_counts.items()),
        where=name,
    )
    tag = "synthetic" if card.synthetic else ""
    return Card((Facts(tuple((term, lines) for term, lines in facts if lines), heading=name, tag=tag), counts))


def _making(report: Report) -> Iterator[Block]:
    yield Code(formatting.visible(report.command), "Command")
    yield Text(f"Seed: {report.seed}. Every number above, unrounded, is in report.json.", "")
    for name, values in report.methods.items():
        facts = tuple(pair for card in report.method_cards if card.name == name for pair in _method(card))
        rows = [(key, value) for key, value in _flattened(values)]
        caption = f"Configuration of {formatting.visible(name)}"
        table = text_table(caption, ("Setting", "Value"), rows)
        known: tuple[Block, ...] = (Facts(facts), table) if facts else (table,)
        yield Fold(f"Method: {formatting.visible(name)}", known, titled=True)
    versions = text_table("Software and machine", ("Name", "Value"), list(report.environment.items()))
    yield Fold("Environment", (versions,))


def _method(card: MethodCard) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Terms of a method, each with its lines."""
    facts = {
        "Program": (card.method,) if card.method != card.name else (),
        "Summary": (card.what,),
        "Publication": (card.publication,),
        "Trained on": card.learned_from,
    }
    for term, texts in facts.items():
        if lines := tuple(formatting.visible(text) for text in texts if text):
            yield term, lines


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of a configuration; nested mappings become dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            yield f"{prefix}{name}", text
