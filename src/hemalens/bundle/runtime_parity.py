"""Whether a runtime predicts what ONNX Runtime predicts: compared once for a graph, and kept in the cache."""

from __future__ import annotations

import hashlib
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemalens.datasets.synthetic import CELL_TYPES, LABORATORIES, draw_cell
from hemalens.errors import BundleError
from hemalens.files import default_cache_dir, optional_cache, read_sealed, sha256_text, write_sealed
from hemalens.graphs.runtime import GraphRunner, Session
from hemalens.graphs.runtimes import RUNTIMES, Precision, Runtime, RuntimeChoice, RuntimeName, runtime_named
from hemalens.progress import Say

DIFFERENCE = 0.01
"""Largest difference of a probability from ONNX Runtime's."""
AGREEMENT = 0.995
"""Least share of equal labels."""
N_CELLS = 48
"""Synthetic cells that are compared, of all types and laboratories."""
FASTER = 0.9
"""Share of ONNX Runtime's time below which "auto" takes another runtime: a smaller gain may be noise."""
TIMED = 16
"""Cells whose time is taken, after the others."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How a runtime's predictions differ from ONNX Runtime's on synthetic cells, and its time an image on one thread."""

    largest_difference: float
    agreement: float
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether labels and probabilities are the same but for rounding; NaN is a difference."""
        return self.largest_difference <= DIFFERENCE and self.agreement >= AGREEMENT


@dataclass(frozen=True, slots=True)
class Computed:
    """The runtime that computes a bundle, and in which precision."""

    runtime: RuntimeName
    precision: Precision = "fp32"

    def __str__(self) -> str:
        return self.runtime if self.precision == "fp32" else f"{self.runtime} in {self.precision}"


@dataclass(frozen=True, slots=True)
class _Candidate:
    computed: Computed
    session: Session
    parity: Parity


def use_runtime(runner: GraphRunner, graph: bytes, choice: RuntimeChoice, say: Say) -> Computed:
    """Let `runner`, which has passed the bundle's own test, compute its `graph` by the chosen runtime.

    "auto" takes the fastest installed one that predicts the same. `say` is given a line where another runtime or precision
    computes than was asked for. Raises `MissingExtraError` for a runtime whose package is not installed, and `BundleError`
    for one that predicts otherwise.
    """
    plain = Computed("onnxruntime")
    if choice == "onnxruntime":
        return plain
    chosen = _fastest(runner, graph) if choice == "auto" else _asked_for(runner, graph, runtime_named(choice), say)
    if chosen is None:
        return plain
    runner.use(chosen.session)
    return chosen.computed


def _asked_for(runner: GraphRunner, graph: bytes, runtime: Runtime, say: Say) -> _Candidate | None:
    """The runtime in its fastest precision that predicts the same; None where this machine cannot run it."""
    runtime.require()
    reason = runtime.lacking()
    if reason is not None:
        say(f"{reason}: ONNX Runtime computes on the processor")
        return None
    if runtime.name == "openvino" and "bf16" not in runtime.precisions():
        say("this processor has no bf16: OpenVINO computes in 32 bits")
    differs = ""
    for precision in runtime.precisions():
        found = _candidate(runner, graph, runtime, precision)
        if isinstance(found, str):
            say(f"{found}: ONNX Runtime computes on the processor")
            return None
        if found.parity.holds:
            return found
        differs = _in_words(found.parity)
        say(f"{found.computed} predicts otherwise than ONNX Runtime, {differs}: not used")
    raise BundleError(
        f"{runtime.name} does not predict what ONNX Runtime does",
        expected=f"probabilities within {DIFFERENCE:g} on synthetic cells",
        got=f"other ones {differs}",
        remedy="Leave --runtime out.",
    )


def _fastest(runner: GraphRunner, graph: bytes) -> _Candidate | None:
    """The fastest installed runtime that predicts the same; None for ONNX Runtime itself."""
    own = _candidate(runner, graph, RUNTIMES["onnxruntime"], "fp32")
    best, least = None, np.inf if isinstance(own, str) else FASTER * own.parity.seconds
    for runtime in RUNTIMES.values():
        if runtime.name == "onnxruntime" or not runtime.installed or runtime.lacking() is not None:
            continue
        for precision in runtime.precisions():
            found = _candidate(runner, graph, runtime, precision)
            if not isinstance(found, str) and found.parity.holds and found.parity.seconds < least:
                best, least = found, found.parity.seconds
    return best


def _candidate(runner: GraphRunner, graph: bytes, runtime: Runtime, precision: Precision) -> _Candidate | str:
    """A runtime's session with its parity, from the cache where it is known; why there is none where it cannot start."""
    try:
        session = runtime.open(graph, precision)
    except Exception as error:
        # each runtime has its own class for a graph that it cannot compile, or a device that does not start
        return f"{runtime.name} cannot run this bundle ({str(error).splitlines()[0][:100]})"
    file = _file(graph, runtime, precision)
    known = read_sealed(file)
    try:
        parity = Parity(**known) if known is not None else None
    except TypeError:
        parity = None
    if parity is None:
        parity = compared(runner, session)
        with optional_cache():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_sealed(file, asdict(parity))
    return _Candidate(Computed(runtime.name, precision), session, parity)


def _file(graph: bytes, runtime: Runtime, precision: Precision) -> Path:
    machine = f"{platform.machine()} {platform.processor()}"
    digest = hashlib.sha256(graph).hexdigest()
    key = sha256_text("runtime", digest, runtime.name, runtime.version, precision, machine)
    return default_cache_dir() / "runtimes" / f"{key}.json"


def compared(runner: GraphRunner, session: Session) -> Parity:
    """The predictions of a session beside those of the runner, on synthetic cells."""
    cells = synthetic_cells(N_CELLS)
    own = np.stack([runner.run(cell)["probabilities"] for cell in cells])
    other = np.stack([_probabilities(session, cell) for cell in cells])
    begun = time.perf_counter()
    for cell in cells[:TIMED]:
        _probabilities(session, cell)
    seconds = (time.perf_counter() - begun) / TIMED
    largest = float(np.abs(own - other).max())
    return Parity(largest, float((own.argmax(axis=1) == other.argmax(axis=1)).mean()), seconds)


def _probabilities(session: Session, cell: NDArray[np.uint8]) -> NDArray[Any]:
    found: NDArray[Any] = session.run(["probabilities"], {"image": cell[None]})[0][0]
    return found


def synthetic_cells(n: int) -> list[NDArray[np.uint8]]:
    """`n` synthetic cells of all types and laboratories in turn, uint8 (h, w, 3), the same on every machine."""
    rng, laboratories = np.random.default_rng(0), list(LABORATORIES.values())
    return [draw_cell(CELL_TYPES[i % len(CELL_TYPES)], laboratories[i % len(laboratories)], rng)[0] for i in range(n)]


def _in_words(parity: Parity) -> str:
    return f"by up to {parity.largest_difference:.2g} with {parity.agreement:.1%} equal labels"
