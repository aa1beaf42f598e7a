"""Graphs against Pillow and the formulas; joining and cutting, whose digest the feature cache depends on."""

from __future__ import annotations

import hypothesis
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import trained
from hemalens.datasets import CellDataset
from hemalens.graphs.build import (
    columns_graph,
    cut,
    digest,
    float_value,
    full_map_graph,
    half_map_graph,
    join,
    kind_of,
    log_probability_graph,
    make_model,
    mean_answer_graph,
    normalise_graph,
    of_columns,
    resize_graph,
    side_by_side,
    temperature_graph,
)
from hemalens.imaging.reading import Interpolation, Preprocessing, resize


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    return trained.laboratory(tmp_path_factory)


def _run(model: onnx.ModelProto, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def _io(model: onnx.ModelProto) -> tuple[list[str], list[str]]:
    return [value.name for value in model.graph.input], [value.name for value in model.graph.output]


@pytest.mark.parametrize("size_px", [16, 50, 96, 224, 300])
def test_resize_is_pillow_s_within_one_gray_level(cells: CellDataset, size_px: int) -> None:
    graph = resize_graph(Preprocessing(size_px=size_px))
    for record in cells.records[::8]:
        image = record.read()
        for given in (image, image[:70, :], image[:, 10:61]):
            got = _run(graph, image=given[None])["resized"][0].transpose(1, 2, 0)
            pillow = Image.fromarray(given).resize((size_px, size_px), Image.Resampling.BILINEAR)
            difference = np.abs(got - np.asarray(pillow, np.float32))
            assert difference.max() <= 1
            assert difference.mean() < 0.3
            np.testing.assert_array_equal(resize(given, size_px), np.asarray(pillow))


@pytest.mark.parametrize("size_px", [16, 96, 224, 300])
def test_bicubic_resize_is_pillow_s_within_three_gray_levels(cells: CellDataset, size_px: int) -> None:
    """Pillow clips between rows and columns, which the graph does not."""
    graph = resize_graph(Preprocessing(size_px=size_px, interpolation="bicubic"))
    for record in cells.records[::8]:
        image = record.read()
        for given in (image, image[:70, :], image[:, 10:61]):
            got = _run(graph, image=given[None])["resized"][0].transpose(1, 2, 0)
            pillow = np.asarray(Image.fromarray(given).resize((size_px, size_px), Image.Resampling.BICUBIC), np.float32)
            bilinear = np.asarray(Image.fromarray(given).resize((size_px, size_px), Image.Resampling.BILINEAR), np.float32)
            difference = np.abs(got - pillow)
            assert difference.max() <= 3
            assert difference.mean() < 0.3
            assert difference.mean() < np.abs(got - bilinear).mean() / 2


def test_without_antialiasing_a_pixel_is_interpolated_from_its_four_neighbours(cells: CellDataset) -> None:
    graph = resize_graph(Preprocessing(size_px=40, antialias=False))
    image = cells.records[0].read()
    pixels = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32))
    expected = torch.nn.functional.interpolate(pixels, (40, 40), mode="bilinear", align_corners=False).round().numpy()
    found = _run(graph, image=image[None])["resized"]
    assert np.abs(found - expected).max() <= 1
    assert np.abs(found - _run(resize_graph(Preprocessing(size_px=40)), image=image[None])["resized"]).max() > 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resize_keeps_whole_numbers_that_uint8_can_hold(cells: CellDataset, interpolation: Interpolation) -> None:
    """At steep edges bicubic overshoots before it is clipped."""
    graph = resize_graph(Preprocessing(size_px=64, interpolation=interpolation))
    steep = np.indices((40, 40)).sum(axis=0) % 2 * 255
    for image in (np.repeat(steep[..., None], 3, axis=2).astype(np.uint8), cells.records[0].read()):
        resized = _run(graph, image=image[None])["resized"]
        np.testing.assert_array_equal(resized, resized.astype(np.uint8))


