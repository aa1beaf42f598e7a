"""Outputs that exist, that are inputs, or that hold what somebody else has put there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from bad_input_cases import Case, Place
from PIL import Image

from hemalens.files import write_sealed

Arguments = tuple[object, ...]
NOT_APART = ("would replace the input", "expected an output apart from all inputs", "nothing was changed")
EXISTS = ("exists already", "--overwrite")


def _labels(place: Place, name: str = "labels.csv") -> Path:
    """A CSV of the cells."""
    rows = [f"{p.relative_to(place.folder).as_posix()},{p.parent.name}" for p in sorted(place.cells().glob("*/*"))]
    return place.file(name, "\n".join(["path,label", *rows]) + "\n")


def _predict_onto(name: str, link: Callable[[Path, Path], object] | None = None) -> Callable[[Place], Arguments]:
    """Predict the images of a CSV, and write to another name of it."""

    def make(place: Place) -> Arguments:
        labels = _labels(place)
        if link is not None:
            link(labels, place.folder / name)
        return ("predict", place.bundle(), f"csv:{labels}", "--out", place.folder / name, "--overwrite")

    return make


def _predict_into(content: bytes | str, name: str = "out.csv") -> Callable[[Place], Arguments]:
    """Predict into a file that is there, with --overwrite."""

    def make(place: Place) -> Arguments:
        return ("predict", place.bundle(), place.cells(), "--out", place.file(name, content), "--overwrite")

    return make


def _predict_existing(place: Place) -> Arguments:
    return ("predict", place.bundle(), place.cells(), "--out", place.file("out.csv", "path,label,probability,abstained\n"))


def _predict_to_folder(place: Place) -> Arguments:
    (place.folder / "out.csv").mkdir()
    return ("predict", place.bundle(), place.cells(), "--out", place.folder / "out.csv", "--overwrite")


def _predict_to_fifo(place: Place) -> Arguments:
    os.mkfifo(place.folder / "out.csv")
    return ("predict", place.bundle(), place.cells(), "--out", place.folder / "out.csv", "--overwrite")


def _predict_below_file(place: Place) -> Arguments:
    return ("predict", place.bundle(), place.cells(), "--out", place.file("notes", "mine") / "deep" / "out.csv")


def _train(*out: str, overwrite: bool = True, more: Arguments = ()) -> Callable[[Place], Arguments]:
    """Train on the cells, into a place below the folder."""

    def make(place: Place) -> Arguments:
        cells = place.cells("run/cells")
        flags = ("--overwrite",) if overwrite else ()
        return ("train", "stub", "--train", f"folder:{cells}", "--out", place.folder.joinpath(*out), *flags, *more)

    return make


def _train_onto_bundle(place: Place) -> Arguments:
    return ("train", "stub", "--train", f"folder:{place.cells()}", "--out", place.bundle(), "--overwrite")


def _train_config(place: Place) -> Arguments:
    config = place.file("run/method.toml", "scale = 1.0\n")
    return (
        "train",
        "stub",
        "--train",
        f"folder:{place.cells()}",
        "--config",
        config,
        "--out",
        config.parent,
        "--overwrite",
    )


def _train_validation(place: Place) -> Arguments:
    for i, label in enumerate(("neutrophil", "lymphocyte")):
        held = place.image(f"run/held/{label}/a.png", seed=i).parent.parent
    call = ("train", "stub", "--train", f"folder:{place.cells()}", "--val", f"folder:{held}")
    return (*call, "--out", held.parent, "--overwrite")


def _train_wrong_setting(place: Place) -> Arguments:
    return (*_train("run2")(place), "--set", "scal=2")


def _train_wrong_head(place: Place) -> Arguments:
    """A run that would fail late, onto a place where it may not write a thing."""
    return ("train", "linear_probe", *_train("run2")(place)[2:], "--set", "head=lrr")


def _train_legacy(place: Place) -> Arguments:
    write_sealed(place.out / "run.json", {"kind": "hemalens-run", "key": "k", "finished": True, "request": {}})
    return ("train", "stub", "--train", f"folder:{place.cells()}", "--out", place.out, "--overwrite")


def _adapt(out: Callable[[Place], Path], *, overwrite: bool = True) -> Callable[[Place], Arguments]:
    def make(place: Place) -> Arguments:
        flags = ("--overwrite",) if overwrite else ()
        call = ("adapt", place.bundle(), "--support", f"folder:{place.cells()}", "--few-shot", "rule=prototype")
        return (*call, "--out", out(place), *flags)

    return make


def _adapt_beside_run(place: Place) -> Arguments:
    """The encoder beside is named by the folder of its run, and the output is the bundle in it."""
    inner = place.bundle("run/bundle")
    call = ("adapt", place.bundle(), "--support", f"folder:{place.cells()}", "--beside", inner.parent)
    return (*call, "--out", inner, "--overwrite")


def _own_bundle(place: Place) -> Path:
    """A bundle, with a picture that somebody has put beside its files."""
    place.file("own/picture.png", "mine")
    shutil.copytree(place.bundle(), place.folder / "own", dirs_exist_ok=True)
    return place.folder / "own"


def _bundle_without_manifest(place: Place) -> Path:
    own = place.bundle("own")
    (own / "manifest.json").unlink()
    return own


def _evaluate(out: Callable[[Place], Path], *, overwrite: bool = True) -> Callable[[Place], Arguments]:
    def make(place: Place) -> Arguments:
        flags = ("--overwrite",) if overwrite else ()
        return ("evaluate", place.bundle(), "--data", f"folder:{place.cells()}", "--out", out(place), *flags)

    return make


def _report(place: Place, **files: str) -> Path:
    """A folder with a report, and more files."""
    for name, text in {"report.json": '{"title": "a report"}', "report.md": "", "report.html": "", **files}.items():
        place.file(f"report/{name}", text)
    return place.folder / "report"


def _quantize_onto_images(place: Place) -> Arguments:
    cells = place.cells("data/cells")
    return ("quantize", place.bundle(), "--calibrate", f"folder:{cells}", "--out", cells.parent, "--overwrite")


def _segment_with(**files: str) -> Callable[[Place], Arguments]:
    """Segment into a folder of masks in which somebody has put files."""

    def make(place: Place) -> Arguments:
        table = "path,mask,outcome,cell_share,iou,dice,error\ncell.png,masks/00000_cell.png,ok,0.5,,,\n"
        own = {"segmentation.csv": table, "masks/00000_cell.png": "", "cells/00000_cell.png": ""}
        for name, text in (own | files).items():
            _report(place)
            place.file(f"report/{name}", text)
        return ("segment", "classical", place.image(), "--out", place.folder / "report", "--overwrite")

    return make


def _segment_onto_images(place: Place) -> Arguments:
    cells = place.cells()
    return ("segment", "classical", cells, "--out", cells, "--overwrite")


SUGGESTED = "path,label,rank,guess,probability,why\ncells/neutrophil/a.png,{label},1,neutrophil,0.9,typical\n"


def _suggest(content: str, *more: str, overwrite: bool = True) -> Callable[[Place], Arguments]:
    def make(place: Place) -> Arguments:
        cells, out = place.cells(), place.file("list.csv", content)
        flags = ("--overwrite",) if overwrite else ()
        return ("suggest", place.bundle(), cells, "--n", 2, "--out", out, *flags, *more)

    return make


def _suggest_sheet_over_image(place: Place) -> Arguments:
    image = sorted(place.cells().glob("neutrophil/*.png"))[0]
    call = ("suggest", place.bundle(), place.cells(), "--n", 2, "--out", place.folder / "list.csv")
    return (*call, "--sheet", image, "--overwrite")


def _suggest_sheet_over_drawing(place: Place) -> Arguments:
    Image.new("L", (4, 4)).save(place.folder / "sheet.png")
    call = ("suggest", place.bundle(), place.cells(), "--n", 2, "--out", place.folder / "list.csv")
    return (*call, "--sheet", place.folder / "sheet.png", "--overwrite")


def _suggest_onto_labelled(place: Place) -> Arguments:
    labels = _labels(place)
    call = ("suggest", place.bundle(), place.cells(), "--n", 2, "--labelled", labels)
    return (*call, "--out", labels, "--overwrite")


def _synthesize_with(name: str, *, marked: bool = True) -> Callable[[Place], Arguments]:
    """Draw cells into a folder in which somebody has put a file."""

    def make(place: Place) -> Arguments:
        if marked:
            place.file("drawn/lab_a/synthetic.json", "{}")
            place.file("drawn/lab_a/images/blast/blast_0000.png", "")
        place.file(f"drawn/{name}", "mine")
        return ("data", "synthesize", place.folder / "drawn", "--n-per-class", 1, "--laboratory", "lab_a", "--overwrite")

    return make


CASES = (
    Case("predictions onto their CSV", _predict_onto("labels.csv"), NOT_APART),
    Case("predictions onto their CSV by dots", _predict_onto("cells/../labels.csv"), NOT_APART),
    Case("predictions onto a hard link to their CSV", _predict_onto("hard.csv", os.link), NOT_APART),
    Case("predictions onto a link to their CSV", _predict_onto("link.csv", os.symlink), NOT_APART),
    Case("predictions onto another CSV", _predict_into("path,label\na,b\n"), ("holds something else than predictions",)),
    Case("predictions onto a text", _predict_into("notes\n"), ("holds something else than predictions",)),
    Case("predictions onto bytes", _predict_into(b"\xff\xfe\x00"), ("holds something else than predictions",)),
    Case("predictions onto an empty file", _predict_into(""), ("holds something else than predictions",)),
    Case("predictions onto another Parquet", _predict_into("PAR1", "out.parquet"), ("something else than predictions",)),
    Case("predictions that exist", _predict_existing, EXISTS),
    Case("predictions onto a folder", _predict_to_folder, ("is a folder; expected the name of a file",)),
    Case("predictions into a named pipe", _predict_to_fifo, ("is neither a file nor a folder",)),
    Case("predictions below a file", _predict_below_file, ("expected a folder; got the file", "notes'")),
    Case("a run above its images", _train("run"), NOT_APART, stub=True),
    Case("a run above its images, asked without", _train("run", overwrite=False), NOT_APART, stub=True),
    Case("a run in the folder of its images", _train("run", "cells"), NOT_APART, stub=True),
    Case("a run in a class folder", _train("run", "cells", "neutrophil"), ("is not a run folder",), stub=True),
    Case("a run onto a bundle", _train_onto_bundle, ("is not a run folder", "Choose another --out"), stub=True),
    Case("a run above its settings", _train_config, NOT_APART, stub=True),
    Case("a run above its validation images", _train_validation, NOT_APART, stub=True),
    Case("a wrong setting leaves no folder", _train_wrong_setting, ("unknown key 'scal'",), stub=True),
    Case("a wrong head leaves no folder", _train_wrong_head, ("unknown head 'lrr'", "did you mean 'lr'")),
    Case("a run that names no files", _train_legacy, ("does not name its files",), stub=True),
    Case("an adapted bundle onto its base", _adapt(lambda place: place.bundle()), NOT_APART),
    Case("an adapted bundle onto the run beside it", _adapt_beside_run, NOT_APART),
    Case("an adapted bundle onto its cells", _adapt(lambda place: place.cells()), NOT_APART),
    Case("an adapted bundle above its cells", _adapt(lambda place: place.folder), NOT_APART),
    Case("a bundle with a file of somebody", _adapt(_own_bundle), ("'picture.png' besides a bundle", "Move")),
    Case("a bundle without its manifest", _adapt(_bundle_without_manifest), ("holds something else than a bundle",)),
    Case("a bundle that exists", _adapt(lambda place: place.bundle("own"), overwrite=False), EXISTS),
    Case("a report in its images", _evaluate(lambda place: place.cells()), NOT_APART),
    Case("a report onto its bundle", _evaluate(lambda place: place.bundle()), NOT_APART),
    Case("a report that exists", _evaluate(_report, overwrite=False), EXISTS),
    Case(
        "a report with notes",
        _evaluate(lambda place: _report(place, **{"notes.txt": "mine", "more.txt": "mine"})),
        ("holds 'more.txt' and 1 more file(s) besides a report",),
    ),
    Case("an 8-bit bundle above its images", _quantize_onto_images, NOT_APART),
    Case("masks onto their images", _segment_onto_images, NOT_APART),
    Case("masks with one of somebody", _segment_with(**{"masks/mine.png": "mine"}), ("'masks/mine.png' besides masks",)),
    Case("masks with notes", _segment_with(**{"notes.txt": "mine"}), ("'notes.txt' besides masks of cells",)),
    Case("masks without their table", _segment_with(**{"segmentation.csv": "x\n1\n"}), ("something else than masks",)),
    Case("a list with a label", _suggest(SUGGESTED.format(label="blast")), ("somebody has filled in 1 label(s)",)),
    Case("a list of something else", _suggest("path,label\na,b\n"), ("holds something else than suggestions",)),
    Case("a list that exists", _suggest(SUGGESTED.format(label=""), overwrite=False), EXISTS),
    Case("a list onto the labelled cells", _suggest_onto_labelled, NOT_APART),
    Case("a sheet over one of the images", _suggest_sheet_over_image, ("something else than a sheet", "--sheet")),
    Case("a sheet over another picture", _suggest_sheet_over_drawing, ("something else than a sheet of suggestions",)),
    Case("drawn cells with notes", _synthesize_with("notes.txt"), ("holds 'notes.txt' besides synthetic images",)),
    Case("drawn cells with an image", _synthesize_with("lab_a/images/blast/mine.png"), ("blast/mine.png' besides",)),
    Case("drawn cells onto files", _synthesize_with("mine.png", marked=False), ("something else than synthetic images",)),
)
