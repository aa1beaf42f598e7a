"""The detector of white cells, red cells and platelets: a small CenterNet on EfficientNet-Lite0, with the nucleus."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field

from hemalens.bundle.artifact import WEIGHTS, library_versions
from hemalens.bundle.detector import DETECTOR, Detector, DetectorManifest, write_detector
from hemalens.datasets.fields.base import FieldDataset
from hemalens.detection.maps import network_input
from hemalens.models.backbone import PACKAGED, BackboneConfig, preprocessing_of
from hemalens.models.detector import create_detector
from hemalens.training.checkpoints import tensor_bytes
from hemalens.training.detector.fit import DetectorTraining, check_maps, detector_graph, fit_boxes
from hemalens.training.detector.recolouring import RecolouringConfig
from hemalens.training.laboratory_augmentation import LaboratoryConfig
from hemalens.training.module import MOST, OptimiserConfig
from hemalens.training.trainer import Precision

NAME = "detector"
LABORATORY = LaboratoryConfig(
    tight=0.1, jpeg=0.2, gradient=0.25, vignetting=0.35, channel_gain=0.35, colour_shift=25, colour_turn_deg=35
)
"""Imitates other laboratories, further than for a classifier: a detector's cells keep their outline in any colour."""
MILD = LaboratoryConfig(
    tight=0,
    jpeg=0.1,
    lightness_shift=5,
    colour_gain=0.2,
    colour_shift=6,
    colour_turn_deg=8,
    haze=0,
    coarseness=0.5,
    blur_px=0.7,
)
"""The laboratories of the training images themselves, nearly."""
ADAMW = OptimiserConfig(learning_rate=1.5e-3, weight_decay=0.01, warmup_steps=100, label_smoothing=0.0, gradient_clip=5.0)


class DetectorConfig(BackboneConfig):
    """Settings of the detector.

    `epochs` of `windows_per_epoch` windows, `side_px` on a side, drawn from fields of all laboratories equally often. Of
    these, a share `strong_share` imitates other laboratories by `laboratory`, the others their own by `mild`; `recolouring`
    changes the colours of red cells and nuclei by themselves. `backbone` is fixed.
    """

    backbone: str = Field(default=PACKAGED, pattern=f"^{PACKAGED}$")
    epochs: int = Field(default=24, ge=1, le=MOST)
    windows_per_epoch: int = Field(default=1200, ge=2, le=100 * MOST)
    batch_size: int = Field(default=12, ge=2, le=MOST)
    side_px: int = Field(default=192, ge=64, le=1024, multiple_of=16)
    precision: Precision = "auto"
    optimiser: OptimiserConfig = ADAMW
    recolouring: RecolouringConfig = RecolouringConfig()
    laboratory: LaboratoryConfig = LABORATORY
    mild: LaboratoryConfig = MILD
    strong_share: float = Field(default=0.7, ge=0, le=1)


def fit_detector(train: FieldDataset, *, config: DetectorConfig, run_dir: Path) -> Detector:
    """Train on all fields of `train`, write `run_dir`/detector; an interrupted training resumes."""
    preprocessing = preprocessing_of(config)
    shared = DetectorTraining.model_fields.keys()
    how = DetectorTraining(**{name: getattr(config, name) for name in shared})
    network = fit_boxes(create_detector(config), train, preprocessing, how, run_dir)
    graph = detector_graph(network, preprocessing)
    parity = max(
        check_maps(graph, network, preprocessing, network_input(field.read(), 256).pixels) for field in train.fields[:4]
    )
    manifest = DetectorManifest(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        method=NAME,
        config=config.model_dump(mode="json"),
        preprocessing=preprocessing,
        n_fields=len(train),
        n_boxes={str(kind): n for kind, n in train.counts.items()},
        n_parameters=sum(parameter.numel() for parameter in network.parameters()),
        data=(),
        parity=parity,
        versions=library_versions(),
    )
    files = {DETECTOR: graph.SerializeToString(), WEIGHTS: tensor_bytes(network.state_dict())}
    written = write_detector(run_dir / "detector", manifest, files)
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
    return written
