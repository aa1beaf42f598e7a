"""Run folders: the request of a run, whether it is finished, and how a stopped run resumes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hemalens.bundle.artifact import library_versions
from hemalens.bundle.bundle import Bundle, open_bundle
from hemalens.config import StrictConfig
from hemalens.datasets import CellDataset
from hemalens.errors import BundleError, OutputError, one_line
from hemalens.evaluation.results import Report
from hemalens.files import output_errors, read_json, sha256_text, write_json
from hemalens.methods import Method
from hemalens.outputs import LOCK, check_apart, check_output, locked
from hemalens.progress import Say
from hemalens.report import HTML_NAME, JSON_NAME, MARKDOWN_NAME, write_report

RUN_FILE = "run.json"
NO_AUXILIARY: Mapping[str, CellDataset] = {}


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Where a run writes, its seed, and whether an existing output is replaced."""

    out: Path
    seed: int = 0
    overwrite: bool = False


RUN_PARTS = frozenset(
    {RUN_FILE, "fit.json", "history.jsonl", "bundle", "segmenter", "checkpoints", "scratch", "fits", "results"}
    | {JSON_NAME, MARKDOWN_NAME, HTML_NAME, "curves", "masks"}
)
"""Entries that a run writes into its folder before it is finished."""
NEW = ".new"
"""Folder in a run folder where a run with `overwrite` works until it is complete."""


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
    """The folder in which the run of `request` works: `out`, where a stopped run of the same request resumes.

    With `overwrite` an earlier run stays in `out` while the new one works in a folder beneath, and is replaced when the
    block ends with a finished run (`finish_run`). Of the earlier run only its own files are removed; others are left, and
    named. With `grows` a finished run of the same job, or one of another request, resumes too. A lock keeps other
    processes away. Raises `OutputError` for a finished run, another run, a folder of something else, and an output on or
    above one of `inputs`.
    """
    key = sha256_text(json.dumps(dict(request), sort_keys=True, default=str))
    with output_errors(out):
        check_apart(out, inputs)
        known = _read(out / RUN_FILE)
        if known is None and (out.is_file() or (out.is_dir() and set(os.listdir(out)) - {LOCK})):
            raise OutputError(f"{one_line(out)} is not a run folder", remedy="Choose another --out.")
    if known is None:
        check_output(out, overwrite=True, inputs=inputs)
    with locked(out, out / LOCK):
        known = _read(out / RUN_FILE)
        if known is not None and overwrite and not (known.get("key") == key and not known.get("finished")):
            with _replacing(out, key, request, say) as folder:
                yield folder
            return
        same_job = known is not None and known.get("request", {}).get("job") == request["job"]
        if known is not None and not (grows and same_job):
            _check_same(out, known, key)
        foreign = sorted(set(_files(out)) - own_files(out, known)) if known is not None else []
        _begin(out, key, request, foreign)
        if known is not None and grows:
            say(f"{one_line(out)} holds a run of this kind: what is cached there is not computed again")
        elif known is not None:
            say("resuming the stopped run")
        yield out


def _check_same(out: Path, known: Mapping[str, Any], key: str) -> None:
    """Raise `OutputError` unless `known` is a stopped run of the request `key`."""
    if known.get("key") != key:
        raise OutputError(
            f"{one_line(out)} holds another run (other data, settings or seed)",
            remedy="Choose another --out, or replace it with --overwrite.",
        )
    if known.get("finished"):
        raise OutputError(
            f"{one_line(out)} holds this run, finished", remedy="Read its report, or run it again with --overwrite."
        )


def _begin(folder: Path, key: str, request: Mapping[str, Any], foreign: Sequence[str] = ()) -> None:
    """Write the run file of a run that is not finished; `foreign` files lie in its folder, and are not its own."""
    state = {"kind": "hemalens-run", "key": key, "finished": False, "foreign": list(foreign)}
    write_json(folder / RUN_FILE, {**state, "request": request, "versions": library_versions()})


