"""The detector of white cells, red cells and platelets: a small CenterNet on EfficientNet-Lite0, with the nucleus."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from hemalens.bundle.artifact import WEIGHTS, library_versions
from hemalens.bundle.detector import Detector, DetectorManifest, field_entry, write_detector
from hemalens.bundle.seen import SEEN, seen_images
from hemalens.bundle.stages import DETECTOR
from hemalens.datasets.fields.base import FieldDataset
from hemalens.detection.maps import network_input
from hemalens.imaging.boxes import KINDS
from hemalens.models.backbone import PACKAGED, BackboneConfig, preprocessing_of
from hemalens.models.detector import create_detector
from hemalens.training.checkpoints import tensor_bytes
from hemalens.training.detector.fit import DetectorTraining, check_maps, detector_graph, fit_boxes
from hemalens.training.detector.recolouring import RecolouringConfig
from hemalens.training.laboratory_augmentation import LaboratoryConfig
from hemalens.training.module import MOST, OptimiserConfig
from hemalens.training.trainer import Precision

NAME = "detector"
N_PARITY_FIELDS, PARITY_SIDES = 4, (128, 320, 512)
"""Training fields on which the graph is compared with the network, each at these longer sides."""
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
    changes the colours of red cells and nuclei by themselves. `leave_out`: laboratories (domains) whose fields are neither
    learned nor tested, as a list, or one text with commas. `backbone` is fixed.
    """

    backbone: str = Field(default=PACKAGED, pattern=f"^{PACKAGED}$")
    epochs: int = Field(default=20, ge=1, le=MOST)
    windows_per_epoch: int = Field(default=1200, ge=2, le=100 * MOST)
    batch_size: int = Field(default=12, ge=2, le=MOST)
    side_px: int = Field(default=192, ge=64, le=1024, multiple_of=16)
    precision: Precision = "auto"
    optimiser: OptimiserConfig = ADAMW
    recolouring: RecolouringConfig = RecolouringConfig()
    laboratory: LaboratoryConfig = LABORATORY
    mild: LaboratoryConfig = MILD
    strong_share: float = Field(default=0.7, ge=0, le=1)
    leave_out: tuple[str, ...] = Field(default=(), strict=False)

    @field_validator("leave_out", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        if self.windows_per_epoch < self.batch_size:
            raise ValueError(f"windows_per_epoch={self.windows_per_epoch} is less than batch_size={self.batch_size}")
        if self.image_size_px is not None:
            raise ValueError("a detector takes images of any size; side_px is that of its training windows")
        return self


def fit_detector(
    train: Sequence[FieldDataset],
    *,
    config: DetectorConfig,
    run_dir: Path,
    dropped: Sequence[dict[str, int]],
    left_out: Mapping[str, int],
) -> Detector:
    """Train on all fields of the datasets `train`, write `run_dir`/detector; an interrupted training resumes.

    The manifest states the fields `dropped` from each dataset, by reason, and those of each laboratory left out.
    """
    preprocessing = preprocessing_of(config)
    fields = [field for dataset in train for field in dataset.fields]
    how = DetectorTraining(**{name: getattr(config, name) for name in DetectorTraining.model_fields})
    network, nuclei = fit_boxes(create_detector(config), fields, preprocessing, how, run_dir)
    graph = detector_graph(network, preprocessing)
    shown = [field.read() for field in fields[:: max(1, len(fields) // N_PARITY_FIELDS)][:N_PARITY_FIELDS]]
    parity = check_maps(
        graph, network, preprocessing, (network_input(image, side).pixels for image in shown for side in PARITY_SIDES)
    )
    manifest = DetectorManifest(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        method=NAME,
        config=config.model_dump(mode="json"),
        preprocessing=preprocessing,
        n_fields=len(fields),
        n_boxes={str(kind): sum(dataset.counts[kind] for dataset in train) for kind in KINDS},
        n_parameters=sum(parameter.numel() for parameter in network.parameters()),
        laboratories=dict(sorted(Counter(field.record.domain for field in fields).items())),
        left_out=dict(left_out),
        nuclei=asdict(nuclei),
        data=tuple(field_entry(dataset, reasons) for dataset, reasons in zip(train, dropped, strict=True)),
        parity=parity,
        versions=library_versions(),
    )
    files = {
        DETECTOR: graph.SerializeToString(),
        WEIGHTS: tensor_bytes(network.state_dict()),
        SEEN: seen_images(field.record.content_id() for field in fields),
    }
    written = write_detector(run_dir / "detector", manifest, files)
    for folder in ("checkpoints", "scratch"):
        shutil.rmtree(run_dir / folder, ignore_errors=True)
    return written
