"""Realistic fake results of trainings on fractions of the labels; no model is trained."""

from __future__ import annotations

import numpy as np
from report_fakes import CLASSES, make_report

from hemalens.evaluation.results import Estimate, FractionCurve, FractionScores, Report

FRACTIONS = (1.0, 0.5, 0.1, 0.01)
TRAINED = (
    *("resnet18", "resnet18, frozen", "unet + resnet18", "HemSup", "self-supervised", "vit_small"),
    *("mask r-cnn", "convnext_tiny", "densenet121", "logistic regression"),
)


def make_fraction_report(
    *,
    targets: tuple[str, ...] = ("lab_b", "lab_c"),
    n_methods: int = 4,
    fractions: tuple[float, ...] = FRACTIONS,
    n_seeds: int = 5,
    file_name: str = "images/monocyte/monocyte_0007.png",
    seed: int = 0,
) -> Report:
    """A report without evaluations: `n_methods` methods on each target.

    The epoch of the last one is chosen on the tested images, and the one before it is transductive.
    """
    rng = np.random.default_rng(seed)
    curves = [
        make_fraction_curve(number, rng, target=target, fractions=fractions, n_seeds=n_seeds).model_copy(
            update={
                "selection": "published-selection" if number == n_methods - 1 else "validation",
                "transductive": number == n_methods - 2,
                "unreadable": {file_name: "truncated after 2,048 bytes"},
            }
        )
        for target in targets
        for number in range(n_methods)
    ]
    report = make_report(n_evaluations=0, seed=seed, title="Fewer labelled images")
    return report.model_copy(update={"fractions": tuple(curves), "summary": ()})


def make_fraction_curve(
    number: int,
    rng: np.random.Generator,
    *,
    target: str = "lab_b",
    fractions: tuple[float, ...] = FRACTIONS,
    n_seeds: int = 5,
) -> FractionCurve:
    """A method on a target: scores that fall with the fraction, faster for later methods; no `std` of one seed."""
    classes = CLASSES[:5] if target == "lab_b" else CLASSES
    best, loss = 0.955 - 0.011 * number, 0.07 + 0.018 * number
    method = TRAINED[number]
    return FractionCurve(
        name=f"{method}: lab_a -> {target}",
        method=method,
        source="lab_a, training part",
        target=target,
        selection="validation",
        n_images=2345,
        n_validation=678,
        classes=classes,
        left_out={"promyelocyte": "fewer than 25 images in the target"} if target == "lab_b" else {},
        fractions=tuple(_fraction(f, best + loss * float(np.log10(f)), classes, rng, n_seeds) for f in fractions),
        intervals="95 %: bootstrap over the tested images within their classes, and over the seeds",
    )


def _fraction(
    fraction: float, mean: float, classes: tuple[str, ...], rng: np.random.Generator, n_seeds: int
) -> FractionScores:
    def estimate(shift: float, scale: float = 1.0) -> Estimate:
        half = scale * (0.008 - 0.016 * float(np.log10(fraction)) * float(rng.uniform(0.6, 1.0)))
        value = min(mean + shift + float(rng.normal(0, 0.006)), 0.999 - half)
        std = 0.7 * half if n_seeds > 1 else None
        return Estimate(value=value, low=value - half, high=value + half, std=std)

    counts = {code: max(1, round(fraction * 137 * (1 + i % 4))) for i, code in enumerate(classes)}
    return FractionScores(
        fraction=fraction,
        n_train=sum(counts.values()),
        n_masks=sum(counts.values()) // 3,
        class_counts=counts,
        n_seeds=n_seeds,
        accuracy=estimate(0.02),
        majority_rate=0.2876,
        balanced_accuracy=estimate(0.0),
        macro_f1=estimate(-0.015),
        recall={code: estimate(0.02 * (2 - i % 5), 1.8) for i, code in enumerate(classes)},
    )
