"""From a 32-bit graph to an 8-bit one: static quantisation of the backbone, calibrated on images. No torch.

Only what lies between `pixels` and `embedding` changes; preprocessing, head and softmax stay as they are. Weights are int8,
a scale for each output channel, and activations uint8: what ONNX Runtime recommends for processors with VNNI.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from pydantic import Field, model_validator

from hemalens.config import StrictConfig
from hemalens.datasets.base import Record
from hemalens.errors import BundleError, HemalensError
from hemalens.graphs import build as graphs
from hemalens.graphs.batch_norm import pixels_of
from hemalens.graphs.runtime import session_of

WEIGHTED = ("Conv", "Gemm", "MatMul")
"""What is computed in 8 bits, where its weights are constants: products of two activations, as in attention, are not."""
BETWEEN = ("Clip", "MaxPool", "Pad", "Relu")
"""What stays in 8 bits between two of those, instead of going to 32 bits and back."""
PERCENTILE = 99.999

Progress = Callable[[int], None]
"""Called with the number of images just read."""


class QuantisationConfig(StrictConfig):
    """How activations get their ranges, and what stays in 32 bits.

    `method`: a range from the smallest to the largest value, the one that loses the least information ("entropy"), or the
    one that holds the `percentile` of the values. `fp32_layers`: weighted layers next to the pixels that stay in 32 bits;
    the first ones of a small network lose most, and take little time. `reduce_range`: weights in 7 bits, for older
    processors, whose 8-bit products overflow (AVX2 and AVX-512 without VNNI).
    """

    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    percentile: float = Field(default=PERCENTILE, gt=50, le=100)
    # at least one: ONNX Runtime would otherwise turn the layout of the image around before the resize, and fail at it
    fp32_layers: int = Field(default=2, ge=1)
    reduce_range: bool = False

    @model_validator(mode="after")
    def _nothing_idle(self) -> QuantisationConfig:
        if self.percentile != PERCENTILE and self.method != "percentile":
            raise ValueError("percentile goes with method=percentile only")
        return self


METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


def is_quantised(graph: onnx.ModelProto) -> bool:
    """Whether any part of a graph computes in 8 bits."""
    return any(node.op_type == "QuantizeLinear" for node in graph.graph.node)


def quantise(
    graph: onnx.ModelProto,
    records: Sequence[Record],
    config: QuantisationConfig,
    *,
    progress: Progress = lambda n: None,
) -> onnx.ModelProto:
    """A bundle's graph with its backbone in 8 bits, the same inputs and outputs; images of `records` are read one by one.

    Raises `BundleError` for a graph that is in 8 bits already or has nothing to quantise, `ImageError` for an unreadable
    image.
    """
    if is_quantised(graph):
        raise BundleError("the graph is int8 already")
    preprocessing, backbone, head = _parts(graph)
    try:
        with tempfile.TemporaryDirectory(prefix="hemalens.int8.") as folder, _silence():
            small = _quantised(backbone, _Calibration(records, preprocessing, progress), config, Path(folder))
        return graphs.join(preprocessing, small, head, keep=("embedding",))
    except HemalensError:
        raise
    except Exception as error:
        # the tools have no error class of their own for a graph they cannot take
        raise BundleError("the graph cannot be quantised", got=str(error)[:120] or type(error).__name__) from error


def _parts(graph: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto, onnx.ModelProto]:
    """(image to pixels, pixels to embedding, embedding to the rest); encoders side by side have pixels of their own."""
    encoder = onnx.shape_inference.infer_shapes(_tidy(graphs.cut(graph, ["image"], ["embedding"])))
    pixels = pixels_of(encoder)
    if not pixels:
        raise BundleError(
            "the graph has nothing to quantise",
            expected="a network between pixels and embedding",
            got="a graph without pixels",
        )
    preprocessing = graphs.cut(encoder, ["image"], pixels)
    backbone = graphs.cut(encoder, pixels, ["embedding"])
    rest = [value.name for value in graph.graph.output if value.name != "embedding"]
    return preprocessing, backbone, _tidy(graphs.cut(graph, ["embedding"], rest))


def _quantised(
    backbone: onnx.ModelProto, calibration: _Calibration, config: QuantisationConfig, folder: Path
) -> onnx.ModelProto:
    """The backbone in 8 bits: shapes inferred, constants folded, calibrated; `folder` takes the files in between."""
    whole, ready, small = (folder / f"{name}.onnx" for name in ("whole", "ready", "small"))
    onnx.save(backbone, whole)
    # the symbolic inference needs a further package, and finds nothing more in these graphs
    quant_pre_process(whole, ready, skip_symbolic_shape=True)
    model = onnx.load(ready)
    chosen = _chosen(model, config.fp32_layers)
    onnx.save(model, ready)
    quantize_static(
        ready,
        small,
        calibration,
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=[*WEIGHTED, *BETWEEN],
        nodes_to_quantize=chosen,
        per_channel=True,
        reduce_range=config.reduce_range,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=METHODS[config.method],
        extra_options={
            # one image after the other: otherwise the values of all images are held at once
            "CalibStridedMinMax": 1,
            "CalibTensorRangeSymmetric": False,
            "CalibPercentile": config.percentile,
            # what follows them is computed in 32 bits, and so is an embedding that one of them gives
            "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
        },
    )
    return _tidy(onnx.load(small))


def _chosen(model: onnx.ModelProto, fp32_layers: int) -> list[str]:
    """Names of the nodes to quantise: all but those with at most `fp32_layers` weighted nodes on their way from the pixels.

    A node that stays in 32 bits has no 8-bit one before it: ONNX Runtime would quantise its weights on its own when it
    opens the graph, with one scale for all of them. Nodes are named anew, since names are optional and need not differ.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    depth: dict[str, int] = {}
    chosen, n_weighted = [], 0
    for i, node in enumerate(model.graph.node):
        node.name = f"{i}_{node.op_type}"
        weighted = node.op_type in WEIGHTED and not constants.isdisjoint(node.input[:2])
        deepest = max((depth.get(name, 0) for name in node.input), default=0) + weighted
        depth.update(dict.fromkeys(node.output, deepest))
        if deepest > fp32_layers and (weighted or node.op_type in BETWEEN):
            chosen.append(node.name)
            n_weighted += weighted
    if not n_weighted:
        found = max(depth.values(), default=0)
        raise BundleError(
            "the graph has nothing to quantise",
            expected=f"more than {fp32_layers} layers of {', '.join(WEIGHTED)} from pixels to embedding",
            got=str(found),
            remedy=f"Say --set fp32_layers={found - 1}." if found > 1 else None,
        )
    return chosen


