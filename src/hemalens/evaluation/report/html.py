"""The report as one HTML file that needs nothing else: styles, figures and thumbnails are inside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from hemalens.evaluation.report import curves, efficiency, figures, formatting, fractions, k_shot, pictures, tables
from hemalens.evaluation.report.curves import LineStyle
from hemalens.evaluation.report.figures import ScatterKeys
from hemalens.evaluation.report.lines import Line, Section
from hemalens.evaluation.report.tables import Cell, Table
from hemalens.evaluation.results import DataCard, Efficiency, Evaluation, Report, Scatter

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_MARKER_PATHS = {
    "o": "M6 1.5A4.5 4.5 0 1 1 6 10.5A4.5 4.5 0 1 1 6 1.5Z",
    "^": "M6 1.2L10.8 10H1.2Z",
    "s": "M2 2H10V10H2Z",
    "D": "M6 .8L11.2 6L6 11.2L.8 6Z",
    "v": "M6 10.8L10.8 2H1.2Z",
    "P": "M4 1H8V4H11V8H8V11H4V8H1V4H4Z",
    "X": "M3.5 1L6 3.5L8.5 1L11 3.5L8.5 6L11 8.5L8.5 11L6 8.5L3.5 11L1 8.5L3.5 6L1 3.5Z",
    "<": "M1.2 6L10 1.2V10.8Z",
    ">": "M10.8 6L2 1.2V10.8Z",
}
"""Outlines of the markers in a box of 12 by 12, for the legends."""


@dataclass(frozen=True, slots=True)
class _LegendEntry:
    """One line of the scatter's legend; a label has a number and a colour, a domain the outline of its marker."""

    text: str
    number: str = ""
    colour: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class _ScatterLegend:
    """The legend of a scatter, or of several with the same keys."""

    labels: tuple[_LegendEntry, ...]
    domains: tuple[_LegendEntry, ...]


@dataclass(frozen=True, slots=True)
class _EvaluationView:
    """One evaluation as the template prints it; figures are SVG elements."""

    id: str
    number: int
    evaluation: Evaluation
    setting: str
    scores: tuple[tuple[str, Cell], ...]
    left_out: tuple[str, ...]
    per_class: Table
    confusion: Table
    reliability: Table
    confusion_svg: str
    is_wide: bool
    """The confusion matrix needs the whole width of the page."""
    reliability_svg: str
    scatter_svg: str
    legend: _ScatterLegend


@dataclass(frozen=True, slots=True)
class _LineKey:
    """One line of the curves' legend; `path` is the outline of its marker."""

    line: Line[Any]
    style: LineStyle
    path: str


@dataclass(frozen=True, slots=True)
class _Embedding:
    """A scatter of a target with the line it belongs to."""

    line: Line[Any]
    scatter: Scatter
    svg: str


@dataclass(frozen=True, slots=True)
class _SectionView:
    """The results on one target with their curves as the template prints them; figures are SVG elements."""

    section: Section
    figures: tuple[str, ...]
    keys: tuple[_LineKey, ...]
    has_reference: bool
    embeddings: tuple[_Embedding, ...]
    legend: _ScatterLegend


@dataclass(frozen=True, slots=True)
class _CostKey:
    """One network in the legend of the costs; `path` is the outline of its marker."""

    name: str
    colour: int
    path: str


@dataclass(frozen=True, slots=True)
class _CostView:
    """What networks cost as the template prints it: tables with their notes, figures as captions and SVG elements."""

    anchor: str
    heading: str
    figures: tuple[tuple[str, str], ...]
    keys: tuple[_CostKey, ...]
    tables: tuple[tuple[Table, str], ...]


def render_html(report: Report) -> str:
    """The whole report as one HTML text; the same report gives the same text."""
    return (
        _environment()
        .get_template("template.html")
        .render(
            report=report,
            notice=formatting.SYNTHETIC_NOTICE if report.synthetic else "",
            few=figures.N_FEW,
            research_use=formatting.RESEARCH_USE,
            overview=tables.overview(report) if report.evaluations else None,
            transductive=tables.transductive(report),
            curve_overviews=list(_curve_overviews(report)),
            costs=_cost_view(report.efficiency) if report.efficiency else None,
            views=[_view(number, evaluation) for number, evaluation in enumerate(report.evaluations, start=1)],
            sections=[*_k_shot_views(report), *_fraction_views(report)],
            comparisons=[(tables.comparison(table), table.note) for table in report.tables],
            albums=[(table, pictures.n_abreast(table)) for table in pictures.shown(report)],
            cards=[_card(card) for card in report.data],
            methods=[
                (
                    name,
                    tables.configuration(name, values),
                )
                for name, values in report.methods.items()
            ],
            environment=tables.pairs("Software and machine", ("Name", "Value"), report.environment),
            wrong_call=tables.wrong_call,
        )
    )


