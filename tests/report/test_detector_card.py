"""The card of a detector: its data, what it was not trained on, and the figures of its tests."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hemalens.bundle.artifact import DataEntry
from hemalens.bundle.detector import DetectorManifest
from hemalens.errors import ReportError
from hemalens.imaging.reading import Preprocessing
from hemalens.report.detector_card import detector_card
from tested_detectors import Kind, Outcome


@pytest.fixture
def manifest() -> DetectorManifest:
    """Of a detector trained on two laboratories, a third left out."""
    entry = DataEntry(
        role="train",
        name="txl",
        fingerprint="0" * 64,
        class_counts={"white cell": 627, "red cell": 11_313, "platelet": 528},
        licence="MIT",
        citation="Gan | Li",
        synthetic=False,
        dropped={"laboratory left out": 350, "copy of another field": 2},
    )
    return DetectorManifest(
        created="2026-01-01",
        method="detector",
        config={"backbone": "lite0", "epochs": 24, "windows_per_epoch": 1200, "side_px": 192},
        preprocessing=Preprocessing(size_px=224),
        n_fields=592,
        n_boxes=entry.class_counts,
        n_parameters=740_000,
        laboratories={"acevedo20": 316, "bccd": 276},
        left_out={"raabin": 350},
        nuclei={"n_white": 627, "n_with_nucleus": 626, "n_masked": 0},
        data=(entry,),
        parity=0.0017,
        versions={"torch": "2"},
    )


def test_the_card_states_use_data_and_figures(manifest: DetectorManifest) -> None:
    card = detector_card(manifest, [Outcome("raabin"), Outcome("bccd", seen="left out")], ["Mind the gap."])
    for part in (
        "Research use: a morphologist confirms every result.",
        "Finds white cells, red cells and platelets",
        "| txl | train | white cells 627, red cells 11,313, platelets 528 | MIT | Gan \\| Li |",
        "| acevedo20 | 316 |",
        "626 of 627 white cells have a nucleus to learn from, 0 of these from masks",
        "- raabin: 350 field(s) of the sets above, kept from the training for the tests.",
        "- txl: 2 field(s), copy of another field.",
        "| raabin | 40 | 1,234 | 0.910 (0.900–0.920) | 0.971 (0.960–0.980) | n/a |",
        "| bccd | 40 | 77 |",
        "a score above 0.1 (white cells) and 0.2 (red cells) lies",
        "- bccd: fields seen in training were left out of this test.",
        "- raabin: none of these fields was seen in training.",
        "- Mind the gap.",
        "24 epochs of 1200 windows of 192 px",
        "differ by 0.0017 at most",
    ):
        assert part in card
    assert card.index("White cells:") < card.index("Red cells:")
    # each test once, and no sum of laboratories beside them
    again = detector_card(manifest, [Outcome("raabin"), Outcome("raabin"), Outcome("all", together=True)])
    assert again.count("| raabin | 40 |") == 2
    assert "| all |" not in again


def test_kinds_behind_a_classifier_have_their_own_table(manifest: DetectorManifest) -> None:
    both = (Kind("white cell"), Kind("white cell", classifier="robust"))
    card = detector_card(manifest, [Outcome("raabin", kinds=both)])
    assert "White cells:" in card
    assert "White cells, after the classifier robust:" in card


def test_another_detector_s_test_is_refused(manifest: DetectorManifest) -> None:
    with pytest.raises(ReportError, match="tests another detector; expected detector trained on txl; got detector"):
        detector_card(manifest, [replace(Outcome("raabin"), source="other")])
    with pytest.raises(ReportError, match="no figures"):
        detector_card(manifest, [])
