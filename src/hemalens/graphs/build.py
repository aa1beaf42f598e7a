"""Parts of ONNX graphs (opset 18): preprocessing, temperature, joining, and cutting at the embedding.

The whole graph of a bundle: image uint8 (n, h, w, 3) -> resize, round -> resized -> normalise -> pixels
-> backbone -> embedding (n, d) -> head -> raw_logits (n, k) -> / temperature -> logits -> softmax -> probabilities.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper
from onnx.utils import Extractor

from hemalens.imaging.reading import Preprocessing

OPSET = 18
ML_OPSET = 3
IR_VERSION = 10
OWN = "own_"
"""Prefix of the names of a head that reads some columns of an embedding."""
OWN_NAMES = ("", "image", "embedding", "logits")
"""Names that an insertion leaves unchanged; an omitted input has an empty name."""
BESIDE_FEATURES = "beside_features"
"""Constant with the width of the first embedding, where a second one is concatenated."""
BATCH_NORM = "BatchNormalization"
"""The operator of batch norm."""
PIXELS = re.compile(r"(?:.*_)?pixels(?:_\d+)?")
"""Names of the tensors that networks read; joined encoders have a prefix and a number."""
PILLOW_CUBIC = -0.5
"""Coefficient of Pillow's bicubic kernel; that of ONNX is -0.75 by default."""
SHORTEST_LENGTH = 1e-12
"""Lower limit of the length when vectors are scaled to unit length."""


def make_model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    initializers: list[onnx.TensorProto],
) -> onnx.ModelProto:
    """A checked model of one graph at this package's opset."""
    graph = helper.make_graph(nodes, "hemalens", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=_opsets(), ir_version=IR_VERSION, producer_name="hemalens")
    onnx.checker.check_model(model)
    return model


def _opsets() -> list[onnx.OperatorSetIdProto]:
    return [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]


