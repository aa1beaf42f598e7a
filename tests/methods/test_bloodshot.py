"""BloodShot: the published settings, the three losses, what the bundle answers, and a killed run that goes on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

import trained
from hemalens.bundle.bundle import Bundle
from hemalens.datasets import CellDataset
from hemalens.errors import ConfigError, WeightsError
from hemalens.graphs.build import cut
from hemalens.imaging.reading import Preprocessing
from hemalens.inference.predictor import Predictor
from hemalens.methods.bloodshot import METHOD, BloodShotConfig, EmbedderModule
from hemalens.models.backbone import BackboneConfig, create_backbone
from hemalens.training.augmentation import AugmentationConfig, border_colours
from hemalens.training.classifier import CellClassifier
from hemalens.training.data import resized_images
from hemalens.training.losses import rotate_each
from trained import Fitted

LOSSES = ("softmax", "aam", "aam+consistency")
UNIT = Preprocessing(size_px=32, mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))
N_CLASSES = 4


class KilledError(Exception):
    """Stands for a kill: nothing catches it."""


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """Three epochs of the published loss without an interruption."""
    return trained.fitted(tmp_path_factory, "bloodshot")


def _fit(unbroken: Fitted, run_dir: Path, *, tiny: bool = True, **changes: Any) -> Bundle:
    config = METHOD.config.from_mapping({**(trained.BLOODSHOT if tiny else {}), **changes})
    rng = np.random.default_rng(1)
    return METHOD.fit(unbroken.train, validation=unbroken.validation, auxiliary={}, config=config, rng=rng, run_dir=run_dir)


def _module(preprocessing: Preprocessing = UNIT, *, seed: int = 0, **settings: Any) -> EmbedderModule:
    config = BloodShotConfig.from_mapping({**trained.BLOODSHOT, **settings})
    return EmbedderModule(create_backbone(config), preprocessing, N_CLASSES, config, seed=seed)


def _before_training(
    unbroken: Fitted, run_dir: Path, *, tiny: bool = True, **changes: Any
) -> tuple[Any, Any, dict[str, Any]]:
    """The module, the training loader and the other arguments with which training would begin."""
    given: list[tuple[Any, Any, dict[str, Any]]] = []

    def caught(module: Any, training: Any, validation: Any, **more: Any) -> None:
        given.append((module, training, more))
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hemalens.training.fit.train", caught)
        with pytest.raises(KilledError):
            _fit(unbroken, run_dir, tiny=tiny, **changes)
    return given[0]


def _images(n: int = 6, size_px: int = 32) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, size_px, size_px), dtype=torch.uint8, generator=rng)


TARGETS = torch.tensor([0, 1, 2, 3, 1, 1])


# ------------------------------------------------------------------------------------------------------ as published


def test_the_defaults_are_the_published_settings() -> None:
    config = BloodShotConfig()
    assert (config.backbone, config.weights, config.image_size_px) == ("efficientnet_b0", "none", 224)
    assert (config.seed, config.epochs, config.batch_size) == (123, 6, 32)
    assert (config.sampling, config.patience, config.normalisation) == ("none", None, "unit")
    assert config.augmentation == AugmentationConfig.none()
    assert (config.loss, config.scale, config.consistency_weight) == ("aam+consistency", 64.0, 1.0)
    assert (config.passes, config.rotation_fill, config.interpolation) == ("two", "black", "bicubic")
    assert (config.initialisation, config.stochastic_depth, config.dropout) == ("torchvision", 0.2, 0.2)
    assert (config.head_size, config.reshuffle) == (1000, False)
    assert math.degrees(config.margin_rad) == pytest.approx(28.6, abs=1e-12)
    assert config.optimiser.model_dump() == {
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "decay_all": False,
        "warmup_epochs": 0.0,
        "warmup_steps": None,
        "schedule": "constant",
        "schedule_epochs": None,
        "cosine_length": "rest",
        "label_smoothing": 0.0,
        "gradient_clip": None,
    }


def test_training_begins_as_published(unbroken: Fitted, tmp_path: Path) -> None:
    """The defaults, as they reach the trainer: EfficientNet-B0 from random weights on pixels in [0, 1]."""
    module, training, more = _before_training(unbroken, tmp_path, tiny=False)
    network = module.network
    assert type(network).__name__ == "EfficientNet"
    assert sum(p.numel() for p in network.parameters()) == 5_288_548 - 1_281_000, "EfficientNet-B0 without its head"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torchvisions = torchvision.models.efficientnet_b0()
    convolutions = [m for m in torchvisions.features.modules() if isinstance(m, torch.nn.Conv2d)]
    ours = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    for mine, theirs in zip(ours, convolutions, strict=True):
        assert mine.weight.shape == theirs.weight.shape
        assert mine.weight.std().item() == pytest.approx(theirs.weight.std().item(), rel=0.25)
    dropped = [m.p for m in torchvisions.modules() if isinstance(m, torchvision.ops.StochasticDepth)]
    paths = [block.drop_path for stage in network.blocks for block in stage]
    # timm has none where the rate is zero or a block has no residual
    assert [getattr(path, "drop_prob", 0.0) for path in paths] == pytest.approx(dropped)
    assert module.head.centres.shape == (len(unbroken.train.classes), 1280), "one centre a class, on the raw embedding"
    assert (module.head.margin_rad, module.head.scale) == (math.radians(28.6), 64.0)
    assert all(p.requires_grad for p in module.parameters())
    assert module.epochs == 6
    assert more["schedule"].patience is None
    assert training.batch_size == 32
    assert training.sampler.weights is None
    order = [i for i, _ in training.sampler]
    assert sorted(order) == list(range(len(order)))
    assert order != sorted(order), "images of one class do not follow each other"
    training.sampler.set_epoch(1)
    assert [i for i, _ in training.sampler] == order, "all epochs have one order"
    image, target = training.dataset[3, 12345]
    assert torch.equal(image, torch.from_numpy(training.dataset.pixels[3])), "no augmentation"
    assert image.shape == (3, 224, 224)
    assert target == unbroken.train.targets[3]
    torch.testing.assert_close(module.pixels(image[None])[0], image.float() / 255)


def test_the_optimiser_is_adam_at_one_rate_over_network_and_centres() -> None:
    module = _module()

    class Trainer:
        estimated_stepping_batches = 10

    module._trainer = Trainer()  # type: ignore[assignment]
    module._fabric = None
    configured = module.configure_optimizers()
    optimiser, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    given = {id(p) for group in optimiser.param_groups for p in group["params"]}
    assert id(module.head.centres) in given
    assert given == {id(p) for p in module.parameters()}
    for group in optimiser.param_groups:
        assert (group["lr"], group["weight_decay"], group["betas"]) == (1e-3, 0.0, (0.9, 0.999))
    assert [schedule.lr_lambdas[0](step) for step in range(12)] == [1.0] * 12


@pytest.mark.parametrize(("normalisation", "expected"), [("unit", (0.0, 255.0)), ("backbone", None)])
def test_the_normalisation_is_by_configuration(
    unbroken: Fitted, tmp_path: Path, normalisation: str, expected: tuple[float, float] | None
) -> None:
    import timm

    module, _, _ = _before_training(unbroken, tmp_path, normalisation=normalisation)
    stated = timm.get_pretrained_cfg("test_resnet")
    mean, std = expected or (np.array(stated.mean) * 255, np.array(stated.std) * 255)
    np.testing.assert_allclose(module.mean.ravel(), np.broadcast_to(mean, 3), rtol=1e-6)
    np.testing.assert_allclose(module.std.ravel(), np.broadcast_to(std, 3), rtol=1e-6)


# ---------------------------------------------------------------------------------------------------- the three losses


def _unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _aam(embeddings: np.ndarray, centres: np.ndarray, targets: np.ndarray, margin: float, scale: float) -> float:
    """The ArcFace formula; no angle here is beyond pi - margin."""
    angles = np.arccos(_unit(embeddings) @ _unit(centres).T)
    own = np.arange(len(targets)), targets
    assert angles[own].max() < math.pi - margin
    angles[own] += margin
    logits = scale * np.cos(angles)
    return float((np.log(np.exp(logits).sum(axis=1)) - logits[own]).mean())


def _flipped(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.flip(-1)


@pytest.mark.parametrize(("margin", "scale", "weight"), [(0.499, 64.0, 1.0), (0.2, 8.0, 100.0), (0.0, 3.0, 0.0)])
def test_the_losses_are_those_of_the_configuration(margin: float, scale: float, weight: float) -> None:
    settings = {"margin_rad": margin, "scale": scale, "consistency_weight": weight}
    aam, both = (_module(loss=loss, **settings).eval() for loss in LOSSES[1:])
    both.rotated = _flipped  # type: ignore[method-assign]
    pixels = aam.pixels(_images())
    with torch.no_grad():
        embeddings, copies = (aam.embed(p).double().numpy() for p in (pixels, _flipped(pixels)))
        expected = _aam(embeddings, aam.head.centres.detach().double().numpy(), TARGETS.numpy(), margin, scale)
        assert aam.loss(pixels, TARGETS).item() == pytest.approx(expected, rel=1e-3)
        consistency = weight * ((embeddings - copies) ** 2).mean()
        assert consistency > 0 or weight == 0
        assert both.loss(pixels, TARGETS).item() == pytest.approx(expected + consistency, rel=1e-3)


@pytest.mark.parametrize(("smoothing", "head_size"), [(0.0, 1000), (0.3, 0), (0.3, 7), (0.0, 2)])
def test_softmax_is_cross_entropy_over_all_outputs_of_the_head(smoothing: float, head_size: int) -> None:
    module = _module(loss="softmax", head_size=head_size, optimiser={"label_smoothing": smoothing}).eval()
    assert module.head.weight.shape == (max(N_CLASSES, head_size), 96)
    images = _images()
    with torch.no_grad():
        logits = module.head(module.embed(module.pixels(images))).double().numpy()
        np.testing.assert_allclose(module(images), logits[:, :N_CLASSES], rtol=1e-5)
        loss = module.loss(module.pixels(images), TARGETS).item()
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    own = -log_p[np.arange(6), TARGETS.numpy()]
    assert loss == pytest.approx(((1 - smoothing) * own - smoothing * log_p.mean(axis=1)).mean(), rel=1e-4)


def test_dropout_thins_the_embedding_before_the_softmax_head_in_training_alone() -> None:
    module = _module(loss="softmax", dropout=0.5)
    taken: list[torch.Tensor] = []
    module.head.register_forward_hook(lambda head, given, output: taken.append(given[0]))
    module.embed = lambda pixels: torch.ones(6, 96)  # type: ignore[method-assign]
    for mode in (module.train, module.eval):
        mode()
        module.loss(torch.zeros(6, 3, 32, 32), TARGETS)
    thinned, whole = taken
    assert set(thinned.unique().tolist()) == {0.0, 2.0}
    assert 0.35 < (thinned == 0).float().mean() < 0.65
    assert torch.equal(whole, torch.ones(6, 96))


def test_balanced_class_weights_reach_the_outputs_that_are_classes() -> None:
    plain, weighed = (_module(loss="softmax", head_size=9).eval() for _ in range(2))
    weighed.weigh_classes(TARGETS.numpy())
    pixels = plain.pixels(_images())
    with torch.no_grad():
        log_p = plain.head(plain.embed(pixels)).log_softmax(dim=1)
    own = -log_p[range(6), TARGETS].double().numpy()
    weights = 6 / (4 * np.bincount(TARGETS.numpy())[TARGETS.numpy()])
    assert weighed.loss(pixels, TARGETS).item() == pytest.approx((own * weights).sum() / weights.sum(), rel=1e-4)


@pytest.mark.parametrize(("passes", "n_batches"), [("two", 2), ("one", 1)])
def test_batch_norm_sees_images_and_copies_apart_or_together(passes: str, n_batches: int) -> None:
    module = _module(passes=passes, stochastic_depth=0.0).train()
    norm = next(m for m in module.network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    seen: list[int] = []
    norm.register_forward_hook(lambda norm, given, output: seen.append(len(given[0])))
    module.loss(module.pixels(_images()), TARGETS)
    assert seen == [12 // n_batches] * n_batches
    assert int(norm.num_batches_tracked) == n_batches


@pytest.mark.parametrize("passes", ["two", "one"])
def test_the_consistency_term_sends_gradients_through_both_branches(passes: str) -> None:
    module = _module(consistency_weight=1.0, passes=passes).eval()
    seen: list[torch.Tensor] = []
    embed = module.embed

    def kept(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(embed(pixels))
        seen[-1].retain_grad()
        return seen[-1]

    module.embed = kept  # type: ignore[method-assign]
    module.head.loss = lambda embeddings, targets: embeddings.sum() * 0
    module.loss(module.pixels(_images()), TARGETS).backward()
    gradients = [embedding.grad for embedding in seen if embedding.grad is not None]
    assert len(gradients) == (2 if passes == "two" else 1)
    original, rotated = torch.cat(gradients).chunk(2)
    assert original.abs().max() > 0
    torch.testing.assert_close(original, -rotated)


def test_the_consistency_term_pulls_rotated_copies_together() -> None:
    """Ten steps on twelve images, with and without it; the distance is relative to the spread of the images."""
    coarse = torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    pixels = torch.nn.functional.interpolate(coarse, size=32, mode="bilinear")
    targets = torch.arange(12) % N_CLASSES
    distances = {}
    for weight in (0.0, 100.0):
        module = _module(consistency_weight=weight, scale=8.0).train()
        optimiser = torch.optim.Adam(module.parameters(), lr=3e-3)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for _ in range(10):
                optimiser.zero_grad()
                module.loss(pixels, targets).backward()
                optimiser.step()
            torch.manual_seed(7)
            with torch.no_grad():
                embeddings, copies = module.embed(pixels), module.embed(module.rotated(pixels))
        distances[weight] = ((embeddings - copies).square().mean() / embeddings.var(dim=0).mean()).item()
    assert distances[100.0] < distances[0.0] / 3


def test_each_image_turns_by_its_own_angle_on_the_whole_circle(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[torch.Tensor] = []

    def rotate(pixels: torch.Tensor, angles: torch.Tensor, fill: torch.Tensor) -> torch.Tensor:
        drawn.append(angles)
        return rotate_each(pixels, angles, fill)

    monkeypatch.setattr("hemalens.methods.bloodshot.rotate_each", rotate)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _module().rotated(torch.zeros(400, 3, 4, 4))
    angles = drawn[0].numpy()
    assert angles.shape == (400,)
    assert 0 <= angles.min() < 0.1
    assert 2 * math.pi - 0.1 < angles.max() <= 2 * math.pi
    assert np.abs(np.exp(1j * angles).mean()) < 0.15, "no direction is preferred"
    assert len(np.unique(angles)) > 390


@pytest.mark.parametrize(
    "normalisation", [UNIT, Preprocessing(size_px=32, mean=(120.0, 110.0, 90.0), std=(50.0, 60.0, 70.0))]
)
@pytest.mark.parametrize("fill", ["black", "border"])
def test_the_corners_of_a_rotated_copy(fill: str, normalisation: Preprocessing) -> None:
    """Black is gray level 0 after normalisation as before; the border's colour is each image's own."""
    module = _module(normalisation, rotation_fill=fill)
    colours = torch.tensor([[250, 200, 150], [30, 60, 90]], dtype=torch.uint8)
    images = colours[:, :, None, None].repeat(1, 1, 32, 32)
    images[:, :, 12:20, 12:20] = 128
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.rand", lambda n, **more: torch.full((n,), 0.125))  # an eighth of the circle
        turned = module.rotated(module.pixels(images))
    levels = turned * module.std + module.mean
    expected = colours.float() if fill == "border" else torch.zeros(2, 3)
    for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        torch.testing.assert_close(levels[:, :, row, column], expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(levels[:, :, 16, 3], colours.float(), rtol=0, atol=1e-3)
    torch.testing.assert_close(levels[:, :, 16, 16], torch.full((2, 3), 128.0), rtol=0, atol=1e-3)
    assert torch.equal(border_colours(images), colours)


# --------------------------------------------------------------------------------------------------------- the bundle


@pytest.fixture(scope="module", params=LOSSES)
def of_each_loss(
    request: pytest.FixtureRequest, unbroken: Fitted, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Bundle]:
    if request.param == "aam+consistency":
        return request.param, unbroken.bundle
    return request.param, _fit(unbroken, tmp_path_factory.mktemp("run"), loss=request.param, epochs=1)


def _outputs(bundle: Bundle, cells: CellDataset) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and uncalibrated logits of the graph."""
    names = ["embedding", "raw_logits"]
    session = onnxruntime.InferenceSession(
        cut(bundle.graph, ["image"], names).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    rows = [session.run(names, {"image": record.read()[None]}) for record in cells.records]
    return np.concatenate([row[0] for row in rows]), np.concatenate([row[1] for row in rows])


def test_the_bundle_of_each_loss_classifies(unbroken: Fitted, of_each_loss: tuple[str, Bundle]) -> None:
    loss, bundle = of_each_loss
    manifest = bundle.manifest
    assert manifest.method == "bloodshot"
    assert manifest.config["loss"] == loss
    assert manifest.labels == unbroken.train.classes
    assert manifest.embedding_size == 96
    assert 0 <= manifest.parity <= 1e-3
    assert (manifest.preprocessing.mean, manifest.preprocessing.std) == ((0.0,) * 3, (255.0,) * 3)
    for prediction in Predictor(bundle).predict(unbroken.validation.records[:3]):
        assert prediction.probabilities is not None
        assert prediction.probabilities.shape == (len(unbroken.train.classes),)
        assert prediction.probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_the_logits_are_the_head_s_answer_without_the_margin(unbroken: Fitted, of_each_loss: tuple[str, Bundle]) -> None:
    loss, bundle = of_each_loss
    embeddings, logits = _outputs(bundle, unbroken.validation)
    weights = load_file(bundle.path / "weights.safetensors")
    if loss == "softmax":
        expected = embeddings @ weights["head.weight"].numpy().T + weights["head.bias"].numpy()
        expected = expected[:, : len(bundle.manifest.labels)]
    else:
        expected = 64 * _unit(embeddings) @ _unit(weights["head.centres"].numpy()).T
        assert np.abs(logits).max() <= 64
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=2e-3)


