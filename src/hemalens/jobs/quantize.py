"""Make a bundle that computes in 8 bits: smaller and faster, its answers compared with those of the bundle it came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemalens.artifacts import DataEntry, library_versions
from hemalens.bundle import (
    FILES,
    MODEL,
    SEEN,
    SEEN_UNLABELLED,
    STATISTICS,
    Bundle,
    Quantisation,
    open_bundle,
    seen_images,
    write_bundle,
)
from hemalens.datasets import CellDataset, Record
from hemalens.errors import BundleError, ImageError, InputError, one_line
from hemalens.files import claim_folder
from hemalens.home import HOME
from hemalens.jobs.prepare import prepare, tell
from hemalens.jobs.train import Say
from hemalens.progress import track
from hemalens.quantization import QuantisationConfig, is_quantised, quantise
from hemalens.runtime import GraphRunner
from hemalens.sampling import Unreadable, seeded
from hemalens.taxonomy import AS_LABELLED


def quantize(
    bundle_path: Path,
    calibration_spec: str,
    *,
    out: Path,
    n_images: int = 200,
    settings: Sequence[str] = (),
    drop_unreadable: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Bundle:
    """Write a bundle `out` like the one at `bundle_path`, its backbone in 8 bits, calibrated on at most `n_images` images.

    The images are drawn evenly over their classes by `seed`; their labels serve for nothing else. The new bundle counts
    them as seen without labels; weights for further training are not carried along. `settings` are settings key=value of
    `QuantisationConfig`. Raises `BundleError` for a bundle that is int8 already or has nothing to quantise.
    """
    config = QuantisationConfig.load(None, settings)
    if n_images < 1:
        raise InputError("there is nothing to calibrate on", expected="at least one image", got=str(n_images))
    claim_folder(out, FILES, "a bundle", overwrite=overwrite)
    base = open_bundle(bundle_path)
    if is_quantised(base.graph):
        raise BundleError(f"the bundle {one_line(bundle_path)} is int8 already", remedy="Take the one it was made from.")
    unreadable: Unreadable = "drop" if drop_unreadable else "refuse"
    given = prepare(calibration_spec, labels=AS_LABELLED, role="calibration", unreadable=unreadable)
    tell(say, [given])
    calibration = drawn_evenly(given.dataset, n_images, seeded(seed, "calibration")).through(base.stages)
    counts = ", ".join(f"{one_line(name)} ({n})" for name, n in calibration.class_counts.items())
    say(f"calibrating on {len(calibration)} of {len(given.dataset)} images: {counts}")
    with track("calibrating", len(calibration)) as progress:
        content = quantise(base.graph, calibration.records, config, progress=progress).SerializeToString()
    compared = _compare(base.graph_bytes, content, calibration)
    quantisation = Quantisation(
        method=config.method,
        settings=config.model_dump(mode="json", exclude={"method"}),
        base_model_sha256=base.manifest.files[MODEL].sha256,
        n_images=len(calibration),
        fingerprint=calibration.fingerprint,
        largest_difference=compared.largest,
        mean_difference=compared.mean,
        agreement=compared.agreement,
        size_ratio=len(content) / base.manifest.files[MODEL].n_bytes,
    )
    manifest = base.manifest.model_copy(
        update={
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "data": (*base.manifest.data, DataEntry.of(calibration, "calibration")),
            "quantisation": quantisation,
            "parity": compared.largest,
            "versions": library_versions(),
        }
    )
    seen = {SEEN_UNLABELLED: seen_images(base.seen_unlabelled.union(calibration.contents))}
    return write_bundle(out, manifest, {MODEL: content, **seen, **_kept_files(base)})


def _kept_files(base: Bundle) -> dict[str, bytes]:
    """What stays of a bundle's files beside the graph; 8 bits change the embedding little."""
    files = {SEEN: seen_images(base.seen)} if SEEN in base.manifest.files else {}
    for name in (STATISTICS, HOME):
        if name in base.manifest.files:
            files[name] = (base.path / name).read_bytes()
    return files | {name: more for stage in base.stages for name, more in stage.files().items()}


def drawn_evenly(dataset: CellDataset, n: int, rng: np.random.Generator) -> CellDataset:
    """At most `n` images, as many of each class as of any other, as far as there are; in the dataset's order.

    What cannot be shared evenly goes to classes drawn by lot. A draw of fewer images lies inside one of more.
    """
    turn = np.zeros(len(dataset), np.int64)
    for i in range(len(dataset.classes)):
        members = rng.permutation(np.flatnonzero(dataset.targets == i))
        turn[members] = np.arange(len(members))
    lot = rng.permutation(len(dataset.classes))
    order = np.lexsort((lot[dataset.targets], turn))
    return dataset.subset(sorted(order[:n].tolist()))


@dataclass(frozen=True, slots=True)
class _Compared:
    largest: float
    mean: float
    agreement: float


def _compare(before: bytes, after: bytes, calibration: CellDataset) -> _Compared:
    """How far two graphs' probabilities lie apart on the calibration images."""
    with track("comparing", 2 * len(calibration)) as progress:
        probabilities = []
        for graph in (before, after):
            rows = []
            for row in _probabilities(graph, calibration.records):
                rows.append(row)
                progress(1)
            probabilities.append(np.stack(rows))
    old, new = probabilities
    apart = np.abs(old - new)
    same = old.argmax(axis=1) == new.argmax(axis=1)
    return _Compared(float(apart.max()), float(apart.mean()), float(same.mean()))


def _probabilities(graph: bytes, records: Sequence[Record]) -> Iterator[NDArray[np.float32]]:
    """Probabilities (k,) of each record; raises `ImageError` for an unreadable one."""
    for _, answer in GraphRunner(graph, ["probabilities"]).map(records):
        if isinstance(answer, ImageError):
            raise answer
        yield answer["probabilities"]
