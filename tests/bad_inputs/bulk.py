"""Runs on Ray that cannot begin: addresses, outputs, sources and options. None of them starts Ray."""

from __future__ import annotations

import io
import tarfile

import pyarrow as pa
from bad_input_cases import Case, Place
from pyarrow import parquet

RAY = ("--engine", "ray")


def _ray(place: Place, source: object, *more: object, out: object = None) -> tuple[object, ...]:
    return ("predict", place.bundle(), source, "--out", place.out if out is None else out, *RAY, *more)


def _with_output(place: Place, name: str, content: str = "x") -> tuple[object, ...]:
    place.file(f"out/{name}", content)
    return _ray(place, place.image("cells/a.png"))


def _table(place: Place, name: str, **columns: list[object]) -> object:
    parquet.write_table(pa.table(columns), place.folder / name)
    return place.folder / name


def _tar(place: Place, member: str, content: bytes = b"x") -> object:
    with tarfile.open(place.folder / "cells.tar", "w") as tar:
        entry = tarfile.TarInfo(member)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return place.folder / "cells.tar"


def _count(place: Place, *more: object) -> tuple[object, ...]:
    place.image("slides/a/1.png", size=(320, 240))
    return ("count", place.folder / "slides", "--bundle", place.bundle(), "--out", place.out, *more)


def _out_among_inputs(place: Place) -> tuple[object, ...]:
    place.image("cells/a.png")
    return _ray(place, place.folder / "cells", out=place.folder)


def _local(place: Place, *more: object) -> tuple[object, ...]:
    return ("predict", place.bundle(), place.image(), "--out", place.folder / "a.csv", *more)


CASES = (
    Case("an unknown engine", lambda p: _local(p, "--engine", "rye"), ("unknown --engine 'rye'", "did you mean 'ray'?")),
    Case("an address without Ray", lambda p: _local(p, "--address", "auto"), ("--address is for runs on Ray",)),
    Case("a shard size without Ray", lambda p: _local(p, "--shard-size", "9"), ("--shard-size", "--engine ray")),
    Case("actors without Ray", lambda p: _local(p, "--n-actors", "2"), ("--n-actors", "--engine ray")),
    Case("an address that is closed", lambda p: _ray(p, p.image(), "--address", "127.0.0.1:1"), ("--address", "refused")),
    Case("an address without a port", lambda p: _ray(p, p.image(), "--address", "head"), ("--address 'head'", "HOST:PORT")),
    Case("a client's address", lambda p: _ray(p, p.image(), "--address", "ray://a:10001"), ("--address", "HOST:PORT")),
    Case("a shard size of 0", lambda p: _ray(p, p.image(), "--shard-size", "0"), ("--shard-size",)),
    Case(
        "a shard size beyond use", lambda p: _ray(p, p.image(), "--shard-size", "10000000"), ("--shard-size is too large",)
    ),
    Case("no actors", lambda p: _ray(p, p.image(), "--n-actors", "0"), ("--n-actors",)),
    Case(
        "the name of a table",
        lambda p: _ray(p, p.image(), out=p.folder / "a.parquet"),
        ("'a.parquet'", "a folder as --out"),
    ),
    Case("an output that is a file", lambda p: _ray(p, p.image(), out=p.file("out")), ("is a file", "folder")),
    Case("an output of something else", lambda p: _with_output(p, "thesis.txt"), ("something else", "another --out")),
    Case("a manifest of another program", lambda p: _with_output(p, "manifest.json", "{}"), ("something else",)),
    Case("work of another program", lambda p: _with_output(p, ".new/part.txt"), ("something else",)),
    Case("an output above the images", _out_among_inputs, ("would replace the input",)),
    Case("a folder without images", lambda p: _ray(p, p.file("cells/list.txt").parent), ("no image in",)),
    Case("no such folder", lambda p: _ray(p, p.folder / "gone"), ("there is no image or folder",)),
    Case("no such tar", lambda p: _ray(p, p.folder / "gone.tar"), ("there is no image or folder", "gone.tar")),
    Case("a torn tar", lambda p: _ray(p, p.file("cells.tar", b"x" * 900)), ("cells.tar", "damaged")),
    Case("a compressed tar", lambda p: _ray(p, p.file("cells.tar.gz")), ("compressed tar", "Unpack it")),
    Case("a tar without images", lambda p: _ray(p, _tar(p, "list.txt")), ("no image in", ".tar files")),
    Case("a torn Parquet file", lambda p: _ray(p, p.file("cells.parquet", b"PAR1")), ("cells.parquet", "damaged")),
    Case(
        "Parquet without bytes", lambda p: _ray(p, _table(p, "t.parquet", label=["a"])), ("image_bytes or bytes", "label")
    ),
    Case("Parquet of texts", lambda p: _ray(p, _table(p, "t.parquet", bytes=["a"])), ("holds no bytes", "got string")),
    Case("Parquet without rows", lambda p: _ray(p, _table(p, "t.parquet", bytes=pa.array([], pa.binary()))), ("no image",)),
    Case("an address of files that is unknown", lambda p: _ray(p, "moon://cells"), ("cannot read the address",)),
    Case("an address of files without images", lambda p: _ray(p, f"file://{p.folder}/gone"), ("no image in",)),
    Case("a coverage of 2 on Ray", lambda p: _ray(p, p.image(), "--coverage", "2"), ("coverage", "got 2")),
    Case("a count with an address alone", lambda p: _count(p, "--address", "auto"), ("--address is for runs on Ray",)),
    Case("a count on an unknown engine", lambda p: _count(p, "--engine", "dask"), ("--engine 'dask'", "local, ray")),
    Case("a count at a closed address", lambda p: _count(p, *RAY, "--address", "127.0.0.1:1"), ("--address", "refused")),
    Case("a count with a shard size", lambda p: _count(p, *RAY, "--shard-size", "9"), ("--shard-size",)),
)