def test_an_image_of_the_right_size_stays_as_it_is(cells: CellDataset) -> None:
    image = np.asarray(Image.fromarray(cells.records[0].read()).resize((48, 48)))
    resized = _run(resize_graph(Preprocessing(size_px=48)), image=image[None])["resized"][0]
    np.testing.assert_array_equal(resized.transpose(1, 2, 0), image)


def test_resize_takes_several_images_at_once() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 30, 20, 3), dtype=np.uint8)
    graph = resize_graph(Preprocessing(size_px=16))
    together = _run(graph, image=images)["resized"]
    for image, row in zip(images, together, strict=True):
        np.testing.assert_array_equal(_run(graph, image=image[None])["resized"][0], row)


def test_normalisation_by_its_definition() -> None:
    preprocessing = Preprocessing(size_px=16, mean=(10.0, 127.0, 200.5), std=(1.0, 128.0, 57.3))
    resized = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16)).astype(np.float32)
    pixels = _run(normalise_graph(preprocessing), resized=resized)["pixels"]
    for channel, (mean, std) in enumerate(zip((10.0, 127.0, 200.5), (1.0, 128.0, 57.3), strict=True)):
        np.testing.assert_allclose(pixels[:, channel], (resized[:, channel] - mean) / std, rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.05, 1.0, 3.7])
def test_temperature_and_softmax_by_their_definition(temperature: float) -> None:
    raw = np.random.default_rng(0).normal(0, 4, (5, 3)).astype(np.float32)
    graph = temperature_graph(3, temperature)
    got = _run(graph, raw_logits=raw)
    np.testing.assert_allclose(got["logits"], raw / temperature, rtol=1e-5)
    powers = np.exp(raw.astype(np.float64) / temperature)
    np.testing.assert_allclose(got["probabilities"], powers / powers.sum(axis=1, keepdims=True), atol=1e-6)


def test_large_logits_do_not_overflow() -> None:
    p = _run(temperature_graph(2, 0.05), raw_logits=np.array([[800.0, -800.0]], np.float32))["probabilities"]
    np.testing.assert_array_equal(p, [[1, 0]])


def test_log_probabilities_are_finite_and_softmax_gives_them_back() -> None:
    p = np.array([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]], np.float32)
    graph = join(log_probability_graph(3), temperature_graph(3, 1.0), keep=("raw_logits",))
    got = _run(graph, head_probabilities=p)
    np.testing.assert_allclose(got["raw_logits"], np.log(np.maximum(p, 1e-7)), rtol=1e-5)
    np.testing.assert_allclose(got["probabilities"], p, atol=1e-6)


def test_joining_passes_on_what_nobody_takes_and_what_is_kept() -> None:
    preprocessing = Preprocessing(size_px=16)
    first, second = resize_graph(preprocessing), normalise_graph(preprocessing)
    assert _io(join(first, second)) == (["image"], ["pixels"])
    assert _io(join(first, second, keep=("resized",))) == (["image"], ["resized", "pixels"])
    image = np.random.default_rng(0).integers(0, 256, (1, 20, 20, 3), dtype=np.uint8)
    whole = _run(join(first, second, keep=("resized",)), image=image)
    parts = _run(first, image=image)
    np.testing.assert_array_equal(whole["resized"], parts["resized"])
    np.testing.assert_array_equal(whole["pixels"], _run(second, **parts)["pixels"])


def test_joining_graphs_whose_inner_names_collide() -> None:
    double = join(temperature_graph(2, 2.0), _renamed(temperature_graph(2, 5.0)))
    raw = np.array([[1.0, 3.0]], np.float32)
    got = _run(double, raw_logits=raw)
    np.testing.assert_allclose(got["logits_again"], raw / 2 / 5, rtol=1e-6)


def _renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """logits -> logits_again, with the same inner names as the graph that it follows."""
    names = {"raw_logits": "logits", "logits": "logits_again", "probabilities": "probabilities_again"}
    for values in (model.graph.input, model.graph.output):
        for value in values:
            value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    return model


