"""What a model told of its own reliability, as a table and a sentence, from which HTML and Markdown are both written."""

from __future__ import annotations

from hemalens.evaluation import formatting
from hemalens.evaluation.results import Evaluation, TrustCheck
from hemalens.report.tables import Cell, Column, Table, estimate_cell

HEADING = "Could it have been known?"
NOTE = (
    "Told without labels, as predict tells it, with the true figures beside. The domain-shift score is 0 for images like "
    "the held-out ones of the model's own laboratory and 1 for images that share nothing with them. Sets of labels hold "
    "the true one as often as stated for images like those, and not for others."
)
NAMES = {
    "thresholded_confidence": "Accuracy estimated by thresholded confidence",
    "difference_of_confidences": "Accuracy estimated by the difference of confidences",
    "typical_cells": "Accuracy estimated from typical cells",
    "mean_confidence": "Accuracy estimated by the mean confidence",
}


def table(check: TrustCheck) -> Table:
    """A row for each thing told; None is "n/a"."""
    score = formatting.score
    compared = f"{formatting.count(check.n_compared)} images, {formatting.count(check.n_home)} of home"
    p_value = "" if check.p_value is None else f", p {score(check.p_value)}"
    stated = formatting.share(check.coverage_stated)
    rows = [
        (Cell("Domain shift"), Cell(formatting.visible(check.verdict)), Cell(compared)),
        (Cell("Domain-shift score"), Cell(score(check.score)), Cell(f"0 alike, 1 nothing shared{p_value}")),
        (Cell("Atypical images"), Cell(score(check.atypical)), Cell("0.050 at home")),
        (Cell("AUC of these against home images"), Cell(score(check.strangeness)), Cell("0.500 alike")),
        (Cell("True accuracy"), Cell(score(check.accuracy)), Cell(_at_home(check))),
    ]
    for estimate in check.estimates:
        name = NAMES.get(estimate.name, formatting.visible(estimate.name))
        off = f"off by {estimate.value - check.accuracy:+.3f}; holds if {formatting.visible(estimate.assumes)}"
        rows.append((Cell(name), Cell(score(estimate.value)), Cell(off)))
    rows.append((Cell("Coverage of prediction sets"), estimate_cell(check.coverage), Cell(f"{stated} stated for home")))
    rows.append((Cell("Mean size of prediction sets"), Cell(score(check.set_size)), Cell("labels")))
    columns = (Column("What", numeric=False, heads=True), Column("Told"), Column("Remark", numeric=False))
    return Table("What the model told of itself without labels, and what was true", columns, tuple(rows))


def _at_home(check: TrustCheck) -> str:
    return "" if check.home_accuracy is None else f"{formatting.score(check.home_accuracy)} on held-out home images"


def sentences(evaluation: Evaluation) -> tuple[str, ...]:
    """What was told of an evaluation's images in plain words; nothing where nothing was asked."""
    check = evaluation.trust
    if check is None:
        return ()
    where = f"{formatting.visible(evaluation.target)}: domain shift, told without labels: {check.verdict}"
    parts = [where if check.score is None else f"{where} (score {check.score:.2f})"]
    if check.estimates:
        values = sorted(estimate.value for estimate in check.estimates)
        told = f"{values[0]:.3f}" + (f"{formatting.EN_DASH}{values[-1]:.3f}" if len(values) > 1 else "")
        parts.append(f"accuracy estimated {told}, true {check.accuracy:.3f}")
    if check.coverage.value is not None:
        stated = formatting.share(check.coverage_stated)
        parts.append(
            f"sets of {check.set_size:.2f} labels hold the true one in {check.coverage.value:.3f} ({stated} stated)"
        )
    return ("; ".join(parts) + ".",)