def kind_of(model: onnx.ModelProto, output: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Type and shape of one output, without its first axis; an axis of unknown length counts as 0."""
    tensor = next(value for value in model.graph.output if value.name == output).type.tensor_type
    shape = tuple(int(dimension.dim_value) for dimension in tensor.shape.dim[1:])
    return np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape


def half_map_graph(shape: tuple[int, ...]) -> onnx.ModelProto:
    """full_map (n, c, h, w) -> feature_map, rounded to 16-bit floats to halve the cache.

    The rounding is part of the graph, so that training on cached maps sees exactly what serving computes.
    """
    node = helper.make_node("Cast", ["full_map"], ["feature_map"], to=TensorProto.FLOAT16)
    half = helper.make_tensor_value_info("feature_map", TensorProto.FLOAT16, ["n", *shape])
    return make_model([node], [float_value("full_map", ["n", *shape])], [half], [])


def full_map_graph(shape: tuple[int, ...]) -> onnx.ModelProto:
    """feature_map (n, c, h, w) of 16-bit floats -> full_map of 32-bit ones, the same values."""
    node = helper.make_node("Cast", ["feature_map"], ["full_map"], to=TensorProto.FLOAT)
    half = helper.make_tensor_value_info("feature_map", TensorProto.FLOAT16, ["n", *shape])
    return make_model([node], [half], [float_value("full_map", ["n", *shape])], [])


def float_value(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
    """The declaration of a float tensor as input or output."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def resize_graph(preprocessing: Preprocessing) -> onnx.ModelProto:
    """image uint8 (n, h, w, 3) -> resized float (n, 3, size, size), whole numbers 0-255.

    The rounding lets uint8 hold the resized image: training sees exactly what serving computes.
    """
    size = preprocessing.size_px
    cubic = preprocessing.interpolation == "bicubic"
    kernel: dict[str, Any] = {"mode": "cubic", "cubic_coeff_a": PILLOW_CUBIC} if cubic else {"mode": "linear"}
    # no weight outside the image, as in Pillow; otherwise borders differ by several gray levels
    smooth: dict[str, Any] = {"antialias": 1, "exclude_outside": 1} if preprocessing.antialias else {}
    nodes = [
        helper.make_node("Cast", ["image"], ["image_float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["image_float"], ["image_nchw"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "Resize",
            ["image_nchw", "", "", "resize_sizes"],
            ["image_resized"],
            coordinate_transformation_mode="half_pixel",
            axes=[2, 3],
            **kernel,
            **smooth,
        ),
        helper.make_node("Round", ["image_resized"], ["resized_whole" if cubic else "resized"]),
    ]
    constants = [helper.make_tensor("resize_sizes", TensorProto.INT64, [2], [size, size])]
    if cubic:  # which overshoots at edges
        nodes.append(helper.make_node("Clip", ["resized_whole", "black", "white"], ["resized"]))
        constants += [
            helper.make_tensor(name, TensorProto.FLOAT, [], [v]) for name, v in (("black", 0.0), ("white", 255.0))
        ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "height", "width", 3])
    return make_model(nodes, [image], [float_value("resized", ["n", 3, size, size])], constants)


def normalise_graph(preprocessing: Preprocessing) -> onnx.ModelProto:
    """resized (n, 3, size, size) on 0-255 -> pixels = (resized - mean) / std."""
    size = preprocessing.size_px
    mean = np.asarray(preprocessing.mean, np.float32).reshape(1, 3, 1, 1)
    std = np.asarray(preprocessing.std, np.float32).reshape(1, 3, 1, 1)
    nodes = [
        helper.make_node("Sub", ["resized", "pixel_mean"], ["centred"]),
        helper.make_node("Div", ["centred", "pixel_std"], ["pixels"]),
    ]
    return make_model(
        nodes,
        [float_value("resized", ["n", 3, size, size])],
        [float_value("pixels", ["n", 3, size, size])],
        [numpy_helper.from_array(mean, "pixel_mean"), numpy_helper.from_array(std, "pixel_std")],
    )


def unscaled_graph(preprocessing: Preprocessing) -> onnx.ModelProto:
    """image uint8 (n, h, w, 3) -> pixels (n, 3, h, w) = (image - mean) / std, without a resize."""
    mean = np.asarray(preprocessing.mean, np.float32).reshape(1, 3, 1, 1)
    std = np.asarray(preprocessing.std, np.float32).reshape(1, 3, 1, 1)
    nodes = [
        helper.make_node("Cast", ["image"], ["image_float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["image_float"], ["image_nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["image_nchw", "pixel_mean"], ["centred"]),
        helper.make_node("Div", ["centred", "pixel_std"], ["pixels"]),
    ]
    return make_model(
        nodes,
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "height", "width", 3])],
        [float_value("pixels", ["n", 3, "height", "width"])],
        [numpy_helper.from_array(mean, "pixel_mean"), numpy_helper.from_array(std, "pixel_std")],
    )


