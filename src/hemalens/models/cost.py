"""Cost of a network: parameters, multiply-adds, weights on disk, and a callable to time it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hemalens.models.backbone import BackboneConfig, create_backbone, preprocessing_of

_OF_TWO_ACTIVATIONS = (torch.ops.aten.bmm, torch.ops.aten.baddbmm)


@dataclass(frozen=True, slots=True)
class Counted:
    """A network's size. `flops` are twice the multiply-adds of convolutions and matrix products at `input_px`; norms and
    activations are not counted.

    `attention_flops` are those of products of two activations, inside attention. `batch_norm_outputs` are the numbers that
    batch norms write for one image, `layer_norm_parameters` the weights and biases of layer norms.
    """

    parameters: int
    parameters_without_head: int
    flops: int
    input_px: int
    attention_flops: int = 0
    batch_norm_outputs: int = 0
    layer_norm_parameters: int = 0

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return self.flops // 2

    @property
    def layer_flops(self) -> int:
        """FLOPs without attention, as counters of layers and some published figures report."""
        return self.flops - self.attention_flops

    @property
    def thop_flops(self) -> int:
        """Twice the operations that thop 0.0.31 counts: layers, and two for each output of a batch norm; no attention.

        Many published tables use that counter (github.com/Lyken17/pytorch-OpCounter). Pooling is left out (below 0.1 %).
        """
        return self.layer_flops + 4 * self.batch_norm_outputs

    @property
    def thop_parameters(self) -> int:
        """Parameters that thop 0.0.31 counts: it has no rule for layer norms."""
        return self.parameters - self.layer_norm_parameters


def count(network: nn.Module, input_px: int) -> Counted:
    """Count a timm network with a head, for one image of `input_px`, with torch's own counter."""
    timm_network: Any = network
    head = sum(parameter.numel() for parameter in timm_network.get_classifier().parameters())
    total = sum(parameter.numel() for parameter in network.parameters())
    network.eval()
    batch_norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    normed: list[int] = []
    hooks = [module.register_forward_hook(lambda *call: normed.append(call[2].numel())) for module in batch_norms]
    # the counter does not know the processor's fused attention
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        network(torch.zeros(1, 3, input_px, input_px))
    for hook in hooks:
        hook.remove()
    layer_norms = [module for module in network.modules() if isinstance(module, nn.LayerNorm)]
    by_operator = counter.get_flop_counts()["Global"]
    return Counted(
        parameters=total,
        parameters_without_head=total - head,
        flops=int(counter.get_total_flops()),
        input_px=input_px,
        attention_flops=sum(int(by_operator.get(operator, 0)) for operator in _OF_TWO_ACTIVATIONS),
        batch_norm_outputs=sum(normed),
        layer_norm_parameters=sum(p.numel() for module in layer_norms for p in module.parameters()),
    )


def count_backbone(config: BackboneConfig, *, n_classes: int) -> Counted:
    """Count a backbone by name, with random weights and a head of `n_classes`.

    Raises `ConfigError` for an unknown name or an input size that it does not take.
    """
    network = random_network(config, n_classes=n_classes)
    return count(network, preprocessing_of(config).size_px)


def random_network(config: BackboneConfig, *, n_classes: int) -> nn.Module:
    """A backbone of random weights with a head of `n_classes`, in evaluation mode; raises as `count_backbone` does."""
    return create_backbone(config.model_copy(update={"weights": "none"}), n_classes=n_classes)


def weights_bytes(network: nn.Module) -> int:
    """Bytes of the network's state as a safetensors file of 32-bit floats, running averages included."""
    from safetensors.torch import save

    # the format refuses tensors that share memory
    return len(save({name: tensor.detach().clone().contiguous() for name, tensor in network.state_dict().items()}))


def runner(
    network: nn.Module, input_px: int, *, device: str = "cpu", precision: Literal["fp32", "bf16"] = "fp32"
) -> Callable[[int], None]:
    """A callable that runs a copy of the network on n random images and returns when all is computed.

    "bf16" is autocast with the channels last, "fp32" the network as it is.
    """
    bf16 = precision == "bf16"
    layout = torch.channels_last if bf16 else torch.contiguous_format
    # a copy, since layout and device change
    placed: Any = copy.deepcopy(network)
    placed.eval().to(device=device, memory_format=layout)
    batches: dict[int, torch.Tensor] = {}

    def run(n_images: int) -> None:
        if n_images not in batches:
            generator = torch.Generator().manual_seed(0)
            images = torch.rand(n_images, 3, input_px, input_px, generator=generator)
            batches[n_images] = images.to(device).to(memory_format=layout)
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16) if bf16 else nullcontext():
            placed(batches[n_images])
        if device != "cpu":
            torch.cuda.synchronize()

    return run


def devices() -> dict[str, str]:
    """The devices of this machine, as torch names them, with the name of the processor: the CPU, and a GPU if any."""
    return {"cpu": "cpu"} | ({"cuda": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


@contextmanager
def threads(n_threads: int) -> Iterator[None]:
    """Run torch with `n_threads` threads."""
    before = torch.get_num_threads()
    use_threads(n_threads)
    try:
        yield
    finally:
        use_threads(before)


def use_threads(n_threads: int) -> None:
    """Set the number of torch's threads in this process."""
    torch.set_num_threads(n_threads)
