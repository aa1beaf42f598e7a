"""Runtimes that are unknown, not installed, or that this machine cannot run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest
from bad_input_cases import Case, Place

from hemalens.graphs.runtimes import RUNTIMES


def _predict(place: Place, *more: object) -> Sequence[object]:
    return ("predict", place.bundle(), place.image(), "--out", place.folder / "answers.csv", *more)


def _count(place: Place, *more: object) -> Sequence[object]:
    return ("count", place.image("slide/field.png").parent, "--bundle", place.bundle(), "--out", place.out, *more)


@contextmanager
def _openvino(**changes: object) -> Iterator[None]:
    """OpenVINO as it would be on another machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RUNTIMES, "openvino", replace(RUNTIMES["openvino"], **changes))  # type: ignore[arg-type]
        yield


def _fails(*given: object) -> object:
    raise RuntimeError("unsupported instruction\nin a trace of many lines")


def _absent() -> object:
    return _openvino(module="no_such_openvino")


UNKNOWN = ("unknown runtime", "expected auto, onnxruntime, openvino, cuda")
MISSING = ("--runtime openvino needs the package", "which is not installed", "hemalens[openvino]")
WRITES = ("answers.csv",)

CASES = (
    Case("a runtime that is none", lambda p: _predict(p, "--runtime", "tensorrt"), (*UNKNOWN, "'tensorrt'")),
    Case("a runtime with a typo", lambda p: _predict(p, "--runtime", "openvno"), (*UNKNOWN, "did you mean 'openvino'")),
    Case("a runtime without a name", lambda p: _predict(p, "--runtime", ""), UNKNOWN),
    Case("a runtime of a count that is none", lambda p: _count(p, "--runtime", "tensorrt"), UNKNOWN),
    Case("openvino not installed", lambda p: _predict(p, "--runtime", "openvino"), MISSING, around=_absent),
    Case("openvino not installed, for a count", lambda p: _count(p, "--runtime", "openvino"), MISSING, around=_absent),
    Case(
        "openvino that does not start",
        lambda p: _predict(p, "--runtime", "openvino"),
        ("openvino cannot run this bundle (unsupported instruction)", "ONNX Runtime computes on the processor"),
        code=0,
        writes=WRITES,
        around=lambda: _openvino(precisions=lambda: ("fp32",), open=_fails),
    ),
    Case(
        "no graphics card",
        lambda p: _predict(p, "--runtime", "cuda"),
        ("onnxruntime-gpu", "ONNX Runtime computes on the processor"),
        code=0,
        writes=WRITES,
    ),
)
