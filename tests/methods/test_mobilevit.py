"""What is particular to `mobilevit`: its published settings, and the ways to even out classes that every method shares."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import trained
from hemalens.datasets.splits import balanced_weights
from hemalens.errors import ConfigError
from hemalens.imaging.reading import Preprocessing
from hemalens.methods import find_method
from hemalens.methods.mobilevit import METHOD, MobileVitConfig
from hemalens.models.backbone import create_backbone, preprocessing_of
from hemalens.training.classifier import CellClassifier
from hemalens.training.data import EpochSampler
from hemalens.training.module import OptimiserConfig

SIZES = (400, 40, 8)


def test_the_defaults_are_the_published_settings() -> None:
    """Batch 128, 200 epochs, 1e-3, cross-entropy, from scratch, imbalanced sampler; Adam and the last epoch are ours."""
    config = MobileVitConfig()
    assert (config.backbone, config.weights, preprocessing_of(config).size_px) == ("mobilevit_plain_xs", "none", 256)
    assert (config.batch_size, config.accumulate, config.epochs, config.patience) == (128, 1, 200, None)
    assert (config.kept_epoch, config.precision) == ("last", "fp32")
    assert (config.sampling, config.class_weights, config.images_per_epoch) == ("balanced", "none", None)
    optimiser = config.optimiser
    assert (optimiser.learning_rate, optimiser.schedule, optimiser.warmup_epochs) == (1e-3, "constant", 0)
    assert (optimiser.label_smoothing, optimiser.weight_decay, optimiser.gradient_clip) == (0, 0, None)


def test_the_loss_is_plain_cross_entropy() -> None:
    network = create_backbone(find_method("finetune").config.from_mapping(trained.FINETUNE), n_classes=3)
    optimiser = MobileVitConfig().optimiser
    module = CellClassifier(network, Preprocessing(size_px=32), optimiser=optimiser, epochs=1, seed=0).eval()
    pixels, wanted = torch.rand(6, 3, 32, 32), torch.tensor([0, 0, 1, 2, 2, 1])
    with torch.inference_mode():
        loss = float(module.loss(pixels, wanted))
        logits = module.classify(module.embed(pixels)).double().numpy()
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert loss == pytest.approx(-np.log(probability[np.arange(6), wanted]).mean(), rel=1e-4)


def _drawn(weights: Any) -> Counter[int]:
    targets = np.repeat(np.arange(3), SIZES)
    sampler = EpochSampler(len(targets), seed=0, weights=weights, n_draws=6000)
    return Counter(int(targets[i]) for i, _ in sampler)


def test_balanced_sampling_changes_the_mix_of_classes_and_none_leaves_it() -> None:
    targets = np.repeat(np.arange(3), SIZES)
    even, uneven = _drawn(balanced_weights(targets)), _drawn(None)
    for i, size in enumerate(SIZES):
        # five standard deviations of a binomial around a third
        assert abs(even[i] - 2000) < 5 * math.sqrt(6000 * (1 / 3) * (2 / 3))
        assert uneven[i] == pytest.approx(6000 * size / sum(SIZES), abs=size)


def test_an_epoch_of_balanced_draws_is_the_same_again_and_another_one_is_not() -> None:
    weights = balanced_weights(np.repeat(np.arange(3), SIZES))
    first, again = (EpochSampler(sum(SIZES), seed=3, weights=weights) for _ in range(2))
    assert list(first) == list(again)
    again.set_epoch(1)
    assert list(first) != list(again)


def _module() -> CellClassifier:
    config = find_method("finetune").config.from_mapping(trained.FINETUNE)
    network = create_backbone(config, n_classes=3)
    preprocessing = Preprocessing(size_px=32)
    optimiser = OptimiserConfig(label_smoothing=0.0)
    return CellClassifier(network, preprocessing, optimiser=optimiser, epochs=1, seed=0)


def test_class_weights_weigh_each_class_alike_in_the_loss() -> None:
    module = _module()
    targets = np.repeat(np.arange(3), SIZES)
    module.weigh_classes(targets)
    assert module.class_weights is not None
    per_image = module.class_weights.numpy()[targets]
    assert per_image.mean() == pytest.approx(1.0)
    totals = [per_image[targets == i].sum() for i in range(3)]
    assert totals == pytest.approx([totals[0]] * 3)


def test_the_weighted_loss_is_that_of_the_formula() -> None:
    module = _module().eval()
    module.weigh_classes(np.repeat(np.arange(3), SIZES))
    pixels, wanted = torch.rand(6, 3, 32, 32), torch.tensor([0, 0, 1, 2, 2, 1])
    with torch.inference_mode():
        logits = module.classify(module.embed(pixels)).double().numpy()
        loss = float(module.loss(pixels, wanted))
    chosen = logits[np.arange(6), wanted] - np.log(np.exp(logits).sum(axis=1))
    weights = module.class_weights.double().numpy()[wanted]  # type: ignore[union-attr]
    assert loss == pytest.approx(-(weights * chosen).sum() / weights.sum(), rel=1e-4)


def test_two_ways_to_balance_at_once_are_refused() -> None:
    fitted = trained.SETTINGS["mobilevit"]
    config = METHOD.config.from_mapping({**fitted, "sampling": "balanced", "class_weights": "balanced"})
    with pytest.raises(ConfigError, match="both balance the classes"):
        _fit_nothing(config)


def _fit_nothing(config: Any) -> None:
    from hemalens.training.fit import fit_network

    nothing: Any = SimpleNamespace(validation=())
    fit_network(_module(), nothing, method="mobilevit", config=config, run_dir=nothing)
