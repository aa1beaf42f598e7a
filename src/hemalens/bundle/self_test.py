"""A graph's own test: a drawn image and the outputs that belong to it, compared before the graph is used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from hemalens.bundle.artifact import ArtifactManifest, SelfTest
from hemalens.errors import BundleError
from hemalens.graphs.checks import check_outputs
from hemalens.graphs.runtime import GraphRunner, Outputs, session_of

SEED, SIDE_PX = 0, 64
N_PARTS = 16
"""Parts of a larger output whose means are kept."""
TOLERANCE = 1e-3
"""Least tolerance: processors and versions of ONNX Runtime round differently."""
INT8_TOLERANCE = 0.1
"""Least tolerance of 8-bit graphs, which processors without VNNI compute with overflows."""
MARGIN = 4.0
"""The tolerance over the difference between the graph as it is and as ONNX Runtime fuses it."""
BACKGROUND, CYTOPLASM, NUCLEUS = (232, 218, 228), (205, 190, 222), (110, 70, 150)


def drawn_cell(seed: int, side_px: int) -> NDArray[np.uint8]:
    """A cell of two discs with noise, uint8 (side, side, 3), the same on every machine and with every version."""
    far = np.hypot(*(np.indices((side_px, side_px)) - (side_px - 1) / 2)) / side_px
    colours = np.select([far[..., None] < 0.22, far[..., None] < 0.38], [NUCLEUS, CYTOPLASM], BACKGROUND)
    noise = np.frombuffer(hashlib.shake_256(f"cell {seed}".encode()).digest(side_px * side_px * 3), np.uint8)
    return (colours + noise.reshape(side_px, side_px, 3) % 32 - 16).clip(0, 255).astype(np.uint8)


def measured(graph: bytes, manifest: ArtifactManifest, *, int8: bool) -> SelfTest:
    """The test of a graph: its outputs on the drawn cell; raises `BundleError` where it cannot be run or gives NaN.

    The tolerance follows from the difference between the graph as it is and with layers fused.
    """
    image = drawn_cell(SEED, SIDE_PX)
    fused, plain = (_outputs(graph, manifest, image, fuse=fuse) for fuse in (True, False))
    kept = {name: summary(fused[name]) for name in manifest.tested if name in manifest.outputs}
    apart = max(float(np.abs(np.subtract(values, summary(plain[name]))).max()) for name, values in kept.items())
    least = INT8_TOLERANCE if int8 else TOLERANCE
    tolerance = min(SelfTest.MOST, max(least, MARGIN * apart))
    rounded = {name: tuple(round(value, 4) for value in values) for name, values in kept.items()}
    return SelfTest(seed=SEED, side_px=SIDE_PX, outputs=rounded, tolerance=round(tolerance, 4))


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


def _outputs(graph: bytes, manifest: ArtifactManifest, image: NDArray[np.uint8], *, fuse: bool) -> Outputs:
    names = list(manifest.outputs)
    try:
        session = session_of(graph) if fuse else _plain_session(graph)
        values = session.run(names, {"image": image[None]})
    except Exception as error:
        # ONNX Runtime has its own class for each kind of invalid graph
        raise BundleError("the graph cannot be run", got=str(error)[:120]) from error
    found: Mapping[str, NDArray[np.floating]] = {n: np.asarray(v)[0] for n, v in zip(names, values, strict=True)}
    if reason := check_outputs(found, manifest.outputs):
        raise BundleError("the graph does not give what its manifest names", got=reason)
    return dict(found)


def _plain_session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
