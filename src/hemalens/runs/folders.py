"""Run folders: the request of a run, whether it is finished, and how a stopped run resumes."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hemalens.bundle.artifact import library_versions
from hemalens.bundle.bundle import Bundle, open_bundle
from hemalens.config import StrictConfig
from hemalens.datasets import CellDataset
from hemalens.errors import BundleError, OutputError, access_error, one_line
from hemalens.evaluation.results import Report
from hemalens.files import files_below, is_temporary, output_errors, read_sealed, sha256_text, write_sealed
from hemalens.methods import Method
from hemalens.outputs import LOCK, check_output, locked
from hemalens.progress import Say
from hemalens.report import write_report

RUN_FILE = "run.json"
NO_AUXILIARY: Mapping[str, CellDataset] = {}


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Where a run writes, and its seed."""

    out: Path
    seed: int = 0


NEW = ".new"
"""Folder in the folder of a run where it works until it is complete."""

KNOWN = "the folder holds a run of this kind: what is finished there is not run again"


@contextmanager
def open_run(
    out: Path,
    request: Mapping[str, Any],
    *,
    overwrite: bool,
    inputs: Sequence[Path] = (),
    grows: bool = False,
    say: Say = lambda text: None,
) -> Iterator[Path]:
    """The folder in which the run of `request` works; its files take their place in `out` when it is finished.

    The run works in a hidden folder of `out`, and a stopped one resumes there. When the block ends with
    `finish_run`, the files of an earlier run, which `overwrite` allows in `out`, are exchanged for the new ones; all other
    files stay. With `grows` a run goes on from a finished one of the same job, and from a stopped one of another request. A
    lock keeps other processes away. Raises `OutputError` for a finished run, another run, a folder of something else, and
    an output on or above one of `inputs`.
    """
    key = sha256_text(json.dumps(dict(request), sort_keys=True, default=str))
    check_output(out, overwrite=True, inputs=inputs)
    if out.is_file():
        raise OutputError(f"{one_line(out)} is not a run folder", remedy="Choose another --out.")
    with locked(out, out / LOCK):
        new = out / NEW
        with output_errors(out):
            moved = _finish_exchange(out)
            known, begun = _read(out / RUN_FILE), _read(new / RUN_FILE)
            job = request["job"] if grows and not overwrite else None
            _check_command(out, known, request["job"])
            _check(out, known, begun, key=key, job=job, overwrite=overwrite, moved=moved)
            if begun is not None and (begun.get("key") == key or _has_job(begun, job)):
                say(KNOWN if grows else "resuming the stopped run")
            else:
                if new.exists():
                    shutil.rmtree(new)
                if known is not None and ((moved and known.get("key") == key) or _has_job(known, job)):
                    _link(out, new, _names(out, known))
                    say(KNOWN)
        try:
            with output_errors(new):
                _begin(new, key, request)
            yield new
            with output_errors(out):
                _exchange(out, say)
        finally:
            _drop_empty(new)


def _check_command(out: Path, known: Mapping[str, Any] | None, job: str) -> None:
    """Raise `OutputError` for the run of another command, which is never replaced."""
    other = known.get("request", {}).get("job") if known else None
    if other not in (None, job):
        raise OutputError(
            f"{one_line(out)} holds a run of another command ({other})",
            expected=f"a run of {job}",
            remedy="Choose another --out; it is not overwritten.",
        )


