"""Weights in files of torch and Lightning, read without running code, and torchvision's names for a timm network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from hemalens.errors import WeightsError, one_line
from hemalens.models.backbone import LOSS_HEAD

LIGHTNING = ".ckpt"
"""Suffix of a Lightning checkpoint, which holds objects beside its tensors."""
_BODY, _CLASSIFIER = "features.", "classifier.1."
_CENTRES = ("metric_loss.W", "loss.W")
"""Names of class centres, (d, k), in BloodShot's checkpoints: with and without the consistency term."""


class _Inert:
    """Stands for each object of a checkpoint that is neither a tensor nor a plain container: keeps and runs nothing."""

    def __new__(cls, *given: object, **named: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *given: object, **named: object) -> None:
        """Ignore the arguments."""

    def __setstate__(self, state: object) -> None:
        """Ignore the state."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, a .pth or .bin state dict, or a Lightning checkpoint, by their names there.

    Nothing in the file is executed: torch's restricted unpickler reads tensors and plain containers, and every other name
    of a Lightning checkpoint is a placeholder. Raises `WeightsError`, also for tensors that are not in the file as plain
    numbers.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path) if path.suffix == LIGHTNING else []
        with torch.serialization.safe_globals([(_Inert, name) for name in named]):
            content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, Mapping):
            raise TypeError(f"a {type(content).__name__}")
        state = dict(content.get("state_dict", content))
        n_bytes = path.stat().st_size
    except Exception as error:
        # the readers raise many kinds of errors for a damaged or unknown file
        raise WeightsError(
            f"cannot read the weights in {one_line(path)}",
            expected="a whole state dict, .safetensors, .pth or .bin, or a Lightning checkpoint, .ckpt",
            got=_reason(error),
            remedy="Download the file again, or save its state dict as .safetensors.",
        ) from error
    tensors = {str(name): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    for name, tensor in tensors.items():
        if not _is_plain(tensor, n_bytes):
            raise WeightsError(
                f"cannot use the weights in {one_line(path)}",
                expected="dense tensors, each no larger than the file",
                got=f"{one_line(name)}: {str(tensor.layout).removeprefix('torch.')}, {tuple(tensor.shape)}",
            )
    return tensors


def _reason(error: Exception) -> str:
    """What the reader found, without torch's advice to read the file in an unsafe way."""
    if isinstance(error, UnpicklingError):
        return "other objects than tensors and plain containers"
    if isinstance(error, TypeError):
        return str(error)[:120]
    return f"{type(error).__name__}: {str(error)[:120]}"


def _is_plain(tensor: Tensor, n_bytes: int) -> bool:
    """Whether a tensor is dense numbers in memory that fit into `n_bytes`; a repeated number may claim to be a huge one."""
    dense = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
    return dense and tensor.numel() * tensor.element_size() <= n_bytes


def with_timm_names(state: Mapping[str, Tensor], body: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a torchvision network by the names of timm's, whose layers without a head are `body`.

    Other weights, and those of another network, are returned as they are. torchvision lists the same layers in the same
    order. A prefix `backbone.` is dropped; BloodShot's class centres, or else the classifier, become the loss's head.
    """
    plain = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}
    layers = [tensor for name, tensor in plain.items() if name.startswith(_BODY)]
    if [tensor.shape for tensor in layers] != [tensor.shape for tensor in body.values()]:
        return dict(state)
    renamed = dict(zip(body, layers, strict=True))
    centres = next((plain[name] for name in _CENTRES if name in plain), None)
    if centres is not None:
        return renamed | {f"{LOSS_HEAD}centres": centres.t().contiguous()}
    return renamed | {
        f"{LOSS_HEAD}{name.removeprefix(_CLASSIFIER)}": tensor
        for name, tensor in plain.items()
        if name.startswith(_CLASSIFIER)
    }


def initialise_as_torchvision(network: nn.Module, *, seed: int) -> None:
    """Draw a network's convolutions and linear layers anew, as torchvision does for its EfficientNets.

    Convolutions: normal with variance 2 / (kernel area x output channels), which leaves the groups of a depthwise one out.
    Linear layers: uniform within 1 / sqrt(outputs). Biases are zero.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                limit = module.out_features**-0.5
                nn.init.uniform_(module.weight, -limit, limit)
            else:
                continue
            if module.bias is not None:
                nn.init.zeros_(module.bias)
