"""Tables of exact maps for a report: which cells, with which captions, and why there are none."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

import trained
from hemalens.evaluation.activation import REFUSED, activation_table, drawn, refused_table
from hemalens.evaluation.chosen_cells import chosen_cells
from hemalens.evaluation.evaluate import predict_dataset
from hemalens.inference.explain import Evidence, Explainer
from trained import Fitted


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return trained.fitted(tmp_path_factory, "linear_probe")


def _picture(text: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(text))) as opened:
        return np.asarray(opened.convert("RGB")).astype(int)


def test_a_table_shows_the_chosen_cells_with_their_evidence(fit: Fitted) -> None:
    explainer = Explainer(fit.bundle)
    known = predict_dataset(fit.bundle, fit.validation)
    table = activation_table(explainer, fit.validation, known, n=5)
    labels = fit.bundle.manifest.labels
    assert table.title == f"linear_probe on {fit.validation.name}: evidence"
    assert table.columns == ("image", "evidence")
    chosen = chosen_cells(known, labels, 5)
    assert [row.name for row in table.rows] == [known.records[i].path.name for i in chosen]
    for i, row in zip(chosen, table.rows, strict=True):
        predicted = labels[known.probabilities[i].argmax()]
        right = predicted == known.records[i].label
        assert row.caption.startswith("right: " if right else "wrong: true ")
        assert predicted.replace("_", " ") in row.caption
        found = explainer(known.records[i].read())
        assert row.caption.endswith(f"evidence for {found.pro:.1f}, against {abs(found.contra):.1f}")
        image, shown = map(_picture, row.pictures)
        assert image.shape == shown.shape
    assert "at most 5 cells" in table.note
    assert "2 x 2 places" in table.note
    assert "cut out" not in table.note
    assert "has no map" not in table.note


def test_a_drawn_map_is_orange_where_it_is_for_and_blue_where_it_is_against() -> None:
    image = np.full((40, 80, 3), 200, np.uint8)
    evidence = np.zeros((40, 80))
    evidence[:, :30], evidence[:, 50:] = 8, -8
    shown = _picture(drawn(image, Evidence("a", 0.5, evidence, places=((1, 1),)), 80))
    assert shown.shape == (40, 80, 3)
    assert (shown[5:-5, 5:25, 0] - shown[5:-5, 5:25, 2]).min() > 60
    assert (shown[5:-5, 55:75, 2] - shown[5:-5, 55:75, 0]).min() > 60


def test_a_model_without_exact_maps_has_a_reason_and_no_row() -> None:
    table = refused_table("bloodshot", "jtsc")
    assert table.rows == ()
    assert table.title == "bloodshot on jtsc: evidence"
    assert table.reason == REFUSED
    assert "--explain occlusion" in table.reason