def temperature_graph(n_classes: int, temperature: float) -> onnx.ModelProto:
    """raw_logits (n, k) -> logits = raw_logits / temperature -> probabilities (softmax)."""
    nodes = [
        helper.make_node("Div", ["raw_logits", "temperature"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    return make_model(
        nodes,
        [float_value("raw_logits", ["n", n_classes])],
        [float_value("logits", ["n", n_classes]), float_value("probabilities", ["n", n_classes])],
        [numpy_helper.from_array(np.array([temperature], np.float32), "temperature")],
    )


def temperature_of(model: onnx.ModelProto) -> float | None:
    """The temperature in a bundle's graph; None where adaptation has put further layers between it and the logits."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        # joining puts numbers in front of names
        named = node.op_type == "Div" and list(node.output) == ["logits"] and node.input[1].lstrip("0123456789_")
        if named == "temperature" and node.input[1] in constants:
            values = numpy_helper.to_array(constants[node.input[1]])
            return float(values[0]) if values.shape == (1,) else None
    return None


def log_probability_graph(n_classes: int) -> onnx.ModelProto:
    """head_probabilities (n, k) -> raw_logits = log(max(p, 1e-7)), for heads that give probabilities only."""
    nodes = [
        helper.make_node("Max", ["head_probabilities", "smallest"], ["clipped"]),
        helper.make_node("Log", ["clipped"], ["raw_logits"]),
    ]
    return make_model(
        nodes,
        [float_value("head_probabilities", ["n", n_classes])],
        [float_value("raw_logits", ["n", n_classes])],
        [numpy_helper.from_array(np.array([1e-7], np.float32), "smallest")],
    )


def unit_length_nodes(vectors: str, result: str, *, constants: str = "") -> list[onnx.NodeProto]:
    """`result` = `vectors` (n, d) at unit length; takes the initializers `last_axis` ([-1]) and `shortest_length`.

    `constants` is the prefix of both names.
    """
    return [
        helper.make_node("ReduceL2", [vectors, f"{constants}last_axis"], [f"{vectors}_length"], keepdims=1),
        helper.make_node("Max", [f"{vectors}_length", f"{constants}shortest_length"], [f"{vectors}_safe_length"]),
        helper.make_node("Div", [vectors, f"{vectors}_safe_length"], [result]),
    ]


def side_by_side(encoders: Sequence[onnx.ModelProto], *, as_they_are: bool = False) -> onnx.ModelProto:
    """Join encoders image -> embedding (n, d_i) into one: (n, sum of d_i), each part at unit length, or unchanged."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "height", "width", 3])
    to_each = [helper.make_node("Identity", ["image"], [f"encoder_{i}_image"]) for i in range(len(encoders))]
    outputs = [
        helper.make_tensor_value_info(node.output[0], TensorProto.UINT8, ["n", "height", "width", 3]) for node in to_each
    ]
    chain = make_model(to_each, [image], outputs, [])
    for i, encoder in enumerate(encoders):
        chain = join(chain, compose.add_prefix(encoder, f"encoder_{i}_"))
    names = [value.name for value in chain.graph.output]
    size = sum(value.type.tensor_type.shape.dim[1].dim_value for value in chain.graph.output)
    parts, nodes = names, []
    if not as_they_are:
        parts = [f"{name}_unit" for name in names]
        nodes = [node for name in names for node in unit_length_nodes(name, f"{name}_unit")]
    nodes.append(helper.make_node("Concat", parts, ["embedding"], axis=1))
    constants = [
        numpy_helper.from_array(np.array([-1], np.int64), "last_axis"),
        numpy_helper.from_array(np.array([SHORTEST_LENGTH], np.float32), "shortest_length"),
    ]
    tail = make_model(nodes, list(chain.graph.output), [float_value("embedding", ["n", size])], constants)
    return join(chain, tail)


def columns_graph(first: int, n: int, width: int) -> onnx.ModelProto:
    """embedding (n, width) -> own_embedding: `n` of its columns, from the column `first` on."""
    node = helper.make_node("Slice", ["embedding", "starts", "ends", "axes"], ["own_embedding"])
    numbers = {"starts": first, "ends": first + n, "axes": 1}
    constants = [numpy_helper.from_array(np.array([value], np.int64), name) for name, value in numbers.items()]
    inputs, outputs = ([float_value(name, ["n", d])] for name, d in (("embedding", width), ("own_embedding", n)))
    return make_model([node], inputs, outputs, constants)


def of_columns(head: onnx.ModelProto, first: int, n: int, width: int, *, rename_outputs: bool) -> onnx.ModelProto:
    """A head on an embedding (n, `n`) as one on `n` columns of a wider one, from `first` on; outputs may be own_NAME."""
    own = compose.add_prefix(head, OWN, rename_outputs=rename_outputs)
    return join(columns_graph(first, n, width), own)


def mean_answer_graph(n_classes: int, *, fine: tuple[str, int] | None = None) -> onnx.ModelProto:
    """own_raw_logits and kept_raw_logits (n, k) -> raw_logits: the mean of the logarithms of both softmaxes.

    `fine` is the name and width of an output (n, f) that is passed through: own_NAME -> NAME.
    """
    nodes = [
        helper.make_node("LogSoftmax", ["own_raw_logits"], ["own_logs"], axis=1),
        helper.make_node("LogSoftmax", ["kept_raw_logits"], ["kept_logs"], axis=1),
        helper.make_node("Mean", ["own_logs", "kept_logs"], ["raw_logits"]),
    ]
    inputs = [float_value(f"{whose}_raw_logits", ["n", n_classes]) for whose in ("own", "kept")]
    outputs = [float_value("raw_logits", ["n", n_classes])]
    if fine is not None:
        name, size = fine
        nodes.append(helper.make_node("Identity", [f"own_{name}"], [name]))
        inputs.append(float_value(f"own_{name}", ["n", size]))
        outputs.append(float_value(name, ["n", size]))
    return make_model(nodes, inputs, outputs, [])


def pixels_of(graph: onnx.ModelProto) -> list[str]:
    """Names of the tensors that the networks in a graph read; joined encoders have one each."""
    made = (name for node in graph.graph.node for name in node.output)
    return [name for name in made if PIXELS.fullmatch(name)]


def insert_behind(
    model: onnx.ModelProto, name: str, nodes: list[onnx.NodeProto], constants: dict[str, NDArray[Any]], *, then: str
) -> None:
    """Insert `nodes` behind the producer of `name`, which they read as `name`_before; its consumers then read `then`."""
    rest = list(model.graph.node)
    # a graph that was adapted already has tensors of the same names
    own = {given: f"{given}_{len(rest)}" for node in nodes for given in (*node.input, *node.output)}
    own |= {kept: kept for kept in OWN_NAMES}
    for node in nodes:
        node.input[:] = [own[given] for given in node.input]
        node.output[:] = [own[given] for given in node.output]
    model.graph.initializer.extend(numpy_helper.from_array(value, own[given]) for given, value in constants.items())
    before, then = own[f"{name}_before"], own[then]
    place = next(i for i, node in enumerate(rest) if name in node.output)
    rest[place].output[:] = [before if given == name else given for given in rest[place].output]
    for node in rest:
        node.input[:] = [then if given == name else given for given in node.input]
    del model.graph.node[:]
    model.graph.node.extend([*rest[: place + 1], *nodes, *rest[place + 1 :]])


def with_beside(graph: onnx.ModelProto, encoder: onnx.ModelProto) -> onnx.ModelProto:
    """A bundle's graph with another encoder's embedding, at unit length, concatenated; the head reads the first one."""
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    ((d,), (d_more,)) = (kind_of(each, "embedding")[1] for each in (model, encoder))
    more = compose.add_prefix(encoder, "beside_", rename_inputs=False).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in more.initializer}
    constants |= {
        "beside_last_axis": np.array([-1], np.int64),
        "beside_shortest_length": np.array([SHORTEST_LENGTH], np.float32),
        "beside_first": np.array([0], np.int64),
        "beside_second": np.array([1], np.int64),
        BESIDE_FEATURES: np.array([d], np.int64),
    }
    nodes = [
        *more.node,
        *unit_length_nodes("beside_embedding", "beside_unit", constants="beside_"),
        helper.make_node("Concat", ["embedding_before", "beside_unit"], ["embedding"], axis=1),
        helper.make_node("Slice", ["embedding", "beside_first", BESIDE_FEATURES, "beside_second"], ["embedding_for_head"]),
    ]
    insert_behind(model, "embedding", nodes, constants, then="embedding_for_head")
    value = next(v for v in model.graph.output if v.name == "embedding")
    value.CopyFrom(float_value("embedding", ["n", d + d_more]))
    onnx.checker.check_model(model)
    return model


def join(first: onnx.ModelProto, *others: onnx.ModelProto, keep: tuple[str, ...] = ()) -> onnx.ModelProto:
    """Chain models: each one's inputs are outputs of the chain so far, by name.

    Outputs that a later model reads are dropped unless named in `keep`.
    """
    chain = first
    for part in others:
        wanted = [value.name for value in part.graph.input]
        produced = {value.name: value for value in chain.graph.output}
        prefixed = compose.add_prefix(part, f"{len(chain.graph.node)}_", rename_inputs=False, rename_outputs=False)
        kept = [name for name in produced if name not in wanted or name in keep]
        chain = compose.merge_models(
            chain,
            prefixed,
            io_map=[(name, name) for name in wanted],
            outputs=[*kept, *(value.name for value in part.graph.output)],
        )
    return chain


def cut(model: onnx.ModelProto, inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    """The part of a graph between named tensors, as in `cut(model, ["embedding"], ["probabilities"])`."""
    part = Extractor(model).extract_model(inputs, outputs)
    # the extractor lists inputs among the inner tensors, and joining would rename them
    del part.graph.value_info[:]
    return part


def digest(model: onnx.ModelProto) -> str:
    """SHA-256 of a graph's nodes in order and its weights, without metadata.

    The encoder cut out of a bundle has the digest of the encoder that was joined.
    """
    sha = hashlib.sha256()
    for part in (*model.graph.node, *sorted(model.graph.initializer, key=lambda tensor: tensor.name)):
        sha.update(hashlib.sha256(part.SerializeToString(deterministic=True)).digest())
    return sha.hexdigest()
