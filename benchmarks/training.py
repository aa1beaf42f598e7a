"""One epoch of `finetune` and of `robust` beside a plain timm loop of the same work, in alternating rounds.

Both sides train EfficientNet-Lite0 on the same JPEGs, with the same batches, AdamW and threads. `robust` also trains its
outline network, averages its weights and imitates laboratories; the plain loop has the same networks and number of passes.
The plain loop is a torch DataLoader with Pillow and torchvision's transforms; `channels_last` is a second one, in
the memory format that timm recommends. Two workers load images on each side.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from hemalens.datasets import CellDataset, open_dataset
from hemalens.datasets.synthetic import synthesize
from hemalens.methods.finetune import FinetuneConfig
from hemalens.methods.robust import GEOMETRY, RobustConfig, RobustModule
from hemalens.models.backbone import BackboneConfig, create_backbone, preprocessing_of
from hemalens.models.outline import OutlineNetwork, WithOutline
from hemalens.training.augmentation import Augmentation
from hemalens.training.classifier import CellClassifier
from hemalens.training.data import EpochSampler, PixelDataset, resized_images
from hemalens.training.laboratory_augmentation import LaboratoryAugmentation
from hemalens.training.subclass_labels import FineLabels
from hemalens.training.trainer import Schedule, train
from rows import Row

WORKERS = 2
"""Processes that load images, on both sides."""
PLAIN = {
    "finetune": [
        v2.RandomHorizontalFlip(),
        v2.RandomVerticalFlip(),
        v2.RandomRotation(180, interpolation=v2.InterpolationMode.BILINEAR),
        v2.ColorJitter(0.2, 0.2, 0.2, 0.02),
    ],
    "robust": [
        v2.RandomHorizontalFlip(),
        v2.RandomVerticalFlip(),
        v2.RandomAffine(180, scale=(0.77, 1.3), interpolation=v2.InterpolationMode.BILINEAR),
        v2.ColorJitter(0.35, 0.35, 0.6, 0.05),
        v2.RandomApply([v2.GaussianBlur(9, (0.1, 1.5))], 0.5),
        v2.RandomApply([v2.JPEG((40, 95))], 0.15),
    ],
}
"""Torchvision's transforms that come nearest to the augmentation of a method."""


class Folder(Dataset[Any]):
    """JPEGs, decoded by Pillow anew in every epoch."""

    def __init__(self, cells: CellDataset, size: int, method: str) -> None:
        self.paths = [record.path for record in cells.records]
        self.targets = cells.targets
        more = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
        if method == "robust":
            more.append(v2.RandomApply([v2.GaussianNoise(0, 0.02)], 0.5))
        self.change = v2.Compose([v2.Resize((size, size)), *PLAIN[method], *more, v2.Normalize([0.5] * 3, [0.5] * 3)])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Any:
        with Image.open(self.paths[i]) as image:
            return self.change(image.convert("RGB")), int(self.targets[i])


def networks(method: str, config: Any, n_classes: int) -> nn.Module:
    """The network, for `robust` with that of the outline."""
    network = create_backbone(BackboneConfig(image_size_px=config.image_size_px), n_classes=n_classes)
    if method == "finetune":
        return network
    outlined = OutlineNetwork(n_classes=n_classes, weights="none", seed=0)
    return WithOutline(network, outlined, preprocessing_of(config))


def plain_epoch(cells: CellDataset, method: str, config: Any, *, channels_last: bool) -> float:
    """Seconds of an epoch, the workers' start included, as it is in each epoch of a plain loop."""
    network = networks(method, config, len(cells.classes))
    form = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(memory_format=form).train()  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
    average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
    size = config.image_size_px
    loader = DataLoader(Folder(cells, size, method), config.batch_size, shuffle=True, num_workers=WORKERS, drop_last=True)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)
    begun = time.perf_counter()
    for images, targets in loader:
        pixels = images.to(memory_format=form)
        if isinstance(network, WithOutline):
            embedding = network.forward_head(network.forward_features(pixels), pre_logits=True)
            loss = torch.stack([loss_of(logits, targets) for logits in network.logits_of_each(embedding)]).sum()
        else:
            loss = loss_of(network(pixels), targets)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        if method == "robust":
            average.update_parameters(network)
    return time.perf_counter() - begun


