"""Quantise a bundle to 8 bits, or its weights to 16, and compare its predictions with those of its base."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hemalens.bundle.artifact import DataEntry, library_versions
from hemalens.bundle.bundle import (
    FINE,
    MODEL,
    Bundle,
    BundleLike,
    Precision,
    Quantisation,
    bundle_folder,
    open_bundle,
)
from hemalens.bundle.folders import artifact_files
from hemalens.config import checked
from hemalens.datasets import CellDataset, Record
from hemalens.datasets.open import check_spec, spec_path
from hemalens.datasets.splits import Unreadable, seeded
from hemalens.errors import BundleError, ConfigError, ImageError, InputError, one_line, public
from hemalens.files import PathLike, as_path
from hemalens.graphs.checks import is_quantised
from hemalens.graphs.fp16 import has_half_weights, with_half_weights
from hemalens.graphs.int8 import CALIBRATION, QuantisationConfig, quantise
from hemalens.graphs.runtime import GraphRunner, Outputs, require_probabilities
from hemalens.outputs import claim_folder
from hemalens.progress import Say, track
from hemalens.runs.inputs import open_inputs, report_inputs
from hemalens.taxonomy import AS_LABELLED
from hemalens.trust.reference import REFERENCE_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeOptions:
    """The calibration images, at most `n_images`, and `settings` key=value of `QuantisationConfig`."""

    n_images: Annotated[int, Field(ge=1)] = 200
    settings: Sequence[str] = ()
    drop_unreadable: bool = False


DEFAULTS = QuantizeOptions()


@public
def quantize(
    bundle: BundleLike,
    calibration: PathLike,
    *,
    out: PathLike,
    precision: Precision = "int8",
    options: QuantizeOptions = DEFAULTS,
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Bundle:
    """Write a smaller bundle `out` from `bundle`, and compare their predictions on calibration images.

    "int8" computes the backbone in 8 bits, calibrated on the images, which count as seen without labels. "fp16" stores the
    backbone's weights in 16 bits and computes in 32; the images are only compared on. They are drawn by `seed`, evenly over
    their classes. The new bundle has no weights for further training. Raises `BundleError` for a bundle that is quantised
    already or has nothing to quantise, `ConfigError` for settings with fp16, which has none.
    """
    options = checked(options, QuantizeOptions)
    out, calibration = as_path(out, "out"), check_spec(calibration, "the calibration images")
    if precision not in get_args(Precision):
        raise InputError("unknown precision", expected=" or ".join(get_args(Precision)), got=repr(precision))
    config = QuantisationConfig.load(None, options.settings)
    if precision == "fp16" and options.settings:
        raise ConfigError("fp16 has no settings", got=options.settings[0], remedy="Use --precision int8.")
    inputs = [bundle_folder(bundle), spec_path(calibration)]
    with claim_folder(out, artifact_files, "a bundle", overwrite=overwrite, inputs=inputs):
        base = open_bundle(bundle)
        _refuse_small(base)
        how = base.manifest.unlabelled
        if precision == "int8" and how is not None and how.pieces:
            raise BundleError(
                f"the bundle {one_line(base.path)} is adapted to unlabelled images, which int8 does not support",
                remedy="Quantise its base, then adapt that; or use --precision fp16.",
            )
        unreadable: Unreadable = "drop" if options.drop_unreadable else "refuse"
        given = open_inputs(calibration, labels=AS_LABELLED, role="calibration", unreadable=unreadable)
        report_inputs(say, [given])
        images = drawn_evenly(given.dataset, options.n_images, seeded(seed, "calibration")).through(base.stages)
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
    """Raise `BundleError` for a quantised bundle, and for one that fails its own test."""
    graph = base.tested_graph
    made = "int8" if is_quantised(graph) else "fp16" if has_half_weights(graph) else None
    if made:
        raise BundleError(f"the bundle {one_line(base.path)} is {made} already", remedy="Quantise its base.")


def _written(out: Path, base: Bundle, content: bytes, images: CellDataset, *, config: QuantisationConfig | None) -> Bundle:
    """Write the bundle of the graph `content`: int8 by `config`, or fp16 without one."""
    compared = _compare(base, content, images)
    quantisation = Quantisation(
        precision="int8" if config else "fp16",
        method=CALIBRATION if config else "rounding",
        settings=config.model_dump(mode="json") if config else {},
        base_model_sha256=base.manifest.files[MODEL].sha256,
        n_images=len(images),
        fingerprint=images.fingerprint,
        # both without the statement of a manifest
        size_ratio=len(content) / base.graph.ByteSize(),
        **asdict(compared),
    )
    data = (*base.manifest.data, DataEntry.of(images, "calibration")) if config else base.manifest.data
    manifest = base.manifest.model_copy(
        update={
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "quantisation": quantisation,
            "parity": max(compared.largest_difference, compared.fine_largest_difference or 0.0),
            "versions": library_versions(),
            "data": data,
        }
    )
    # quantisation changes the embedding little: its statistics stay
    kept = [REFERENCE_FILE] if REFERENCE_FILE in base.manifest.files else []
    return base.derive(
        out,
        manifest,
        content,
        seen_unlabelled=images.contents if config else (),
        files={name: (base.path / name).read_bytes() for name in kept},
    )


def drawn_evenly(dataset: CellDataset, n: int, rng: np.random.Generator) -> CellDataset:
    """At most `n` images, as evenly over the classes as they allow, in the dataset's order.

    Classes drawn by lot get the remainder. A draw of fewer images is a subset of one of more.
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
    """Differences of a graph's probabilities from those of a bundle, on these images."""
    outputs = ["probabilities", *([FINE] if base.manifest.fine else [])]
    with track("comparing", 2 * len(images)) as progress:
        found = []
        for graph in (base.graph_bytes, after):
            rows = []
            for row in _outputs(graph, outputs, images.records):
                rows.append(row)
                progress(1)
            found.append({name: np.stack([row[name] for row in rows]) for name in outputs})
            require_probabilities(found[-1]["probabilities"], len(base.manifest.labels), one_line(base.path))
    first, second = (each["probabilities"] for each in found)
    difference = np.abs(first - second)
    same = first.argmax(axis=1) == second.argmax(axis=1)
    compared = _Compared(float(difference.max()), float(difference.mean()), float(same.mean()))
    if not base.manifest.fine:
        return compared
    of_class = np.array([base.manifest.labels.index(entry.of) for entry in base.manifest.fine])
    joint = [each["probabilities"][:, of_class] * each[FINE] for each in found]
    finest = [_finest(each["probabilities"], each[FINE], of_class) for each in found]
    return replace(
        compared,
        fine_largest_difference=float(np.abs(joint[0] - joint[1]).max()),
        fine_agreement=float((finest[0] == finest[1]).mean()),
    )


def _finest(
    probabilities: NDArray[np.float32], fine: NDArray[np.float32], of_class: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The column (n,) of the likeliest subtype within each image's predicted class."""
    within = of_class == probabilities.argmax(axis=1)[:, None]
    return np.asarray(np.where(within, fine, -1.0).argmax(axis=1))


def _outputs(graph: bytes, outputs: Sequence[str], records: Sequence[Record]) -> Iterator[Outputs]:
    """The outputs of each record; raises `ImageError` for an unreadable one."""
    for _, found in GraphRunner(graph, outputs).map(records):
        if isinstance(found, ImageError):
            raise found
        yield found
