"""Tables of pictures as words and data URIs, from which HTML and Markdown are both written."""

from __future__ import annotations

import math

from hemalens.evaluation import formatting
from hemalens.evaluation.results import Picture, PictureTable, Report

N_ABREAST = 4
"""No more pictures than this stand side by side: they would be too small on a phone."""


def shown(report: Report) -> tuple[PictureTable, ...]:
    """The tables that have rows."""
    return tuple(table for table in report.pictures if table.rows)


def n_abreast(table: PictureTable) -> int:
    """How many pictures of a row stand side by side; the lines of many pictures are about equally long."""
    n = len(table.columns)
    return math.ceil(n / math.ceil(n / N_ABREAST))


def data_uri(picture: str) -> str:
    """The base64 text of a JPEG or PNG file as an address that holds the file itself."""
    kind = "jpeg" if picture.startswith("/9j/") else "png"
    return f"data:image/{kind};base64,{picture}"


def introduction(table: PictureTable) -> str:
    """How many pictures the HTML shows, and of what."""
    n = sum(picture != "" for row in table.rows for picture in row.pictures)
    columns = ", ".join(map(formatting.visible, table.columns))
    return f"The HTML report shows {formatting.counted(n, 'picture')} ({columns}):"


def line(row: Picture) -> str:
    """Name and caption of a row: "cell_0007.png: IoU 0.87"."""
    return f"{row.name}: {row.caption}" if row.caption else row.name