def test_the_embedding_is_timm_s_with_the_bundle_s_weights(unbroken: Fitted, tmp_path: Path) -> None:
    import timm

    weights = load_file(unbroken.bundle.path / "weights.safetensors")
    network = timm.create_model("test_resnet", num_classes=0).eval()
    network.load_state_dict({name: t for name, t in weights.items() if not name.startswith("head.")}, strict=True)
    pixels = resized_images(unbroken.validation, unbroken.bundle.manifest.preprocessing, tmp_path / "none.npy")
    with torch.no_grad():
        expected = network(torch.from_numpy(pixels).float() / 255).numpy()
    embeddings, _ = _outputs(unbroken.bundle, unbroken.validation)
    np.testing.assert_allclose(embeddings, expected, rtol=1e-3, atol=1e-4)


def test_every_centre_and_weight_changes_in_training(unbroken: Fitted) -> None:
    seed = int(np.random.default_rng(1).integers(2**31))
    config = BloodShotConfig.from_mapping(trained.BLOODSHOT)
    untrained = EmbedderModule(create_backbone(config), UNIT, len(unbroken.train.classes), config, seed=seed)
    before = {name.removeprefix("network."): t for name, t in untrained.state_dict().items()}
    after = load_file(unbroken.bundle.path / "weights.safetensors")
    assert after.keys() == before.keys()
    moved = (after["head.centres"] - before["head.centres"]).norm(dim=1)
    # Adam moves each number by about the rate a step at first: 3 epochs of 3 steps
    assert (moved > 1e-3).all()
    assert moved.max() < 1e-3 * 9 * math.sqrt(96) * 1.01, "the centres begin where the seed says"
    assert all(not torch.equal(after[name], before[name]) for name, _ in untrained.network.named_parameters())


