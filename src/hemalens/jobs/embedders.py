"""Embeddings that stand side by side: a bundle's, those of further bundles, and of the ImageNet network as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from hemalens import graphs
from hemalens.bundle import MODEL, Bundle, open_bundle
from hemalens.errors import ConfigError
from hemalens.fewshot import FewShotConfig
from hemalens.files import default_cache_dir

IMAGENET = "imagenet"
"""The word for the packaged network with its ImageNet weights, in place of a bundle's folder; ./imagenet is a folder."""


@dataclass(frozen=True, slots=True)
class Embedder:
    """A graph image -> embedding (n, size); `sha256` tells what it is made of. `bundle`: None for the ImageNet network."""

    name: str
    encoder: onnx.ModelProto
    size: int
    sha256: str
    bundle: Bundle | None = None

    @classmethod
    def of(cls, bundle: Bundle) -> Embedder:
        """The encoder of an opened bundle."""
        manifest = bundle.manifest
        encoder = graphs.cut(bundle.graph, ["image"], ["embedding"])
        return cls(manifest.method, encoder, manifest.embedding_size, manifest.files[MODEL].sha256, bundle)


def open_embedders(base: Bundle, beside: Sequence[str | Path]) -> list[Embedder]:
    """The encoder of `base`, and those named by `beside`: folders of bundles, or `IMAGENET`.

    Raises `ConfigError` for bundles whose images are prepared differently.
    """
    found = [Embedder.of(base), *map(_opened, beside)]
    digests = {tuple(stage.digest for stage in one.bundle.stages) for one in found if one.bundle}
    if len(digests) > 1:
        raise ConfigError(
            "the bundles want their images prepared differently",
            expected="bundles trained with the same --cell-image, or all without it",
        )
    return found


def digests_of(beside: Sequence[str | Path]) -> list[str]:
    """What each of `beside` is made of, as digests."""
    return [_opened(name).sha256 for name in beside]


def joined(embedders: Sequence[Embedder], config: FewShotConfig) -> onnx.ModelProto:
    """The encoders as one; a head that is kept (rule=base) reads the first part, which then keeps its length.

    Raises `ConfigError` for a way to classify that cannot weigh several embeddings.
    """
    if len(embedders) == 1:
        return embedders[0].encoder
    if config.rule == "base_and_means":
        raise ConfigError("rule=base_and_means takes one embedding", remedy="Leave --beside out, or say rule=base.")
    return graphs.side_by_side([one.encoder for one in embedders], first_as_is=config.uses_base)


def parts_of(embedders: Sequence[Embedder]) -> tuple[int, ...]:
    """The widths of embeddings that stand side by side; none of one that stands alone."""
    return tuple(one.size for one in embedders) if len(embedders) > 1 else ()


def _opened(name: str | Path) -> Embedder:
    if name != IMAGENET:
        return Embedder.of(open_bundle(Path(name)))
    from hemalens.models.backbone import BackboneConfig, frozen_graph, weights_digest

    config = BackboneConfig()
    encoder = frozen_graph(config, default_cache_dir())
    _, (size,) = graphs.kind_of(encoder, "embedding")
    return Embedder(IMAGENET, encoder, size, weights_digest(config))
