"""Training of the segmenter: published settings, masks that move with their images, resume, and the graph it becomes."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

import trained
from hemalens.bundle.artifact import WEIGHTS, DataEntry
from hemalens.bundle.segmenter import TrainedSegmenter, open_segmenter
from hemalens.bundle.stages import SEGMENTER
from hemalens.datasets import CellDataset
from hemalens.datasets.masks import read_cell_mask
from hemalens.errors import ConfigError, ImageError, ParityError
from hemalens.graphs.build import resize_graph
from hemalens.imaging.reading import Preprocessing
from hemalens.methods import bc_sam_segmenter as method
from hemalens.methods.bc_sam_segmenter import SegmenterConfig, build, fit_segmenter
from hemalens.models import sam
from hemalens.models.lora import add_lora, count_parameters
from hemalens.models.sam import SamConfig, SamSegmenter, build_sam
from hemalens.training import segmenter as module
from hemalens.training.losses import mask_loss
from hemalens.training.module import OptimiserConfig
from hemalens.training.segmenter import (
    MaskAugmentation,
    MaskDataset,
    SegmenterModule,
    check_masks,
    fit_masks,
    resized_masks,
)

SIZE, WIDTH, N_LAYERS = 32, 48, 2
TINY = {
    "architecture": "small",
    "weights": "none",
    "image_size_px": SIZE,
    "epochs": 2,
    "batch_size": 3,
    "precision": "fp32",
    "optimiser": OptimiserConfig(learning_rate=1e-3, warmup_epochs=0.0, label_smoothing=0.0, gradient_clip=None),
}


def _config(rank: int, **changes: Any) -> SegmenterConfig:
    return SegmenterConfig(**{**TINY, "rank": rank, **changes})  # type: ignore[arg-type]


def _preprocessing(config: SegmenterConfig) -> Preprocessing:
    return Preprocessing(size_px=SIZE, mean=config.mean, std=config.std, antialias=False)


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    """Two layers instead of four, a third of the width: what takes the time is the export."""
    small = replace(sam.SMALL, width=WIDTH, n_layers=N_LAYERS, global_layers=(1,), neck_width=32, window=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sam, "ARCHITECTURES", {**sam.ARCHITECTURES, "small": small})
        yield


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    """Six drawn cells with masks."""
    return trained.laboratory(tmp_path_factory).subset(range(0, 30, 5))


@dataclass(frozen=True)
class Fit:
    """A segmenter fitted in two epochs, its settings, and where it was run."""

    config: SegmenterConfig
    run_dir: Path
    segmenter: TrainedSegmenter


@pytest.fixture(scope="module")
def fits(cells: CellDataset, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Fit]:
    """A fit by its rank, one each."""

    @functools.cache
    def made(rank: int) -> Fit:
        config, run_dir = _config(rank), tmp_path_factory.mktemp("segmenter")
        if rank:
            return Fit(config, run_dir, fit_segmenter(cells, config=config, run_dir=run_dir))
        # the way into a graph is the same, and takes most of the time
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(method, "segmenter_graph", lambda network, preprocessing: trained.dark_graph())
            patch.setattr(method, "check_masks", lambda graph, network, images: 0.0)
            return Fit(config, run_dir, fit_segmenter(cells, config=config, run_dir=run_dir))

    return made


@pytest.fixture(params=[0, 2], ids=["whole network", "adapters"])
def fit(request: pytest.FixtureRequest, fits: Callable[[int], Fit]) -> Fit:
    rank: int = request.param
    return fits(rank)


def _history(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "history.jsonl").read_text().splitlines()]


def _same(a: torch.nn.Module, b: torch.nn.Module) -> None:
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-5, atol=1e-6, msg=name)


# ---------------------------------------------------------------------------------------------- published settings


def test_the_defaults_are_the_published_settings() -> None:
    assert SegmenterConfig().model_dump() == {
        "architecture": "vit_b",
        "weights": "",
        "image_size_px": None,
        "rank": 4,
        "mask_fraction": 0.01,
        "epochs": 85,
        "batch_size": 32,
        "ce_weight": 0.2,
        "dice_weight": 0.8,
        "augment": True,
        "antialias": False,
        "mean": (215.0322, 187.7592, 200.4668),
        "std": (41.3047, 56.9191, 21.9522),
        "seed": 1234,
        "precision": "fp32",
        "optimiser": {
            "learning_rate": 5e-4,
            "weight_decay": 0.05,
            "decay_all": True,
            "warmup_epochs": 10.0,
            "warmup_steps": None,
            "schedule": "cosine",
            "schedule_epochs": 150,
            "cosine_length": "whole",
            "label_smoothing": 0.0,
            "gradient_clip": None,
        },
    }


def test_one_setting_of_the_optimiser_leaves_the_others_as_published() -> None:
    config = SegmenterConfig.load(overrides=["optimiser.learning_rate=0.001", "mean=[1.0, 2.0, 3.0]"])
    assert config.optimiser == SegmenterConfig().optimiser.model_copy(update={"learning_rate": 1e-3})
    assert config.mean == (1.0, 2.0, 3.0)


def test_missing_sam_weights_are_an_error_with_a_remedy() -> None:
    with pytest.raises(ConfigError, match=r"weights of Segment Anything.*sam_vit_b_01ec64\.pth.*architecture=small"):
        build(SegmenterConfig())


@pytest.mark.parametrize("values", [{"mask_fraction": 0.0}, {"rank": -1}, {"image_size_px": 8}, {"architecture": "vit_h"}])
def test_settings_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        SegmenterConfig.from_mapping(values)


def test_with_a_rank_only_adapters_prompts_and_decoder_learn_and_without_one_everything() -> None:
    adapted, whole = build(_config(2)), build(_config(0))
    learning = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in learning} == {"vision_encoder", "prompt_encoder", "mask_decoder"}
    in_encoder = {name.split(".")[-1] for name in learning if name.startswith("vision_encoder.")}
    assert in_encoder == {"query_down", "query_up", "value_down", "value_up"}
    trained_whole, total = count_parameters(whole)
    frequencies = whole.prompt_encoder.shared_embedding.positional_embedding.numel()
    assert trained_whole == total - frequencies
    assert count_parameters(adapted)[0] < 0.5 * total


# ----------------------------------------------------------------------------------------------------- augmentation


def _image_of(mask: torch.Tensor) -> torch.Tensor:
    """An image that is its own mask: 200 on the cell, 10 beside it."""
    return (mask[None].expand(3, -1, -1) * 190 + 10).to(torch.uint8)


@given(seed=st.integers(0, 2**31 - 1), side=st.integers(8, 24))
@settings(max_examples=30)
def test_image_and_mask_change_together(seed: int, side: int) -> None:
    torch.manual_seed(seed)
    mask = torch.rand(side, side) > 0.5
    image, changed = MaskAugmentation()(_image_of(mask), mask)
    assert image.dtype == torch.uint8
    assert changed.dtype == torch.bool
    assert image.shape == (3, side, side)
    # corners that a rotation brings in are black and background, where the image's own background is 10
    assert torch.equal(image > 100, changed[None].expand(3, -1, -1))
    assert set(image.unique().tolist()) <= {0, 10, 200}


def test_half_are_turned_and_flipped_a_quarter_rotated_a_quarter_left() -> None:
    """An L in a corner tells each of the 8 positions; the flips leave 4 turns x 2 flips of them."""
    mask = torch.zeros(17, 17, dtype=torch.bool)
    mask[2:12, 3:5] = mask[10:12, 3:9] = True
    image = _image_of(mask)
    whole = {
        tuple(torch.rot90(mask, turns).flip(axis).flatten().tolist()): (turns, axis)
        for turns in range(4)
        for axis in (0, 1)
    }
    torch.manual_seed(0)
    found = {"turned": 0, "left": 0, "rotated": 0}
    positions = set()
    for _ in range(400):
        _, changed = MaskAugmentation()(image, mask)
        key = tuple(changed.flatten().tolist())
        if key in whole:
            found["turned"] += 1
            positions.add(key)
        else:
            found["left" if torch.equal(changed, mask) else "rotated"] += 1
    # within five standard deviations of the binomial shares
    assert found["turned"] == pytest.approx(200, abs=50)
    assert found["rotated"] == pytest.approx(100, abs=44)
    assert found["left"] == pytest.approx(100, abs=44)
    assert positions == set(whole), "every turn and flip occurs"


def test_a_rotation_stays_within_20_degrees() -> None:
    """A bar through the centre tells its angle."""
    mask = torch.zeros(65, 65, dtype=torch.bool)
    mask[31:34, 36:63] = True
    torch.manual_seed(1)
    angles = []
    for _ in range(150):
        _, changed = MaskAugmentation()(_image_of(mask), mask)
        rows, columns = (place.float().mean() - 32 for place in changed.nonzero(as_tuple=True))
        angles.append(float(torch.atan2(-rows, columns).rad2deg()))
    rotated = [angle for angle in angles if 0.5 < abs(angle) < 60]
    assert rotated
    assert max(map(abs, rotated)) <= 21
    assert max(rotated) > 10
    assert min(rotated) < -10


# ------------------------------------------------------------------------------------------------------------ masks


def test_masks_are_brought_to_the_input_s_size(cells: CellDataset) -> None:
    masks = resized_masks(cells, SIZE)
    assert masks.shape == (6, SIZE, SIZE)
    assert masks.dtype == bool
    for record, mask in zip(cells.records, masks, strict=True):
        whole = read_cell_mask(record, record.read())
        height, width = whole.shape
        rows = ((np.arange(SIZE) + 0.5) * height / SIZE).astype(int)
        columns = ((np.arange(SIZE) + 0.5) * width / SIZE).astype(int)
        np.testing.assert_array_equal(mask, whole[rows][:, columns])


def test_a_bad_mask_stops_the_training_with_its_name(cells: CellDataset, tmp_path: Path) -> None:
    Image.fromarray(np.zeros(cells.records[0].read().shape[:2], np.uint8)).save(tmp_path / "no cell.png")
    bad = replace(cells.records[0], mask_path=tmp_path / "no cell.png")
    dataset = replace(cells, records=(*cells.records[1:], bad))
    with pytest.raises(ImageError, match=r"'.*no cell.png' has one class only; .*got nothing but background"):
        fit_segmenter(dataset, config=_config(0), run_dir=tmp_path / "run")
    assert not (tmp_path / "run" / "segmenter").exists()


def _mask_dataset(augment: MaskAugmentation | None, side: int = 16) -> MaskDataset:
    rng = np.random.default_rng(0)
    masks = rng.random((4, SIZE, SIZE)) > 0.5
    pixels = np.where(masks[:, None], 200, 10).astype(np.uint8).repeat(3, axis=1)
    return MaskDataset(pixels, masks, side=side, augment=augment)


def test_masks_are_given_out_at_the_side_of_the_network_s_answer() -> None:
    cells = _mask_dataset(None)
    assert len(cells) == 4
    image, mask = cells[2, 99]
    assert image.dtype == torch.uint8
    assert mask.dtype == torch.int64
    np.testing.assert_array_equal(image, cells.pixels[2])
    np.testing.assert_array_equal(mask, cells.masks[2][::2, ::2])
    full, _ = cells[2, 98]
    assert torch.equal(full, image), "without an augmentation the seed is of no account"


def test_an_augmentation_depends_on_its_seed_only() -> None:
    cells = _mask_dataset(MaskAugmentation(), side=SIZE)
    before = cells.pixels.copy(), cells.masks.copy()
    state = torch.get_rng_state()
    drawn = [cells[1, seed] for seed in range(12)]
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left as it was"
    torch.rand(5)
    for seed, (image, mask) in enumerate(drawn):
        again, same = cells[1, seed]
        assert torch.equal(image, again)
        assert torch.equal(mask, same)
        assert torch.equal(image[0] > 100, mask.bool())
    assert len({tuple(mask.flatten().tolist()) for _, mask in drawn}) > 4
    np.testing.assert_array_equal(cells.pixels, before[0])
    np.testing.assert_array_equal(cells.masks, before[1])


def test_the_loss_is_that_of_the_normalised_image() -> None:
    config = _config(0, ce_weight=0.3, dice_weight=0.6)
    network = build(config)
    learner = SegmenterModule(
        network, _preprocessing(config), optimiser=config.optimiser, epochs=1, seed=0, weights=(0.3, 0.6)
    )
    logged: list[str] = []
    learner.log = lambda name, value, **more: logged.append(name)  # type: ignore[method-assign, assignment]
    images, masks = (torch.stack(part) for part in zip(*(_mask_dataset(None)[i, 0] for i in range(3)), strict=True))
    loss = learner.training_step((images, masks), 0)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    with torch.no_grad():
        expected = mask_loss(network((images.float() - mean) / std), masks, ce_weight=0.3, dice_weight=0.6)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert logged == ["mask_loss"]
    assert "mean" not in learner.state_dict(), "the preprocessing is data, not weights"


# --------------------------------------------------------------------------------------------------------- training


class KilledError(Exception):
    """Stands for a kill: nothing catches it."""


def _train(config: SegmenterConfig, cells: CellDataset, run_dir: Path) -> SamSegmenter:
    network = build(config)
    fit_masks(network, cells, _preprocessing(config), method._training(config), run_dir)
    return network


def test_a_run_killed_after_an_epoch_ends_as_an_unbroken_one(
    cells: CellDataset, fits: Callable[[int], Fit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = fits(2)
    begin = SegmenterModule.on_train_epoch_start

    def killed_in_the_second(self: SegmenterModule) -> None:
        if self.current_epoch == 1:
            raise KilledError
        begin(self)

    with monkeypatch.context() as patch:
        patch.setattr(SegmenterModule, "on_train_epoch_start", killed_in_the_second)
        with pytest.raises(KilledError):
            _train(unbroken.config, cells, tmp_path)
    assert [row["epoch"] for row in _history(tmp_path)] == [0]
    resumed = _train(unbroken.config, cells, tmp_path)
    assert _history(tmp_path) == _history(unbroken.run_dir)
    _same(resumed, _restored(unbroken))


def test_what_is_closed_stays_and_the_adapters_move(fits: Callable[[int], Fit]) -> None:
    fit = fits(2)
    untrained, network = build(fit.config), _restored(fit)
    before = untrained.state_dict()
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    learning = {name for name, parameter in untrained.named_parameters() if parameter.requires_grad}
    assert changed <= learning
    assert {name for name in learning if name.endswith("_up")} <= changed
    assert any(name.startswith("mask_decoder.") for name in changed)


def test_the_loss_falls(cells: CellDataset, tmp_path: Path) -> None:
    faster = OptimiserConfig(learning_rate=5e-3, warmup_epochs=1.0, gradient_clip=None)
    _train(_config(0, epochs=6, augment=False, optimiser=faster), cells, tmp_path)
    losses = [row["mask_loss"] for row in _history(tmp_path)]
    assert losses[-1] < 0.9 * losses[0]


# -------------------------------------------------------------------------------------------------- what is written


def test_the_manifest_says_what_was_trained(fit: Fit, cells: CellDataset) -> None:
    manifest = fit.segmenter.manifest
    trained_count, total = count_parameters(build(fit.config))
    assert manifest.method == "bc_sam_segmenter"
    assert SegmenterConfig.load(base=manifest.config) == fit.config
    assert (manifest.architecture, manifest.from_scratch) == ("small", True)
    assert manifest.preprocessing == _preprocessing(fit.config)
    assert (manifest.n_masks, manifest.n_parameters, manifest.n_trained_parameters) == (6, total, trained_count)
    assert manifest.data == (DataEntry.of(cells, "train"),)
    assert manifest.synthetic
    assert 0 <= manifest.parity <= 1e-3
    assert set(manifest.files) == {SEGMENTER, WEIGHTS}
    assert {"torch", "transformers", "numpy"} <= manifest.versions.keys()
    assert fit.segmenter.path == fit.run_dir / "segmenter"
    assert not (fit.run_dir / "scratch").exists()
    assert [row["epoch"] for row in _history(fit.run_dir)] == [0, 1]


def _restored(fit: Fit) -> SamSegmenter:
    """The network put together from the settings and the saved weights alone, its adapters not merged."""
    state = load_file(fit.segmenter.path / WEIGHTS)
    network = build_sam(SamConfig(architecture="small", weights="none", image_size_px=SIZE, seed=1234))
    if fit.config.rank:
        add_lora(network, fit.config.rank, seed=5)
        assert not network.load_state_dict(state, strict=False).unexpected_keys
    else:
        network.load_state_dict(state, strict=True)
    return network.eval()


def test_with_adapters_only_what_was_trained_is_saved(fit: Fit) -> None:
    saved = load_file(fit.segmenter.path / WEIGHTS)
    network = build(fit.config)
    if not fit.config.rank:
        assert saved.keys() == network.state_dict().keys()
        return
    adapters = [name for name in saved if name.startswith("vision_encoder.")]
    assert len(adapters) == 4 * N_LAYERS
    assert all(".attn.qkv." in name and saved[name].shape in ((2, WIDTH), (WIDTH, 2)) for name in adapters)
    rest = {name for name in network.state_dict() if name.startswith(("prompt_encoder.", "mask_decoder."))}
    assert saved.keys() == rest | set(adapters)
    assert any(saved[name].any() for name in adapters if name.endswith("_up")), "the adapters have learnt"


def test_the_graph_is_the_unmerged_network(fits: Callable[[int], Fit], cells: CellDataset) -> None:
    """From image to map and probability, against torch with the adapters beside the weights."""
    fit = fits(2)
    graph = fit.segmenter.graph
    assert [value.name for value in graph.graph.output] == ["full_map", "cell_probability"]
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    network = _restored(fit)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (fit.config.mean, fit.config.std))
    resize = resize_graph(_preprocessing(fit.config)).SerializeToString()
    prepared = onnxruntime.InferenceSession(resize, providers=["CPUExecutionProvider"])
    for record in cells.records[:3]:
        image = record.read()[None]
        feature_map, probability = session.run(["full_map", "cell_probability"], {"image": image})
        assert (feature_map.shape, probability.shape) == ((1, WIDTH, 4, 4), (1, SIZE, SIZE))
        (pixels,) = prepared.run(["resized"], {"image": image})
        with torch.inference_mode():
            normalised = torch.from_numpy((pixels - mean) / std)
            wanted_map = network.feature_map(normalised)
            logits = network(normalised)
            assert logits.shape == (1, 2, 16, 16)
            larger = torch.nn.functional.interpolate(logits, (SIZE, SIZE), mode="bilinear", align_corners=False)
            wanted = larger.softmax(dim=1)[:, 1]
        np.testing.assert_allclose(feature_map, wanted_map.numpy(), atol=1e-4)
        np.testing.assert_allclose(probability, wanted.numpy(), atol=1e-4)
    both = np.concatenate([cells.records[0].read()[None]] * 2)
    assert session.run(["cell_probability"], {"image": both})[0].shape == (2, SIZE, SIZE)


def test_it_opens_as_a_segmenter_of_images_of_any_size(fits: Callable[[int], Fit]) -> None:
    segmenter = open_segmenter(str(fits(2).segmenter.path))
    for shape in ((50, 70), (9, 8), (33, 120)):
        mask = segmenter(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
        assert mask.shape == shape
        assert mask.dtype == bool


@pytest.mark.parametrize("error", [0.01, np.nan])
def test_a_graph_of_another_network_is_refused(
    fits: Callable[[int], Fit], cells: CellDataset, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image of several is enough, and a network of NaN does not pass for an equal one."""
    fit = fits(2)
    images = [record.read() for record in cells.records[:2]]
    honest = module._MapAndMask.forward
    wrong = iter([error, 0.0])

    def off(self: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        feature_map, probability = honest(self, pixels)
        return feature_map, probability + next(wrong)

    monkeypatch.setattr(module._MapAndMask, "forward", off)
    with pytest.raises(ParityError, match=r"does not reproduce the trained one; expected cell probabilities within 0.001"):
        check_masks(fit.segmenter.graph, _restored(fit), iter(images))


def test_a_finished_run_is_written_again_without_training(
    cells: CellDataset, fits: Callable[[int], Fit], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop between training and export loses no epoch."""
    fit = fits(2)

    def never(self: SegmenterModule) -> None:
        raise AssertionError("what is finished is not trained again")

    monkeypatch.setattr(SegmenterModule, "on_train_epoch_start", never)
    monkeypatch.setattr(method, "segmenter_graph", lambda network, preprocessing: fit.segmenter.graph)
    before = (fit.segmenter.path / WEIGHTS).read_bytes()
    again = fit_segmenter(cells, config=fit.config, run_dir=fit.run_dir)
    assert (again.path / WEIGHTS).read_bytes() == before
    assert again.manifest.parity == fit.segmenter.manifest.parity
