"""Defaults of the published methods and rows, against numbers written here by hand.

Each number is the paper's; where a paper is silent, that of its authors' code, or a stated choice. A default that drifts
from them fails here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hemalens.classifiers.few_shot import FewShotConfig
from hemalens.classifiers.heads import HEADS
from hemalens.config import StrictConfig
from hemalens.methods import find_method
from hemalens.methods.bc_sam_segmenter import SegmenterConfig
from hemalens.models.autoencoder import DECODER, CellAutoencoder
from hemalens.models.sam import SamConfig, image_size_of
from hemalens.studies import STUDIES, find_study
from hemalens.studies.base import StudyOptions
from hemalens.studies.bc_sam.config import read_configs
from hemalens.studies.bloodshot.embedders import PUBLISHED, embedder_config
from hemalens.studies.mobilevit.settings import MobileVitStudyConfig, network_configs
from hemalens.studies.wbc import augmentation, combined
from hemalens.studies.wbc.common import Row, chosen_rows, study_config
from hemalens.training.losses import maximum_mean_discrepancy
from hemalens.training.segmenter import ROTATION_DEG

Settings = Mapping[str, Any]


def _flat(settings: Settings, prefix: str = "") -> dict[str, Any]:
    """Nested settings as `group.key`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _check(config: StrictConfig, expected: Settings) -> None:
    """Fail for each setting that differs or is missing."""
    found = _flat(config.model_dump())
    differences = [
        f"{key}: {found.get(key, 'no such setting')!r} instead of {value!r}"
        for key, value in expected.items()
        if key not in found or found[key] != (pytest.approx(value) if isinstance(value, float) else value)
    ]
    assert not differences, f"{type(config).__name__}: {'; '.join(differences)}"


def _config(name: str) -> StrictConfig:
    """The defaults of a configuration class of a study, wherever its module is."""
    for study in STUDIES:
        find_study(study)
    classes, found = [StrictConfig], []
    while classes:
        each = classes.pop()
        classes += each.__subclasses__()
        found += [each] if each.__name__ == name else []
    (one,) = found
    return one()


def _optimiser(prefix: str = "optimiser.", **settings: Any) -> dict[str, Any]:
    """Settings of an optimiser; cross-entropy is plain and gradients are not clipped unless a paper says so."""
    return {f"{prefix}{key}": value for key, value in ({"label_smoothing": 0.0, "gradient_clip": None} | settings).items()}


def _no_augmentation(prefix: str = "augmentation.") -> dict[str, Any]:
    return {
        f"{prefix}flip": False,
        **{f"{prefix}{key}": 0.0 for key in ("rotation_deg", "zoom", "brightness", "contrast", "saturation", "hue")},
    }


def _no_colour(prefix: str = "augmentation.") -> dict[str, Any]:
    return {f"{prefix}{key}": 0.0 for key in ("brightness", "contrast", "saturation", "hue")}


# BC-SAM (Cai et al. 2024): sections 2.2 and 3.1; the authors' code for what these leave open

