"""Embeddings on a plane: every point is drawn, wrong ones are ringed, laboratories have a panel of their own."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError

from hemalens.evaluation.results import Scatter, ScatterPoint
from hemalens.report import embeddings
from hemalens.report.embeddings import NamedScatter
from hemalens.report.figures import Figures


def _scatter(n: int, domains: tuple[str, ...] = ("a", "b"), **more: Any) -> Scatter:
    points = [
        ScatterPoint(x=i, y=i % 7, label="xy"[i % 2], predicted="x", domain=domains[i % len(domains)]) for i in range(n)
    ]
    return Scatter(explained=(0.5, 0.2), n_total=3 * n, points=tuple(points), **more)


def _drawn(scatter: Scatter, n_points: int = 100) -> Figures:
    (found,) = embeddings.embedded([NamedScatter("m", "", scatter)], name="s", cells="of a", n_points=n_points)
    return found


def test_several_laboratories_have_a_panel_of_their_own() -> None:
    found = _drawn(_scatter(300), 1000)
    assert [panel.note for panel in found.panels] == ["300 of 900 cells, by cell type", "the same cells, by laboratory"]
    by_label, by_domain = (panel.drawing.svg() for panel in found.panels)
    assert "Scatter of 300 cells by cell type: 2 cell types; 150 wrong predictions are ringed." in by_label
    assert "Scatter of 300 cells by laboratory: a 150, b 150." in by_domain
    types, laboratories = found.legends
    assert [key.text for key in types.keys] == ["x", "y"]
    assert [key.text for key in laboratories.keys] == ["a", "b", "wrong prediction"]
    for svg in (by_label, by_domain):
        # points and rings
        assert svg.count("<use ") == 450
    for key in laboratories.keys[:2]:
        assert key.colour.lower() in by_domain
    alone = _drawn(_scatter(30, ("a",)))
    assert [panel.note for panel in alone.panels] == ["30 of 90 cells, by cell type"]
    assert "laboratory" not in alone.caption
    assert embeddings.embedded([], name="s", cells="", n_points=9) == ()


def test_points_are_where_they_belong_and_as_many_as_requested() -> None:
    found = _drawn(_scatter(500, ("a",)), 200)
    assert found.panels[0].note == "200 of 1,500 cells, by cell type"
    svg = found.panels[0].drawing.svg()
    places = [(float(x), float(y)) for x, y in re.findall(r'<use href="#[^"]*" x="([\d.]+)" y="([\d.]+)"', svg)]
    width, height = (px * 0.72 for px in found.panels[0].drawing.size_px)
    # 200 points, of which 100 are wrong and ringed
    assert len(places) == 300
    assert len(set(places)) <= 200
    assert min(x for x, _ in places) < 0.1 * width
    assert max(x for x, _ in places) > 0.9 * width
    assert all(0 < x < width and 0 < y < height for x, y in places)


def test_cells_that_are_all_alike_and_one_cell_are_drawn() -> None:
    alike = Scatter(
        explained=(0.0, 0.0), n_total=3,
        points=tuple(ScatterPoint(x=0, y=0, label="a", predicted="a", domain="d") for _ in range(3)),
    )  # fmt: skip
    found = _drawn(alike)
    assert [legend.title for legend in found.legends] == ["Cell types"]
    assert "nan" not in found.panels[0].drawing.svg()


def test_a_umap_has_no_shares_of_variance() -> None:
    found = _drawn(Scatter(projection="UMAP", explained=None, n_total=9, points=_scatter(9).points))
    assert "UMAP 1" in found.panels[0].drawing.svg()
    assert "in a UMAP of their embeddings" in found.caption
    with pytest.raises(ValidationError, match="principal components"):
        _scatter(5, projection="UMAP")
    with pytest.raises(ValidationError, match="principal components"):
        Scatter(explained=None, n_total=0, points=())
