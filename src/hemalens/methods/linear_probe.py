"""A classical head on the cached embeddings of a frozen backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import model_validator

from hemalens.bundle.bundle import Bundle
from hemalens.cache import FeatureCache
from hemalens.classifiers.heads import ClassWeights, check_head
from hemalens.datasets.base import CellDataset
from hemalens.errors import ConfigError
from hemalens.files import default_cache_dir
from hemalens.graphs.features import extract
from hemalens.methods.base import Method
from hemalens.models.backbone import BackboneConfig, frozen_graph, preprocessing_of
from hemalens.progress import track
from hemalens.training.probe import Encoded, Probe, export_probe


class LinearProbeConfig(BackboneConfig):
    """A backbone and a head.

    `head`: a name in `HEADS`. `class_weights`: "balanced" weights each class inversely to its size.
    """

    head: str = "lr"
    class_weights: ClassWeights = "none"

    @model_validator(mode="after")
    def _check_head(self) -> Self:
        check_head(self.head, self.class_weights)
        return self


def fit(
    train: CellDataset,
    *,
    validation: CellDataset | None,
    auxiliary: Mapping[str, CellDataset],
    config: LinearProbeConfig,
    rng: np.random.Generator,
    run_dir: Path,
) -> Bundle:
    """Embed the images once, fit the head, calibrate it on `validation`, write the bundle."""
    if auxiliary:
        raise ConfigError("linear_probe takes no auxiliary data", got=", ".join(auxiliary))
    encoder = frozen_graph(BackboneConfig(**config.model_dump(exclude={"head", "class_weights"})), default_cache_dir())
    cache = FeatureCache(default_cache_dir())
    n_images = len(train) + (len(validation) if validation else 0)
    with track("embedding", n_images) as progress:
        learn = Encoded(train, extract(train.records, encoder, cache=cache, progress=progress).complete())
        held = None
        if validation is not None:
            held = Encoded(validation, extract(validation.records, encoder, cache=cache, progress=progress).complete())
    probe = Probe(
        method="linear_probe",
        config=config,
        head=config.head,
        class_weights=config.class_weights,
        encoder=encoder,
        preprocessing=preprocessing_of(config),
        frozen_backbone=True,
    )
    return export_probe(probe, learn, held, seed=int(rng.integers(2**31)), run_dir=run_dir)


METHOD = Method("linear_probe", "frozen backbone, classical head on its embeddings", LinearProbeConfig, fit)
