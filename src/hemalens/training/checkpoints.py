"""Checkpoints without pickle: tensors in safetensors, everything else as JSON in its metadata, one file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import nn

from hemalens.cache import note_damage
from hemalens.errors import InputError, OutputError, WeightsError, one_line
from hemalens.files import atomic_path, parse_json

STATE, DIGEST = "hemalens_state", "hemalens_digest"


class SafetensorsCheckpointIO(CheckpointIO):
    """Lightning's checkpoints as one safetensors file each, written atomically."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a nested checkpoint of tensors, numbers, texts, lists, tuples and dicts."""
        tensors: dict[str, torch.Tensor] = {}
        state = json.dumps(_pack(checkpoint, tensors), allow_nan=True)
        with atomic_path(Path(path)) as temporary:
            try:
                save_file(tensors, temporary, metadata={STATE: state, DIGEST: _digest(tensors, state)})
            except SafetensorError as error:
                raise OutputError(
                    f"cannot write {one_line(path)}", got=str(error), remedy="Free space on its disk."
                ) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read what `save_checkpoint` wrote; raises `InputError` for a damaged file."""
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                kept = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if kept[DIGEST] != _digest(tensors, kept[STATE]):
                raise ValueError("its digest does not fit its content")
            checkpoint: dict[str, Any] = _unpack(parse_json(kept[STATE]), tensors)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f"the checkpoint {one_line(path)} is damaged", got=str(error), remedy="Start again with --overwrite."
            ) from error
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint, if it is there."""
        Path(path).unlink(missing_ok=True)


def tensor_bytes(state: Mapping[str, torch.Tensor]) -> bytes:
    """Tensors by name as a safetensors file, with a digest of all of them."""
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    return save(tensors, metadata={DIGEST: _digest(tensors)})


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """The tensors in a file of `tensor_bytes`; raises `ValueError` where its digest does not hold."""
    with safe_open(file, framework="pt", device="cpu") as content:
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        kept = content.metadata() or {}
    if kept.get(DIGEST) != _digest(tensors):
        raise ValueError("its digest does not fit its content")
    return tensors


def has_weights(file: Path) -> bool:
    """Whether the cache holds a file of `tensor_bytes`; a damaged one is noted and removed, to be made anew."""
    try:
        return bool(read_weights(file))
    except FileNotFoundError:
        return False
    except (SafetensorError, OSError, ValueError):
        note_damage(f"damaged weights in the cache were made anew: {one_line(file)}")
        file.unlink()
        return False


def _digest(tensors: Mapping[str, torch.Tensor], state: str = "") -> str:
    """SHA-256 of tensors by name, with their types and shapes, and of the text `state`."""
    found = hashlib.sha256(state.encode("utf-8", "surrogatepass"))
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode("utf-8", "surrogatepass"))
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def load_weights(network: nn.Module, file: Path) -> None:
    """Load the file of `tensor_bytes`; raises `WeightsError` for a damaged one, or one of another network."""
    try:
        network.load_state_dict(read_weights(file), strict=True)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise WeightsError(
            f"the weights in {one_line(file)} cannot be read",
            got=str(error)[:120],
            remedy="Remove the file and run again.",
        ) from error


def _pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON-serialisable form: a tensor, list, tuple or dict becomes a list that begins with its kind."""
    if isinstance(value, torch.Tensor):
        name = f"t{len(tensors)}"
        # a copy: safetensors refuses tensors that share memory
        tensors[name] = value.detach().cpu().contiguous().clone()
        return ["tensor", name]
    if isinstance(value, dict):
        return ["dict", [[_pack(k, tensors), _pack(v, tensors)] for k, v in value.items()]]
    if isinstance(value, (list, tuple)):
        return ["list" if isinstance(value, list) else "tuple", [_pack(v, tensors) for v in value]]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _unpack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(value, list):
        return value
    kind, content = value
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {_unpack(k, tensors): _unpack(v, tensors) for k, v in content}
    items = [_unpack(v, tensors) for v in content]
    return tuple(items) if kind == "tuple" else items
