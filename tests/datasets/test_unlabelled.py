"""Folders by date or patient, and what an error says about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hemalens.datasets.unlabelled import look_unlabelled, what_to_do


@pytest.mark.parametrize(
    ("labels", "unlabelled"),
    [
        (["2024-03-01 (alt)", "2024-03-02"], True),
        (["patient 1", "images"], True),
        (["Slides"], True),
        (["Pro-B", "2024"], False),
        (["neutrofil"], False),
        (["imagery"], False),
    ],
)
def test_dates_numbers_and_plain_collections_look_unlabelled(labels: list[str], unlabelled: bool) -> None:
    assert look_unlabelled(labels) is unlabelled


def test_the_command_names_the_folder_for_the_shell() -> None:
    assert "hemalens predict 'my cells' --out predictions.csv" in what_to_do(Path("my cells"))
