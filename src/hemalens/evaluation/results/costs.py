"""The cost of a network: counts, weights on disk, times."""

from __future__ import annotations

from typing import Literal

from hemalens.evaluation.results.base import Estimate, Part


class Timing(Part):
    """Speed of a network: `latency_ms` of one image, `images_per_s` in batches of 32; medians with 95 % of the rounds.

    `device` is "cpu" or a GPU's name. `peak_memory_mb`: of a process of its own, in megabytes (10^6 bytes).
    """

    runtime: Literal["torch", "onnxruntime"]
    device: str
    precision: Literal["fp32", "bf16", "int8"]
    n_threads: int
    latency_ms: Estimate
    images_per_s: Estimate
    peak_memory_mb: float | None = None


class Efficiency(Part):
    """Cost and scores of a network: counts for one image of `input_px`, weights on disk, times.

    `flops` are twice the multiply-adds `macs` of convolutions and matrix products. The scores are those of a bundle on the
    images of `tested_on`, None where nothing was tested.
    """

    name: str
    kind: Literal["backbone", "bundle"]
    input_px: int
    parameters: int
    parameters_without_head: int | None
    macs: int
    flops: int
    weights_mb: float
    timings: tuple[Timing, ...] = ()
    tested_on: str = ""
    n_images: int = 0
    accuracy: Estimate | None = None
    balanced_accuracy: Estimate | None = None
    majority_rate: float | None = None
