"""The label-free reliability check of a model as a table and a sentence."""

from __future__ import annotations

from hemalens.evaluation import formatting
from hemalens.evaluation.results import Evaluation, TrustCheck
from hemalens.report.tables import Cell, Column, Table, estimate_cell

HEADING = "Reliability without labels"
NOTE = (
    "Estimated as hemalens predict does, from the images alone, then compared with the labels. The domain-shift score is 0 "
    "for images like the held-out training images, 1 for images that share nothing with them. Prediction sets reach their "
    "stated coverage in the laboratories named; others may lower it."
)
HOLDS_FOR = "for the training laboratory only"
NAMES = {
    "thresholded_confidence": "Accuracy estimated by thresholded confidence",
    "difference_of_confidences": "Accuracy estimated by the difference of confidences",
    "typical_cells": "Accuracy estimated from typical cells",
    "mean_confidence": "Accuracy estimated by the mean confidence",
}
VERDICTS = {"foreign": "detected", "like home": "not detected"}
"""Plain words for the verdicts in reports of version 0.1."""


def table(check: TrustCheck, *, where: str) -> Table:
    """A row for each estimate; None is "n/a"."""
    score = formatting.score
    compared = f"{formatting.count(check.n_compared)} images, {formatting.count(check.n_home)} reference images"
    p_value = "" if check.p_value is None else f", p {score(check.p_value)}"
    known = "" if check.home_accuracy is None else f"{score(check.home_accuracy)} on held-out training data"
    rows = [
        (Cell("Domain shift"), Cell(_verdict(check)), Cell(compared)),
        (Cell("Domain-shift score"), Cell(score(check.score)), Cell(f"0 = same distribution, 1 = no overlap{p_value}")),
        (Cell("Atypical images"), Cell(score(check.atypical)), Cell("0.050 without shift")),
        (Cell("AUC of the out-of-distribution score"), Cell(score(check.strangeness)), Cell("0.500 without shift")),
        (Cell("True accuracy"), Cell(score(check.accuracy)), Cell(known)),
    ]
    for estimate in check.estimates:
        name = NAMES.get(estimate.name, formatting.visible(estimate.name))
        off = f"off by {estimate.value - check.accuracy:+.3f}; valid if {formatting.visible(estimate.assumes)}"
        rows.append((Cell(name), Cell(score(estimate.value)), Cell(off)))
    rows.append((Cell("Coverage of prediction sets"), estimate_cell(check.coverage), Cell(_stated(check))))
    rows.append((Cell("Mean size of prediction sets"), Cell(score(check.set_size)), Cell("labels")))
    columns = (Column("Quantity", numeric=False, heads=True), Column("Value"), Column("Remark", numeric=False))
    return Table(
        f"{HEADING}: estimates, and the true values", columns, tuple(rows), heading=HEADING, note=NOTE, where=where
    )


def _stated(check: TrustCheck) -> str:
    """The nominal coverage, and what it holds for; older reports know the training laboratory alone."""
    if check.sets_rest_on:
        return formatting.visible(check.sets_rest_on.removeprefix("prediction sets: "))
    return f"nominal {formatting.share(check.coverage_stated)}, {HOLDS_FOR}"


def _verdict(check: TrustCheck) -> str:
    return VERDICTS.get(check.verdict, formatting.visible(check.verdict))


def sentences(evaluation: Evaluation) -> tuple[str, ...]:
    """The check of an evaluation in plain words; nothing where none was made."""
    check = evaluation.trust
    if check is None:
        return ()
    verdict = f"{evaluation.method}, {evaluation.source} -> {evaluation.target}: domain shift {_verdict(check)}"
    parts = [verdict if check.score is None else f"{verdict}, score {check.score:.2f}"]
    if check.estimates:
        values = sorted(estimate.value for estimate in check.estimates)
        estimated = f"{values[0]:.3f}" + (f"{formatting.EN_DASH}{values[-1]:.3f}" if len(values) > 1 else "")
        parts.append(f"estimated accuracy {estimated}, true accuracy {check.accuracy:.3f}")
    if check.coverage.value is not None:
        parts.append(
            f"prediction sets ({check.set_size:.2f} labels on average) hold the true label for "
            f"{100 * check.coverage.value:.1f} % of the cells ({_stated(check)})"
        )
    return ("; ".join(parts) + ".",)
