"""The XML of Pascal VOC: objects with a name and corners in pixels. Document types are refused, as they hold entities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from hemalens.errors import DatasetError, one_line
from hemalens.files import open_regular

MAX_BYTES = 16_000_000
"""Size of the largest annotation."""
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True)
class VocFile:
    """One annotation: the image's file name, its size (width, height) or None where none is stated, and the objects."""

    tag: str
    filename: str
    size: tuple[int, int] | None
    objects: tuple[tuple[str, tuple[float, float, float, float]], ...]


class _Builder(ElementTree.TreeBuilder):
    """Builds a tree, and stops at a document type: its entities may expand without end, or name other files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("a document type (DTD), which is refused")


def read_voc(path: Path) -> VocFile:
    """Read one annotation; raises `DatasetError`, which names the file."""
    try:
        with open_regular(path) as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        root = ElementTree.fromstring(content, ElementTree.XMLParser(target=_Builder()))
        objects = tuple((item.findtext("name", "").strip(), _corners(item)) for item in root.iter("object"))
        size = (_pixels(root, "width"), _pixels(root, "height"))
    except (OSError, ElementTree.ParseError, ValueError, LookupError, OverflowError) as error:
        raise DatasetError(
            f"cannot read the boxes in {one_line(path)}", expected="Pascal VOC XML", got=str(error)
        ) from error
    return VocFile(root.tag, root.findtext("filename", "").strip(), size if min(size) > 0 else None, objects)


def _corners(item: ElementTree.Element) -> tuple[float, float, float, float]:
    left, top, right, bottom = (float(item.findtext(f"bndbox/{name}", "")) for name in CORNERS)
    return left, top, right, bottom


def _pixels(root: ElementTree.Element, name: str) -> int:
    return int(float(root.findtext(f"size/{name}", "0") or 0))
