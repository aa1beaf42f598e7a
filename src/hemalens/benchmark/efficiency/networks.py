"""Networks that are measured: timm backbones with random weights, and saved bundles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hemalens.benchmark.efficiency.timing import Run, alternate, graph_runner, peak_memory_mb
from hemalens.bundle.bundle import MODEL, Bundle, bundle_folder, open_bundle
from hemalens.errors import BundleError, ConfigError, InputError, one_line, require_extra
from hemalens.evaluation.results import Efficiency, Timing
from hemalens.graphs.build import cut
from hemalens.graphs.cost import GraphCounts, count_graph

if TYPE_CHECKING:
    from hemalens.models.backbone import BackboneConfig


@dataclass(frozen=True, slots=True)
class Setup:
    """One way to run a network: runtime, device and precision. `alone` describes it to a process of its own."""

    runtime: Literal["torch", "onnxruntime"]
    device: str
    precision: Literal["fp32", "bf16", "int8"]
    run: Run
    alone: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Backbone:
    """A timm network with random weights at an input size."""

    name: str
    config: BackboneConfig
    input_px: int
    n_classes: int

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings in a report."""
        return {**self.config.model_dump(mode="json"), "n_classes": self.n_classes}

    @property
    def request(self) -> dict[str, Any]:
        """Its part of a run's request."""
        return self.settings

    def count(self) -> Efficiency:
        """Its counts; raises `ConfigError` for an input size that the network does not take."""
        from hemalens.models.cost import count, random_network, weights_bytes

        network = random_network(self.config, n_classes=self.n_classes)
        try:
            counted = count(network, self.input_px)
        except (RuntimeError, AssertionError, ValueError) as error:
            # each network has checks of its own
            raise ConfigError(
                f"{self.config.backbone!r} does not take images of {self.input_px} px", got=str(error)[:120]
            ) from error
        return Efficiency(
            name=self.name,
            kind="backbone",
            input_px=self.input_px,
            parameters=counted.parameters,
            parameters_without_head=counted.parameters_without_head,
            macs=counted.macs,
            flops=counted.flops,
            weights_mb=weights_bytes(network) / 1e6,
        )

    def setups(self, n_threads: int) -> Iterator[Setup]:
        """fp32 on the CPU, and on a GPU where there is one; bf16 on the last of them, where it has hardware support."""
        from hemalens.models.cost import devices, random_network, runner
        from hemalens.training.trainer import has_bf16

        network = random_network(self.config, n_classes=self.n_classes)
        found = devices()
        for device, shown in found.items():
            precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32",)
            if device == list(found)[-1] and has_bf16():
                precisions = ("fp32", "bf16")
            for precision in precisions:
                run = runner(network, self.input_px, device=device, precision=precision)
                alone = {"backbone": self.config.backbone, "n_classes": self.n_classes, "precision": precision}
                alone |= {"input_px": self.input_px, "n_threads": n_threads}
                yield Setup("torch", shown, precision, run, alone if device == "cpu" else None)


@dataclass(frozen=True)
class SavedModel:
    """A saved bundle."""

    name: str
    bundle: Bundle

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings in a report."""
        return {"method": self.bundle.manifest.method, **self.bundle.manifest.config}

    @property
    def request(self) -> dict[str, Any]:
        """Its part of a run's request."""
        return {"name": self.name, "sha256": self.bundle.manifest.files[MODEL].sha256}

    @property
    def input_px(self) -> int:
        """Side of the images that the network sees."""
        return self.bundle.manifest.preprocessing.size_px

    @cached_property
    def counted(self) -> GraphCounts:
        """The counts of the whole graph; raises `BundleError` naming the folder."""
        try:
            return count_graph(self.bundle.graph, self.input_px)
        except BundleError as error:
            where = one_line(self.bundle.path)
            raise BundleError(f"{error.what}, in {where}", expected=error.expected, got=error.got) from error

    def count(self) -> Efficiency:
        """Its counts; raises `BundleError` for a graph with operators that cannot be counted."""
        counted = self.counted
        encoder = count_graph(cut(self.bundle.graph, ["image"], ["embedding"]), self.input_px)
        return Efficiency(
            name=self.name,
            kind="bundle",
            input_px=self.input_px,
            parameters=counted.parameters,
            parameters_without_head=encoder.parameters,
            macs=counted.macs,
            flops=counted.flops,
            weights_mb=self.bundle.manifest.files[MODEL].n_bytes / 1e6,
        )

    def setups(self, n_threads: int) -> Iterator[Setup]:
        """On the CPU, in the precision of the graph."""
        run = graph_runner(self.bundle.graph_bytes, self.input_px, n_threads)
        alone = {"graph": str((self.bundle.path / MODEL).resolve()), "input_px": self.input_px, "n_threads": n_threads}
        yield Setup("onnxruntime", "cpu", self.counted.precision, run, alone)


Network = Backbone | SavedModel


def named_backbones(names: Sequence[str], n_classes: int, seed: int) -> list[Backbone]:
    """Backbones by NAME or NAME@PX, each once; raises `InputError`."""
    if not names:
        return []
    require_extra("torch", "train", "a backbone")
    from hemalens.models.backbone import BackboneConfig, preprocessing_of

    found: dict[tuple[str, int], Backbone] = {}
    for text in names:
        name, at, size = text.partition("@")
        if at and not (size.isascii() and size.isdecimal()):
            raise InputError(f"cannot read --backbone {text!r}", expected="NAME or NAME@PX, as in mobilevit_xs@256")
        values = {"backbone": name, "weights": "none", "seed": seed, "image_size_px": int(size) if at else None}
        config = BackboneConfig.from_mapping(values)
        input_px = preprocessing_of(config).size_px
        found.setdefault((name, input_px), Backbone(text, config, input_px, n_classes))
    return list(found.values())


def saved_models(paths: Sequence[Path]) -> list[SavedModel]:
    """Bundles by method and folder, the run's folder where it is called "bundle"; a number where these are the same."""
    found: list[SavedModel] = []
    for path in dict.fromkeys(bundle_folder(path).resolve() for path in paths):
        bundle = open_bundle(path)
        folder = path.parent.name if path.name == "bundle" else path.name
        name = f"{bundle.manifest.method} ({folder})"
        n_same = sum(other.name.split(", ")[0] == name for other in found)
        found.append(SavedModel(f"{name}, {n_same + 1}" if n_same else name, bundle))
    return found


def time_networks(networks: Sequence[Network], n_rounds: int, n_threads: int) -> list[list[Timing]]:
    """The times of every network in all its setups."""
    with _torch_threads(n_threads, needed=any(isinstance(network, Backbone) for network in networks)):
        setups = [list(network.setups(n_threads)) for network in networks]
        flat = [setup for each in setups for setup in each]
        times = iter(alternate([setup.run for setup in flat], n_rounds))
    return [[_timing(setup, n_threads, *next(times)) for setup in each] for each in setups]


def _timing(setup: Setup, n_threads: int, latency: Any, rate: Any) -> Timing:
    return Timing(
        runtime=setup.runtime,
        device=setup.device,
        precision=setup.precision,
        n_threads=n_threads,
        latency_ms=latency,
        images_per_s=rate,
        peak_memory_mb=None if setup.alone is None else peak_memory_mb(setup.alone),
    )


@contextmanager
def _torch_threads(n_threads: int, *, needed: bool) -> Iterator[None]:
    """torch with `n_threads` threads; torch is not imported unless it is needed."""
    if not needed:
        yield
        return
    from hemalens.models.cost import threads

    with threads(n_threads):
        yield
