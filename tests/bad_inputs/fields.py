"""Fields with boxes: annotations of every format that are damaged, in another unit, or refer to nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from typing import Any

from bad_input_cases import Case, Place

from fake_fields import OBJECTS, SIZE, noise, voc_text, write_coco, write_voc, write_yolo

Make = Callable[[Place], Sequence[object]]
FIELDS = ("data", "fields")


def _yolo(row: str | None = None, *, names: str | None = None, spec: str = "yolo:set") -> Make:
    """`data fields` of a YOLO folder whose first label file, or list of names, is replaced."""

    def make(place: Place) -> Sequence[object]:
        write_yolo(place.folder / "set")
        if row is not None:
            place.file("set/labels/train/0.txt", row)
        if names is not None:
            place.file("set/data.yaml", names)
        return (*FIELDS, spec, "--quiet")

    return make


def _voc(text: str, *, second: bool = True) -> Make:
    """`data fields` of a Pascal VOC folder whose first annotation is replaced."""

    def make(place: Place) -> Sequence[object]:
        write_voc(place.folder / "set", (OBJECTS, OBJECTS) if second else (OBJECTS,))
        place.file("set/Annotations/0.xml", text)
        return (*FIELDS, "voc:set", "--quiet")

    return make


def _coco(change: Callable[[Any], object]) -> Make:
    """`data fields` of a COCO file after a change of its content."""

    def make(place: Place) -> Sequence[object]:
        write_coco(place.folder / "set", change=change)
        return (*FIELDS, "coco:set", "--quiet")

    return make


def _no_labels(place: Place) -> Sequence[object]:
    write_yolo(place.folder / "set")
    shutil.rmtree(place.folder / "set" / "labels")
    return (*FIELDS, "yolo:set", "--quiet")


def _broken_image(place: Place) -> Sequence[object]:
    write_yolo(place.folder / "set")
    place.file("set/images/train/0.png", "no image")
    return (*FIELDS, "yolo:set", "--quiet")


def _copies(place: Place) -> Sequence[object]:
    write_yolo(place.folder / "set")
    noise(place.folder / "set" / "images" / "train" / "1.png", 0)
    return (*FIELDS, "yolo:set")


def _broken_json(place: Place) -> Sequence[object]:
    write_coco(place.folder / "set")
    place.file("set/annotations/instances.json", json.dumps({"images": []})[:-1])
    return (*FIELDS, "coco:set", "--quiet")


def _drawn(*arguments: object) -> Make:
    def make(place: Place) -> Sequence[object]:
        place.file("notes/note.txt", "mine")
        return ("data", "synthesize-fields", *arguments)

    return make


BOMB = '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;&b;">]><annotation>&c;</annotation>'
GOOD = "0 0.5 0.5 0.2 0.2\n"

CASES = (
    Case("no reader", _yolo(spec="set"), ("cannot read the name of fields 'set'", "yolo:set")),
    Case("another reader", _yolo(spec="yol:set"), ("no reader of fields is named 'yol'", "did you mean 'yolo'?")),
    Case("single cells", _yolo(spec="folder:set"), ("`folder:` reads single cells", "hemalens count")),
    Case("no folder", _yolo(spec="yolo:nowhere"), ("there is no folder 'nowhere'",)),
    Case("images without labels", _no_labels, ("no image in 'set' has a YOLO label file", "hemalens count")),
    Case("a broken image", _broken_image, ("'set/images/train/0.png' is not a readable image",)),
    Case("yolo: per cent", _yolo(f"{GOOD}1 45.5 39.6 33 44\n"), ("0.txt' line 2 is in per cent", "Divide all")),
    Case("yolo: pixels", _yolo("1 320 240 40 44\n"), ("0.txt' line 1 is in pixels", "width and height")),
    Case("yolo: four columns", _yolo("1 0.5 0.5 0.2\n"), ("0.txt' line 1 is no box", "expected 5 numbers")),
    Case("yolo: a track number", _yolo("1 0.5 0.5 0.2 0.2 17\n"), ("a sixth number that is no confidence",)),
    Case("yolo: a name as class", _yolo("WBC 0.5 0.5 0.2 0.2\n"), ("line 1 is no box", "got WBC 0.5")),
    Case("yolo: decimal commas", _yolo("0 0,5 0,5 0,2 0,2\n"), ("line 1 is no box",)),
    Case("yolo: no names", _yolo(names="nc: 3\n"), ("no class names in 'set'", "never guessed")),
    Case("yolo: names of no cell", _yolo(names="names: [cat, dog, bird]\n"), ("no class of 'set/data.yaml' is a kind",)),
    Case("yolo: broken names", _yolo(names="names: [WBC\n"), ("'set/data.yaml' is not valid YAML",)),
    Case("yolo: an empty label file", _yolo(""), ("2 fields, 1 without a cell",), code=0),
    Case("yolo: an unknown class", _yolo(f"{GOOD}8 0.5 0.5 0.1 0.1\n"), ("1 box(es), class '8 without a name'",), code=0),
    Case(
        "yolo: NaN, zero size and outside", _yolo("0 nan 0 0 0\n0 0.5 0.5 0 0.1\n0 3 0.5 0.1 0.1\n"), ("left out",), code=0
    ),
    Case("two copies of an image", _copies, ("1 byte-identical image(s) are left out", "1 field,"), code=0),
    Case("voc: entities", _voc(BOMB), ("'set/Annotations/0.xml'", "a document type (DTD), which is refused")),
    Case("voc: cut short", _voc("<annotation>"), ("cannot read the boxes in 'set/Annotations/0.xml'",)),
    Case("voc: no corners", _voc("<annotation><object/></annotation>"), ("expected Pascal VOC XML",)),
    Case("voc: another size", _voc(voc_text(OBJECTS, (9, 9))), ("1 annotation(s) of another image size",), code=0),
    Case("voc: all of another size", _voc(voc_text(OBJECTS, (9, 9)), second=False), ("no field with boxes in 'set'",)),
    Case("voc: boxes outside", _voc(voc_text([("WBC", (*SIZE, 900, 900))])), ("outside the image",), code=0),
    Case("coco: broken JSON", _broken_json, ("'set/annotations/instances.json'", "expected COCO JSON")),
    Case("coco: no categories", _coco(lambda c: c.pop("categories")), ("has no categories",)),
    Case("coco: no images", _coco(lambda c: c.update(images=[])), ("has no images",)),
    Case("coco: an id twice", _coco(lambda c: c["images"].append(c["images"][0])), ("gives one id to two images",)),
    Case("coco: a lost image id", _coco(lambda c: c["annotations"][0].update(image_id=9)), ("an image id that",), code=0),
    Case("coco: a crowd", _coco(lambda c: c["annotations"][0].update(iscrowd=1)), ("a crowd of cells",), code=0),
    Case("drawn: over notes", _drawn("notes", "--overwrite"), ("holds something else than synthetic fields",)),
    Case("drawn: an unknown setting", _drawn("out", "--set", "n_field=3"), ("unknown key 'n_field'", "'n_fields'?")),
    Case("drawn: too much overlap", _drawn("out", "--set", "overlap=0.9"), ("key 'overlap'", "0.5")),
    Case("drawn: an unknown type", _drawn("out", "--set", "types.neutro=1"), ("unknown white cell 'neutro'",)),
    Case("drawn: another laboratory", _drawn("out", "--laboratory", "lab_c"), ("'lab_c'", "lab_b")),
)
