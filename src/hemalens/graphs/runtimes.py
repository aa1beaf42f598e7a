"""Runtimes that compute a graph: ONNX Runtime on the processor, OpenVINO, and CUDA through ONNX Runtime."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Literal, get_args

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from hemalens.errors import BundleError, ConfigError, near_matches, require_extra
from hemalens.graphs.build import cut, pixels_of
from hemalens.graphs.runtime import Session, n_cores, session_of

RuntimeName = Literal["onnxruntime", "openvino", "cuda"]
RuntimeChoice = Literal["auto", "onnxruntime", "openvino", "cuda"]
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, slots=True)
class Runtime:
    """A way to compute a graph. `package` is what has to be installed, by the extra of the same name where there is one.

    `lacking` states why it cannot run on this machine, None if it can. `precisions` are those that it has here, the fastest
    first. `open` makes a session of a serialised graph, for as many threads at once as there are cores.
    """

    name: RuntimeName
    package: str
    module: str
    lacking: Callable[[], str | None]
    precisions: Callable[[], tuple[Precision, ...]]
    open: Callable[[bytes, Precision], Session]

    @property
    def version(self) -> str:
        """The installed version of its package."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return "unknown"

    @property
    def installed(self) -> bool:
        """Whether its module can be imported."""
        return find_spec(self.module) is not None

    def require(self) -> None:
        """Raise `MissingExtraError` unless the runtime's package is installed."""
        require_extra(self.module, self.name, f"--runtime {self.name}")


def check_runtime(choice: str) -> None:
    """Raise `ConfigError` for an unknown runtime, and `MissingExtraError` for one whose package is not installed."""
    if choice != "auto":
        runtime_named(choice).require()


def runtime_named(name: str) -> Runtime:
    """The runtime of a name; raises `ConfigError` for an unknown one."""
    if name not in RUNTIMES:
        known = get_args(RuntimeChoice)
        raise ConfigError(f"unknown runtime {name!r}", expected=", ".join(known), remedy=near_matches(name, known))
    return next(runtime for runtime in RUNTIMES.values() if runtime.name == name)


class _OpenVino:
    """A session of OpenVINO. ONNX Runtime resizes, since OpenVINO does without antialiasing and compiles for one shape."""

    def __init__(self, graph: bytes, precision: Precision) -> None:
        import openvino

        front, rest = _cut_at_pixels(onnx.load_model_from_string(graph))
        self._front = session_of(front.SerializeToString())
        self._pixels = [value.name for value in front.graph.output]
        core = openvino.Core()
        network = core.read_model(rest.SerializeToString(), b"")
        network.reshape({name: [1, *_sides(rest, name)] for name in self._pixels})
        hints = {"INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision]}
        threads = {"NUM_STREAMS": n_cores(), "INFERENCE_NUM_THREADS": n_cores()}
        self._compiled = core.compile_model(network, "CPU", {**hints, **threads})
        self._inputs = {name for port in self._compiled.inputs for name in port.get_names()}
        self._local = threading.local()
        # where several threads are the first to hand over an array, its bindings wait for one another for ever
        self.run([rest.graph.output[0].name], {"image": np.zeros((1, 32, 32, 3), np.uint8)})

    def run(self, outputs: list[str], inputs: dict[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        """One image at a time, each thread with a request of its own."""
        request = getattr(self._local, "request", None)
        if request is None:
            request = self._local.request = self._compiled.create_infer_request()
        given = inputs | dict(zip(self._pixels, self._front.run(self._pixels, inputs), strict=True))
        found = request.infer({name: value for name, value in given.items() if name in self._inputs})
        # the request's own buffers hold the next image's outputs
        return [found[name].copy() for name in outputs]


def _cut_at_pixels(model: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """(from the image to the pixels that networks read, the rest); raises `BundleError` unless those have fixed sides."""
    pixels = pixels_of(model)
    outputs = [value.name for value in model.graph.output]
    rest = cut(model, [*pixels, "image"], outputs)
    if not pixels or any(0 in _sides(rest, name) for name in pixels):
        raise BundleError("its network has no input of one size")
    if not any("image" in node.input for node in rest.graph.node):
        rest = cut(model, pixels, outputs)
    return cut(model, ["image"], pixels), rest


def _sides(model: onnx.ModelProto, name: str) -> list[int]:
    """The sizes of an input without its first axis; 0 for a free one."""
    value = next(value for value in model.graph.input if value.name == name)
    return [int(dim.dim_value) for dim in value.type.tensor_type.shape.dim][1:]


def _openvino_precisions() -> tuple[Precision, ...]:
    import openvino

    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("bf16", "fp32") if "BF16" in able else ("fp32",)


def _cuda_lacking() -> str | None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "this ONNX Runtime has no CUDA (package onnxruntime-gpu)"
    return None


def _cuda(graph: bytes, precision: Precision) -> Session:
    session: Session = session_of(graph, provider="CUDAExecutionProvider")
    return session


RUNTIMES: dict[RuntimeName, Runtime] = {
    "onnxruntime": Runtime(
        "onnxruntime", "onnxruntime", "onnxruntime", lambda: None, lambda: ("fp32",), lambda graph, *_: session_of(graph)
    ),
    "openvino": Runtime("openvino", "openvino", "openvino", lambda: None, _openvino_precisions, _OpenVino),
    "cuda": Runtime("cuda", "onnxruntime-gpu", "onnxruntime", _cuda_lacking, lambda: ("fp32",), _cuda),
}
"""Every runtime by its name."""