def test_cut_gives_the_parts_that_joined_give_the_whole(
    cells: CellDataset, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = trained.fitted(tmp_path_factory, "linear_probe").bundle.graph
    encoder, head = cut(model, ["image"], ["embedding"]), cut(model, ["embedding"], ["probabilities"])
    assert _io(encoder) == (["image"], ["embedding"])
    assert _io(head) == (["embedding"], ["probabilities"])
    image = cells.records[0].read()[None]
    embedding = _run(encoder, image=image)["embedding"]
    whole = _run(model, image=image)
    np.testing.assert_array_equal(embedding, whole["embedding"])
    np.testing.assert_allclose(_run(head, embedding=embedding)["probabilities"], whole["probabilities"], atol=1e-6)


def test_the_encoder_cut_out_of_a_bundle_has_the_digest_of_the_one_that_went_in(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Otherwise no embedding of the training would ever be found again in the cache."""
    from hemalens.files import default_cache_dir
    from hemalens.models.backbone import BackboneConfig, frozen_graph

    bundle = trained.fitted(tmp_path_factory, "linear_probe").bundle
    frozen = frozen_graph(BackboneConfig(**trained.PROBE), default_cache_dir())
    encoder = cut(bundle.graph, ["image"], ["embedding"])
    assert digest(encoder) == digest(frozen)
    assert digest(cut(encoder, ["image"], ["embedding"])) == digest(frozen)


def test_the_digest_changes_with_everything_that_is_computed() -> None:
    graph = join(resize_graph(Preprocessing(size_px=32)), normalise_graph(Preprocessing(size_px=32)))
    same = onnx.load_model_from_string(graph.SerializeToString())
    same.doc_string = "another word"
    same.producer_name = "another program"
    assert digest(same) == digest(graph)
    digests = {digest(graph)}
    for preprocessing in (
        Preprocessing(size_px=33),
        Preprocessing(size_px=32, mean=(127.0, 127.0, 127.5)),
        Preprocessing(size_px=32, std=(1.0, 128.0, 128.0)),
    ):
        digests.add(digest(join(resize_graph(preprocessing), normalise_graph(preprocessing))))
    assert len(digests) == 4


def _encoder(operator: str, d: int) -> onnx.ModelProto:
    """image -> embedding (n, d): mean or maximum of each colour in [0, 1], the first d of them; its image is read twice."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node(operator, ["pixels", "axes"], ["colour"], keepdims=0),
        helper.make_node("Cast", ["image"], ["again"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMin", ["again", "axes"], ["darkest"], keepdims=0),
        helper.make_node("Sub", ["colour", "darkest"], ["contrast"]),
        helper.make_node("Slice", ["contrast", "first", "last", "last_axis"], ["embedding"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "height", "width", 3])
    numbers = {"axes": [1, 2], "first": [0], "last": [d], "last_axis": [-1]}
    constants = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in numbers.items()]
    return make_model(nodes, [image], [float_value("embedding", ["n", d])], constants)


def test_encoders_side_by_side_give_their_embeddings_at_unit_length_one_behind_the_other() -> None:
    """Names that the encoders share, also with what joins them, are kept apart."""
    encoders = [_encoder("ReduceMean", 3), _encoder("ReduceMax", 2), _encoder("ReduceMean", 3)]
    both = side_by_side(encoders)
    assert _io(both) == (["image"], ["embedding"])
    assert both.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 8
    images = np.random.default_rng(0).integers(0, 256, (4, 9, 7, 3), dtype=np.uint8)
    expected = []
    for encoder in encoders:
        alone = _run(encoder, image=images)["embedding"].astype(np.float64)
        expected.append(alone / np.linalg.norm(alone, axis=1, keepdims=True))
    np.testing.assert_allclose(_run(both, image=images)["embedding"], np.concatenate(expected, axis=1), atol=1e-6)
    # an even image has no contrast: a zero vector stays one
    flat = np.full((1, 5, 5, 3), 100, np.uint8)
    np.testing.assert_array_equal(_run(both, image=flat)["embedding"], np.zeros((1, 8)))
    nested = side_by_side([both, encoders[0]])
    found = _run(nested, image=images)["embedding"]
    np.testing.assert_allclose(found[:, :8] * np.sqrt(3), np.concatenate(expected, axis=1), atol=1e-6)
    np.testing.assert_allclose(found[:, 8:], expected[0], atol=1e-6)


def test_encoders_side_by_side_as_they_are_can_be_taken_out_again() -> None:
    encoders = [_encoder("ReduceMean", 3), _encoder("ReduceMax", 2)]
    both = side_by_side(encoders, as_they_are=True)
    images = np.random.default_rng(1).integers(0, 256, (4, 9, 7, 3), dtype=np.uint8)
    first, second = (_run(encoder, image=images)["embedding"] for encoder in encoders)
    found = _run(both, image=images)["embedding"]
    np.testing.assert_allclose(found, np.hstack([first, second]), rtol=1e-6)
    np.testing.assert_array_equal(_run(columns_graph(0, 3, 5), embedding=found)["own_embedding"], found[:, :3])


def test_a_head_reads_its_own_columns() -> None:
    head = temperature_graph(2, 0.5)
    head.graph.input[0].name = head.graph.node[0].input[0] = "embedding"
    wide = np.random.default_rng(2).normal(size=(3, 5)).astype(np.float32)
    for rename, name in ((False, "logits"), (True, "own_logits")):
        found = _run(of_columns(head, 2, 2, 5, rename_outputs=rename), embedding=wide)[name]
        np.testing.assert_allclose(found, wide[:, 2:4] * 2, rtol=1e-6)


def test_the_mean_answer_is_the_mean_of_the_logarithms() -> None:
    rng = np.random.default_rng(3)
    own, kept, fine = (rng.normal(size=(6, n)).astype(np.float32) * 4 for n in (4, 4, 3))
    given = {"own_raw_logits": own, "kept_raw_logits": kept, "own_types": fine}
    found = _run(mean_answer_graph(4, fine=("types", 3)), **given)
    logs = [z - np.log(np.exp(z).sum(axis=1, keepdims=True)) for z in (own, kept)]
    np.testing.assert_allclose(found["raw_logits"], (logs[0] + logs[1]) / 2, atol=1e-5)
    np.testing.assert_array_equal(found["types"], fine)
    del given["own_types"]
    np.testing.assert_allclose(_run(mean_answer_graph(4), **given)["raw_logits"], found["raw_logits"])


def test_kind_of_is_type_and_shape_without_the_first_axis() -> None:
    resized = resize_graph(Preprocessing(size_px=32))
    assert kind_of(resized, "resized") == (np.dtype(np.float32), (3, 32, 32))
    assert kind_of(half_map_graph((7, 3, 5)), "feature_map") == (np.dtype(np.float16), (7, 3, 5))
    assert kind_of(full_map_graph((7, 3, 5)), "full_map") == (np.dtype(np.float32), (7, 3, 5))
    both = temperature_graph(4, 1.0)
    assert kind_of(both, "logits") == kind_of(both, "probabilities") == (np.dtype(np.float32), (4,))
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "height", "width", 3])
    same = helper.make_tensor_value_info("same", TensorProto.UINT8, ["n", "height", "width", 3])
    open_axes = make_model([helper.make_node("Identity", ["image"], ["same"])], [image], [same], [])
    assert kind_of(open_axes, "same") == (np.dtype(np.uint8), (0, 0, 3))


@hypothesis.given(seed=st.integers(0, 1000), n=st.integers(0, 4), scale=st.floats(1e-3, 1e3))
def test_a_map_rounded_to_16_bits_comes_back_as_those_values(seed: int, n: int, scale: float) -> None:
    maps = (np.random.default_rng(seed).normal(size=(n, 2, 3, 4)) * scale).astype(np.float32)
    half, full = half_map_graph((2, 3, 4)), full_map_graph((2, 3, 4))
    kept = _run(half, full_map=maps)["feature_map"]
    assert kept.dtype == np.float16
    np.testing.assert_array_equal(kept, maps.astype(np.float16))
    back = _run(full, feature_map=kept)["full_map"]
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, kept.astype(np.float32))
    assert (_io(half), _io(full)) == ((["full_map"], ["feature_map"]), (["feature_map"], ["full_map"]))
