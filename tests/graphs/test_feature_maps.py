"""Feature maps: a backbone's last map against torch, kept in 16 bits, staged images apart, large sets in a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

import trained
from hemalens import files
from hemalens.cache import FeatureCache
from hemalens.datasets import CellDataset, Record
from hemalens.errors import ConfigError, ImageError, OutputError
from hemalens.graphs import features
from hemalens.graphs.build import digest, join, kind_of, normalise_graph, resize_graph
from hemalens.graphs.features import extract, feature_maps
from hemalens.graphs.runtime import GraphRunner
from hemalens.imaging.reading import Preprocessing
from hemalens.models import export
from hemalens.models.backbone import BackboneConfig, create_backbone, frozen_graph, preprocessing_of
from hemalens.models.export import LastMap

CONFIG = BackboneConfig(backbone="test_resnet", weights="none", image_size_px=64)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    return trained.laboratory(tmp_path_factory)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """image -> feature_map of a tiny backbone."""
    return frozen_graph(CONFIG, tmp_path_factory.mktemp("graphs"), output="feature_map")


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEMALENS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """The records that a graph was run for."""
    records: list[Record] = []
    run_all = GraphRunner.map

    def counted(self: GraphRunner, given: Iterable[Record]) -> Iterator[Any]:
        given = list(given)
        records.extend(given)
        return run_all(self, given)

    monkeypatch.setattr(GraphRunner, "map", counted)
    return records


@dataclass(frozen=True)
class Brighter:
    """A stage that is quickly computed: every pixel moved by so much."""

    by: int

    @property
    def digest(self) -> str:
        return f"brighter by {self.by}"

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return (image.astype(int) + self.by).clip(0, 255).astype(np.uint8)


# -------------------------------------------------------------------------------------------------- the last map


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_mambaout"])
def test_the_last_map_has_its_channels_first(name: str) -> None:
    """Swin and its kin, of which test_mambaout keeps the format, give channels last."""
    config = BackboneConfig(backbone=name, weights="none", image_size_px=96)
    network: Any = create_backbone(config)
    last = LastMap(network)
    c, h, w = last.shape(preprocessing_of(config))
    assert (c, h, w) == (network.num_features, 3, 3)
    pixels = torch.rand(2, 3, 96, 96)
    with torch.inference_mode():
        found, given = last(pixels), network.forward_features(pixels)
    assert found.shape == (2, c, 3, 3)
    np.testing.assert_array_equal(found, given if given.shape[1] == c else given.permute(0, 3, 1, 2))


def test_a_network_without_a_map_is_refused() -> None:
    network = create_backbone(BackboneConfig(backbone="test_vit", weights="none"))
    with pytest.raises(
        ConfigError, match=r"no feature map; expected channels, height, width; got an output of shape \(\d+, 64\)"
    ):
        LastMap(network).shape(Preprocessing(size_px=160))


def test_the_graph_gives_the_map_that_torch_pools_to_the_embedding(
    cells: CellDataset, graph: onnx.ModelProto, tmp_path: Path
) -> None:
    assert [value.name for value in graph.graph.output] == ["feature_map"]
    dtype, shape = kind_of(graph, "feature_map")
    assert (dtype, shape) == (np.float16, (96, 2, 2))
    found = extract(cells.records[:5], graph, cache=None, output="feature_map").complete()
    assert found.shape == (5, 96, 2, 2)
    assert found.dtype == np.float16
    pixels_of = join(*(make(preprocessing_of(CONFIG)) for make in (resize_graph, normalise_graph)))
    session = onnxruntime.InferenceSession(pixels_of.SerializeToString(), providers=["CPUExecutionProvider"])
    network: Any = create_backbone(CONFIG)
    embedding_graph = frozen_graph(CONFIG, tmp_path)
    embeddings = extract(cells.records[:5], embedding_graph, cache=None).complete()
    for record, feature_map, embedding in zip(cells.records, found, embeddings, strict=False):
        (pixels,) = session.run(["pixels"], {"image": record.read()[None]})
        with torch.inference_mode():
            wanted = network.forward_features(torch.from_numpy(pixels))[0].numpy()
        np.testing.assert_allclose(feature_map, wanted, rtol=2e-3, atol=1e-4)
        np.testing.assert_allclose(feature_map.astype(float).mean(axis=(1, 2)), embedding, rtol=2e-3, atol=1e-3)


def test_map_and_embedding_are_kept_as_two_graphs_and_found_without_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {output: frozen_graph(CONFIG, tmp_path, output=output) for output in ("embedding", "feature_map")}
    assert len(list((tmp_path / "graphs").iterdir())) == 2

    def none(*given: object, **more: object) -> None:
        raise AssertionError("the graph is there already")

    monkeypatch.setattr(export, "to_onnx", none)
    for output in ("embedding", "feature_map"):
        again = frozen_graph(CONFIG, tmp_path, output=output)
        assert digest(again) == digest(first[output])
    assert digest(first["embedding"]) != digest(first["feature_map"])


# ------------------------------------------------------------------------------------------------- maps of a set


@pytest.mark.usefixtures("own_cache")
def test_maps_come_in_the_order_of_the_records_and_are_computed_once(
    cells: CellDataset, graph: onnx.ModelProto, ran: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = extract(cells.records[:11], graph, cache=None, output="feature_map").complete()
    ran.clear()
    monkeypatch.setattr(features, "MAPS_AT_ONCE", 4)
    for _ in range(2):
        maps = feature_maps(cells.records[:11], graph, tmp_path / "maps.npy")
        assert maps.dtype == np.float16
        np.testing.assert_array_equal(maps, expected)
    assert len(ran) == 11
    mixed = [9, 2, 10, 2]
    np.testing.assert_array_equal(
        feature_maps([cells.records[i] for i in mixed], graph, tmp_path / "maps.npy"), expected[mixed]
    )
    assert len(ran) == 11
    assert not (tmp_path / "maps.npy").exists(), "few maps lie in memory"
    assert feature_maps([], graph, tmp_path / "maps.npy").shape == (0, 96, 2, 2)


@pytest.mark.usefixtures("own_cache")
def test_many_maps_lie_in_a_file_and_are_the_same(
    cells: CellDataset, graph: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = feature_maps(cells.records[:5], graph, tmp_path / "maps.npy")
    monkeypatch.setattr(files, "MAX_RAM_BYTES", 1000)
    scratch = tmp_path / "scratch" / "maps.npy"
    in_file = feature_maps(cells.records[:5], graph, scratch)
    assert isinstance(in_file, np.memmap)
    np.testing.assert_array_equal(in_file, in_memory)
    in_file.flush()
    np.testing.assert_array_equal(np.load(scratch), in_memory)


def test_a_large_array_where_nothing_can_be_written_is_an_output_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_RAM_BYTES", 10)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"):
        files.large_array((100,), np.float32, tmp_path / "file" / "maps.npy")
    small = files.large_array((2, 5), np.uint8, tmp_path / "file" / "maps.npy")
    assert (small.shape, small.dtype) == ((2, 5), np.uint8)


@pytest.mark.usefixtures("own_cache")
def test_an_unreadable_image_is_an_error(cells: CellDataset, graph: onnx.ModelProto, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    records = [cells.records[0], Record(tmp_path / "broken.png", "", "")]
    with pytest.raises(ImageError, match=r"1 image\(s\) cannot be read, first: .*broken.png"):
        feature_maps(records, graph, tmp_path / "maps.npy")


def test_the_cache_keeps_staged_and_unstaged_images_apart(
    cells: CellDataset, graph: onnx.ModelProto, ran: list[Record], tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path / "cache")
    plain = CellDataset("few", cells.records[:3], cells.classes, cells.label_map, "", "")
    views = [plain, plain.through((Brighter(40),)), plain.through((Brighter(-40),)), plain.through((Brighter(0),))]
    views.append(plain.through((Brighter(40), Brighter(-40))))
    expected = [extract(view.records, graph, cache=None, output="feature_map").complete() for view in views]
    ran.clear()
    everything = [record for view in views for record in view.records]
    for _ in range(2):  # computed, then found
        found = extract(everything, graph, cache=cache, output="feature_map").complete()
        np.testing.assert_array_equal(found, np.concatenate(expected))
    assert len(ran) == 15
    np.testing.assert_array_equal(expected[0], expected[3])
    assert len({record.view_id() for record in everything}) == 15
    assert len({record.content_id() for record in everything}) == 3
    unstaged = extract([record.unstaged() for record in views[1].records], graph, cache=cache, output="feature_map")
    np.testing.assert_array_equal(unstaged.complete(), expected[0])
    assert len(ran) == 15


def test_flat_arrays_of_any_type_come_back_from_the_cache(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache")
    for dtype in (np.float16, np.float32, np.uint8):
        kept = np.arange(24, dtype=dtype).reshape(2, 3, 4)
        cache.put(np.dtype(dtype).name, {"a": kept})
        found = cache.get(np.dtype(dtype).name, ["a"], dtype)["a"]
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, kept.ravel())
