"""Concatenate the embeddings of a bundle, further bundles, and the ImageNet network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from hemalens.adaptation.source_head import SourceHead
from hemalens.bundle.bundle import MODEL, Bundle, bundle_folder, open_bundle
from hemalens.cache import FeatureCache
from hemalens.classifiers.few_shot import FewShotConfig
from hemalens.datasets import CellDataset
from hemalens.errors import ConfigError
from hemalens.files import default_cache_dir
from hemalens.graphs import build as graphs
from hemalens.graphs.features import extract
from hemalens.progress import track

IMAGENET = "imagenet"
"""Names the packaged network with ImageNet weights in place of a bundle's folder; ./imagenet is a folder."""


@dataclass(frozen=True, slots=True)
class Embedder:
    """An encoder, image -> embedding (n, size), with the digest of its weights; `bundle`: None for the ImageNet network."""

    name: str
    encoder: onnx.ModelProto
    size: int
    sha256: str
    bundle: Bundle | None = None

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the embeddings that its own is concatenated of."""
        return (self.bundle.manifest.embedding_parts if self.bundle else ()) or (self.size,)

    @classmethod
    def of(cls, bundle: Bundle) -> Embedder:
        """The encoder of an opened bundle."""
        manifest = bundle.manifest
        encoder = graphs.cut(bundle.tested_graph, ["image"], ["embedding"])
        return cls(manifest.method, encoder, manifest.embedding_size, manifest.files[MODEL].sha256, bundle)


@dataclass(frozen=True, slots=True)
class Embedders:
    """The encoders `each` of a bundle and of those beside it, joined in `encoder`: image -> embedding (n, d).

    `head` is the first bundle's, or None if it is not kept.
    """

    each: tuple[Embedder, ...]
    encoder: onnx.ModelProto
    head: SourceHead | None

    @property
    def bundles(self) -> list[Bundle]:
        """The bundles among them."""
        return [one.bundle for one in self.each if one.bundle]

    @property
    def parts(self) -> tuple[int, ...]:
        """Widths of the concatenated embeddings; empty for one embedding."""
        widths = tuple(width for one in self.each for width in one.widths)
        return widths if len(widths) > 1 else ()

    @property
    def digests(self) -> tuple[str, ...]:
        """Digests of the encoders."""
        return tuple(one.sha256 for one in self.each)

    @property
    def beside(self) -> tuple[str, ...]:
        """Names of the encoders after the first."""
        return tuple(one.name for one in self.each[1:])

    def embed(self, cells: CellDataset) -> NDArray[np.float64]:
        """Embeddings (n, d), through the cache; raises `ImageError` for an unreadable image."""
        with track("embedding", len(cells)) as progress:
            found = extract(cells.records, self.encoder, cache=FeatureCache(default_cache_dir()), progress=progress)
        return found.complete().astype(np.float64)


def open_embedders(base: Bundle, beside: Sequence[str | Path], config: FewShotConfig) -> Embedders:
    """Open the encoders of `base` and of `beside`: folders of bundles, or `IMAGENET`.

    With a rule that keeps the head, the first part of the embedding keeps its length, which the head needs; otherwise every
    part has unit length. Raises `ConfigError` for bundles with different preparation of images.
    """
    each = (Embedder.of(base), *map(_opened, beside))
    digests = {tuple(stage.digest for stage in one.bundle.stages) for one in each if one.bundle}
    if len(digests) > 1:
        raise ConfigError(
            "the bundles prepare their images differently",
            expected="bundles trained with the same --cell-image, or all without it",
        )
    if not config.uses_base:
        alone, *others = (one.encoder for one in each)
        return Embedders(each, graphs.side_by_side([alone, *others]) if others else alone, None)
    graph = base.graph
    for one in each[1:]:
        graph = graphs.with_beside(graph, one.encoder)
    head = SourceHead(graphs.cut(graph, ["embedding"], ["logits"]), base.manifest.labels)
    return Embedders(each, graphs.cut(graph, ["image"], ["embedding"]), head)


def folders_of(beside: Sequence[str | Path]) -> list[Path]:
    """The folders of the bundles among `beside`."""
    return [bundle_folder(name) for name in beside if name != IMAGENET]


def bundles_of(beside: Sequence[str | Path]) -> list[Bundle]:
    """Open the bundles among `beside`."""
    return [open_bundle(folder) for folder in folders_of(beside)]


def digests_of(beside: Sequence[str | Path]) -> list[str]:
    """Digests of the encoders named by `beside`."""
    return [_opened(name).sha256 for name in beside]


def _opened(name: str | Path) -> Embedder:
    if name != IMAGENET:
        return Embedder.of(open_bundle(Path(name)))
    from hemalens.models.backbone import BackboneConfig, frozen_graph, weights_digest

    config = BackboneConfig()
    encoder = frozen_graph(config, default_cache_dir())
    _, (size,) = graphs.kind_of(encoder, "embedding")
    return Embedder(IMAGENET, encoder, size, weights_digest(config))
