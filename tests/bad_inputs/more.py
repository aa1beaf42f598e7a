"""What one command leaves for the next: its tables, sheets, given parts and groups."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from bad_input_cases import CLASSES, Case, Place
from PIL import Image

from ordinary import close, ordinary_user

TABLE = ("answers.csv",)


def _guesses(place: Place, *, labels: bool) -> str:
    """A table as `predict` writes it, of cells that are all called neutrophils."""
    cells = place.cells()
    names = sorted(path.relative_to(place.folder).as_posix() for path in cells.rglob("*.png"))
    header = "path,label,probability,abstained,p_neutrophil,p_lymphocyte,cell,error"
    rows = [f"{name},neutrophil,0.9,False,0.9,0.1,," + (f",{name.split('/')[1]}" if labels else "") for name in names]
    return f"csv:{place.file('guesses.csv', chr(10).join([header + (',source_label' if labels else ''), *rows]))}"


def _train_on_guesses(place: Place) -> tuple[object, ...]:
    return ("train", "stub", "--train", _guesses(place, labels=False), "--out", place.out)


def _test_by_guesses(place: Place) -> tuple[object, ...]:
    return ("evaluate", place.bundle(), "--data", _guesses(place, labels=False), "--out", place.out)


def _adapt_to_guesses(place: Place) -> tuple[object, ...]:
    return ("adapt", place.bundle(), "--support", _guesses(place, labels=False), "--out", place.out)


def _labels_beside_guesses(place: Place) -> tuple[object, ...]:
    return ("data", "audit", _guesses(place, labels=True))


def _predict_guesses(place: Place) -> tuple[object, ...]:
    return ("predict", place.bundle(), _guesses(place, labels=False), "--out", place.folder / "answers.csv")


def _filled_sheet(place: Place) -> tuple[object, ...]:
    rows = "path;label;rank;guess;probability;why\r\ncells/a.png;Zelle \xe4;1;neutrophil;0,9;typical\r\n"
    sheet = place.file("todo.csv", rows.encode("cp1252"))
    return ("suggest", place.bundle(), place.cells(), "--out", sheet, "--overwrite")


def _sheet_among_images(place: Place) -> tuple[object, ...]:
    cells = place.cells()
    return ("suggest", place.bundle(), cells, "--out", cells / "todo.csv", "--sheet", cells / "todo.png", "--n", "2")


def _masks_among_images(place: Place) -> tuple[object, ...]:
    cells = place.cells()
    return ("segment", "classical", cells, "--out", cells / "masks")


def _few_groups(place: Place, *more: object) -> tuple[object, ...]:
    cells = place.cells()
    rows = [
        f"{path.relative_to(place.folder).as_posix()},{path.parent.name},slide {i % 2}"
        for i, path in enumerate(sorted(cells.rglob("*.png")))
    ]
    table = place.file("list.csv", "\n".join(["path,label,group", *rows]))
    return ("train", "stub", "--train", f"csv:{table}", "--out", place.out, *more)


def _parts(place: Place) -> object:
    """A set given as TRAIN and TEST, with four and two cells a class."""
    cells = place.cells()
    for kind in CLASSES:
        for i, image in enumerate(sorted((cells / kind).iterdir())):
            folder = place.folder / "set" / ("TRAIN" if i < 4 else "TEST") / kind
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, folder)
    return place.folder / "set"


def _adapt_to_parts(place: Place) -> tuple[object, ...]:
    return ("adapt", place.bundle(), "--support", f"folder:{_parts(place)}", "--out", place.out)


def _nothing_unseen(place: Place) -> tuple[object, ...]:
    # the bundle was trained on them
    return ("evaluate", place.bundle(), "--data", f"folder:{place.cells()}", "--drop-seen", "--out", place.out)


def _contradictory(place: Place) -> str:
    """Every image lies under both labels."""
    cells = place.cells("set")
    for kind, other in (CLASSES, CLASSES[::-1]):
        for image in sorted((cells / kind).glob(f"{kind}*.png")):
            shutil.copy(image, cells / other / f"{other}_of_{image.name}")
    return f"folder:{cells}"


def _contradictory_training(place: Place) -> tuple[object, ...]:
    return ("train", "stub", "--train", _contradictory(place), "--out", place.out)


def _contradictory_calibration(place: Place) -> tuple[object, ...]:
    return ("quantize", place.bundle(), "--calibrate", _contradictory(place), "--out", place.out)


def _page_beyond_the_last(place: Place) -> tuple[object, ...]:
    pages = [Image.open(place.image(f"{i}.png", seed=i)) for i in range(2)]
    pages[0].save(place.folder / "scan.tif", save_all=True, append_images=pages[1:])
    table = place.file("list.csv", "path,label\nscan.tif#1,neutrophil\nscan.tif#9,lymphocyte\n")
    return ("predict", place.bundle(), f"csv:{table}", "--out", place.folder / "answers.csv")


@contextmanager
def _as_ordinary_user() -> Iterator[None]:
    with ordinary_user():
        yield


def _closed_run(place: Place) -> tuple[object, ...]:
    run = place.file("out/run.json", "{}")
    close(run)
    return ("train", "stub", "--train", f"folder:{place.cells()}", "--out", place.out)


CASES = (
    Case("train on guesses", _train_on_guesses, ("no image of guesses has a label", "table of predictions"), stub=True),
    Case("test by guesses", _test_by_guesses, ("no image of guesses has a label", "table of predictions")),
    Case("adapt to guesses", _adapt_to_guesses, ("no image of guesses has a label", "table of predictions")),
    Case(
        "labels beside guesses",
        _labels_beside_guesses,
        ("'source_label' is read", "a table of predictions", "neutrophil 6, lymphocyte 6"),
        0,
    ),
    Case("predict guesses again", _predict_guesses, ("a table of predictions", "12 rows"), 0, writes=TABLE),
    Case("sheet filled in by a spreadsheet", _filled_sheet, ("filled in 1 label", "--labelled", "not overwritten")),
    Case("sheet filled in, no --overwrite", lambda p: _filled_sheet(p)[:-1], ("filled in 1 label", "--labelled")),
    Case("sheet among images", _sheet_among_images, ("todo.png", "be read as cells", "Use --sheet")),
    Case("masks among images", _masks_among_images, ("cells/masks", "be read as cells", "Use --out")),
    Case("two groups to train on", _few_groups, ("at least 3 independent", "got 2", "from further groups"), stub=True),
    Case("adapt to a test part", _adapt_to_parts, ("left out the given test part, 4 image(s)",), 0, writes=("out",)),
    Case("run that may not be read", _closed_run, ("no permission for", "run.json"), stub=True, around=_as_ordinary_user),
    Case("no image is left to test", _nothing_unseen, ("is left to test", "not seen", "Test on other images")),
    Case("page beyond the last", _page_beyond_the_last, ("there is no page 9", "expected 1 to 2"), 0, writes=TABLE),
    Case("train on contradictions", _contradictory_training, ("no image of set is left", "data audit"), stub=True),
    Case("calibrate on contradictions", _contradictory_calibration, ("no image of set is left", "data audit")),
)
