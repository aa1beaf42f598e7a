"""A runtime is compared with ONNX Runtime once, before it may predict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import trained
from hemalens.bundle import runtime_parity
from hemalens.bundle.bundle import Bundle
from hemalens.bundle.runtime_parity import Computed, Parity, compared, synthetic_cells, use_runtime
from hemalens.errors import BundleError, MissingExtraError
from hemalens.files import read_sealed
from hemalens.graphs.runtime import GraphRunner, session_of
from hemalens.graphs.runtimes import RUNTIMES, Precision, Runtime, Session


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("parity") / "bundle"
    return trained.colour_bundle(folder, trained.laboratory(tmp_path_factory))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(runtime_parity, "default_cache_dir", lambda: tmp_path)
    return tmp_path / "runtimes"


class _Shifted:
    """A session whose probabilities differ from the graph's by up to `shift`."""

    def __init__(self, graph: bytes, shift: float) -> None:
        self.session, self.shift, self.calls = session_of(graph), shift, 0

    def run(self, outputs: list[str], inputs: dict[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        self.calls += 1
        (values,) = self.session.run(outputs, inputs)
        moved = values.copy()
        best = int(values[0].argmax())
        moved[0, best] -= self.shift
        moved[0, (best + 1) % values.shape[1]] += self.shift
        return [moved]


def _runtime(monkeypatch: pytest.MonkeyPatch, shifts: dict[Precision, float], **changes: Any) -> list[_Shifted]:
    """OpenVINO replaced by sessions that differ by a shift for each precision; those that are opened."""
    opened: list[_Shifted] = []

    def start(graph: bytes, precision: Precision) -> Session:
        opened.append(_Shifted(graph, shifts[precision]))
        return opened[-1]

    given = {"lacking": lambda: None, "precisions": lambda: tuple(shifts), "open": start, **changes}
    monkeypatch.setitem(RUNTIMES, "openvino", Runtime("openvino", "openvino", "numpy", **given))
    return opened


def _runner(bundle: Bundle) -> GraphRunner:
    return bundle.runner(["probabilities"], n_workers=1)


def test_cells_are_of_many_kinds_and_the_same_each_time() -> None:
    cells = synthetic_cells(12)
    assert len({cell.tobytes() for cell in cells}) == 12
    assert all(np.array_equal(a, b) for a, b in zip(cells, synthetic_cells(12), strict=True))


def test_parity_is_the_largest_difference_and_the_share_of_equal_labels(bundle: Bundle) -> None:
    same = compared(_runner(bundle), session_of(bundle.graph_bytes))
    assert (same.largest_difference, same.agreement) == (0.0, 1.0)
    other = compared(_runner(bundle), _Shifted(bundle.graph_bytes, 0.25))
    assert other.largest_difference == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize(
    ("difference", "agreement", "holds"),
    [(0.0, 1.0, True), (0.01, 0.995, True), (0.011, 1.0, False), (0.0, 0.99, False), (float("nan"), 1.0, False)],
)
def test_parity_holds_within_both_limits(difference: float, agreement: float, holds: bool) -> None:
    assert Parity(difference, agreement, 1.0).holds is holds


def test_onnx_runtime_is_not_compared_with_itself(bundle: Bundle, cache: Path) -> None:
    assert use_runtime(_runner(bundle), bundle.graph_bytes, "onnxruntime", print) == Computed("onnxruntime")
    assert not cache.exists()


def test_the_fastest_precision_that_agrees_computes(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, said = _runtime(monkeypatch, {"bf16": 0.2, "fp32": 0.0}), []
    runner = _runner(bundle)
    computed = use_runtime(runner, bundle.graph_bytes, "openvino", said.append)
    assert str(computed) == "openvino"
    assert len(said) == 1
    assert said[0].startswith("openvino in bf16 predicts otherwise than ONNX Runtime, by up to 0.2")
    before = opened[1].calls
    runner.run(synthetic_cells(1)[0])
    assert opened[1].calls == before + 1, "it predicts"


def test_a_parity_that_is_known_is_not_computed_again(bundle: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = _runtime(monkeypatch, {"fp32": 0.0})
    for _ in range(2):
        use_runtime(_runner(bundle), bundle.graph_bytes, "openvino", print)
    assert [each.calls > 0 for each in opened] == [True, False]
    (kept,) = cache.iterdir()
    assert read_sealed(kept) is not None
    kept.write_text("{}")
    use_runtime(_runner(bundle), bundle.graph_bytes, "openvino", print)
    assert opened[2].calls > 0, "a damaged record is computed anew"


def test_a_runtime_that_predicts_otherwise_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    _runtime(monkeypatch, {"fp32": 0.3})
    with pytest.raises(BundleError, match=r"openvino does not predict what ONNX Runtime does.*by up to 0\.3"):
        use_runtime(_runner(bundle), bundle.graph_bytes, "openvino", lambda line: None)


def test_auto_takes_the_fastest_that_agrees(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"onnxruntime": 1.0, "fp32": 0.95, "bf16": 0.5}
    shifts: dict[Precision, float] = {"bf16": 0.0, "fp32": 0.0}
    _runtime(monkeypatch, shifts)

    def compared_by_name(runner: GraphRunner, session: Any) -> Parity:
        by = {id(each): name for name, each in sessions.items()}
        return Parity(0.0, 1.0, times[by.get(id(session), "onnxruntime")])

    sessions: dict[str, Any] = {}

    def start(graph: bytes, precision: Precision) -> Session:
        sessions[precision] = _Shifted(graph, 0.0)
        return sessions[precision]

    _runtime(monkeypatch, shifts, open=start)
    monkeypatch.setattr(runtime_parity, "compared", compared_by_name)
    assert str(use_runtime(_runner(bundle), bundle.graph_bytes, "auto", print)) == "openvino in bf16"


def test_auto_stays_where_the_gain_may_be_noise(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    _runtime(monkeypatch, {"fp32": 0.0})
    monkeypatch.setattr(
        runtime_parity, "compared", lambda _, session: Parity(0.0, 1.0, 0.95 if isinstance(session, _Shifted) else 1.0)
    )
    assert use_runtime(_runner(bundle), bundle.graph_bytes, "auto", print) == Computed("onnxruntime")


def test_where_it_cannot_start_the_processor_computes_and_that_is_said(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(graph: bytes, precision: Precision) -> Session:
        raise RuntimeError("no device\nat all")

    said: list[str] = []
    _runtime(monkeypatch, {"fp32": 0.0}, open=fails)
    assert use_runtime(_runner(bundle), bundle.graph_bytes, "openvino", said.append) == Computed("onnxruntime")
    _runtime(monkeypatch, {"fp32": 0.0}, lacking=lambda: "there is no device")
    assert use_runtime(_runner(bundle), bundle.graph_bytes, "openvino", said.append) == Computed("onnxruntime")
    assert said == [
        "this processor has no bf16: OpenVINO computes in 32 bits",
        "openvino cannot run this bundle (no device): ONNX Runtime computes on the processor",
        "there is no device: ONNX Runtime computes on the processor",
    ]


def test_a_missing_package_is_an_error(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNTIMES, "openvino", Runtime("openvino", "none", "no_such_module", *[lambda: None] * 3))
    with pytest.raises(MissingExtraError, match="--runtime openvino needs the package"):
        use_runtime(_runner(bundle), bundle.graph_bytes, "openvino", print)
