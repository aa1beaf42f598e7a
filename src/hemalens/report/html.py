"""The report as one HTML file with its styles, figures and pictures inside."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from hemalens.evaluation import formatting
from hemalens.evaluation.results import Report
from hemalens.report.contents import sections
from hemalens.report.evaluations import N_LISTED
from hemalens.report.figures import style

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def render_html(report: Report) -> str:
    """The whole report as one HTML text; the same report gives the same text."""
    shown = list(sections(report))
    numbered = [section for section in shown if section.number]
    folded = numbered if len(numbered) > N_LISTED else []
    with style():
        return (
            _environment()
            .get_template("template.html")
            .render(
                title=formatting.visible(report.title),
                meta=(formatting.visible(report.created), formatting.visible(report.protocol)),
                notice=formatting.synthetic_notice(report),
                contents=[section for section in shown if section not in folded],
                folded=folded,
                sections=shown,
                research_use=formatting.RESEARCH_USE,
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
    environment.filters.update(svg=Markup, path=_path, data_uri=_data_uri, kind=lambda block: type(block).__name__)
    return environment


def _template(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _path(text: str) -> Markup:
    """A file name as HTML that may break after a slash."""
    from markupsafe import Markup

    return Markup("/<wbr>").join(text.split("/"))


def _data_uri(picture: str) -> str:
    """The base64 text of a JPEG or PNG file as an address that holds the file itself."""
    kind = "jpeg" if picture.startswith("/9j/") else "png"
    return f"data:image/{kind};base64,{picture}"
