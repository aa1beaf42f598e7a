"""Frozen backbone, cached embeddings, a classical head on top."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hemalens.bundle import Bundle
from hemalens.datasets.base import CellDataset, Record
from hemalens.errors import ConfigError, SplitError
from hemalens.evaluation.metrics import fit_temperature, log_softmax
from hemalens.features import FeatureCache, default_cache_dir, extract
from hemalens.graphs import join
from hemalens.heads import head_graph, head_logits, make_head
from hemalens.methods.base import Method
from hemalens.models.backbone import BackboneConfig, frozen_graph, preprocessing_of
from hemalens.progress import track
from hemalens.training.export import Trained, export_bundle


class LinearProbeConfig(BackboneConfig):
    """A backbone and a head: lr, rf, svm_rbf, svm_poly, ann or xgboost."""

    head: str = "lr"


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
    head = make_head(config.head, seed=int(rng.integers(2**31)))
    encoder = frozen_graph(BackboneConfig(**config.model_dump(exclude={"head"})), default_cache_dir())
    cache = FeatureCache(default_cache_dir())
    n_images = len(train) + (len(validation) if validation else 0)
    with track("embedding", n_images) as progress:
        embeddings = extract(train.records, encoder, cache=cache, progress=progress).complete()
        held = extract(validation.records, encoder, cache=cache, progress=progress).complete() if validation else None
    try:
        # these matrix products are too small to share: one thread is twice as fast as two, more so on a busy machine
        with threadpool_limits(1, user_api="blas"):
            head.fit(embeddings, train.targets)
    except ValueError as error:
        # heads with inner folds or a validation part of their own need some images of each class
        raise SplitError(
            f"the head {config.head!r} cannot learn from {len(train)} images of {len(train.classes)} classes",
            got=str(error),
            remedy="Add images, or take another head, as in --set head=lr.",
        ) from error
    temperature = 1.0
    if validation is not None and held is not None:
        temperature = fit_temperature(head_logits(head, held), validation.targets)

    def reference(records: list[Record]) -> NDArray[np.float64]:
        logits = head_logits(head, extract(records, encoder, cache=cache).complete())
        return np.exp(log_softmax(logits / temperature))

    trained = Trained(
        method="linear_probe",
        config=config,
        train=train,
        validation=validation,
        graph=join(
            encoder, head_graph(head, n_features=embeddings.shape[1], n_classes=len(train.classes)), keep=("embedding",)
        ),
        preprocessing=preprocessing_of(config),
        temperature=temperature,
        frozen_backbone=True,
        reference=reference,
    )
    return export_bundle(trained, run_dir / "bundle")


METHOD = Method("linear_probe", "frozen backbone, classical head", LinearProbeConfig, fit)