@cache
def _environment() -> Environment:
    """The templates, compiled once."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FunctionLoader(_template), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        label=formatting.label,
        score=formatting.score,
        count=formatting.count,
        visible=formatting.visible,
        svg=Markup,
        sentence=_sentence,
        path=_path,
        data_uri=pictures.data_uri,
    )
    return environment


def _template(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _view(number: int, evaluation: Evaluation) -> _EvaluationView:
    name = tables.anchor(number)
    scatter = evaluation.scatter if evaluation.scatter is not None and evaluation.scatter.points else None
    keys = figures.scatter_keys(scatter) if scatter else figures.scatter_keys()
    return _EvaluationView(
        id=name,
        number=number,
        evaluation=evaluation,
        setting=tables.setting(evaluation),
        scores=tables.score_cells(evaluation),
        left_out=tables.left_out(evaluation.left_out),
        per_class=tables.per_class(evaluation),
        confusion=tables.confusion(evaluation),
        reliability=tables.reliability(evaluation),
        confusion_svg=figures.confusion_figure(evaluation, name=f"{name}-confusion") if evaluation.classes else "",
        is_wide=len(evaluation.classes) > figures.N_CLASSES_LARGE,
        reliability_svg=figures.reliability_figure(evaluation, name=f"{name}-reliability"),
        scatter_svg=figures.scatter_figure(scatter, keys, name=f"{name}-scatter") if scatter else "",
        legend=_scatter_legend(keys),
    )


def _scatter_legend(keys: ScatterKeys) -> _ScatterLegend:
    labels = (
        _LegendEntry(formatting.label(code), number=str(i), colour=colour)
        for i, (code, colour) in enumerate(keys.colours.items(), start=1)
    )
    domains = (
        _LegendEntry(formatting.visible(domain), path=_MARKER_PATHS[marker]) for domain, marker in keys.markers.items()
    )
    return _ScatterLegend(tuple(labels), tuple(domains))


def _curve_overviews(report: Report) -> Iterator[tuple[Table, str]]:
    """The overviews of what is drawn as curves, each with a note."""
    if report.k_shot:
        yield k_shot.overview(report.k_shot), k_shot.OVERVIEW_NOTE
    if report.fractions:
        yield fractions.overview(report.fractions), fractions.OVERVIEW_NOTE


def _k_shot_views(report: Report) -> Iterator[_SectionView]:
    for target in k_shot.targets(report.k_shot):
        scatters = [(line, line.result.scatter) for line in target.lines]
        shown = [(line, scatter) for line, scatter in scatters if scatter is not None and scatter.points]
        keys = figures.scatter_keys(*(scatter for _, scatter in shown))
        yield _SectionView(
            k_shot.section(target),
            k_shot.figures(target),
            _line_keys(target.lines),
            has_reference=any(line.result.supervised for line in target.lines),
            embeddings=tuple(
                _Embedding(line, scatter, figures.scatter_figure(scatter, keys, name=f"{target.anchor}-scatter-{i}"))
                for i, (line, scatter) in enumerate(shown, start=1)
            ),
            legend=_scatter_legend(keys),
        )


def _fraction_views(report: Report) -> Iterator[_SectionView]:
    for target in fractions.targets(report.fractions):
        yield _SectionView(
            fractions.section(target),
            fractions.figures(target),
            _line_keys(target.lines),
            has_reference=False,
            embeddings=(),
            legend=_scatter_legend(figures.scatter_keys()),
        )


def _line_keys(lines: Sequence[Line[Any]]) -> tuple[_LineKey, ...]:
    styles = curves.line_styles(lines)
    return tuple(_LineKey(line, style, _MARKER_PATHS[style.marker]) for line, style in zip(lines, styles, strict=True))


def _cost_view(results: Sequence[Efficiency]) -> _CostView:
    keys = (
        _CostKey(formatting.visible(result.name), style.colour, _MARKER_PATHS[style.marker])
        for result, style in zip(results, efficiency.styles(results), strict=True)
    )
    return _CostView(
        efficiency.ANCHOR, efficiency.HEADING, efficiency.figures(results), tuple(keys), efficiency.tables(results)
    )


def _card(card: DataCard) -> tuple[DataCard, str, tuple[str, ...], tuple[str, ...], Table]:
    excluded, dropped = tables.reasons(card.excluded), tables.reasons(card.dropped)
    return card, formatting.fingerprint(card.fingerprint), excluded, dropped, tables.class_counts(card)


def _sentence(text: str) -> str:
    """A user's text with a full stop at its end."""
    text = formatting.visible(text).rstrip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _path(text: str) -> Markup:
    """A file name as HTML that may break into lines after a slash."""
    from markupsafe import Markup

    return Markup("/<wbr>").join(formatting.visible(text).split("/"))
