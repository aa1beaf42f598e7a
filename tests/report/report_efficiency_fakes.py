"""Realistic fake costs and scores of networks; none is run."""

from __future__ import annotations

import numpy as np
from report_fakes import make_report

from hemalens.evaluation.results import Efficiency, Estimate, Report, Timing

NETWORKS = (
    *("resnet50", "densenet121", "mobilenetv2_100", "mobilenetv3_large_100", "mobilevit_xs@256"),
    *("finetune (resnet18)", "linear_probe (run)", "finetune (mobilevit), transductive"),
)
TESTED_ON = "lab_b, 5 of 8 cell types"


def make_efficiency_report(*, n_networks: int = 8, seed: int = 0) -> Report:
    """A report without evaluations; the last three networks are bundles with scores, one of them in 8 bits."""
    rng = np.random.default_rng(seed)
    rows = tuple(make_efficiency(number, rng) for number in range(n_networks))
    report = make_report(n_evaluations=0, seed=seed, title="What networks cost")
    return report.model_copy(update={"efficiency": rows, "summary": ()})


def make_efficiency(number: int, rng: np.random.Generator) -> Efficiency:
    """One network: a backbone timed in two precisions, or a bundle with scores."""
    is_bundle = number >= 5
    parameters = int(rng.integers(1_500_000, 30_000_000))
    macs = int(rng.integers(150_000_000, 4_100_000_000))
    n = int(rng.integers(800, 3000))
    return Efficiency(
        name=NETWORKS[number],
        kind="bundle" if is_bundle else "backbone",
        input_px=256 if "@256" in NETWORKS[number] else 224,
        parameters=parameters,
        parameters_without_head=parameters - 8200,
        macs=macs,
        flops=2 * macs,
        weights_mb=4.0123 * parameters / 1e6,
        timings=tuple(_timing(is_bundle, precision, rng) for precision in (("int8",) if is_bundle else ("fp32", "bf16"))),
        tested_on=TESTED_ON if is_bundle else "",
        n_images=n if is_bundle else 0,
        accuracy=_estimate(float(rng.uniform(0.6, 0.95)), 0.02) if is_bundle else None,
        balanced_accuracy=_estimate(float(rng.uniform(0.6, 0.95)), 0.03) if is_bundle else None,
        majority_rate=0.2876 if is_bundle else None,
    )


def _timing(is_bundle: bool, precision: str, rng: np.random.Generator) -> Timing:
    latency, rate = float(rng.uniform(3, 400)), float(rng.uniform(5, 2000))
    return Timing.model_validate(
        {
            "runtime": "onnxruntime" if is_bundle else "torch",
            "device": "cpu",
            "precision": precision,
            "n_threads": 2,
            "latency_ms": _estimate(latency, 0.1 * latency),
            "images_per_s": _estimate(rate, 0.1 * rate),
            "peak_memory_mb": float(rng.uniform(90, 1900)),
        }
    )


def _estimate(value: float, half: float) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half)
