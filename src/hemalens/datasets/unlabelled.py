"""Images without labels where labelled ones are wanted: how to tell them, and what to do with them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from hemalens.errors import shell_words
from hemalens.taxonomy import AS_LABELLED

NO_TYPE = re.compile(
    r".*\d.*|(all|cells?|crops?|data|export|images?|imgs?|new|patients?|photos?|pictures?|raw|slides?|smears?|unlabell?ed)",
    re.IGNORECASE | re.DOTALL,
)
"""Names of folders by date, patient or smear, and of plain collections: with a digit, or one of these words."""


def look_unlabelled(labels: Iterable[str]) -> bool:
    """Whether all labels look like dates, numbers or collections, and none like a cell type."""
    return all(NO_TYPE.fullmatch(label.strip()) for label in labels)


def what_to_do(folder: Path) -> str:
    """The commands for a folder of unlabelled images."""
    predict = shell_words(["hemalens", "predict", str(folder), "--out", "predictions.csv"])
    return f"To classify them: {predict}. To choose cells to label: hemalens suggest --help."


def as_classes() -> str:
    """The option that makes each folder a class."""
    return f"To make each folder a class: --labels {AS_LABELLED}."