class _Calibration:
    """Reads one image at a time for ONNX Runtime, and brings it to the pixels that the backbone takes."""

    def __init__(self, records: Sequence[Record], preprocessing: onnx.ModelProto, progress: Progress) -> None:
        self._records = records
        self._names = [value.name for value in preprocessing.graph.output]
        self._session = session_of(preprocessing.SerializeToString())
        self._progress = progress
        self._due: Iterator[Record] = iter(records)

    def __len__(self) -> int:
        return len(self._records)

    def set_range(self, start_index: int, end_index: int) -> None:
        """The images that come next."""
        self._due = iter(self._records[start_index:end_index])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The pixels of the next image by input, each (1, 3, size, size); None when there is no more."""
        record = next(self._due, None)
        if record is None:
            return None
        values = self._session.run(self._names, {"image": record.read()[None]})
        self._progress(1)
        return dict(zip(self._names, values, strict=True))


def _tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that joins with others: each operator set once, only those in use, and no notes of the tools."""
    used = {node.domain for node in model.graph.node}
    versions = {entry.domain: entry.version for entry in model.opset_import if entry.domain in used}
    del model.opset_import[:], model.graph.value_info[:], model.metadata_props[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in sorted(versions.items()))
    model.ir_version = graphs.IR_VERSION
    return model


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without what the tools print and log on the way."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
