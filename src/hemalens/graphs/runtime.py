"""Run a graph over many images with ONNX Runtime: one thread per core, outputs in input order, bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from hemalens.datasets.base import Record
from hemalens.errors import BundleError, ImageError

# where ONNX Runtime was imported before this package, its environment variable came too late
onnxruntime.disable_telemetry_events()

Outputs = dict[str, NDArray[Any]]
T = TypeVar("T")
R = TypeVar("R")
ROWS_AT_ONCE = 256
"""Rows that a graph is run on at once: one that compares each with many cells needs some 150 kB a row."""
SUM_TOLERANCE = 1e-3
"""Largest distance of the sum of an image's probabilities from 1."""


def check_probabilities(values: NDArray[Any], n_classes: int) -> str | None:
    """Why `values` are no probabilities (k,) or (n, k) of `n_classes`, or None: shape, finite, in [0, 1], sum 1.

    Both limits allow `SUM_TOLERANCE`.
    """
    if values.ndim not in (1, 2) or values.shape[-1] != n_classes or values.dtype.kind != "f":
        return f"the graph gives {values.dtype} of shape {values.shape}, not {n_classes} probabilities"
    if not np.isfinite(values).all():
        return "the graph gives NaN or infinity as probability"
    if values.size and not (values.min() >= -SUM_TOLERANCE and values.max() <= 1 + SUM_TOLERANCE):
        return f"the graph gives probabilities from {values.min():.4g} to {values.max():.4g}, outside 0 to 1"
    sums = values.sum(axis=-1, dtype=np.float64)
    if not np.allclose(sums, 1, rtol=0, atol=SUM_TOLERANCE):
        worst = np.ravel(sums)[np.abs(np.ravel(sums) - 1).argmax()]
        return f"the graph gives probabilities that sum to {worst:.4g}, not 1"
    return None


def n_cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def session_of(graph: bytes, *, fuse: bool = True, provider: str = "CPUExecutionProvider") -> onnxruntime.InferenceSession:
    """A session of one thread; several images at once use the cores better than several threads on one image.

    Without `fuse` the layers are computed one by one, as the graph states them. Another `provider` of ONNX Runtime leaves
    to the processor what it cannot compute.
    """
    options = onnxruntime.SessionOptions()
    if not fuse:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # images have many sizes: memory patterns would be kept for each of them
    options.enable_mem_pattern = False
    providers = list(dict.fromkeys((provider, "CPUExecutionProvider")))
    # a second try would print to standard output
    return onnxruntime.InferenceSession(graph, options, providers=providers, enable_fallback=0)


class Session(Protocol):
    """A graph that is ready to run."""

    def run(self, outputs: list[str], inputs: dict[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        """The outputs, by name, for inputs with a first axis n."""


class GraphRunner:
    """Reads images and runs a graph whose input is `image` uint8 (n, h, w, 3), with `n_workers` threads."""

    def __init__(self, graph: bytes, outputs: Sequence[str], *, n_workers: int | None = None) -> None:
        self.outputs = tuple(outputs)
        self.n_workers = n_workers or n_cores()
        session = session_of(graph)
        self.given = tuple(value.name for value in session.get_outputs())
        """All outputs that the graph has."""
        self._session: Session = session

    def use(self, session: Session) -> None:
        """Run the graph by another session of the same graph."""
        self._session = session

    def run(self, image: NDArray[np.uint8]) -> Outputs:
        """The outputs for one image uint8 (h, w, 3), each without its batch axis."""
        try:
            values = self._session.run(list(self.outputs), {"image": image[None]})
        except Exception as error:
            # ONNX Runtime has its own class for each kind of failure
            size = " x ".join(map(str, image.shape[1::-1]))
            raise BundleError(f"the graph cannot be run on an image of {size} pixels", got=str(error)[:120]) from error
        return {name: np.asarray(value)[0] for name, value in zip(self.outputs, values, strict=True)}

    def _outputs_of(self, record: Record) -> Outputs | ImageError:
        try:
            return self.run(record.read())
        except ImageError as error:
            return error

    def map(self, records: Iterable[Record]) -> Iterator[tuple[Record, Outputs | ImageError]]:
        """Each record with its outputs, or with the `ImageError` of an unreadable image, in input order.

        At most four records per worker are in flight.
        """
        return self.apply(self._outputs_of, records)

    def apply(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        """Each item with the result of `function`, computed by the workers, in input order.

        At most four items per worker are in flight.
        """
        return in_order(function, items, self.n_workers)


def in_order(function: Callable[[T], R], items: Iterable[T], n_workers: int) -> Iterator[tuple[T, R]]:
    """Each item with the result of `function`, computed by `n_workers` threads, in input order.

    At most four items per worker are in flight.
    """
    waiting: deque[tuple[T, Future[R]]] = deque()
    with ThreadPoolExecutor(n_workers) as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(function, item)))
                if len(waiting) >= 4 * n_workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def require_probabilities(values: NDArray[Any], n_classes: int, where: str) -> None:
    """Raise `BundleError`, naming the graph by `where`, unless `values` pass `check_probabilities`."""
    if reason := check_probabilities(values, n_classes):
        raise BundleError(f"the probabilities of {where} cannot be used", got=reason)


def run_rows(graph: bytes, inputs: dict[str, NDArray[Any]], outputs: Sequence[str]) -> Outputs:
    """Run a graph on arrays of one first axis n, `ROWS_AT_ONCE` rows at a time; n may be 0."""
    session, n = session_of(graph), len(next(iter(inputs.values())))
    starts = range(0, max(n, 1), ROWS_AT_ONCE)
    parts = [
        session.run(list(outputs), {name: rows[at : at + ROWS_AT_ONCE] for name, rows in inputs.items()}) for at in starts
    ]
    return {name: np.concatenate(values) for name, values in zip(outputs, zip(*parts, strict=True), strict=True)}
