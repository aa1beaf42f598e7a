"""Labels that name no cell type, or several; label maps that do not exist."""

from __future__ import annotations

from collections.abc import Callable

from bad_input_cases import Case, Place


def _renamed(*names: str, more: tuple[object, ...] = ()) -> Callable[[Place], tuple[object, ...]]:
    """Train on the two class folders and further ones of these names."""

    def make(place: Place) -> tuple[object, ...]:
        cells = place.cells()
        for i, name in enumerate(names):
            place.image(f"cells/{name}/a.png", seed=i)
        return ("train", "stub", "--train", f"folder:{cells}", "--out", place.out, *more)

    return make


def _only(name: str, *more: object, verb: str = "train") -> Callable[[Place], tuple[object, ...]]:
    """The folder `name` instead of the neutrophils."""

    def make(place: Place) -> tuple[object, ...]:
        cells = place.cells()
        (cells / "neutrophil").rename(cells / name)
        data = f"folder:{cells}"
        if verb == "train":
            return ("train", "stub", "--train", data, "--out", place.out, *more)
        if verb == "evaluate":
            return ("evaluate", place.bundle(), "--data", data, "--out", place.out, *more)
        if verb == "adapt":
            return ("adapt", place.bundle(), "--support", data, "--out", place.out, *more)
        return ("data", "audit", data, *more)

    return make


def _all_unknown(first: str, second: str, *more: object) -> Callable[[Place], tuple[object, ...]]:
    def make(place: Place) -> tuple[object, ...]:
        cells = place.cells()
        (cells / "neutrophil").rename(cells / first)
        (cells / "lymphocyte").rename(cells / second)
        return ("train", "stub", "--train", f"folder:{cells}", "--out", place.out, *more)

    return make


def _map(name: str, *verb: object) -> Callable[[Place], tuple[object, ...]]:
    def make(place: Place) -> tuple[object, ...]:
        data = f"folder:{place.cells()}"
        where = ("train", "stub", "--train", data, "--out", place.out) if not verb else (*verb, data)
        return (*where, "--labels", name)

    return make


def _csv_label(label: str, *more: object) -> Callable[[Place], tuple[object, ...]]:
    def make(place: Place) -> tuple[object, ...]:
        place.cells()
        names = sorted(path.relative_to(place.folder).as_posix() for path in place.folder.rglob("*.png"))
        rows = [f"{name},{name.split('/')[1]}" for name in names]
        rows[0] = f"{names[0]},{label}"
        table = place.file("list.csv", "\n".join(["path,label", *rows]))
        return ("train", "stub", "--train", f"csv:{table}", "--out", place.out, *more)

    return make


def _one_folder_in_strict_audit(place: Place) -> tuple[object, ...]:
    cells = place.cells()
    place.image("cells/neutrofil/a.png")
    return ("data", "audit", f"folder:{cells}", "--strict")


def _published_label(place: Place) -> tuple[object, ...]:
    for i, part in enumerate(("Train", "Test-A")):
        for label in ("Neutrophil", "Lymphocyte"):
            place.image(f"raabin/{part}/{label}/95-8-10-{i}_1_1.jpg", seed=i)
    return ("data", "audit", f"raabin:{place.folder / 'raabin'}")


