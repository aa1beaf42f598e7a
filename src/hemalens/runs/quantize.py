"""Make a smaller bundle, in 8 bits or with weights in 16, its answers compared with those of the bundle it came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemalens.bundle.artifact import DataEntry, library_versions
from hemalens.bundle.bundle import (
    FILES,
    FINE,
    MODEL,
    STATISTICS,
    Bundle,
    Precision,
    Quantisation,
    open_bundle,
)
from hemalens.datasets import CellDataset, Record
from hemalens.datasets.splits import Unreadable, seeded
from hemalens.errors import BundleError, ConfigError, ImageError, InputError, one_line
from hemalens.files import claim_folder
from hemalens.graphs.fp16 import has_half_weights, with_half_weights
from hemalens.graphs.int8 import QuantisationConfig, is_quantised, quantise
from hemalens.graphs.runtime import GraphRunner, Outputs
from hemalens.progress import Say, track
from hemalens.runs.inputs import prepare, tell
from hemalens.taxonomy import AS_LABELLED
from hemalens.trust.reference import REFERENCE_FILE


def quantize(
    bundle_path: Path,
    calibration_spec: str,
    *,
    out: Path,
    precision: Precision = "int8",
    n_images: int = 200,
    settings: Sequence[str] = (),
    drop_unreadable: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Bundle:
    """Write a bundle `out` like the one at `bundle_path`, smaller, and compare the two on at most `n_images` images.

    "int8" computes the backbone in 8 bits, calibrated on the images; the new bundle counts them as seen without labels.
    "fp16" keeps the backbone's weights in 16 bits and computes in 32; the images change nothing and count as unseen. They
    are drawn evenly over their classes by `seed`; their labels serve for nothing else. Weights for further training are not
    carried along. `settings` are settings key=value of `QuantisationConfig`. Raises `BundleError` for a bundle that is
    small already or has nothing to make smaller, `ConfigError` for settings of fp16, which has none.
    """
    config = QuantisationConfig.load(None, settings)
    if precision == "fp16" and settings:
        raise ConfigError("fp16 rounds weights and has no settings", got=settings[0], remedy="Say --precision int8.")
    if n_images < 1:
        raise InputError("there is nothing to calibrate on", expected="at least one image", got=str(n_images))
    claim_folder(out, FILES, "a bundle", overwrite=overwrite)
    base = open_bundle(bundle_path)
    _refuse_small(base)
    how = base.manifest.unlabelled
    if precision == "int8" and how is not None and (how.typical_nucleus_px or how.neighbours):
        what = "counts the size of nuclei" if how.typical_nucleus_px else "leans on the images that it was adapted to"
        raise BundleError(
            f"the bundle {one_line(bundle_path)} {what}, which int8 cannot take along",
            remedy="Make the bundle from before smaller, then adapt that; or say --precision fp16.",
        )
    unreadable: Unreadable = "drop" if drop_unreadable else "refuse"
    given = prepare(calibration_spec, labels=AS_LABELLED, role="calibration", unreadable=unreadable)
    tell(say, [given])
    images = drawn_evenly(given.dataset, n_images, seeded(seed, "calibration")).through(base.stages)
    counts = ", ".join(f"{one_line(name)} ({n})" for name, n in images.class_counts.items())
    doing = "calibrating" if precision == "int8" else "comparing"
    say(f"{doing} on {len(images)} of {len(given.dataset)} images: {counts}")
    if precision == "int8":
        with track("calibrating", len(images)) as progress:
            graph = quantise(base.graph, images.records, config, progress=progress)
    else:
        graph = with_half_weights(base.graph)
    return _written(out, base, graph.SerializeToString(), images, config=config if precision == "int8" else None)


def _refuse_small(base: Bundle) -> None:
    """Raise `BundleError` for a bundle that was made smaller before."""
    made = "int8" if is_quantised(base.graph) else "fp16" if has_half_weights(base.graph) else None
    if made:
        raise BundleError(f"the bundle {one_line(base.path)} is {made} already", remedy="Take the one it was made from.")


def _written(out: Path, base: Bundle, content: bytes, images: CellDataset, *, config: QuantisationConfig | None) -> Bundle:
    """The bundle of a smaller graph, with all that its manifest says of it; without a `config`, of 16 bits a weight."""
    compared = _compare(base, content, images)
    quantisation = Quantisation(
        precision="int8" if config else "fp16",
        method=config.method if config else "rounding",
        settings=config.model_dump(mode="json", exclude={"method"}) if config else {},
        base_model_sha256=base.manifest.files[MODEL].sha256,
        n_images=len(images),
        fingerprint=images.fingerprint,
        size_ratio=len(content) / base.manifest.files[MODEL].n_bytes,
        **asdict(compared),
    )
    update: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "quantisation": quantisation,
        "parity": max(compared.largest_difference, compared.fine_largest_difference or 0.0),
        "versions": library_versions(),
    }
    if config:
        update["data"] = (*base.manifest.data, DataEntry.of(images, "calibration"))
    # quantisation changes the embedding little: its statistics stay
    kept = [name for name in (STATISTICS, REFERENCE_FILE) if name in base.manifest.files]
    return base.derive(
        out,
        base.manifest.model_copy(update=update),
        content,
        seen_unlabelled=images.contents if config else (),
        files={name: (base.path / name).read_bytes() for name in kept},
    )


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
    largest_difference: float
    mean_difference: float
    agreement: float
    fine_largest_difference: float | None = None
    fine_agreement: float | None = None


def _compare(base: Bundle, after: bytes, images: CellDataset) -> _Compared:
    """How far a graph's probabilities lie from those of a bundle, on these images."""
    outputs = ["probabilities", *([FINE] if base.manifest.fine else [])]
    with track("comparing", 2 * len(images)) as progress:
        answers = []
        for graph in (base.graph_bytes, after):
            rows = []
            for row in _answers(graph, outputs, images.records):
                rows.append(row)
                progress(1)
            answers.append({name: np.stack([row[name] for row in rows]) for name in outputs})
    old, new = (each["probabilities"] for each in answers)
    apart = np.abs(old - new)
    same = old.argmax(axis=1) == new.argmax(axis=1)
    compared = _Compared(float(apart.max()), float(apart.mean()), float(same.mean()))
    if not base.manifest.fine:
        return compared
    of_class = np.array([base.manifest.labels.index(entry.of) for entry in base.manifest.fine])
    joint = [each["probabilities"][:, of_class] * each[FINE] for each in answers]
    finest = [_finest(each["probabilities"], each[FINE], of_class) for each in answers]
    return replace(
        compared,
        fine_largest_difference=float(np.abs(joint[0] - joint[1]).max()),
        fine_agreement=float((finest[0] == finest[1]).mean()),
    )


def _finest(
    probabilities: NDArray[np.float32], fine: NDArray[np.float32], of_class: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The column (n,) of the likeliest finer type within each image's answered class."""
    within = of_class == probabilities.argmax(axis=1)[:, None]
    return np.asarray(np.where(within, fine, -1.0).argmax(axis=1))


def _answers(graph: bytes, outputs: Sequence[str], records: Sequence[Record]) -> Iterator[Outputs]:
    """The outputs of each record; raises `ImageError` for an unreadable one."""
    for _, answer in GraphRunner(graph, outputs).map(records):
        if isinstance(answer, ImageError):
            raise answer
        yield answer
