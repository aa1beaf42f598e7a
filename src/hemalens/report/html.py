"""The report as one HTML file that needs nothing else: styles, figures and thumbnails are inside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from hemalens.evaluation import formatting
from hemalens.evaluation.results import DataCard, Efficiency, Evaluation, Report, WrongCell
from hemalens.report import comparisons, curves, efficiency, embeddings, figures, fractions, k_shot, pictures, tables, trust
from hemalens.report import confusion_matrix as matrix
from hemalens.report.curve_lines import Line, Section
from hemalens.report.curves import LineStyle
from hemalens.report.embeddings import Plane
from hemalens.report.svg import MARKER_OUTLINES
from hemalens.report.tables import Cell, Table

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

N_POINTS_SHOWN = 20_000
N_ERRORS_SHOWN = 240
"""So many points and wrong cells at most, divided among the evaluations, so that a page of fifty can still be sent."""
FEWEST_POINTS, FEWEST_ERRORS = 200, 3
MOST_DRAWN = 60
"""Where there are more evaluations, their reliability is a table, and embeddings are drawn once a method and source."""
N_LISTED = 6
"""Where there are more evaluations, the contents and all but the scores of each are folded."""


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
    trust: Table | None
    confusion_svg: str
    is_wide: bool
    """The confusion matrix needs the whole width of the page."""
    reliability_svg: str
    plane: Plane | None
    errors: tuple[tuple[str, WrongCell], ...]
    """What each wrong cell was called, in words, with the cell."""


@dataclass(frozen=True, slots=True)
class _LineKey:
    """One line of the curves' legend; `path` is the outline of its marker."""

    line: Line[Any]
    style: LineStyle
    path: str


@dataclass(frozen=True, slots=True)
class _SectionView:
    """The results on one target with their curves as the template prints them; figures are SVG elements."""

    section: Section
    figures: tuple[str, ...]
    keys: tuple[_LineKey, ...]
    has_reference: bool
    plane: Plane | None


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


@dataclass(frozen=True, slots=True)
class _MatrixView:
    """The heat maps as (method, SVG) with their width, the steps of their scale, and their numbers as a table."""

    figures: tuple[tuple[str, str], ...]
    width_px: int
    scale: tuple[tuple[str, float], ...]
    table: Table


@dataclass(frozen=True, slots=True)
class _CardView:
    """A dataset with its lists as lines."""

    card: DataCard
    fingerprint: str
    lists: tuple[tuple[str, tuple[str, ...]], ...]
    """What was excluded, dropped, noted and found by the audit, as term and lines."""
    counts: Table