@contextmanager
def _replacing(out: Path, key: str, request: Mapping[str, Any], say: Say) -> Iterator[Path]:
    """Work in the folder `NEW` of `out`; when the run there is finished, exchange it for the run in `out`."""
    new = out / NEW
    with output_errors(new):
        begun = _read(new / RUN_FILE)
        if begun is not None and begun.get("key") == key and not begun.get("finished"):
            say("resuming the stopped run")
        elif new.exists():
            shutil.rmtree(new)
    _begin(new, key, request)
    yield new
    with output_errors(out):
        _exchange(out, new, say)


def _exchange(out: Path, new: Path, say: Say) -> None:
    """Put the files of the finished run in `new` in the place of those of the run in `out`.

    The run file moves last: after a stop half-way, the next run with `overwrite` does the rest. Raises `OutputError`,
    before anything is touched, where a file that no run has written has the name of a new one.
    """
    before, finished = _read(out / RUN_FILE), _read(new / RUN_FILE)
    if before is None or finished is None or not finished.get("finished"):
        raise OutputError(f"the run in {one_line(new)} is not finished")
    made = [name for name in finished["files"] if (new / name).exists()]
    moved = set(finished["files"]) - set(made)
    old = own_files(out, before) - moved
    foreign = sorted(set(_files(out)) - old - moved)
    for name in sorted(set(made) & set(foreign)):
        raise OutputError(
            f"{one_line(out / name)} is no file of the run in {one_line(out)}, and the new run has one of that name",
            remedy=f"Move it away, and run the same command again; the new run is kept in {one_line(new)}.",
        )
    for name in sorted(old - set(made)):
        (out / name).unlink(missing_ok=True)
    for name in sorted(made, key=lambda name: name == RUN_FILE):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(new / name, out / name)
    shutil.rmtree(new)
    for folder in sorted((path for path in out.rglob("*") if path.is_dir()), reverse=True):
        with suppress(OSError):
            folder.rmdir()
    if foreign:
        names = ", ".join(map(one_line, foreign[:3])) + (" ..." if len(foreign) > 3 else "")
        say(f"left {len(foreign)} file(s) in {one_line(out)} that no run has written: {names}")


def _files(folder: Path) -> list[str]:
    """All files below a run folder, relative to it, hidden ones included; without its lock and its new run."""
    found = []
    for where, folders, names in os.walk(folder):
        at_top = Path(where) == folder
        folders[:] = [name for name in folders if not (at_top and name == NEW)]
        found += [(Path(where) / name).relative_to(folder).as_posix() for name in names if not (at_top and name == LOCK)]
    return found


def own_files(folder: Path, known: Mapping[str, Any]) -> set[str]:
    """The files of the run `known` in `folder`: those it names, or, unfinished, those in the entries of a run."""
    if known.get("finished") and isinstance(known.get("files"), list):
        return {name for name in known["files"] if isinstance(name, str)} & set(_files(folder))
    return {name for name in _files(folder) if Path(name).parts[0] in RUN_PARTS}


def finish_run(folder: Path, report: Report) -> Report:
    """Write a run's report, mark the run as finished with the names of its files, and return the report."""
    known = _read(folder / RUN_FILE)
    if known is None:
        raise OutputError(f"{one_line(folder / RUN_FILE)} is missing")
    write_report(report, folder)
    foreign = set(known.get("foreign", ()))
    files = sorted(set(_files(folder)) - foreign)
    write_json(folder / RUN_FILE, {**known, "finished": True, "files": files})
    return report


def _read(file: Path) -> dict[str, Any] | None:
    try:
        content = read_json(file)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("kind") == "hemalens-run" else None


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
    try:
        fitted = read_json(file)
        same = isinstance(fitted, dict) and fitted.get("key") == key
    except (OSError, ValueError):
        same = False
    if same:
        try:
            return open_bundle(run_dir / "bundle")
        except BundleError:
            pass  # unfinished: resume below
    else:
        # the checkpoints of another request must not be resumed
        with output_errors(run_dir):
            for folder in ("bundle", "checkpoints", "scratch"):
                shutil.rmtree(run_dir / folder, ignore_errors=True)
            (run_dir / "history.jsonl").unlink(missing_ok=True)
    write_json(file, {"key": key, **request})
    return method.fit(train, validation=validation, auxiliary=auxiliary, config=config, rng=rng, run_dir=run_dir)