def own_epoch(cells: CellDataset, method: str, config: Any, folder: Path) -> float:
    """Seconds of an epoch by the trainer, with its checkpoint, the images read through the cache."""
    preprocessing = preprocessing_of(config)
    network = networks(method, config, len(cells.classes))
    module: CellClassifier
    if method == "robust":
        labels = FineLabels.none(cells.classes)
        module = RobustModule(network, preprocessing, config=config, labels=labels, seed=0)
        augment: Any = v2.Compose([Augmentation(GEOMETRY), LaboratoryAugmentation(config.laboratory)])
    else:
        module = CellClassifier(network, preprocessing, optimiser=config.optimiser, epochs=1, seed=0)
        augment = Augmentation(config.augmentation)
    begun = time.perf_counter()
    pixels = resized_images(cells, preprocessing, folder / "train.npy")
    loader: DataLoader[Any] = DataLoader(
        PixelDataset(pixels, cells.targets, augment),
        config.batch_size,
        sampler=EpochSampler(len(cells), seed=0),
        drop_last=True,
        num_workers=config.n_loader_workers,
    )
    train(module, loader, None, run_dir=folder, schedule=Schedule(precision=config.precision))
    return time.perf_counter() - begun


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", metavar="SPEC", help="labelled images, by default synthetic ones as JPEGs")
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=sorted(PLAIN), default=sorted(PLAIN))
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        cells = images_of(chosen.data, chosen.images, top)
        shown = f"{len(cells)} images at {chosen.size} px, batches of {chosen.batch}"
        print(f"{shown}, {chosen.threads} thread(s), torch {torch.__version__}; images a second")
        print(f"{'method':<9} {'round':>5} {'plain':>8} {'channels_last':>14} {'hemalens':>9} {'ratios':>12}")
        for method in chosen.methods:
            compare(cells, method, chosen, top)


def images_of(spec: str | None, n: int, folder: Path) -> CellDataset:
    """`n` images of `spec`, or synthetic ones."""
    if spec is None:
        synthesize(folder / "cells", n_per_class=-(-n // 5), laboratories=["lab_a"])
        spec = f"synthetic:{folder / 'cells' / 'lab_a'}"
    cells = open_dataset(spec)
    order = [i for i in np.random.default_rng(0).permutation(len(cells)).tolist() if cells.records[i].label is not None]
    return cells.subset(sorted(order[:n]))


def measure(*, quick: bool = False) -> list[Row]:
    """Images a second of an epoch of each method, and of a plain timm loop in either memory format."""
    n, size, n_rounds = (96, 96, 1) if quick else (320, 224, 3)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        cells = images_of(None, n, Path(temporary))
        for method in sorted(PLAIN):
            found = rounds(cells, method, Path(temporary), size=size, batch=32, n_rounds=n_rounds)
            plain, last, own = (list(column) for column in zip(*found, strict=True))
            for peer, name in ((plain, "a plain timm loop"), (last, "the same in channels_last")):
                rows.append(Row.of(f"an epoch of {method}, {n} images", "images/s", own, peer, name))
    return rows


def rounds(
    cells: CellDataset, method: str, top: Path, *, size: int, batch: int, n_rounds: int
) -> Iterator[tuple[float, float, float]]:
    """Images a second of alternating rounds: the plain loop, the plain loop in channels_last, ours."""
    kind: Any = {"finetune": FinetuneConfig, "robust": RobustConfig}[method]
    more = {"mature_first": False, "images_per_epoch": None} if method == "robust" else {}
    config = kind(epochs=1, image_size_px=size, batch_size=batch, n_loader_workers=WORKERS, **more)
    n = len(cells) // batch * batch
    for number in range(n_rounds):
        plain, last = (n / plain_epoch(cells, method, config, channels_last=form) for form in (False, True))
        yield plain, last, n / own_epoch(cells, method, config, top / f"{method}_{number}")


def compare(cells: CellDataset, method: str, chosen: Any, top: Path) -> None:
    """Print a line a round, and medians."""
    ratios: list[tuple[float, float]] = []
    found = rounds(cells, method, top, size=chosen.size, batch=chosen.batch, n_rounds=chosen.rounds)
    for number, (plain, last, own) in enumerate(found):
        ratios.append((own / plain, own / last))
        print(f"{method:<9} {number:>5} {plain:>8.1f} {last:>14.1f} {own:>9.1f} {own / plain:>6.2f}{own / last:>6.2f}")
    medians = [statistics.median(column) for column in zip(*ratios, strict=True)]
    print(f"{method}: median ratio {medians[0]:.2f} to the plain loop, {medians[1]:.2f} to channels_last")


if __name__ == "__main__":
    main()
