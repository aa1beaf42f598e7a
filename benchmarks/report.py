"""Writing a report: seconds and megabytes, for one evaluation of 5,000 images and for a whole benchmark of them.

python benchmarks/report.py                     # 1, 9 and 54 evaluations of 5,000 images
python benchmarks/report.py --images 20000      # of more images

Every evaluation has the answers of five models, a scatter of 1,000 points and 12 thumbnails; what they say is random.
"""

from __future__ import annotations

import argparse
import base64
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from hemalens.datasets.synthetic import CELL_TYPES, LABORATORIES, draw_cell
from hemalens.evaluation import metrics
from hemalens.evaluation.projection import joint_scatter, scatter
from hemalens.evaluation.results import (
    ClassScores,
    DataCard,
    Estimate,
    Evaluation,
    ImageAnswers,
    NamedScatter,
    ReliabilityBin,
    Report,
    Scores,
    WrongCell,
)
from hemalens.evaluation.thumbnails import thumbnail
from hemalens.report import render_html, render_markdown, write_report
from hemalens.report.compose import environment

DOMAINS = ("lab_a", "lab_b", "lab_c")
N_MODELS = 5
MOST_S, MOST_MB = 20.0, 5.0


def evaluation(number: int, n_images: int, thumbnails: list[str]) -> Evaluation:
    """Random answers, four in five right, with their true scores."""
    rng = np.random.default_rng(number)
    classes, k = CELL_TYPES, len(CELL_TYPES)
    source, target = DOMAINS[number // 3 % 3], DOMAINS[number % 3]
    truth = rng.integers(0, k, n_images)
    answers = np.where(rng.random((N_MODELS, n_images)) < 0.8, truth, rng.integers(0, k, (N_MODELS, n_images)))
    probabilities = rng.dirichlet(np.full(k, 0.2), n_images).astype(np.float32)
    probabilities[np.arange(n_images), answers[0]] += 2
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    counts = metrics.confusion(truth, answers[0], k)
    told = [(classes[t], classes[a], target) for t, a in zip(truth, answers[0], strict=True)]

    def estimate(value: float) -> Estimate:
        return Estimate(value=value, low=value - 0.01, high=value + 0.01, std=0.005)

    per_class = zip(classes, metrics.precision(counts), metrics.recall(counts), metrics.f1(counts), strict=True)
    return Evaluation(
        name=f"method {number // 9}: {source} -> {target}",
        method=f"method {number // 9}",
        source=source,
        target=target,
        n_images=n_images,
        n_folds=N_MODELS,
        classes=classes,
        tested_classes=classes,
        scores=Scores(
            accuracy=estimate(float(metrics.accuracy(counts))),
            majority_rate=float(metrics.majority_rate(counts)),
            balanced_accuracy=estimate(float(metrics.balanced_accuracy(counts))),
            macro_f1=estimate(float(metrics.macro_f1(counts))),
            balanced_accuracy_restricted=estimate(float(metrics.balanced_accuracy(counts))),
            ece=float(metrics.expected_calibration_error(probabilities, truth)),
            nll=float(metrics.negative_log_likelihood(probabilities, truth)),
        ),
        per_class=tuple(
            ClassScores(label=label, n=n_images // k, n_answered=n_images // k, precision=estimate(float(p)),
                        recall=estimate(float(r)), f1=float(f))
            for label, p, r, f in per_class
        ),
        confusion=tuple(tuple(row) for row in counts.tolist()),
        reliability=tuple(ReliabilityBin.model_validate(row) for row in metrics.reliability(probabilities, truth)),
        scatter=scatter(rng.normal(0, 1, (n_images, 16)) + truth[:, None], told, seed=0),
        most_confident_errors=tuple(
            WrongCell(name=f"{i:05d}.jpg", label=classes[0], predicted=classes[1], probability=0.9, thumbnail=thumbnails[i])
            for i in range(12)
        ),
        answers=ImageAnswers(
            images=tuple(f"{i:016x}" for i in rng.integers(0, 2**60, n_images).tolist()),
            units=tuple(range(n_images)),
            truth=tuple(truth.tolist()),
            answers=tuple(tuple(row) for row in answers.tolist()),
        ),
        intervals="made up",
    )  # fmt: skip


def make_report(n_evaluations: int, n_images: int) -> Report:
    """A report of so many evaluations, with a plane of all domains."""
    rng = np.random.default_rng(0)
    drawn = [draw_cell(CELL_TYPES[i % len(CELL_TYPES)], LABORATORIES["lab_a"], rng)[0] for i in range(12)]
    evaluations = tuple(evaluation(i, n_images, [_noisy(image) for image in drawn]) for i in range(n_evaluations))
    joint = joint_scatter(
        [
            (rng.normal(i, 1, (500, 16)), [(CELL_TYPES[j % 5], CELL_TYPES[0], d) for j in range(500)])
            for i, d in enumerate(DOMAINS)
        ],
        seed=0,
    )
    if joint is None:
        raise SystemExit("no plane of 1,500 points")
    cards = tuple(
        DataCard(role="data", name=name, n_images=n_images, class_counts=dict.fromkeys(CELL_TYPES, 1), licence="Apache-2.0",
                 citation="none", fingerprint="0" * 64, synthetic=True)
        for name in DOMAINS
    )  # fmt: skip
    return Report(
        title="A benchmark of the report", created="now", command="benchmarks/report.py", protocol="none",
        summary=("Random.",), synthetic=True, data=cards, evaluations=evaluations, methods={}, environment=environment(),
        seed=0, scatters=(NamedScatter(method="method 0", source=DOMAINS[0], targets=DOMAINS[1:], scatter=joint),),
    )  # fmt: skip


def _noisy(image: np.ndarray) -> str:
    """A thumbnail as large as that of a photograph: drawn cells are smooth, and their JPEGs small."""
    with Image.open(io.BytesIO(base64.b64decode(thumbnail(image)))) as opened:
        pixels = np.asarray(opened).astype(float)
    noise = np.random.default_rng(0).normal(0, 8, pixels.shape)
    return thumbnail(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def seconds(render: Callable[[Report], str], report: Report) -> float:
    """How long a rendering takes."""
    begun = time.perf_counter()
    render(report)
    return time.perf_counter() - begun


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[1, 9, 54])
    chosen = parser.parse_args()
    print(f"{chosen.images} images an evaluation, {environment()['processor']}")
    print(f"{'evaluations':>11} {'Markdown':>9} {'HTML':>8} {'all files':>10} {'report.json':>12} {'report.html':>12}")
    for n in chosen.evaluations:
        report = make_report(n, chosen.images)
        markdown, html = seconds(render_markdown, report), seconds(render_html, report)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            begun = time.perf_counter()
            write_report(report, folder)
            whole = time.perf_counter() - begun
            sizes = {name: (folder / name).stat().st_size / 1e6 for name in ("report.json", "report.html")}
        print(
            f"{n:>11} {markdown:>7.2f} s {html:>6.2f} s {whole:>8.2f} s {sizes['report.json']:>9.2f} MB "
            f"{sizes['report.html']:>9.2f} MB   {whole / MOST_S:.0%} of {MOST_S:g} s, "
            f"{sizes['report.html'] / MOST_MB:.0%} of {MOST_MB:g} MB"
        )


if __name__ == "__main__":
    main()
