"""Tables and pictures of a report."""

from __future__ import annotations

import re

from pydantic import Field, model_validator

from hemalens.evaluation.results.base import Part

# the first bytes of a JPEG or a PNG file, in base64
_PICTURE = re.compile(r"(?:/9j/|iVBORw0KGgo)[A-Za-z0-9+/]*={0,2}")
_LINK = re.compile(r"(?:(?!\.)[A-Za-z0-9._-]+/)*(?!\.)[A-Za-z0-9._-]+\.(?:png|jpg)")
"""A picture below the folder of the report: no address elsewhere, and no way up."""


class ComparisonTable(Part):
    """A table of a study, with the published numbers; a cell is a text, a number, or None."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]
    note: str = ""

    @model_validator(mode="after")
    def _as_many_cells_as_columns(self) -> ComparisonTable:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"a row of {len(wrong[0])} cells in a table of {len(self.columns)} columns")
        return self


class Picture(Part):
    """One cell in several pictures, such as the image and the image with an outline, with a caption.

    `pictures` are JPEG or PNG files as base64, without the head of a data URI; an empty text where there is none. `link` is
    the path of a larger picture, relative to the report.
    """

    name: str
    caption: str = ""
    pictures: tuple[str, ...]
    link: str = ""

    @model_validator(mode="after")
    def _base64_of_known_files(self) -> Picture:
        if not all(text == "" or _PICTURE.fullmatch(text) for text in self.pictures):
            raise ValueError("a picture that is not the base64 text of a JPEG or PNG file")
        return self

    @model_validator(mode="after")
    def _link_within_the_folder(self) -> Picture:
        if self.link and not _LINK.fullmatch(self.link):
            raise ValueError("a link that leaves the folder of the report, or leads to no picture")
        return self


class PictureTable(Part):
    """Pictures of several cells, a row each; `columns` are the titles of the pictures. `large`: they show whole fields.

    `reason`: why there are no rows, where a reader expects some.
    """

    title: str
    columns: tuple[str, ...] = Field(min_length=1)
    rows: tuple[Picture, ...]
    note: str = ""
    large: bool = False
    reason: str = ""

    @model_validator(mode="after")
    def _as_many_pictures_as_columns(self) -> PictureTable:
        wrong = [row for row in self.rows if len(row.pictures) != len(self.columns)]
        if wrong:
            raise ValueError(f"a row of {len(wrong[0].pictures)} pictures in a table of {len(self.columns)} columns")
        return self