SEGMENTER: Settings = {
    # paper: ViT-B, rank 4, 1 % of all images have a mask, AdamW 5e-4 and 0.05, warm-up and cosine, 85 epochs
    "architecture": "vit_b",
    "rank": 4,
    "mask_fraction": 0.01,
    "epochs": 85,
    **_optimiser(learning_rate=5e-4, weight_decay=0.05, schedule="cosine"),
    # code: torch's AdamW on all parameters, 10 of 150 epochs of warm-up, batches of 32, 0.2 CE + 0.8 Dice, seed, input
    "optimiser.decay_all": True,
    "optimiser.warmup_epochs": 10.0,
    "optimiser.warmup_steps": None,
    "optimiser.schedule_epochs": 150,
    "optimiser.cosine_length": "whole",
    "batch_size": 32,
    "ce_weight": 0.2,
    "dice_weight": 0.8,
    "augment": True,
    "antialias": False,
    "mean": (215.0322, 187.7592, 200.4668),
    "std": (41.3047, 56.9191, 21.9522),
    "seed": 1234,
    "precision": "fp32",
}
BC_SAM: Settings = {
    # paper: the embedding of LoRA-SAM, a latent of 50, 1 - SSIM + 5 MMD, AdamW 5e-4 and 0.05, 10 epochs, gray 128 outside
    "features": "segmenter",
    "background": 128,
    "autoencoder.latent_size": 50,
    "autoencoder.mmd": "linear",
    "autoencoder.mmd_weight": 5.0,
    "autoencoder.epochs": 10,
    **_optimiser("autoencoder.optimiser.", learning_rate=5e-4, weight_decay=0.05, schedule="cosine"),
    # code: warm-up over 500 batches, torch's AdamW on all parameters, batches of 128, seed, cell images of 128 px with a
    # margin of 10 px, cut from the image at 224 px by 4-neighbours, cubic spline, SSIM padded with zeros
    "autoencoder.optimiser.decay_all": True,
    "autoencoder.optimiser.warmup_steps": 500,
    "autoencoder.optimiser.schedule_epochs": None,
    "autoencoder.optimiser.cosine_length": "whole",
    "autoencoder.batch_size": 128,
    "autoencoder.side_px": 128,
    "autoencoder.decoder_width": 1.0,
    "autoencoder.ssim_padding": "zeros",
    "autoencoder.seed": 1234,
    "autoencoder.precision": "fp32",
    "margin_px": 10,
    "cut_from": "resized",
    "connectivity": 4,
    "resampling": "spline",
    # the head of the best mean in the paper's table
    "head": "ann",
    "class_weights": "none",
}
AE_CFE: Settings = {
    # Salehi et al. 2022, the authors' code: Adam 1e-3 at a constant rate, 150 epochs, batches of 500, 5 x discrepancy
    "epochs": 150,
    "batch_size": 500,
    "discrepancy_weight": 5.0,
    "width": 1.0,
    **_optimiser(learning_rate=1e-3, weight_decay=0.0, schedule="constant", warmup_epochs=0.0),
}
BC_SAM_STUDY: Settings = {"labels": "thirteen_class", "n_folds": 5, "split_seed": 1234, "min_per_class": 1}

# BloodShot (Laor 2022): section 3; the author's code for what it leaves open

BLOODSHOT: Settings = {
    # paper: EfficientNet-B0 from random weights, 224 px, values in [0, 1], Adam 1e-3, batches of 32, the last of 6 epochs,
    # AAM-softmax plus 1 x consistency, no augmentation
    "backbone": "efficientnet_b0",
    "weights": "none",
    "image_size_px": 224,
    "normalisation": "unit",
    "loss": "aam+consistency",
    "consistency_weight": 1.0,
    "epochs": 6,
    "batch_size": 32,
    "patience": None,
    "kept_epoch": "last",
    **_optimiser(learning_rate=1e-3, weight_decay=0.0, schedule="constant", warmup_epochs=0.0),
    **_no_augmentation(),
    # code: margin of 28.6 degrees, scale 64, black corners, one order, each image once, two passes, torchvision's network
    "margin_rad": math.radians(28.6),
    "scale": 64.0,
    "rotation_fill": "black",
    "passes": "two",
    "sampling": "none",
    "reshuffle": False,
    "class_weights": "none",
    "interpolation": "bicubic",
    "initialisation": "torchvision",
    "stochastic_depth": 0.2,
    "dropout": 0.2,
    "head_size": 1000,
    "seed": 123,
    "precision": "fp32",
}
BLOODSHOT_STUDY: Settings = {
    # paper: without four classes; 10 images a class, 100 repeats; k of figure 3 with 20 repeats; 400 points in figure 2
    "generic_labels": "as_labelled",
    "novel_labels": "as_labelled",
    "leave_out": ("KSC", "LYA", "MMZ", "MOB"),
    "table_shots": 10,
    "table_repeats": 100,
    "sweep_shots": (1, 2, 3, 5, 10, 15, 20, 30, 50),
    "sweep_repeats": 20,
    "scatter_points": 400,
    # code: a plain random split by seed 42; images drawn with replacement by one generator of seed 42
    "split": "random",
    "split_seed": 42,
    "replacement": True,
    "generator": "one",
    "drawing_seed": 42,
}
FEW_SHOT: Settings = {"rule": "prototype", "normalise": False, "centre": "none", "n_prototypes": 1}