def test_a_killed_run_ends_as_an_unbroken_one(unbroken: Fitted, tmp_path: Path) -> None:
    """The angles of an epoch depend on the epoch alone."""
    begin = CellClassifier.on_train_epoch_start

    def killed_in_the_third(self: CellClassifier) -> None:
        if self.current_epoch == 2:
            raise KilledError
        begin(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CellClassifier, "on_train_epoch_start", killed_in_the_third)
        with pytest.raises(KilledError):
            _fit(unbroken, tmp_path)
    assert not (tmp_path / "bundle").exists()

    def begun(self: object, module: object, training: Any, *given: object, **more: object) -> None:
        assert training.sampler.epoch == 2, "workers load before the trainer tells the sampler its epoch"
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning.Trainer.fit", begun)
        with pytest.raises(KilledError):
            _fit(unbroken, tmp_path)
    again = load_file(_fit(unbroken, tmp_path).path / "weights.safetensors")
    whole = load_file(unbroken.bundle.path / "weights.safetensors")
    assert again.keys() == whole.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    assert (tmp_path / "history.jsonl").read_text() == (unbroken.run_dir / "history.jsonl").read_text()


# ------------------------------------------------------------------------------------------------------ configuration


@pytest.mark.parametrize(
    ("backbone", "size_px"),
    [
        ("test_efficientnet", 32),
        ("test_vit", 160),
        ("test_convnext", 64),
        ("test_mambaout", 32),
        ("mobilenetv3_small_050", 32),
    ],
)
@pytest.mark.parametrize("loss", ["softmax", "aam+consistency"])
def test_any_backbone_learns(backbone: str, size_px: int, loss: str) -> None:
    """Also those whose embedding is longer than their feature map is deep."""
    config = BloodShotConfig(backbone=backbone, loss=loss)
    module = EmbedderModule(create_backbone(config), UNIT, N_CLASSES, config, seed=0)
    module.train()
    images = _images(size_px=size_px)
    assert module(images).shape == (6, N_CLASSES)
    module.loss(module.pixels(images), TARGETS).backward()
    missing = [name for name, p in module.named_parameters() if p.grad is None]
    assert not missing


