"""A graph's own test: a drawn image and the outputs that belong to it, compared before the graph is used."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from hemalens.bundle.artifact import ArtifactManifest, SelfTest
from hemalens.errors import BundleError
from hemalens.graphs.checks import check_outputs
from hemalens.graphs.runtime import GraphRunner, session_of

SIDE_PX = 64
UNSURE = 0.9
"""A cell whose likeliest class has less is taken: outputs near 0 and 1 hardly change with the weights."""
N_PARTS = 16
"""Parts of a larger output whose means are kept."""
TOLERANCE = 1e-3
"""Least tolerance: processors and versions of ONNX Runtime round differently."""
INT8_TOLERANCE = 0.1
"""Least tolerance of 8-bit graphs, which processors without VNNI compute with overflows."""
MARGIN = 4.0
"""The tolerance over the difference between the graph as it is and as ONNX Runtime fuses it."""
COLOURS = ((110, 70, 150), (205, 190, 222), (232, 218, 228))
"""Of nucleus, cytoplasm and background."""


def drawn_cell(seed: int, side_px: int) -> NDArray[np.uint8]:
    """A cell of two discs with noise, uint8 (side, side, 3), the same on every machine and with every version.

    `seed` draws colours, sizes and noise.
    """
    drawn = hashlib.shake_256(f"cell {seed}".encode()).digest(11 + side_px * side_px * 3)
    first, noise = np.frombuffer(drawn[:11], np.uint8), np.frombuffer(drawn[11:], np.uint8)
    nucleus, cytoplasm, background = np.array(COLOURS) + first[:9].reshape(3, 3) % 64 - 32
    far = np.hypot(*(np.indices((side_px, side_px)) - (side_px - 1) / 2))[..., None] / side_px
    inner, outer = 0.12 + first[9] / 1500, 0.3 + first[10] / 1500
    colours = np.where(far < inner, nucleus, np.where(far < outer, cytoplasm, background))
    image: NDArray[np.uint8] = np.clip(colours + noise.reshape(side_px, side_px, 3) % 32 - 16, 0, 255).astype(np.uint8)
    return image


def measured(graph: bytes, manifest: ArtifactManifest, *, int8: bool) -> SelfTest:
    """The test of a graph: its outputs on a drawn cell; raises `BundleError` where it cannot be run or gives NaN.

    Of the cells of `manifest.n_drawn` seeds, the first that the graph is unsure of, or the one it is least sure of. The
    tolerance follows from the difference between the graph as it is and with layers fused.
    """
    session, found = _session(graph, fuse=True), []
    for seed in range(manifest.n_drawn):
        outputs = _outputs(session, manifest, drawn_cell(seed, SIDE_PX))
        kept = {name: summary(outputs[name]) for name in manifest.tested if name in manifest.outputs}
        found.append((max(kept[manifest.tested[0]]), seed, kept))
        if found[-1][0] < UNSURE:
            break
    _, seed, kept = min(found, key=lambda each: each[0])
    plain = _outputs(_session(graph, fuse=False), manifest, drawn_cell(seed, SIDE_PX))
    apart = max(float(np.abs(np.subtract(values, summary(plain[name]))).max()) for name, values in kept.items())
    least = INT8_TOLERANCE if int8 else TOLERANCE
    tolerance = min(SelfTest.MOST, max(least, MARGIN * apart))
    rounded = {name: tuple(round(value, 4) for value in values) for name, values in kept.items()}
    return SelfTest(seed=seed, side_px=SIDE_PX, outputs=rounded, tolerance=round(tolerance, 4))


def summary(values: NDArray[np.floating]) -> tuple[float, ...]:
    """The values of an output, or the means of `N_PARTS` equal parts of a two-dimensional one."""
    if values.ndim < 2:
        return tuple(float(value) for value in values)
    return tuple(float(part.mean()) for part in np.array_split(values.ravel(), N_PARTS))


def check_runner(runner: GraphRunner, manifest: ArtifactManifest) -> str | None:
    """Why a runner of a manifest's graph fails the manifest's own test, or None; outputs it does not give are passed by."""
    test = manifest.self_test
    if test is None:
        return "no test in the manifest"
    shapes = {name: shape for name, shape in manifest.outputs.items() if name in runner.outputs}
    found = runner.run(drawn_cell(test.seed, test.side_px))
    if reason := check_outputs(found, shapes):
        return reason
    for name in manifest.tested:
        if name in runner.outputs:
            apart = _apart(found[name], test, name)
            if apart is None or apart > test.tolerance:
                values = ", ".join(f"{value:.4g}" for value in summary(found[name])[:4])
                return f"{name} {values} ... for its test image, not {_listed(test, name)}"
    return None


def _apart(values: NDArray[np.floating], test: SelfTest, name: str) -> float | None:
    given, kept = summary(values), test.outputs.get(name, ())
    return float(np.abs(np.subtract(given, kept)).max()) if len(given) == len(kept) else None


def _listed(test: SelfTest, name: str) -> str:
    return ", ".join(f"{value:.4g}" for value in test.outputs.get(name, ())[:4]) + " ..."


def _outputs(
    session: onnxruntime.InferenceSession, manifest: ArtifactManifest, image: NDArray[np.uint8]
) -> dict[str, NDArray[Any]]:
    """The manifest's outputs for one image; raises `BundleError` where they are none of its."""
    names = list(manifest.outputs)
    try:
        values = session.run(names, {"image": image[None]})
    except Exception as error:
        # ONNX Runtime has its own class for each kind of failure
        raise BundleError("the graph cannot be run", got=str(error)[:120]) from error
    found = {name: np.asarray(value)[0] for name, value in zip(names, values, strict=True)}
    if reason := check_outputs(found, manifest.outputs):
        raise BundleError("the graph does not give what its manifest names", got=reason)
    return found


def _session(graph: bytes, *, fuse: bool) -> onnxruntime.InferenceSession:
    """A session of the graph; raises `BundleError` where there can be none."""
    try:
        return session_of(graph, fuse=fuse)
    except Exception as error:
        # ONNX Runtime has its own class for each kind of invalid graph
        raise BundleError("the graph cannot be run", got=str(error)[:120]) from error
