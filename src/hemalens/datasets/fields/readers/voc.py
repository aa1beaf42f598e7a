"""Pascal VOC: an XML file of boxes for each image, which lies beside it or in another folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from hemalens.datasets.base import Record, wrong_layout
from hemalens.datasets.fields.matching import Entry, files_in, matched, nearest
from hemalens.datasets.fields.reader import Annotation, FieldListing, FieldReader, Gathering, complete_kinds
from hemalens.datasets.fields.voc_xml import VocFile, read_voc
from hemalens.imaging.boxes import Kind

TITLE = "Pascal VOC"
LAYOUT = "<name>.xml and <image> in one folder, or Annotations/<name>.xml and JPEGImages/<image>"
TAG = "annotation"


def read_fields(root: Path, domain: str = "voc", complete: tuple[Kind, ...] | None = None) -> FieldListing:
    """The fields below a folder; without `complete`, the kinds that the whole set names are boxed completely."""
    if not root.is_dir():
        raise wrong_layout(root, TITLE, LAYOUT)
    files = files_in(root)
    read = {path: read_voc(path) for path in files.others if path.suffix.lower() == ".xml"}
    boxed = {path: voc for path, voc in read.items() if voc.tag == TAG}
    if not boxed or not files.records:
        raise wrong_layout(root, TITLE, LAYOUT)
    names = {name for voc in boxed.values() for name, _ in voc.objects}
    kinds = complete if complete is not None else complete_kinds(names, root)
    found = Gathering(notes=files.notes)
    found.note_files([path for path in read if path not in boxed], "XML file(s) are no annotation")
    image_of = _images(files.records)
    entries = (Entry(path, image_of(path, voc), voc.size, _annotation(voc), kinds) for path, voc in boxed.items())
    return matched(root, files, entries, found, domain=domain)


def _annotation(voc: VocFile) -> Annotation:
    annotation = Annotation()
    for name, corners in voc.objects:
        annotation.add(name, corners)
    return annotation


def _images(records: list[Record]) -> Callable[[Path, VocFile], Record | None]:
    """A function that finds the image of an annotation: of the XML's name, else of the file name that it states."""
    by_stem, by_name = defaultdict(list), defaultdict(list)
    record_of = {record.path: record for record in records}
    for path in record_of:
        by_stem[path.stem].append(path)
        by_name[path.name].append(path)

    def image_of(path: Path, voc: VocFile) -> Record | None:
        candidates = by_stem.get(path.stem) or by_name.get(Path(voc.filename).name)
        return record_of[nearest(path, candidates, path.name)] if candidates else None

    return image_of


READER = FieldReader(
    title="fields with Pascal VOC boxes",
    licence="the user's own",
    citation="the user's own",
    layout=LAYOUT,
    read=read_fields,
)
