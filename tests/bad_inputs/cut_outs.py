"""Cut-outs of fields: names that name no fields, fields that give none, laboratories that are not there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bad_input_cases import Case, Place

from fakes import cut_outs

Make = Callable[[Place], Sequence[object]]


def _audit(spec: str, names: str | None = None) -> Make:
    """`data audit` of a name, beside fields in "set" whose list of names may be replaced."""

    def make(place: Place) -> Sequence[object]:
        cut_outs.write(place.folder / "set", n_per_class=1)
        if names is not None:
            place.file("set/data.yaml", f"names: [{names}]\n")
        return ("data", "audit", spec, "--labels", "smear", "--quiet")

    return make


def _broken(file: str, text: str) -> Make:
    """`data audit` of fields of which one file is replaced."""

    def make(place: Place) -> Sequence[object]:
        cut_outs.write(place.folder / "set", n_per_class=1)
        place.file(f"set/{file}", text)
        return ("data", "audit", "cut_outs:yolo:set", "--labels", "smear", "--quiet")

    return make


def _train(*more: object, method: str = "stub", data: str = "cut_outs:yolo:set") -> Make:
    def make(place: Place) -> Sequence[object]:
        cut_outs.write(place.folder / "set", n_per_class=4)
        place.cells()
        return ("train", method, "--train", data, "--out", place.out, *more)

    return make


def _fields(place: Place) -> Sequence[object]:
    cut_outs.write(place.folder / "set", n_per_class=1)
    return ("data", "fields", "cut_outs:yolo:set", "--quiet")


SMEAR = ("--labels", "smear")
CASES = (
    Case("no reader of fields", _audit("cut_outs:set"), ("'set' is not laid out", "cut_outs:yolo:my_fields")),
    Case("no path", _audit("cut_outs:yolo:"), ("cut_outs:yolo:my_fields",)),
    Case("nothing at all", _audit("cut_outs:"), ("cannot read the dataset name 'cut_outs:'",)),
    Case(
        "a misspelt reader", _audit("cut_outs:yollo:set"), ("no reader of fields is named 'yollo'", "did you mean 'yolo'?")
    ),
    Case("a reader of cells", _audit("cut_outs:folder:set"), ("no reader of fields is named 'folder'",)),
    Case("cut out twice", _audit("cut_outs:cut_outs:yolo:set"), ("no reader of fields is named 'cut_outs'",)),
    Case("a misspelt name", _audit("cutouts:yolo:set"), ("unknown dataset 'cutouts'", "did you mean 'cut_outs'?")),
    Case("no folder", _audit("cut_outs:yolo:nowhere"), ("there is no folder 'nowhere'",)),
    Case("a file", _audit("cut_outs:txl_pbc:set/data.yaml"), ("is not laid out as TXL-PBC",)),
    Case(
        "no white cells boxed",
        _audit("cut_outs:yolo:set", "a, RBC, Platelets"),
        ("no field of 'yolo:set' gives a cut-out",),
    ),
    Case(
        "white cells alone",
        _audit("cut_outs:yolo:set", "WBC, a, b"),
        ("gives a cut-out", "boxed completely", "got 1 field(s)"),
    ),
    Case("no kind of cell", _audit("cut_outs:yolo:set", "a, b, c"), ("no class of 'set/data.yaml' is a kind of cell",)),
    Case("boxes that are none", _broken("labels/field_0.txt", "one two\n"), ("field_0.txt",)),
    Case("an image that is none", _broken("images/field_0.png", "no image\n"), ("field_0.png' is not a readable image",)),
    Case("cut-outs where fields belong", _fields, ("no reader of fields is named 'cut_outs'",)),
    Case("under the five classes", _train(), ("no image with a label of five_class", "Choose other --labels"), stub=True),
    Case(
        "a laboratory that is not there",
        _train(*SMEAR, "--leave-out", "raabin"),
        ("--leave-out 'raabin' is no laboratory", "'yolo'"),
        stub=True,
    ),
    Case("every laboratory", _train(*SMEAR, "--leave-out", "yolo"), ("--leave-out names every laboratory",), stub=True),
    Case(
        "a detector's laboratory",
        _train("--leave-out", "yolo", method="detector", data="yolo:set"),
        ("--set leave_out=yolo",),
    ),
    Case(
        "a misspelt map", _train("--labels", "smears"), ("unknown label map 'smears'", "did you mean 'smear'?"), stub=True
    ),
)
