"""The output of a bulk run: its folder, what it was asked for, and how a stopped run resumes there.

The run works in the hidden folder `NEW` of the output; what is complete takes its place in the output at the end.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemalens.bundle.artifact import library_versions
from hemalens.errors import OutputError, one_line
from hemalens.files import files_below, is_temporary, output_errors, read_sealed, sha256_text, write_sealed
from hemalens.outputs import LOCK, check_output, locked

MANIFEST, NEW, OLD = "manifest.json", ".new", ".old"
KIND = "hemalens-bulk"
SCHEMA_VERSION = 1
_WHAT = {"job": "another command", "bundle": "another bundle", "images": "other images", "version": "another version"}


def version() -> str:
    """The version of hemalens, which a run keeps to the end, on all machines."""
    return library_versions()["hemalens"]


@dataclass(frozen=True, slots=True)
class Work:
    """A run at work: its hidden folder, its key, and its request."""

    folder: Path
    key: str
    request: Mapping[str, Any]

    def finish(self, known: Mapping[str, Any], entries: Sequence[str], *, within: str = ".") -> None:
        """State that `entries` of the folder `within` are complete, with what is `known` of them, for the manifest."""
        place = self.folder / within
        with output_errors(place):
            for name in files_below(place):
                if is_temporary(Path(name).name):
                    (place / name).unlink()  # of a worker that was killed
        files = [name for name in files_below(place) if Path(name).parts[0] in entries]
        whole = {**_state(self.key, self.request), **known, "finished": True, "entries": list(entries), "within": within}
        write_sealed(self.folder / MANIFEST, {**whole, "files": [*files, MANIFEST]})


@contextmanager
def open_work(out: Path, request: Mapping[str, Any], *, overwrite: bool, inputs: Sequence[Path] = ()) -> Iterator[Work]:
    """The work of `request` in the folder `out`; what `Work.finish` names takes its place there when the block ends.

    A stopped run of the same request resumes. A lock keeps other processes away. Raises `OutputError` for another run, a
    finished one without `overwrite`, a folder of something else, and an output on or above one of `inputs`.
    """
    request = {**request, "version": version()}
    key = sha256_text(json.dumps(request, sort_keys=True))
    check_output(out, overwrite=True, inputs=inputs)
    if out.is_file():
        raise OutputError(f"{one_line(out)} is a file", expected="the name of a folder, with --engine ray")
    with locked(out, out / LOCK):
        new = out / NEW
        with output_errors(out):
            _exchange(out)
            begun = read_manifest(new)
            _check(out, read_manifest(out), begun, Work(new, key, request), overwrite=overwrite)
            if begun is not None and begun["key"] != key:
                shutil.rmtree(new)
        try:
            with output_errors(new):
                new.mkdir(parents=True, exist_ok=True)
                write_sealed(new / MANIFEST, _state(key, request))
            yield Work(new, key, request)
            with output_errors(out):
                _exchange(out)
        finally:
            _drop_unused(new)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a bulk run; None where there is none, or another program's."""
    found = read_sealed(folder / MANIFEST)
    return found if found is not None and found.get("kind") == KIND else None


def _state(key: str, request: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": KIND, "schema_version": SCHEMA_VERSION, "key": key, "finished": False, "request": dict(request)}


def _check(
    out: Path, known: Mapping[str, Any] | None, begun: Mapping[str, Any] | None, work: Work, *, overwrite: bool
) -> None:
    """Raise `OutputError` where the work may not go on: `known` is in `out`, `begun` was stopped there."""
    strange = set(os.listdir(out)) - {LOCK, NEW, OLD}
    unknown = [name for name in files_below(out / NEW) if not is_temporary(Path(name).name)] if begun is None else []
    if (known is None and begun is None and strange) or unknown:
        raise OutputError(
            f"{one_line(out)} holds something else than a run with --engine ray", remedy="Choose another --out."
        )
    here = known or begun
    if here is not None and not overwrite and here["key"] != work.key:
        raise OutputError(
            f"{one_line(out)} holds another run ({_difference(here['request'], work.request)})",
            remedy="Choose another --out, or replace it with --overwrite.",
        )
    if known is not None and not overwrite:
        raise OutputError(
            f"{one_line(out)} holds this run, finished", remedy="Read its tables, or run it again with --overwrite."
        )
    if known is not None:
        entries = {str(name) for name in known["entries"]} | {MANIFEST}
        within = [name for name in files_below(out) if Path(name).parts[0] in entries]
        foreign = sorted(set(within) - {str(name) for name in known["files"]})
        if foreign:
            raise OutputError(
                f"{one_line(out)} holds {one_line(foreign[0])} besides the run",
                remedy="Move what is not replaced to another folder, or choose another --out.",
            )


def _difference(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What two requests do not share, in words."""
    found = [words for name, words in _WHAT.items() if known.get(name) != wanted.get(name)]
    before, after = known.get("options", {}), wanted.get("options", {})
    options = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    return ", ".join([*found, *(["other options: " + ", ".join(options)] if options else [])]) or "another request"


def _exchange(out: Path) -> None:
    """Let what a finished run has made take its place in `out`, also after a stop in the middle of that."""
    new, old = out / NEW, out / OLD
    made = read_manifest(new)
    if made is not None and made["finished"]:
        before = read_manifest(out)
        if before is not None and before["key"] != made["key"]:
            for name in before["entries"]:
                if os.path.lexists(out / name) and not os.path.lexists(old / name):
                    old.mkdir(exist_ok=True)
                    os.replace(out / name, old / name)
        for name in made["entries"]:
            if os.path.lexists(new / made["within"] / name):
                _set_aside(out / name, old)
                os.replace(new / made["within"] / name, out / name)
        os.replace(new / MANIFEST, out / MANIFEST)
        shutil.rmtree(new)
    if old.exists():
        shutil.rmtree(old)


def _set_aside(path: Path, old: Path) -> None:
    """Move an entry of the run before away."""
    if os.path.lexists(path):
        old.mkdir(exist_ok=True)
        if (old / path.name).is_dir():
            shutil.rmtree(old / path.name)
        os.replace(path, old / path.name)


def _drop_unused(new: Path) -> None:
    """Remove the folder of a run that has made nothing yet: no file lies below a folder in it."""
    if not any("/" in name for name in files_below(new)):
        shutil.rmtree(new, ignore_errors=True)