def test_local_weights_are_where_training_begins(unbroken: Fitted, tmp_path: Path) -> None:
    start = create_backbone(BackboneConfig(backbone="test_efficientnet", weights="none", seed=9), n_classes=3).state_dict()
    save_file(start, tmp_path / "start.safetensors")
    settings = {"backbone": "test_efficientnet", "weights": str(tmp_path / "start.safetensors")}
    module, _, _ = _before_training(unbroken, tmp_path / "run", **settings)
    for name, tensor in module.network.state_dict().items():
        assert torch.equal(tensor, start[name]), name


def _authors_checkpoint(path: Path, n_classes: int) -> tuple[torch.nn.Module, torch.Tensor]:
    """Write a checkpoint in the layout of the authors: a Lightning module around torchvision's network, pickled whole."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = torchvision.models.efficientnet_b0().train()
        with torch.no_grad():  # running statistics that are not those of an untrained network
            for _ in range(3):
                network(torch.rand(4, 3, 32, 32))
        centres = torch.randn(1280, n_classes)
    state = {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()} | {"metric_loss.W": centres}
    settings = {"backbone": network, "backbone_emb_size": 1280, "num_classes": n_classes, "consistency_loss_mult": 1}
    torch.save({"epoch": 5, "state_dict": state, "hyper_parameters": settings, "hparams_name": "kwargs"}, path)
    return network.eval(), centres


def test_the_authors_weights_predict_as_in_their_network(unbroken: Fitted, tmp_path: Path) -> None:
    """Without training: embeddings of torchvision's network, and classes by the cosine to the checkpoint's centres."""
    network, centres = _authors_checkpoint(tmp_path / "authors.ckpt", len(unbroken.train.classes))
    settings = {"backbone": "efficientnet_b0", "weights": str(tmp_path / "authors.ckpt"), "epochs": 0}
    bundle = _fit(unbroken, tmp_path / "run", **settings)
    pixels = resized_images(unbroken.validation, bundle.manifest.preprocessing, tmp_path / "none.npy")
    with torch.no_grad():
        maps = network.avgpool(network.features(torch.from_numpy(pixels).float() / 255))
    expected = torch.flatten(maps, 1).numpy()
    embeddings, logits = _outputs(bundle, unbroken.validation)
    np.testing.assert_allclose(embeddings, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(logits, 64 * _unit(expected) @ _unit(centres.numpy().T).T, rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize("change", [{}, {"loss": "softmax"}, {"weights": "none"}])
def test_untrained_weights_need_their_classifier(unbroken: Fitted, tmp_path: Path, change: dict[str, Any]) -> None:
    _authors_checkpoint(tmp_path / "authors.ckpt", 3)
    settings = {"backbone": "efficientnet_b0", "weights": str(tmp_path / "authors.ckpt"), "epochs": 0, **change}
    got = "none" if change.get("weights") == "none" else r"centres \(3, 1280\)"
    with pytest.raises(WeightsError, match=rf"must hold the classifier; expected (centres|weight) \(.*; got {got}"):
        _fit(unbroken, tmp_path / "run", **settings)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("passes", "three"),
        ("dropout", 1.0),
        ("stochastic_depth", -0.1),
        ("loss", "arcface"),
        ("margin_rad", 28.6),
        ("margin_rad", -0.1),
        ("scale", 0.0),
        ("consistency_weight", -1.0),
        ("patience", 0),
    ],
)
def test_what_cannot_be_is_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"key '{key}'"):
        BloodShotConfig.from_mapping({key: value})