def render_html(report: Report) -> str:
    """The whole report as one HTML text; the same report gives the same text."""
    return (
        _environment()
        .get_template("template.html")
        .render(
            report=report,
            notice=formatting.synthetic_notice(report),
            few=figures.N_FEW,
            n_listed=N_LISTED,
            research_use=formatting.RESEARCH_USE,
            failures=tables.failures(report) if report.failures else None,
            all_drawn=_all_drawn(report),
            overview=tables.overview(report) if report.evaluations else None,
            overview_note=tables.OVERVIEW_NOTE,
            transductive=tables.transductive(report),
            curve_overviews=list(_curve_overviews(report)),
            matrix=matrix,
            trust=trust,
            domains=_matrix_view(report),
            comparisons=comparisons.tables(report.comparisons),
            comparisons_anchor=comparisons.ANCHOR,
            comparisons_heading=comparisons.HEADING,
            planes=list(_joint_planes(report)),
            costs=_cost_view(report.efficiency) if report.efficiency else None,
            views=[_view(number, report) for number in range(1, len(report.evaluations) + 1)],
            sections=[*_k_shot_views(report), *_fraction_views(report)],
            study_tables=[(tables.comparison(table), table.note) for table in report.tables],
            albums=[(table, pictures.n_abreast(table)) for table in pictures.shown(report)],
            cards=[_card(card) for card in report.data],
            methods=[(name, tables.configuration(name, values)) for name, values in report.methods.items()],
            method_cards={card.name: tables.method_card(card) for card in report.method_cards},
            environment=tables.pairs("Software and machine", ("Name", "Value"), report.environment),
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


def _view(number: int, report: Report) -> _EvaluationView:
    evaluation = report.evaluations[number - 1]
    name = tables.anchor(number)
    n_errors = max(FEWEST_ERRORS, N_ERRORS_SHOWN // len(report.evaluations))
    drawn = _all_drawn(report)
    scatters = [(formatting.visible(evaluation.method), "", evaluation.scatter)] if evaluation.scatter and drawn else []
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
        trust=trust.table(evaluation.trust) if evaluation.trust else None,
        confusion_svg=figures.confusion_figure(evaluation) if evaluation.classes else "",
        is_wide=len(evaluation.classes) > figures.N_CLASSES_LARGE,
        reliability_svg=figures.reliability_figure(evaluation, name=f"{name}-reliability") if drawn else "",
        plane=embeddings.plane(
            scatters,
            name=f"{name}-scatter",
            cells=f"of {formatting.visible(evaluation.target)}",
            n_points=_n_points(report),
        ),
        errors=tuple((tables.wrong_call(cell), cell) for cell in evaluation.most_confident_errors[:n_errors]),
    )


def _all_drawn(report: Report) -> bool:
    """Whether every evaluation has all its figures."""
    return len(report.evaluations) <= MOST_DRAWN


def _n_points(report: Report) -> int:
    """How many points of each scatter are drawn."""
    return max(FEWEST_POINTS, N_POINTS_SHOWN // max(1, len(report.evaluations)))


def _matrix_view(report: Report) -> _MatrixView | None:
    found = matrix.matrices(report.evaluations, report.failures)
    if found is None:
        return None
    return _MatrixView(matrix.figures(found), matrix.width_px(found), matrix.scale(found), matrix.table(found))


def _joint_planes(report: Report) -> Iterator[tuple[str, Plane]]:
    """What each joint scatter shows, with its panels."""
    for number, joint in enumerate(report.scatters, start=1):
        names = [formatting.visible(name) for name in (joint.source, *joint.targets)]
        plane = embeddings.plane(
            [(formatting.visible(joint.method), "", joint.scatter)],
            name=f"joint-{number}",
            cells=f"of {formatting.listed(list(dict.fromkeys(names)))}",
            n_points=_n_points(report),
        )
        if plane:
            yield f"{formatting.visible(joint.method)}, trained on {names[0]}", plane


def _curve_overviews(report: Report) -> Iterator[tuple[Table, str]]:
    """The overviews of what is drawn as curves, each with a note."""
    yield from k_shot.overviews(report.k_shot)
    if report.fractions:
        yield fractions.overview(report.fractions), fractions.OVERVIEW_NOTE


def _k_shot_views(report: Report) -> Iterator[_SectionView]:
    for target in k_shot.targets(report.k_shot):
        yield _SectionView(
            k_shot.section(target),
            k_shot.figures(target),
            _line_keys(target.lines),
            has_reference=any(line.result.supervised for line in target.lines),
            plane=embeddings.plane(
                [(ln.name, ln.tag, ln.result.scatter) for ln in target.lines if ln.result.scatter and _all_drawn(report)],
                name=f"{target.anchor}-scatter",
                cells=f"of {target.name}",
                n_points=_n_points(report),
            ),
        )


def _fraction_views(report: Report) -> Iterator[_SectionView]:
    for target in fractions.targets(report.fractions):
        yield _SectionView(
            fractions.section(target), fractions.figures(target), _line_keys(target.lines), has_reference=False, plane=None
        )


def _line_keys(lines: Sequence[Line[Any]]) -> tuple[_LineKey, ...]:
    styles = curves.line_styles(lines)
    return tuple(_LineKey(line, style, MARKER_OUTLINES[style.marker]) for line, style in zip(lines, styles, strict=True))


def _cost_view(results: Sequence[Efficiency]) -> _CostView:
    keys = (
        _CostKey(formatting.visible(result.name), style.colour, MARKER_OUTLINES[style.marker])
        for result, style in zip(results, efficiency.styles(results), strict=True)
    )
    return _CostView(
        efficiency.ANCHOR, efficiency.HEADING, efficiency.figures(results), tuple(keys), efficiency.tables(results)
    )


def _card(card: DataCard) -> _CardView:
    lists = (
        ("Excluded", tables.reasons(card.excluded)),
        ("Dropped", tables.reasons(card.dropped)),
        ("Notes", tuple(map(formatting.visible, card.notes))),
        ("Audit", tables.audit(card)),
    )
    return _CardView(
        card,
        formatting.fingerprint(card.fingerprint),
        tuple((term, lines) for term, lines in lists if lines),
        tables.class_counts(card),
    )


def _sentence(text: str) -> str:
    """A user's text with a full stop at its end."""
    text = formatting.visible(text).rstrip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _path(text: str) -> Markup:
    """A file name as HTML that may break into lines after a slash."""
    from markupsafe import Markup

    return Markup("/<wbr>").join(formatting.visible(text).split("/"))
