"""Run folders: the request of a run, whether it is finished, and how a stopped run resumes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
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
from hemalens.files import claim_output, output_errors, sha256_text, write_json
from hemalens.methods import Method
from hemalens.progress import Say
from hemalens.report import write_report

RUN_FILE = "run.json"
NO_AUXILIARY: Mapping[str, CellDataset] = {}


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Where a run writes, its seed, and whether an existing output is replaced."""

    out: Path
    seed: int = 0
    overwrite: bool = False


def start_run(
    out: Path,
    request: Mapping[str, Any],
    *,
    overwrite: bool,
    grows: bool = False,
    say: Say = lambda text: None,
) -> bool:
    """Start the run of `request` in `out`; True, and reported, when a stopped run resumes there.

    With `grows` a finished run of the same job, or one of another request, resumes too. `overwrite` removes an earlier
    run, and nothing else. Raises `OutputError` for a finished run, another run, or a folder of something else.
    """
    file = out / RUN_FILE
    known = _read(file)
    key = sha256_text(json.dumps(dict(request), sort_keys=True, default=str))
    if known is not None and overwrite:
        with output_errors(out):
            shutil.rmtree(out)
        known = None
    if known is None:
        if out.is_file() or (out.is_dir() and any(out.iterdir())):
            raise OutputError(f"{one_line(out)} is not a run folder", remedy="Choose another --out.")
        claim_output(out, overwrite=False)
    elif grows and known.get("request", {}).get("job") == request["job"]:
        pass
    elif known.get("key") != key:
        raise OutputError(
            f"{one_line(out)} holds another run (other data, settings or seed)",
            remedy="Choose another --out, or replace it with --overwrite.",
        )
    elif known.get("finished"):
        raise OutputError(
            f"{one_line(out)} holds this run, finished", remedy="Read its report, or run it again with --overwrite."
        )
    write_json(
        file, {"kind": "hemalens-run", "key": key, "finished": False, "request": request, "versions": library_versions()}
    )
    if known is not None:
        say("resuming the stopped run")
    return known is not None


def finish_run(out: Path, report: Report) -> Report:
    """Write a run's report, mark the run as finished, and return the report."""
    known = _read(out / RUN_FILE)
    if known is None:
        raise OutputError(f"{one_line(out / RUN_FILE)} is missing")
    write_report(report, out)
    write_json(out / RUN_FILE, {**known, "finished": True})
    return report


def _read(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
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
        same = json.loads(file.read_text(encoding="utf-8")).get("key") == key
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
