"""The commands on data: audit with its table of groups, download, and synthetic images."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from bad_input_cases import Case, Place

Make = Callable[[Place], Sequence[object]]


def _audit(*more: object, spec: str = "folder:cells") -> Make:
    """`data audit` of two classes of three cells, with further arguments."""

    def make(place: Place) -> Sequence[object]:
        place.cells(n=3)
        (place.folder / "elsewhere").mkdir()
        place.file("a file")
        return ("data", "audit", spec, "--quiet", *more)

    return make


def _audited(change: Callable[[Place, Path], None], *more: object) -> Make:
    """`data audit` after a change below the folder of cells."""

    def make(place: Place) -> Sequence[object]:
        change(place, place.cells(n=2))
        return ("data", "audit", "folder:cells", "--quiet", *more)

    return make


def _table(text: str | bytes, *more: object, spec: str = "csv:table.csv") -> Make:
    """`data audit` of a table, or beside one."""

    def make(place: Place) -> Sequence[object]:
        place.cells(n=2)
        place.image("a cell.png")
        place.file("table.csv", text)
        return ("data", "audit", spec, "--quiet", *more)

    return make


def _in_place(*arguments: object) -> Make:
    """A command in a folder with a file, and with a folder that holds a text."""

    def make(place: Place) -> Sequence[object]:
        place.file("a file")
        place.file("notes/note.txt", "mine")
        return arguments

    return make


def _synthetic(verb: str, *, note: bool) -> Make:
    """`data synthesize` over synthetic images, with a note among them."""

    def make(place: Place) -> Sequence[object]:
        place.file("set/lab_a/synthetic.json", "{}")
        place.image("set/lab_a/images/neutrophil/0.png")
        if note:
            place.file("set/lab_a/images/my notes.txt", "mine")
        return ("data", verb, "set", "--n-per-class", "4", *(["--overwrite"] if note else []))

    return make


def _same_in_three(place: Place, cells: Path) -> None:
    (cells / "monocyte").mkdir()
    for kind in ("lymphocyte", "monocyte"):
        shutil.copy(sorted((cells / "neutrophil").iterdir())[0], cells / kind / "same.png")


def _red_name(place: Place, cells: Path) -> None:
    place.file("cells/neutrophil/\x1b[31mred\x9b0m.png", "no image")


def _pictures_alone(place: Place) -> Sequence[object]:
    place.image("cells/a.png")
    return ("data", "audit", "folder:cells")


def _blanks(place: Place, cells: Path) -> None:
    for i in range(5):
        place.image(f"cells/neutrophil/{i}.png", size=(30 + i, 30), seed=0)


ROWS = "path,label\n"
LABEL = "cells/neutrophil,neutrophil\n"

CASES = (
    Case("audit: no reader", _audit(spec="cells"), ("cannot read the dataset name 'cells'", "folder:cells")),
    Case("audit: another reader", _audit(spec="foldr:cells"), ("unknown dataset 'foldr'", "'folder'")),
    Case("audit: an empty path", _audit(spec="folder:"), ("cannot read the dataset name 'folder:'",)),
    Case("audit: no folder", _audit(spec="folder:nowhere"), ("there is no folder 'nowhere'",)),
    Case("audit: a file", _audit(spec="folder:a file"), ("'a file' is not laid out as a folder of classes", "got a file")),
    Case("audit: an empty folder", _audit(spec="folder:elsewhere"), ("got an empty folder",)),
    Case("audit: images without class folders", _pictures_alone, ("are not in class folders",)),
    Case("audit: another label map", _audit("--labels", "five"), ("unknown label map 'five'", "'five_class'")),
    Case("audit: a folder as table", _audit(spec="csv:cells"), ("there is no CSV file 'cells'", "got a folder")),
    Case("audit: an empty table", _table(""), ("'table.csv' lacks the column(s) path, label", "got no header")),
    Case("audit: a table without rows", _table(ROWS), ("'table.csv' lists no image",)),
    Case("audit: a table of bytes", _table(b"\xff\xfe\x00\x81"), ("'table.csv'",)),
    Case("audit: no such image", _table(f"{ROWS}a.png,neutrophil\n"), ("line 2: there is no file 'a.png'",)),
    Case("audit: out of the folder", _table(f"{ROWS}../a.png,neutrophil\n"), ("lies outside the CSV's folder",)),
    Case(
        "audit: a folder among the images",
        _table(ROWS + LABEL),
        ("unreadable: 1", "'cells/neutrophil' is a folder"),
        code=0,
    ),
    Case(
        "audit: one image under three labels",
        _audited(_same_in_three),
        ("the same image under two labels: 1", "(lymphocyte)", "(monocyte)", "(neutrophil)"),
        code=0,
    ),
    Case(
        "audit: escape codes in a name", _audited(_red_name), (r"\x1b[31mred\x9b0m.png' is not a readable image",), code=0
    ),
    Case("audit: escape codes in JSON", _audited(_red_name, "--json"), (r"\u001b[31mred",), code=0),
    Case("audit: the same noise in five sizes", _audited(_blanks), ("unreadable: 0", "byte-identical copies: 0"), code=0),
    Case("groups: no CSV", _audit("--groups-to", "groups.txt"), ("--groups-to 'groups.txt' is no CSV", "ends with .csv")),
    Case("groups: a folder", _audit("--groups-to", "elsewhere"), ("--groups-to 'elsewhere' is no CSV", "got a folder")),
    Case("groups: below a file", _audit("--groups-to", "a file/g.csv"), ("cannot write 'a file/g.csv'", "got the file")),
    Case(
        "groups: apart from the images",
        _audit("--groups-to", "elsewhere/g.csv"),
        ("--groups-to 'elsewhere/g.csv' does not lie on or above the images", "Choose", "cells/g.csv"),
    ),
    Case(
        "groups: the audited table",
        _table(f"{ROWS}cells/neutrophil/0.png,neutrophil\n", "--groups-to", "table.csv", "--overwrite"),
        ("'table.csv' would replace the input 'table.csv'", "Choose another --groups-to; nothing was changed"),
    ),
    Case(
        "groups: a table of somebody",
        _table(
            "path,label,group,domain\na cell.png,monocyte,,\n",
            *("--groups-to", "table.csv", "--overwrite"),
            spec="folder:cells",
        ),
        ("--groups-to 'table.csv' holds labels that these images do not have", "it is not overwritten"),
    ),
    Case(
        "groups: where the remedy names it",
        _audit("--groups-to", "cells/groups.csv", spec="folder:cells/../cells"),
        ("6 images and", "group(s) in cells/groups.csv", "csv:cells/groups.csv"),
        code=0,
        writes=("cells/groups.csv",),
    ),
    Case("download: no such set", _in_place("data", "download", "bloodmnis", "--out", "out"), ("'bloodmnist'?",)),
    Case(
        "download: a set without one",
        _in_place("data", "download", "acevedo20", "--out", "out"),
        ("no download of 'acevedo20' is known", "bloodmnist"),
    ),
    Case(
        "download: another size",
        _in_place("data", "download", "bloodmnist", "--size", "30", "--out", "out"),
        ("bloodmnist has no images of 30 px", "expected 28, 64, 128, 224", "--size"),
    ),
    Case(
        "download: into a file",
        _in_place("data", "download", "bloodmnist", "--out", "a file"),
        ("cannot write 'a file/bloodmnist.npz'", "got the file", "a file'"),
    ),
    Case(
        "synthesize: another laboratory",
        _in_place("data", "synthesize", "out", "--laboratory", "lab_c"),
        ("'lab_c'", "'lab_b' or 'lab_a'"),
    ),
    Case("synthesize: below a file", _in_place("data", "synthesize", "a file/x"), ("cannot write 'a file/x'",)),
    Case("synthesize: over a file", _in_place("data", "synthesize", "a file", "--overwrite"), ("'a file' is a file",)),
    Case("synthesize: over notes", _in_place("data", "synthesize", "notes", "--overwrite"), ("holds something else",)),
    Case("synthesize: it exists", _synthetic("synthesize", note=False), ("'set' exists already", "--overwrite")),
    Case(
        "synthesize: a note inside",
        _synthetic("synthesize", note=True),
        ("my notes.txt'", "besides synthetic images", "Move"),
    ),
    Case(
        "tissue: a note inside", _synthetic("synthesize-tissue", note=True), ("my notes.txt'", "besides synthetic", "Move")
    ),
    Case(
        "tissue: over notes",
        _in_place("data", "synthesize-tissue", "notes", "--overwrite"),
        ("holds something else than synthetic images", "it is not overwritten"),
    ),
)
