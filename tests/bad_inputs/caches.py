"""Caches and run folders that were damaged or edited: computed anew and counted, or refused; never believed."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from bad_input_cases import Case, Place

from hemalens import cache as caches
from hemalens.bundle.bundle import open_bundle
from hemalens.cache import FeatureCache
from hemalens.datasets import Record
from hemalens.datasets.walking import walk_files
from hemalens.files import default_cache_dir
from hemalens.graphs.build import cut, digest
from hemalens.graphs.features import extract
from hemalens.runs.train import train

Arguments = Sequence[object]
Harm = Callable[[Path], object]
N = 12
"""Images in a place's cells."""


def _suggest(place: Place) -> Arguments:
    return ("suggest", place.bundle(), place.cells(), "--out", place.folder / "out.csv", "--n", 3)


def _adapt(place: Place) -> Arguments:
    return ("adapt", place.bundle(), "--support", f"folder:{place.cells()}", "--out", place.out)


def _evaluate(place: Place) -> Arguments:
    return ("evaluate", place.bundle(), "--data", f"folder:{_unseen(place)}", "--out", place.out)


def _unseen(place: Place) -> Path:
    """Images that the bundle has not seen."""
    for i in range(6):
        place.image(f"unseen/{'neutrophil' if i < 3 else 'lymphocyte'}/{i}.png", seed=i)
    return place.folder / "unseen"


def _case(name: str, harm: Harm, says: Sequence[str], verb: Callable[[Place], Arguments] = _suggest) -> Case:
    def make(place: Place) -> Arguments:
        caches.forget_damage()
        encoder = cut(open_bundle(place.bundle()).graph, ["image"], ["embedding"])
        file = default_cache_dir() / "features" / f"{digest(encoder)}.sqlite"
        for old in (file, *file.parent.glob(f"{file.name}.damaged-*")):
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        images = walk_files(_unseen(place) if verb is _evaluate else place.cells())
        extract([Record(path, "", "") for path in images], encoder, cache=FeatureCache(default_cache_dir()))
        harm(file)
        return verb(place)

    return Case(f"{name}, {verb.__name__.strip('_')}", make, says, code=0, writes=("out.csv", "out"))


def _sql(statement: str, *values: object) -> Harm:
    def harm(file: Path) -> None:
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute(statement, values)

    return harm


def _turned(file: Path) -> None:
    """Each value under the next image's name."""
    with closing(sqlite3.connect(file)) as connection, connection:
        rows = connection.execute("SELECT content, vector, checksum FROM arrays ORDER BY content").fetchall()
        moved = [(*rows[i - 1][1:], rows[i][0]) for i in range(len(rows))]
        connection.executemany("UPDATE arrays SET vector = ?, checksum = ? WHERE content = ?", moved)


def _nan(file: Path) -> None:
    """NaN with the checksum that belongs to it."""
    value = np.full(3, np.nan, np.float32)
    with closing(sqlite3.connect(file)) as connection, connection:
        for (content,) in connection.execute("SELECT content FROM arrays").fetchall():
            checksum = caches._checksum(file.stem, content, value.tobytes(), value.dtype)
            row = (value.tobytes(), checksum, content)
            connection.execute("UPDATE arrays SET vector = ?, checksum = ? WHERE content = ?", row)


def _instead(make: Callable[[Path], object]) -> Harm:
    def harm(file: Path) -> None:
        file.unlink()
        make(file)

    return harm


def _older(file: Path) -> None:
    _instead(_sql("CREATE TABLE embeddings (content TEXT PRIMARY KEY, vector BLOB NOT NULL)"))(file)


ALL_ANEW = (f"note: {N} damaged entries of the cache were computed anew",)
MOVED = ("note: a damaged file of the cache was moved to", ".sqlite.damaged-1', and made anew")
ZEROED = _sql("UPDATE arrays SET vector = zeroblob(12)")

FEATURES = (
    _case("values zeroed", ZEROED, ALL_ANEW),
    _case("values zeroed", ZEROED, ALL_ANEW, _adapt),
    _case("values zeroed", ZEROED, ("6 damaged entries of the cache were computed anew",), _evaluate),
    _case("values exchanged", _turned, ALL_ANEW),
    _case("values exchanged", _turned, ("6 damaged entries of the cache were computed anew",), _evaluate),
    _case("values of NaN", _nan, ALL_ANEW),
    _case("values of NaN", _nan, ALL_ANEW, _adapt),
    _case("values too short", _sql("UPDATE arrays SET vector = zeroblob(5)"), ALL_ANEW),
    _case("values too long", _sql("UPDATE arrays SET vector = zeroblob(999)"), ALL_ANEW, _adapt),
    _case("values of text", _sql("UPDATE arrays SET vector = 'text'"), ALL_ANEW),
    _case("checksums emptied", _sql("UPDATE arrays SET checksum = zeroblob(16)"), ALL_ANEW),
    _case(
        "one value zeroed",
        _sql("UPDATE arrays SET vector = zeroblob(12) WHERE rowid = 1"),
        ("note: 1 damaged entry of the cache was computed anew",),
    ),
    _case("a database of text", lambda file: file.write_text("no database " * 500), MOVED),
    _case("a database of text", lambda file: file.write_text("no database " * 500), MOVED, _evaluate),
    _case("a database cut off", lambda file: os.truncate(file, 5000), MOVED, _adapt),
    _case("a database of another table", _sql("ALTER TABLE arrays RENAME COLUMN vector TO value"), MOVED),
    _case("a folder for the database", _instead(Path.mkdir), MOVED),
    _case("a named pipe for the database", _instead(os.mkfifo), MOVED),
    _case("a database of an older version", _older, ("reason for each cell",)),
)


def _edited_run(place: Place) -> Arguments:
    arguments = ("--train", f"folder:{place.cells()}", "--out", place.out)
    train("stub", f"folder:{place.cells()}", out=place.out)
    file = place.out / "run.json"
    file.write_text(file.read_text().replace('"finished": true', '"finished": false'))
    return ("train", "stub", *arguments)


RUNS = (Case("an edited run file, train", _edited_run, ("is not a run folder", "Choose another --out"), stub=True),)

CASES = (*FEATURES, *RUNS)
