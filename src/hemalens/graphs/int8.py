"""Static quantisation of a graph's backbone to 8 bits, calibrated on images.

The part between `pixels` and `embedding` changes; preprocessing, head and softmax stay in 32 bits. Weights are int8 with a
scale for each output channel, activations uint8, as ONNX Runtime recommends for processors with VNNI.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from pydantic import Field

from hemalens.config import StrictConfig
from hemalens.datasets.base import Record
from hemalens.errors import BundleError, HemalensError
from hemalens.files import scratch_folder
from hemalens.graphs.build import IR_VERSION, cut, join, pixels_of
from hemalens.graphs.checks import is_quantised
from hemalens.graphs.runtime import session_of

WEIGHTED = ("Conv", "Gemm", "MatMul")
"""Operators computed in 8 bits where their weights are constants; products of two activations stay in 32 bits."""
BETWEEN = ("Clip", "MaxPool", "Pad", "Relu")
"""Operators that stay in 8 bits between two of those."""
CALIBRATION = "minmax"
"""How activations get their ranges, as manifests name it: from the smallest to the largest value."""

Progress = Callable[[int], None]
"""Called with the number of images just read."""


class QuantisationConfig(StrictConfig):
    """Which layers stay in 32 bits, and the range of the weights.

    `fp32_layers`: weighted layers next to the pixels that stay in 32 bits; the first layers of a small network lose most
    accuracy and take little time. `reduce_range`: weights in 7 bits, for older processors whose 8-bit products overflow
    (AVX2 and AVX-512 without VNNI).
    """

    # at least one: ONNX Runtime would otherwise transpose the image before the resize, and fail
    fp32_layers: int = Field(default=2, ge=1)
    reduce_range: bool = False


def quantise(
    graph: onnx.ModelProto,
    records: Sequence[Record],
    config: QuantisationConfig,
    *,
    progress: Progress = lambda n: None,
) -> onnx.ModelProto:
    """A bundle's graph with its backbone in 8 bits and the same inputs and outputs, calibrated on the images of `records`.

    Raises `BundleError` for a graph that is in 8 bits already or has nothing to quantise, `ImageError` for an unreadable
    image.
    """
    if is_quantised(graph):
        raise BundleError("the graph is int8 already")
    preprocessing, backbone, head = _parts(graph)
    try:
        with scratch_folder() as folder, _silence():
            small = _quantised(backbone, _Calibration(records, preprocessing, progress), config, folder)
        return join(preprocessing, small, head, keep=("embedding",))
    except HemalensError:
        raise
    except Exception as error:
        # ONNX Runtime's quantiser has no error class of its own
        raise BundleError("the graph cannot be quantised", got=str(error)[:120] or type(error).__name__) from error


def _parts(graph: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto, onnx.ModelProto]:
    """(image to pixels, pixels to embedding, embedding to outputs); joined encoders have several inputs of pixels."""
    encoder = onnx.shape_inference.infer_shapes(_tidy(cut(graph, ["image"], ["embedding"])))
    pixels = pixels_of(encoder)
    if not pixels:
        raise BundleError(
            "the graph has nothing to quantise",
            expected="a network between pixels and embedding",
            got="a graph without pixels",
        )
    preprocessing = cut(encoder, ["image"], pixels)
    backbone = cut(encoder, pixels, ["embedding"])
    rest = [value.name for value in graph.graph.output if value.name != "embedding"]
    return preprocessing, backbone, _tidy(cut(graph, ["embedding"], rest))


def _quantised(
    backbone: onnx.ModelProto, calibration: _Calibration, config: QuantisationConfig, folder: Path
) -> onnx.ModelProto:
    """The backbone in 8 bits: shapes inferred, constants folded, calibrated; `folder` holds intermediate files."""
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
        calibrate_method=CalibrationMethod.MinMax,
        extra_options={
            # one image at a time: otherwise the values of all images are held at once
            "CalibStridedMinMax": 1,
            "CalibTensorRangeSymmetric": False,
            # the layers behind them, and the embedding, are computed in 32 bits
            "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
        },
    )
    return _tidy(onnx.load(small))


def _chosen(model: onnx.ModelProto, fp32_layers: int) -> list[str]:
    """Names of the nodes to quantise: those with more than `fp32_layers` weighted nodes between them and the pixels.

    No 32-bit node follows an 8-bit one: ONNX Runtime would quantise its weights with a single scale when it opens the
    graph. All nodes get new names, since names are optional and need not be unique.
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
            remedy=f"Use --set fp32_layers={found - 1}." if found > 1 else None,
        )
    return chosen


class _Calibration:
    """Feeds ONNX Runtime one image at a time, preprocessed to the pixels that the backbone takes."""

    def __init__(self, records: Sequence[Record], preprocessing: onnx.ModelProto, progress: Progress) -> None:
        self._records = records
        self._names = [value.name for value in preprocessing.graph.output]
        self._session = session_of(preprocessing.SerializeToString())
        self._progress = progress
        self._due: Iterator[Record] = iter(records)

    def __len__(self) -> int:
        return len(self._records)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Set the range of images to read next."""
        self._due = iter(self._records[start_index:end_index])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The pixels of the next image by input, each (1, 3, size, size); None after the last image."""
        record = next(self._due, None)
        if record is None:
            return None
        values = self._session.run(self._names, {"image": record.read()[None]})
        self._progress(1)
        return dict(zip(self._names, values, strict=True))


def _tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model without unused operator sets and metadata, so that it joins with others."""
    used = {node.domain for node in model.graph.node}
    versions = {entry.domain: entry.version for entry in model.opset_import if entry.domain in used}
    del model.opset_import[:], model.graph.value_info[:], model.metadata_props[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in sorted(versions.items()))
    model.ir_version = IR_VERSION
    return model


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppress what ONNX Runtime's quantiser prints and logs."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