WRITES = ("out",)
CASES = (
    Case("a misspelt folder among others", _renamed("neutrofil"), ("did you mean 'neutrophil'?",), 0, WRITES, stub=True),
    Case(
        "a word that is no type", _renamed("Pro-B"), ("1 image(s)", "'Pro-B' is no known cell type\n"), 0, WRITES, stub=True
    ),
    Case("several cells in one image", _renamed("mixt"), ("It may mean several cells",), 0, WRITES, stub=True),
    Case("a code of two meanings", _renamed("PM"), ("promyelocyte or promonocyte",), 0, WRITES, stub=True),
    Case("synonyms are no unknown labels", _renamed("PMN", "stab cell"), ("one split: 20% held",), 0, WRITES, stub=True),
    Case("many unknown folders", _renamed(*(f"k{i}" for i in range(9))), ("4 other label(s)",), 0, WRITES, stub=True),
    Case(
        "--strict stops at the first",
        _renamed("Pro-B", more=("--strict",)),
        ("the label 'Pro-B' is no known cell type", "hemalens data types", "--labels as_labelled"),
        stub=True,
    ),
    Case(
        "--strict names the near one", _renamed("neutrofil", more=("--strict",)), ("did you mean 'neutrophil'",), stub=True
    ),
    Case("an escape code in a folder's name", _renamed("a\x1b[31mb"), ("'a\\x1b[31mb' is no known",), 0, WRITES, stub=True),
    Case("a line break in a folder's name", _renamed("two\nlines"), ("'two\\nlines' is no known",), 0, WRITES, stub=True),
    Case("one known class is left", _only("neutrofil"), ("1 class(es)", "did you mean 'neutrophil'"), stub=True),
    Case("one known class, --strict", _only("neutrofil", "--strict"), ("the label 'neutrofil'",), stub=True),
    Case("one known class to evaluate", _only("Pro-B", verb="evaluate"), ("1 class(es)", "'Pro-B' is no known")),
    Case("evaluate --strict", _only("Pro-B", "--strict", verb="evaluate"), ("the label 'Pro-B' is no known",)),
    Case(
        "adapt to an unknown label",
        _only("Pro-B", verb="adapt"),
        ("label(s) unknown to the bundle: 'Pro-B'", "--allow-new"),
    ),
    Case("audit with an unknown label", _only("Pro-B", verb="audit"), ("'Pro-B' is no known cell type",), 0),
    Case("audit --strict", _one_folder_in_strict_audit, ("the label 'neutrofil'", "did you mean 'neutrophil'")),
    Case("no known label", _all_unknown("Pro-B", "neutrofil"), ("'neutrofil' is no known", "did you mean"), stub=True),
    Case("folders that deny a type", _all_unknown("not a blast", "Pro-B"), ("hemalens data types",), stub=True),
    Case(
        "folders by date",
        _all_unknown("2024-03-01 (alt)", "2024-03-02"),
        ("by date or patient", "hemalens predict"),
        stub=True,
    ),
    Case(
        "folders by patient",
        _all_unknown("patient 1", "patient 2"),
        ("by date or patient", "--labels as_labelled"),
        stub=True,
    ),
    Case("folders of numbers", _all_unknown("1", "2"), ("by date or patient",), stub=True),
    Case("numbers as they are", _all_unknown("1", "2", "--labels", "as_labelled"), ("bundle: ",), 0, WRITES, stub=True),
    Case("a misspelt label map", _map("five_clas"), ("did you mean 'five_class'",), stub=True),
    Case("no such label map", _map("xyz"), ("unknown label map 'xyz'", "known: as_labelled, "), stub=True),
    Case("no label map", _map(""), ("the label map is no name", "got ''"), stub=True),
    Case("no such label map to audit", _map("six_class", "data", "audit"), ("unknown label map",)),
    Case(
        "an unknown label in a CSV",
        _csv_label("neutrofil"),
        ("1 image(s)", "did you mean 'neutrophil'"),
        0,
        WRITES,
        stub=True,
    ),
    Case(
        "an unknown label in a CSV, --strict",
        _csv_label("mixt", "--strict"),
        ("the label 'mixt'", "several cells"),
        stub=True,
    ),
    Case("a long label in a CSV", _csv_label("x" * 5000), ("'" + "x" * 60 + "' is no known",), 0, WRITES, stub=True),
    Case("a blank label in a CSV", _csv_label(" "), ("1 row(s) without a label are not used",), 0, WRITES, stub=True),
    Case("Raabin with other names of its parts", _published_label, ("the folder 'TestB' is missing", "4 images"), 0),
)