# White cells with other tissue (Mo 2023)

WHITE_CELLS: Settings = {
    # paper: ResNet-18 of ImageNet, the best of 30 epochs by accuracy; flips and rotation
    "backbone": "resnet18",
    "weights": "hub:tv_in1k",
    "image_size_px": 224,
    "open_stages": 1,
    "epochs": 30,
    "kept_epoch": "best",
    "selection_score": "accuracy",
    "augmentation.flip": True,
    **_no_colour(),
    # silent: every image once, and no label smoothing or clipping
    "sampling": "none",
    "class_weights": "none",
    "precision": "fp32",
    **_optimiser(),
}
COMBINED: Settings = {
    **WHITE_CELLS,
    # paper: masked where there is a mask; CAM16 with the first convolution and block frozen, the best of 20 epochs;
    # an autoencoder of whole regions with a latent of 512 and MSE
    "masks.masked_inputs": True,
    "masks.copies": 0,
    "pretraining.frozen_blocks": 1,
    "pretraining.masked_inputs": True,
    "pretraining.epochs": 20,
    "pretraining.kept_epoch": "best",
    "pretraining.selection_score": "accuracy",
    "pretraining.sampling": "none",
    "pretraining.augmentation.flip": True,
    **_no_colour("pretraining.augmentation."),
    **_optimiser("pretraining.optimiser."),
    "prcc": "autoencoder",
    "autoencoder.latent_size": 512,
    "autoencoder.loss": "mse",
    "autoencoder.tile_px": None,
    # paper: VGG16, 100 principal components, 2 clusters, of whole regions
    "clustering.backbone": "vgg16",
    "clustering.n_components": 100,
    "clustering.n_clusters": 2,
    "clustering.tile_px": None,
}

# White cells with few labels (Kong 2023)

KONG: Settings = {
    # paper: ResNet-18 from random weights, the best epoch by accuracy, and no augmentation but the new images
    "backbone": "resnet18",
    "weights": "none",
    "kept_epoch": "best",
    "selection_score": "accuracy",
    **_no_augmentation(),
    # figure 2: 224 px; silent: epochs, every image once, no label smoothing or clipping
    "image_size_px": 224,
    "epochs": 30,
    "open_stages": None,
    "frozen_blocks": 0,
    "sampling": "none",
    "class_weights": "none",
    "precision": "fp32",
    **_optimiser(),
    "pretraining.frozen_blocks": 0,
    "pretraining.selection_score": "accuracy",
    "pretraining.sampling": "none",
    **_no_augmentation("pretraining.augmentation."),
    **_optimiser("pretraining.optimiser."),
}
MASK_AUGMENTATION: Settings = {**KONG, "masks.copies": 5, "masks.background": "mixed", "masks.masked_inputs": False}
WBC_STUDY: Settings = {"labels": "five_class", "fractions": (1.0, 0.5, 0.1, 0.01), "mask_fraction": 0.1}

# MobileViT (Wang, Shang and Zhang): sections 3.1 to 3.4