def _check(
    out: Path,
    known: Mapping[str, Any] | None,
    begun: Mapping[str, Any] | None,
    *,
    key: str,
    job: str | None,
    overwrite: bool,
    moved: bool,
) -> None:
    """Raise `OutputError` where a run of the request `key` may not work: `known` is in `out`, `begun` was stopped there.

    `job` is that of a run that grows.
    """
    if begun is None and (set(_unbegun(out / NEW)) - _names(out / NEW, known)):
        raise OutputError(f"{one_line(out / NEW)} is no folder of a run", remedy="Move it away, or choose another --out.")
    if known is None and begun is None and set(os.listdir(out)) - {LOCK, NEW}:
        raise OutputError(f"{one_line(out)} is not a run folder", remedy="Choose another --out.")
    if known is not None and not isinstance(known.get("files"), list):
        raise OutputError(
            f"the run in {one_line(out)} does not name its files",
            remedy="Choose another --out; it is not overwritten.",
        )
    here = known or begun
    if here is None or overwrite or _has_job(here, job):
        return
    if here.get("key") != key:
        raise OutputError(
            f"{one_line(out)} holds another run (other data, settings or seed)",
            remedy="Choose another --out, or replace it with --overwrite.",
        )
    if known is not None and not moved:
        raise OutputError(
            f"{one_line(out)} holds this run, finished", remedy="Read its report, or run it again with --overwrite."
        )


def _has_job(known: Mapping[str, Any], job: str | None) -> bool:
    return job is not None and known.get("request", {}).get("job") == job


def _unbegun(new: Path) -> list[str]:
    """The files in a working folder, but those that were being written."""
    return [name for name in files_below(new) if not any(map(is_temporary, Path(name).parts))]


def _begin(folder: Path, key: str, request: Mapping[str, Any]) -> None:
    """Write the run file of a run that is not finished, after removing what a killed process was writing."""
    for where, folders, names in os.walk(folder):
        for name in filter(is_temporary, names):
            (Path(where) / name).unlink()
        for name in filter(is_temporary, tuple(folders)):
            folders.remove(name)
            _remove(Path(where) / name)
    state = {"kind": "hemalens-run", "key": key, "finished": False}
    write_sealed(folder / RUN_FILE, {**state, "request": request, "versions": library_versions()})


def _link(out: Path, new: Path, names: Collection[str]) -> None:
    """The files of the finished run in `out` in `new` too: as links, since every file is written anew, not changed."""
    for name in names:
        if name == RUN_FILE:
            continue
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(out / name, new / name)
        except OSError:
            shutil.copy2(out / name, new / name)


def _drop_empty(new: Path) -> None:
    """Remove the working folder of a run that was stopped before it has written anything."""
    begun = _read(new / RUN_FILE)
    with suppress(OSError):
        idle = {Path(name).name for name in files_below(new)} <= {RUN_FILE, "fit.json"}
        if begun is not None and not begun.get("finished") and idle:
            shutil.rmtree(new)
        new.rmdir()  # if empty


def _finish_exchange(out: Path) -> bool:
    """Exchange the runs where a process was stopped while it did; whether there was such."""
    begun = _read(out / NEW / RUN_FILE)
    if begun is None or not begun.get("finished"):
        return False
    _exchange(out, lambda text: None)
    return True


def _exchange(out: Path, say: Say) -> None:
    """Put the files of the finished run in the folder `NEW` in the place of those of the run in `out`.

    The run file of the new run stays in `NEW` until all others have moved: after a stop half-way, the next run does the
    rest. Raises `OutputError`, before anything is touched, where a file that no run has written has the name of a new one.
    """
    new = out / NEW
    finished = _read(new / RUN_FILE)
    if finished is None or not finished.get("finished"):
        raise OutputError(f"the run in {one_line(new)} is not finished")
    before = _read(out / RUN_FILE)
    waiting = sorted(_names(new, finished))
    own = set(finished["files"]) - set(waiting) | _names(out, before)
    below = [name for name in files_below(out) if name != LOCK and not name.startswith(f"{NEW}/")]
    foreign = sorted(set(below) - own)
    _check_free(out, waiting, foreign)
    removed = set(below) & own - set(finished["files"])
    for name in sorted(removed):
        (out / name).unlink(missing_ok=True)
    _remove_empty(out, removed)
    for name in sorted(waiting, key=lambda name: name == RUN_FILE):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(new / name, out / name)
    shutil.rmtree(new)
    if foreign:
        names = ", ".join(map(one_line, foreign[:3])) + (" ..." if len(foreign) > 3 else "")
        say(f"left {len(foreign)} file(s) in {one_line(out)} that no run has written: {names}")


