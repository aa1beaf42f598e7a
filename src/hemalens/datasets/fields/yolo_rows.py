"""The rows of a YOLO label file: class, centre x, centre y, width, height as shares of the image's sides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hemalens.errors import DatasetError, one_line
from hemalens.files import open_regular, write_text
from hemalens.imaging.boxes import Corners

MAX_BYTES = 16_000_000
"""Size of the largest label file."""
DIGITS = 8
"""Decimals of a share as it is written: a hundredth of a pixel in an image of 64 million pixels."""


@dataclass(frozen=True, slots=True)
class Row:
    """One box: class index, corners as shares of the image's sides, the confidence where the row has one."""

    index: int
    corners: tuple[float, float, float, float]
    score: float | None = None
    outlined: bool = False
    """Whether the row is a polygon, of which the box is kept."""


def read_rows(path: Path) -> list[Row]:
    """The rows of a label file; an empty file has none. Raises `DatasetError`, which names the file and the line."""
    try:
        with open_regular(path) as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        text = content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read the boxes in {one_line(path)}", expected="YOLO text", got=str(error)) from error
    return [_row(line.split(), f"{one_line(path)} line {i}") for i, line in enumerate(text.splitlines(), 1) if line.strip()]


def _row(words: Sequence[str], place: str) -> Row:
    try:
        values = [float(word) for word in words]
        index = int(values[0])
        known = index == values[0] >= 0
    except (ValueError, OverflowError):
        known = False
    outlined = len(words) >= 7 and len(words) % 2 == 1
    if not known or not (len(words) in (5, 6) or outlined):
        raise DatasetError(
            f"{place} is no box",
            expected="5 numbers (class, centre x, centre y, width, height), 6 with a confidence, or a polygon's",
            got=" ".join(words[:8])[:80],
        )
    shares = values[1:] if outlined else values[1:5]
    _check_shares(shares, place)
    score = values[5] if len(words) == 6 else None
    if score is not None and not 0 <= score <= 1:
        raise DatasetError(f"{place} has a sixth number that is no confidence", expected="0 to 1", got=words[5])
    return Row(index, _outline_box(shares) if outlined else _centred_box(shares), score, outlined)


def _check_shares(shares: Sequence[float], place: str) -> None:
    if not all(1 < share < math.inf for share in shares):
        return
    unit = "per cent" if max(shares) <= 100 else "pixels"
    raise DatasetError(
        f"{place} is in {unit}",
        expected="shares of the image's sides, 0 to 1",
        got=" ".join(f"{share:g}" for share in shares[:4]),
        remedy="Divide all boxes by 100." if unit == "per cent" else "Divide them by the image's width and height.",
    )


def _outline_box(shares: Sequence[float]) -> tuple[float, float, float, float]:
    x, y = shares[::2], shares[1::2]
    if not all(map(math.isfinite, shares)):
        return (math.nan,) * 4
    return min(x), min(y), max(x), max(y)


def _centred_box(shares: Sequence[float]) -> tuple[float, float, float, float]:
    x, y, width, height = shares
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def write_rows(
    path: Path, indices: Sequence[int], corners: Corners, size: tuple[int, int], scores: Sequence[float] | None = None
) -> None:
    """Write the boxes of an image of `size` (width, height) as a label file, with `scores` as a sixth column."""
    shares = np.asarray(corners, float).reshape(-1, 4) / [*size, *size]
    rows = np.concatenate([(shares[:, :2] + shares[:, 2:]) / 2, shares[:, 2:] - shares[:, :2]], axis=1)
    if scores is not None:
        rows = np.concatenate([rows, np.asarray(scores, float).reshape(-1, 1)], axis=1)
    lines = [
        " ".join([str(index), *(f"{value:.{DIGITS}f}" for value in row)]) + "\n"
        for index, row in zip(indices, rows, strict=True)
    ]
    write_text(path, "".join(lines))