MOBILEVIT: Settings = {
    # paper: from random weights, batches of 128, 200 epochs, 1e-3, cross-entropy, classes drawn equally often
    "weights": "none",
    "batch_size": 128,
    "epochs": 200,
    "sampling": "balanced",
    "class_weights": "none",
    **_optimiser(learning_rate=1e-3),
    # the feature map is 32 x 32 when it enters the first MobileViT block
    "image_size_px": 256,
    # silent: Adam at a constant rate, the last epoch
    "optimiser.weight_decay": 0.0,
    "optimiser.schedule": "constant",
    "optimiser.warmup_epochs": 0.0,
    "patience": None,
    "kept_epoch": "last",
    "precision": "fp32",
}
MOBILEVIT_STUDY: Settings = {
    "labels": "fab_eight",
    "n_images": 6033,
    "test_fraction": 0.1,
    "validation_fraction": 0.0,
    "stratified": False,
}

METHODS: Mapping[str, Settings] = {
    "bc_sam": BC_SAM,
    "bloodshot": BLOODSHOT,
    "combined_network": COMBINED,
    "mask_augmentation": MASK_AUGMENTATION,
    "mobilevit": MOBILEVIT,
}
STUDY_CONFIGS: Mapping[str, Settings] = {
    "BCSamStudyConfig": BC_SAM_STUDY,
    "BloodShotStudyConfig": BLOODSHOT_STUDY,
    "WbcStudyConfig": WBC_STUDY,
    "MobileVitStudyConfig": MOBILEVIT_STUDY,
}


@pytest.mark.parametrize("name", METHODS)
def test_methods(name: str) -> None:
    _check(find_method(name).config(), METHODS[name])


def test_the_segmenter() -> None:
    _check(SegmenterConfig(), SEGMENTER)
    assert image_size_of(SamConfig(architecture="vit_b", weights="none")) == 224
    assert ROTATION_DEG == 20.0


@pytest.mark.parametrize("name", STUDY_CONFIGS)
def test_studies(name: str) -> None:
    _check(_config(name), STUDY_CONFIGS[name])


def test_few_shot_is_the_nearest_class_mean_by_cosine() -> None:
    _check(FewShotConfig(), FEW_SHOT)


# Rows of the studies


@pytest.mark.parametrize("loss", ["softmax", "aam", "aam+consistency"])
def test_rows_of_bloodshot_differ_in_the_loss_alone(loss: str) -> None:
    assert PUBLISHED == ("softmax, random", "aam, random", "aam+consistency, random")
    _check(embedder_config(f"{loss}, random", ()), {**BLOODSHOT, "loss": loss})


@pytest.mark.parametrize(
    ("key", "method", "roles", "expected"),
    [
        ("scratch", "finetune", (), KONG),
        ("pretrained", "finetune", ("pretraining",), KONG),
        ("augmented", "mask_augmentation", ("pretraining",), MASK_AUGMENTATION),
    ],
)
def test_rows_of_kong(key: str, method: str, roles: tuple[str, ...], expected: Settings) -> None:
    row = augmentation.ROWS[key]
    assert (row.method, row.auxiliary) == (method, roles)
    masks = {} if method == "mask_augmentation" else {"masks.copies": 0, "masks.masked_inputs": False}
    _check(row.config(()), {**expected, **masks})
    _check_all_epochs_run(row.config(()))


def test_rows_of_mo() -> None:
    alone, both = combined.ROWS["alone"], combined.ROWS["combined"]
    assert (alone.method, alone.auxiliary) == ("finetune", ())
    assert (both.method, both.auxiliary) == ("combined_network", ("cam16", "prcc"))
    without_masks = {"masks.copies": 0, "masks.masked_inputs": False}
    _check(alone.config(()), {**WHITE_CELLS, **without_masks})
    _check(both.config(()), COMBINED)
    for row in (alone, both):
        _check_all_epochs_run(row.config(()))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(augmentation.ROWS, ("scratch", "pretrained", "augmented")), (combined.ROWS, ("alone", "combined", "clusters"))],
)
def test_published_rows_of_the_white_cell_studies(rows: Mapping[str, Row], expected: tuple[str, ...]) -> None:
    assert tuple(chosen_rows(rows, (), published_only=True)) == expected
    # both papers choose the epoch on the images they report
    assert study_config(StudyOptions(Path("run"), published_only=True)).selection == "published-selection"


