"""Laboratories of single cells that cannot be left out, and settings of that protocol."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from bad_input_cases import Case, Place

import trained

Arguments = Sequence[object]
OWN = "--leave-one-laboratory-out"


def _ask(place: Place, sources: Sequence[object], *more: object) -> Arguments:
    named = [part for source in sources for part in ("--source", source)]
    protocol = ("--protocol", "leave-one-laboratory-out")
    return ("benchmark", "--methods", "linear_probe", *protocol, *named, "--out", place.out, *more)


def _two(place: Place) -> list[str]:
    """Two laboratories of other cells."""
    other = place.folder / "other"
    for kind in ("neutrophil", "lymphocyte"):
        shutil.copytree(trained.cells(place.temporary) / "lab_b/images" / kind, other / kind)
    return [f"folder:{place.cells()}", f"folder:{other}"]


def _given(name: str, more: Sequence[object], *says: str) -> Case:
    """Two good laboratories, and further arguments."""
    return Case(f"laboratories left out {name}", lambda place: _ask(place, _two(place), *more), says)


def _set(name: str, setting: str, *says: str) -> Case:
    return _given(f"with {name}", (OWN, setting), *says)


def _copy(place: Place) -> Arguments:
    shutil.copytree(place.cells(), place.folder / "again")
    return _ask(place, [f"folder:{place.cells()}", f"folder:{place.folder / 'again'}"])


def _one_type_each(place: Place) -> Arguments:
    for name, kind in (("cells", "lymphocyte"), ("more", "neutrophil")):
        shutil.rmtree(place.cells(name) / kind)
    return _ask(place, [f"folder:{place.cells()}", f"folder:{place.cells('more')}"])


def _unreadable(place: Place) -> Arguments:
    sources = _two(place)
    image = next(Path(place.cells()).rglob("*.png"))
    image.write_bytes(image.read_bytes()[:20])
    return _ask(place, sources)


def _same_name(place: Place) -> Arguments:
    (place.folder / "deep").mkdir()
    shutil.copytree(place.cells(), place.folder / "deep/cells")
    return _ask(place, [f"folder:{place.cells()}", f"folder:{place.folder / 'deep/cells'}"])


CASES = (
    Case("one laboratory left out", lambda p: _ask(p, [f"folder:{p.cells()}"]), ("two laboratories or more", "--source")),
    Case("no laboratory left out", lambda p: _ask(p, []), ("a benchmark needs sources", "--source")),
    Case(
        "the same laboratory left out twice",
        lambda p: _ask(p, [f"folder:{p.cells()}"] * 2),
        ("a laboratory is given twice",),
    ),
    Case("one name for two folders left out", _same_name, ("one laboratory, 'cells'",)),
    Case("a copy of a laboratory left out", _copy, ("nothing is left to train on", "all of them copies")),
    Case("laboratories of one type left out", _one_type_each, ("none to test among",)),
    Case(
        "fields and cells left out",
        lambda p: _ask(p, [f"folder:{p.cells()}", "yolo:fields"]),
        ("fields and single cells", "Run it once for each"),
    ),
    Case("an unreadable cell of a laboratory left out", _unreadable, ("cannot be read", "--drop-unreadable")),
    Case(
        "a missing laboratory left out",
        lambda p: _ask(p, [f"folder:{p.cells()}", f"folder:{p.folder / 'nowhere'}"]),
        ("there is no folder",),
    ),
    _set("an unknown form", "adapt=labels", "unknown form 'labels'", "unlabelled+shots"),
    _set("no form", "adapt=", "unknown form ''"),
    _set("no seed", "seeds=0", "seeds", "greater than or equal to 1"),
    _set("half a seed", "seeds=1.5", "seeds"),
    _set("no label", "shots=0", "shots", "greater than or equal to 1"),
    _set("no drawing", "repeats=0", "repeats", "greater than or equal to 1"),
    _set("an unknown key", "seed=3", "unknown key", "'seeds'"),
    _set("few imitated images", "images=3", "images", "greater than or equal to 8"),
    _set("fewer than no imitation", "imitated=-1", "imitated", "greater than or equal to 0"),
    _given("with imitations of nothing", (OWN, "imitated=2", OWN, "adapt=shots"), "adapt=none,shots"),
    _given("with a target", ("--target", "folder:elsewhere"), "takes no target"),
    _given("with seeds of fractions", ("--seeds", "2"), "--seeds does not apply"),
    _given("of large classes", ("--min-per-class", "50"), "none to test among"),
    _given("with a bundle", ("--bundle", "bundle"), "--bundle"),
    Case(
        "settings of laboratories left out for another protocol",
        lambda p: (
            *("benchmark", "--methods", "linear_probe", "--protocol", "k-fold", "--source", f"folder:{p.cells()}"),
            *("--out", p.out, OWN, "seeds=2"),
        ),
        ("--leave-one-laboratory-out does not apply",),
    ),
)