def _check_free(out: Path, waiting: Sequence[str], foreign: Sequence[str]) -> None:
    """Raise `OutputError` where a foreign file, or a link or folder of somebody's, is in the way of a new file."""
    links = set(foreign)
    for name in waiting:
        folders = {parent.as_posix() for parent in Path(name).parents}
        in_the_way = next((path for path in (name, *folders) if path in links), None)
        if in_the_way is None and any(path.startswith(f"{name}/") for path in foreign):
            in_the_way = name
        if in_the_way is not None:
            raise OutputError(
                f"{one_line(out / in_the_way)} is no file of a run, and the new run has one of that name",
                remedy=f"Move it away, and run the same command again; the new run is kept in {one_line(out / NEW)}.",
            )


def _remove_empty(out: Path, removed: Collection[str]) -> None:
    """Remove the folders that held nothing but removed files."""
    folders = {out / parent for name in removed for parent in Path(name).parents if parent != Path(".")}
    for folder in sorted(folders, reverse=True):
        with suppress(OSError):
            folder.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def finish_run(folder: Path, report: Report) -> Report:
    """Write a run's report, mark the run as finished with the names of its files, and return the report."""
    known = _read(folder / RUN_FILE)
    if known is None:
        raise OutputError(f"{one_line(folder / RUN_FILE)} is missing")
    write_report(report, folder)
    write_sealed(folder / RUN_FILE, {**known, "finished": True, "files": _unbegun(folder)})
    return report


def _read(file: Path) -> dict[str, Any] | None:
    if file.is_file() and not os.access(file, os.R_OK):
        raise access_error(PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file)))
    content = read_sealed(file)
    return content if content is not None and content.get("kind") == "hemalens-run" else None


def _names(folder: Path, known: Mapping[str, Any] | None) -> set[str]:
    """The files in `folder` that the run `known` names."""
    return {str(name) for name in known.get("files", ())} & set(files_below(folder)) if known else set()


def method_request(method: Method, config: StrictConfig) -> dict[str, Any]:
    """A method's part of a request: its name, its settings, and digests of the files that they name."""
    return {"method": method.name, "config": config.model_dump(mode="json"), "sources": config.file_digests()}


def fit_or_resume(
    run_dir: Path,
    method: Method,
    train: CellDataset,
    *,
    validation: CellDataset | None,
    config: StrictConfig,
    rng: np.random.Generator,
    auxiliary: Mapping[str, CellDataset] = NO_AUXILIARY,
) -> Bundle:
    """Fit in the folder `run_dir`; open the finished bundle of the same request instead, or resume a stopped fit."""
    request = method_request(method, config) | {
        "train": train.fingerprint,
        "masks": train.mask_fingerprint,
        "validation": validation.fingerprint if validation else None,
        "auxiliary": {role: dataset.fingerprint for role, dataset in auxiliary.items()},
        "before": [stage.digest for stage in train.stages],
        "generator": str(rng.bit_generator.state),
        "versions": library_versions(),
    }
    key = sha256_text(json.dumps(request, sort_keys=True))
    file = run_dir / "fit.json"
    if (read_sealed(file) or {}).get("key") == key:
        with suppress(BundleError):  # unfinished: resume below
            bundle = open_bundle(run_dir / "bundle")
            shutil.rmtree(run_dir / "scratch", ignore_errors=True)
            return bundle
    else:
        # the checkpoints of another request must not be resumed
        with output_errors(run_dir):
            for folder in ("bundle", "checkpoints", "scratch"):
                shutil.rmtree(run_dir / folder, ignore_errors=True)
            (run_dir / "history.jsonl").unlink(missing_ok=True)
    write_sealed(file, {"key": key, **request})
    return method.fit(train, validation=validation, auxiliary=auxiliary, config=config, rng=rng, run_dir=run_dir)