def test_rows_of_mobilevit_differ_in_the_network_alone() -> None:
    configs = network_configs(MobileVitStudyConfig(), ())
    assert tuple(configs)[:4] == ("resnet50", "densenet121", "mobilenetv2_100", "mobilenetv3_large_100")
    assert tuple(configs)[4].startswith("mobilevit")
    assert len(configs) == 5
    for name, config in configs.items():
        # the published FLOPs of the convolutional networks are those at 224 px
        size = 256 if name.startswith("mobilevit") else 224
        _check(config, {**MOBILEVIT, "backbone": name, "image_size_px": size})


def test_published_rows_of_bc_sam() -> None:
    configs = read_configs(("features.segmenter=FOLDER",), masks=False, published_only=True)
    only = {
        "heads": ("rf", "svm_poly", "xgboost", "svm_rbf", "ann"),
        "protocols": ("transductive",),
        "discrepancies": ("linear",),
        "pooled": False,
        "resnext": True,
        "ae_cfe": True,
        "dorl": False,
    }
    _check(configs.study, {**BC_SAM_STUDY, **only})
    _check(configs.features, BC_SAM)
    _check(configs.ae_cfe, AE_CFE)


def _check_all_epochs_run(config: StrictConfig) -> None:
    """The best of all epochs: no training stops early."""
    for each in (config, getattr(config, "pretraining", config)):
        patience, epochs = each.patience, each.epochs  # type: ignore[attr-defined]
        assert patience is None or patience >= epochs


# Heads of BC-SAM: section 3.1, and the authors' code for the scaling


def test_heads_of_bc_sam() -> None:
    assert {name for name in HEADS if HEADS[name].standardise} >= {"svm_rbf", "svm_poly", "ann"}
    assert not HEADS["rf"].standardise
    assert not HEADS["xgboost"].standardise
    forest = HEADS["rf"].build(7)
    assert (forest.n_estimators, forest.max_depth, forest.criterion) == (200, 16, "gini")
    network = HEADS["ann"].build(7)
    assert (network.hidden_layer_sizes, network.max_iter, network.early_stopping) == ((100,), 1000, True)
    for name, kernel in (("svm_rbf", "rbf"), ("svm_poly", "poly")):
        settings = HEADS[name].build(7).get_params()
        assert kernel in settings.values()
        # scikit-learn's own penalty
        assert settings.get("C", 1.0) == 1.0
    boosting = HEADS["xgboost"].build(7).get_params()
    assert {key: value for key, value in boosting.items() if value is not None and key != "missing"}.keys() <= {
        "objective",
        "random_state",
        "enable_categorical",
    }


# Networks and the loss of BC-SAM


def test_layers_of_the_autoencoder() -> None:
    """Three convolutions to 50 numbers, eight transposed ones to 128 px, with the parameters of the authors' network."""
    assert DECODER == (
        (150, 5, 1),
        (200, 4, 2),
        (256, 3, 1),
        (200, 5, 2),
        (180, 3, 2),
        (150, 3, 2),
        (128, 2, 1),
        (3, 1, 1),
    )
    network = CellAutoencoder(768).eval()
    convolutions = [m for m in network.encoder.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0]) for m in convolutions] == [
        (768, 256, 1, 1),
        (256, 256, 3, 2),
        (256, 50, 1, 1),
    ]
    assert sum(parameter.numel() for parameter in network.parameters()) == 3_857_197
    with torch.inference_mode():
        latent, drawn = network(torch.zeros(1, 768, 14, 14))
    assert (latent.shape, drawn.shape) == ((1, 50), (1, 3, 128, 128))


def test_the_discrepancy_is_the_mean_over_the_latent() -> None:
    """The authors' mean squared error of the two mean latents: (3^2 + 4^2) / 2."""
    latents = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 6.0]])
    assert maximum_mean_discrepancy(latents, torch.tensor([0, 0, 1])) == pytest.approx(12.5)
