"""A realistic fake report of a whole benchmark: several sources, targets and methods, and every other part of a report."""

from __future__ import annotations

import io
from base64 import b64encode
from typing import Any

import numpy as np
from PIL import Image
from report_efficiency_fakes import make_efficiency_report
from report_fakes import CLASSES, make_evaluation, make_k_shot_report, make_report
from report_fraction_fakes import make_fraction_report

from hemalens.datasets.synthetic import LABORATORIES, draw_cell
from hemalens.evaluation.results import (
    Comparison,
    DataCard,
    Estimate,
    Evaluation,
    Failure,
    ImageAnswers,
    NamedScatter,
    Picture,
    PictureTable,
    Report,
    Scatter,
    ScatterPoint,
)

DOMAINS = ("lab_a", "lab_b", "lab_c")
METHODS = ("linear_probe", "dann", "prototypes")
FAILED = Failure(
    method="dann", protocol="transfer", source="lab_c", target="lab_a",
    error="out of memory: 2,147,483,648 bytes asked for in batch 17; a smaller batch_size may help",
)  # fmt: skip


def make_benchmark_report(
    *,
    methods: tuple[str, ...] = METHODS,
    n_points: int = 120,
    n_answers: int = 0,
    every_part: bool = True,
    seed: int = 0,
) -> Report:
    """Every method from every source to every target but where one failed; `dann` is transductive away from home.

    `n_answers` images have an answer of every model. With `every_part`, k-shot, fractions, costs and pictures too.
    """
    rng = np.random.default_rng(seed)
    evaluations = tuple(
        _evaluation(method, source, target, rng, n_points=n_points, n_answers=n_answers)
        for method in methods
        for source in DOMAINS
        for target in DOMAINS
        if (method, source, target) not in {(FAILED.method, FAILED.source, FAILED.target), ("prototypes", "lab_c", "lab_b")}
    )
    report = make_report(n_evaluations=0, seed=seed, title="Three methods across three laboratories")
    parts: dict[str, Any] = {
        "evaluations": evaluations,
        "comparisons": tuple(_comparison(first, second) for first, second in _pairs(evaluations)),
        "failures": (FAILED,),
        "scatters": (_joint(rng, n_points),),
        "data": tuple(_with_audit(card) for card in report.data),
    }
    if every_part:
        few, fewer = make_k_shot_report(targets=("lab_b",), n_points=n_points), make_fraction_report(targets=("lab_b",))
        parts |= {"k_shot": few.k_shot, "fractions": fewer.fractions, "tables": few.tables, "pictures": (_pictures(),)}
        parts["efficiency"] = make_efficiency_report().efficiency
    return report.model_copy(update=parts)


def _evaluation(
    method: str, source: str, target: str, rng: np.random.Generator, *, n_points: int, n_answers: int
) -> Evaluation:
    at_home = source == target
    made = make_evaluation(0 if at_home else 1, rng, n_points=n_points, domain=target)
    changes = {
        "name": f"{method}: {source} -> {target}",
        "method": method,
        "source": source,
        "target": target,
        "transductive": method == "dann" and not at_home,
        "answers": _answers(n_answers, 5 if at_home else 1, rng) if n_answers else None,
    }
    return made.model_copy(update=changes)


def _answers(n_images: int, n_models: int, rng: np.random.Generator) -> ImageAnswers:
    digits = rng.integers(0, 16, (n_images, 16))
    return ImageAnswers(
        images=tuple("".join(f"{digit:x}" for digit in row) for row in digits),
        units=tuple(range(n_images)),
        truth=tuple(rng.integers(0, len(CLASSES), n_images).tolist()),
        answers=tuple(tuple(row) for row in rng.integers(0, len(CLASSES), (n_models, n_images)).tolist()),
    )


def _pairs(evaluations: tuple[Evaluation, ...]) -> list[tuple[Evaluation, Evaluation]]:
    away = [e for e in evaluations if (e.source, e.target) == ("lab_a", "lab_b")]
    return [(first, second) for i, first in enumerate(away) for second in away[i + 1 :]]


def _comparison(first: Evaluation, second: Evaluation) -> Comparison:
    one, other = (e.scores.balanced_accuracy.value or 0.0 for e in (first, second))
    p = 0.0312 if abs(one - other) > 0.01 else 0.4312
    return Comparison(
        source=first.source,
        target=first.target,
        first=first.method,
        second=second.method,
        n_images=first.n_images,
        n_units=first.n_images,
        n_models=1,
        first_only=41,
        second_only=29,
        test="McNemar, exact",
        p_accuracy=p / 2,
        p_accuracy_holm=p,
        difference=Estimate(value=one - other, low=one - other - 0.03, high=one - other + 0.03),
        p_difference=p / 2,
        p_difference_holm=p,
        better=(first if one > other else second).method if p < 0.05 else None,
        first_transductive=first.transductive,
        second_transductive=second.transductive,
    )


def _joint(rng: np.random.Generator, n_points: int) -> NamedScatter:
    centres, shifts = rng.normal(0, 4, (len(CLASSES), 2)), rng.normal(0, 2, (len(DOMAINS), 2))
    points = []
    for i in range(3 * n_points):
        label, domain = i % len(CLASSES), i % len(DOMAINS)
        x, y = centres[label] + shifts[domain] + rng.normal(0, 1, 2)
        predicted = CLASSES[label if rng.random() < 0.9 else (label + 1) % len(CLASSES)]
        points.append(ScatterPoint(x=x, y=y, label=CLASSES[label], predicted=predicted, domain=DOMAINS[domain]))
    scatter = Scatter(projection="UMAP", explained=None, n_total=9 * n_points, points=tuple(points))
    return NamedScatter(method="linear_probe", source=DOMAINS[0], targets=DOMAINS[1:], scatter=scatter)


def _with_audit(card: DataCard) -> DataCard:
    findings = {"unreadable": "none", "copies under two labels": "3 images", "near-duplicates": "12 pairs"}
    return card.model_copy(update={"audit": findings if card.role == "target" else {}})


def _pictures() -> PictureTable:
    rows = []
    for number, cell_type in enumerate(("monocyte", "lymphocyte", "basophil")):
        image, _ = draw_cell(cell_type, LABORATORIES["lab_b"], np.random.default_rng(number))
        buffer = io.BytesIO()
        Image.fromarray(image).resize((160, 160)).save(buffer, "JPEG")
        picture = b64encode(buffer.getvalue()).decode("ascii")
        rows.append(Picture(name=f"{cell_type}/cell_{number}.png", caption="IoU 0.87", pictures=(picture, picture)))
    return PictureTable(title="What an answer rests on", columns=("image", "covered"), rows=tuple(rows))
