"""A report: seconds by stage for 250 and 5,000 cells, maps beside occlusion, and the seconds and megabytes of many results.

python benchmarks/report.py                     # all three
python benchmarks/report.py --images 20000      # many results of more images
python benchmarks/report.py --bundle DIR        # stages and maps of another bundle than the default model

The stages are those of `hemalens evaluate` on drawn cells. The 5,000 are 250 cells in distinct files, so that the
network predicts 250. The many results have the answers of five models, a scatter of 1,000 points and 12 thumbnails; what
they say is random.
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

from hemalens.bundle.bundle import Bundle, open_bundle
from hemalens.bundle.default_model import default_model_path
from hemalens.datasets.synthetic import CELL_TYPES, LABORATORIES, draw_cell
from hemalens.evaluation import metrics
from hemalens.evaluation.activation import activation_table
from hemalens.evaluation.cells_to_review import cells_to_review
from hemalens.evaluation.evaluate import DatasetPredictions, plan_test, predict_dataset, score
from hemalens.evaluation.occlusion import Occluder
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
from hemalens.evaluation.trust_check import trust_check
from hemalens.inference.explain import Explainer
from hemalens.report import render_html, render_markdown, write_report
from hemalens.report.compose import Results, environment
from hemalens.report.compose import make_report as composed
from hemalens.runs.inputs import open_inputs
from rows import Row

DOMAINS = ("lab_a", "lab_b", "lab_c")
N_MODELS = 5
MOST_S, MOST_MB = 20.0, 5.0
N_DRAWN = 250
MOST_AFTER = {250: 6.0, 5000: 15.0}
"""Limits of the seconds after the predictions, by the number of cells."""
N_MAPS = 12


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


def draw(folder: Path, n: int) -> None:
    """`n` cell images in folders by type: `N_DRAWN` drawn ones, each further copy with another corner pixel."""
    rng = np.random.default_rng(0)
    types = [CELL_TYPES[i % len(CELL_TYPES)] for i in range(N_DRAWN)]
    drawn = [draw_cell(each, LABORATORIES["lab_b"], rng)[0] for each in types]
    for each in set(types):
        (folder / each).mkdir(parents=True)
    for i in range(n):
        image = drawn[i % N_DRAWN].copy()
        image[0, 0] = (i // N_DRAWN, i % N_DRAWN, 200)
        Image.fromarray(image).save(folder / types[i % N_DRAWN] / f"{i:05d}.png", compress_level=1)


def stages_of(bundle: Bundle, n: int, folder: Path) -> dict[str, float]:
    """Seconds of each stage of an evaluation of `n` cells; "network" is for `N_DRAWN` of them."""
    draw(folder / "cells", n)
    spent: dict[str, float] = {}
    begun = time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal begun
        spent[stage], begun = time.perf_counter() - begun, time.perf_counter()

    spec = f"folder:{folder / 'cells'}"
    given = open_inputs(spec, labels=bundle.manifest.label_map, role="test", stages=bundle.stages)
    lap("open")
    plan = plan_test(bundle.manifest.labels, given.dataset)
    dataset = given.dataset.only_classes(plan.tested)
    numbers = [int(record.path.stem) % N_DRAWN for record in dataset.records]
    first = {number: i for i, number in reversed(list(enumerate(numbers)))}
    few = predict_dataset(bundle, dataset.subset(sorted(first.values())))
    lap("network")
    place = {number: j for j, number in enumerate(sorted(first, key=first.__getitem__))}
    at = [place[number] for number in numbers]
    answered = DatasetPredictions(dataset.records, np.arange(len(dataset)), few.probabilities[at], few.embeddings[at], {})
    evaluated = score([answered], plan, target=dataset, method="default", source_name="home", seed=0)
    lap("scores")
    trust = trust_check(bundle, answered)
    lap("trust")
    explainer = Explainer(bundle)
    pictures = [activation_table(explainer, dataset, answered)]
    lap("maps")
    review = cells_to_review(bundle, answered, doubtful=given.doubtful, verdict=trust.verdict, explainer=explainer)
    lap("review")
    results = Results(evaluations=[evaluated], pictures=pictures, review=review)
    report = composed("Stages", "none", results, data=[given.card], methods={}, seed=0)
    write_report(report, folder)
    lap("write")
    return spent


def print_stages(bundle: Bundle) -> None:
    """The stages, with the sum of what follows the predictions."""
    print(
        f"{'cells':>6} "
        + " ".join(f"{name:>8}" for name in ("open", "network", "scores", "trust", "maps", "review", "write"))
    )
    for n, most in MOST_AFTER.items():
        with tempfile.TemporaryDirectory() as temporary:
            spent = stages_of(bundle, n, Path(temporary))
        after = sum(spent.values()) - spent["open"] - spent["network"]
        shown = ", ".join(f"{name} {value:.2f} s" for name, value in spent.items())
        print(f"{n} cells: {shown}; after the predictions {after:.1f} s, {after / most:.0%} of {most:g} s")


def map_times(bundle: Bundle) -> tuple[dict[str, float], float]:
    """Seconds of `N_MAPS` predictions, exact maps and occlusion maps of the same cells, and the correlation of the maps."""
    explainer, occluder, rng = Explainer(bundle), Occluder(bundle), np.random.default_rng(1)
    spent, alike = {"prediction": 0.0, "exact map": 0.0, "occlusion": 0.0}, []
    runner = bundle.runner(["probabilities"])
    for i in range(N_MAPS + 1):
        image = draw_cell(CELL_TYPES[i % len(CELL_TYPES)], LABORATORIES["lab_b"], rng)[0]
        for stage in bundle.stages:
            image = stage.once()(image)
        times = [time.perf_counter()]
        best = int(runner.run(image)["probabilities"].argmax())
        times.append(time.perf_counter())
        evidence = explainer(image)
        times.append(time.perf_counter())
        covered = occluder(image).map(best)
        times.append(time.perf_counter())
        if i:  # the first run of a session is slower
            spent = {name: spent[name] + b - a for name, a, b in zip(spent, times[:-1], times[1:], strict=True)}
            alike.append(np.corrcoef(evidence.map.ravel(), covered.ravel())[0, 1])
    return spent, float(np.nanmean(alike))


def print_maps(bundle: Bundle) -> None:
    """Exact maps beside occlusion maps of the same cells: milliseconds, and the correlation of their pixels."""
    spent, alike = map_times(bundle)
    print(", ".join(f"{name} {1000 * value / N_MAPS:.0f} ms" for name, value in spent.items()), end="; ")
    print(f"occlusion / exact map {spent['occlusion'] / spent['exact map']:.0f}; correlation {alike:.2f}")


def measure(*, quick: bool = False) -> list[Row]:
    """Milliseconds of an exact map and of an occlusion map, and seconds of a report and the most that it may take."""
    bundle = open_bundle(default_model_path())
    each = [map_times(bundle)[0] for _ in range(1 if quick else 3)]
    exact, covered = ([1000 * spent[name] / N_MAPS for spent in each] for name in ("exact map", "occlusion"))
    rows = [Row.of("a map of the evidence", "ms", exact, covered, "an occlusion map")]
    for n, most in list(MOST_AFTER.items())[: 1 if quick else None]:
        with tempfile.TemporaryDirectory() as temporary:
            spent = stages_of(bundle, n, Path(temporary))
        after = sum(spent.values()) - spent["open"] - spent["network"]
        rows.append(Row.of(f"a report of {n} cells after the predictions", "s", [after], [most], "its limit"))
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=None)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[1, 9, 54])
    chosen = parser.parse_args()
    bundle = open_bundle(chosen.bundle or default_model_path())
    print(environment()["processor"])
    print_stages(bundle)
    print_maps(bundle)
    print(f"{chosen.images} images an evaluation")
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
