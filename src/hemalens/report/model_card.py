"""The card of a model: use, classes, data, figures, failures, training.

It is rendered from a bundle's manifest and the reports of its tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hemalens.bundle.bundle import Manifest, Quantisation
from hemalens.bundle.default_model import USE
from hemalens.errors import ReportError
from hemalens.evaluation.formatting import count, label, listed, score, share, visible
from hemalens.evaluation.results import ClassScores, Evaluation, FormScores, Report
from hemalens.report.tables import interval_cell

N_WEAKEST = 8
"""How many of the lowest recalls are listed."""


def model_card(
    manifest: Manifest, reports: Sequence[Report], remarks: Sequence[str] = (), left_out: Report | None = None
) -> str:
    """The card in Markdown; `reports` are those of the model's tests, each test once.

    `remarks` are further notes on the figures, such as settings that were chosen on a test set. `left_out` is a report of
    the model's method with each laboratory left out of the training. Raises `ReportError` for a report of another model
    or method, and without any test.
    """
    tests = [evaluation for report in reports for evaluation in _tests_of(manifest, report)]
    tests = list({(test.target, test.transductive): test for test in tests}.values())
    if not tests:
        raise ReportError("the model card has no figures", expected="reports that `hemalens evaluate` or `train` wrote")
    sections = [
        f"# Model card: {_name(manifest)}\n\n{USE.capitalize()}.",
        f"## Intended use\n\n{_intended(manifest)}",
        f"## Classes\n\n{_classes(manifest)}",
        f"## Data\n\n{_data(manifest)}",
        f"## Figures\n\n{_figures(tests, remarks)}",
        *([f"## Laboratories left out\n\n{_left_out(manifest.method, left_out)}"] if left_out else []),
        f"## Weakest classes\n\n{_weakest(tests)}",
        f"## Training\n\n{_made(manifest)}",
    ]
    return "\n\n".join(sections) + "\n"


def _tests_of(manifest: Manifest, report: Report) -> Iterable[Evaluation]:
    """The evaluations of a report; raises `ReportError` for another model."""
    for test in report.evaluations:
        found = (test.method, test.source, report.methods.get(test.method))
        if found != (manifest.method, manifest.trained_on, manifest.config):
            raise ReportError(
                f"the report {visible(report.title)!r} tests another model",
                expected=f"{manifest.method} trained on {manifest.trained_on}, with the bundle's settings",
                got=f"{visible(test.method)} trained on {visible(test.source)}",
            )
        yield test


def _left_out(method: str, report: Report) -> str:
    """What the method's recipe does in laboratories that were not learned: mean, worst and spread over seeds."""
    found = [each for each in report.left_out if each.method == method]
    if not found:
        raise ReportError(
            f"the report {visible(report.title)!r} leaves no laboratory out for {method}",
            expected=f"hemalens benchmark --methods {method} --protocol leave-one-laboratory-out",
            got=", ".join(visible(each.method) for each in report.left_out) or "none",
        )
    (tested,) = found
    names = listed([visible(name) for name in tested.laboratories])
    text = (
        f"{count(tested.n_tests)} other trainings of this method, on all of {names} but one, tested on that one. "
        "Rows called transductive adapted to the tested images without their labels."
    )
    head = ("adapted", "balanced accuracy, mean", "worst training", "standard deviation over seeds")
    return f"{text}\n\n{markdown_table(head, map(_left_out_row, tested.forms))}"


def _left_out_row(form: FormScores) -> tuple[str, ...]:
    name = visible(form.form) + (" (transductive)" if form.transductive else "")
    mean, seeds = form.mean, [list(each.by_seed.values()) for each in form.laboratories]
    variances = [float(np.var(values, ddof=1)) for values in seeds if len(values) > 1]
    return (
        name,
        f"{score(mean.value)} ({score(mean.low)}–{score(mean.high)})",
        f"{score(form.worst.value)} ({visible(form.worst.laboratory)}, seed {form.worst.seed})",
        score(float(np.mean(variances) ** 0.5)) if variances else "one seed",
    )


def _name(manifest: Manifest) -> str:
    backbone = manifest.config.get("backbone")
    return f"{manifest.method} ({visible(backbone)})" if backbone else manifest.method


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _where(test: Evaluation) -> str:
    """The test set, marked where transductive."""
    return visible(test.target) + (" (transductive)" if test.transductive else "")


def _intended(manifest: Manifest) -> str:
    names = listed([label(code) for code in manifest.labels])
    return (
        f"Classifies images of single blood cells from stained smears into {names}. It predicts one of these classes for "
        "any image. It is not a medical device: a morphologist reviews every cell, and nobody is diagnosed or treated by "
        "its predictions. Before use in a laboratory that is not in the tables below, test it there (`hemalens evaluate`) "
        "on labelled cells."
    )


def _classes(manifest: Manifest) -> str:
    rows = []
    for entry in manifest.classes:
        within = [fine for fine in manifest.fine if fine.of == entry.code != fine.code]
        finer = ", ".join(f"{fine.name} ({fine.loinc or 'no LOINC'})" for fine in within)
        rows.append([entry.name, entry.loinc or "none", finer or "none"])
    return markdown_table(["class", "LOINC", "finer types"], rows)


def _data(manifest: Manifest) -> str:
    rows = []
    for entry in manifest.data:
        counts = ", ".join(f"{label(code)} {count(n)}" for code, n in entry.class_counts.items())
        total = count(sum(entry.class_counts.values()))
        drawn = " (synthetic)" if entry.synthetic else ""
        rows.append([f"{visible(entry.name)}{drawn}", entry.role, total, counts, entry.licence, visible(entry.citation)])
    return markdown_table(["set", "part", "images", "of each class", "licence", "attribution"], rows)


def _figures(tests: Sequence[Evaluation], remarks: Sequence[str]) -> str:
    rows = [
        [
            _where(test),
            count(test.n_images),
            str(len(test.tested_classes)),
            str(interval_cell(test.scores.balanced_accuracy)),
            str(interval_cell(test.scores.accuracy)),
            score(test.scores.majority_rate),
            score(test.scores.ece),
        ]
        for test in tests
    ]
    head = ["tested on", "images", "classes", "balanced accuracy", "accuracy", "majority rate", "ECE"]
    notes = [
        "In parentheses: 95 % intervals. No test image was trained on. The majority rate is the accuracy of always "
        "predicting the most frequent class."
    ]
    for test in tests:
        low, majority = test.scores.accuracy.low, test.scores.majority_rate
        if low is not None and majority is not None and low <= majority:
            notes.append(f"On {_where(test)} the accuracy is not shown to be better than the majority rate.")
        if test.transductive:
            notes.append(f"{visible(test.target)}: transductive, its images were seen without their labels.")
        if test.left_out:
            reasons = "; ".join(f"{label(code)}: {visible(why)}" for code, why in test.left_out.items())
            notes.append(f"{visible(test.target)}, not tested: {reasons}.")
    return f"{markdown_table(head, rows)}\n\n" + "\n".join(
        f"- {line}" for line in dict.fromkeys((*notes, *map(visible, remarks)))
    )


@dataclass(frozen=True, slots=True)
class _Weak:
    test: Evaluation
    of_class: ClassScores
    recall: float

    @property
    def confused_with(self) -> str:
        """The most frequent wrong prediction for this class, with its share."""
        row = self.test.confusion[self.test.tested_classes.index(self.of_class.label)]
        wrong = {c: n for c, n in zip(self.test.classes, row, strict=True) if c != self.of_class.label and n}
        if not wrong:
            return "none"
        most = max(wrong, key=lambda code: wrong[code])
        return f"{label(most)} ({share(wrong[most] / max(sum(row), 1))})"


def _weakest(tests: Sequence[Evaluation]) -> str:
    """The lowest recalls over all tests."""
    found = [
        _Weak(test, one, one.recall.value)
        for test in tests
        for one in test.per_class
        if one.recall.value is not None and one.recall.value < 1
    ]
    if not found:
        return "No cell of any test was classified wrongly."
    weakest = sorted(found, key=lambda each: each.recall)[:N_WEAKEST]
    rows = [
        [
            label(weak.of_class.label),
            _where(weak.test),
            count(weak.of_class.n),
            str(interval_cell(weak.of_class.recall)),
            weak.confused_with,
        ]
        for weak in weakest
    ]
    head = ["class", "tested on", "images", "recall", "most often confused with"]
    return f"The lowest recalls, with exact 95 % intervals.\n\n{markdown_table(head, rows)}"


def _made(manifest: Manifest) -> str:
    before = ", ".join(label(entry.kind) for entry in manifest.before_graph)
    lines = [
        f"- Method `{manifest.method}`, images of {manifest.preprocessing.size_px} px, written {manifest.created}.",
        f"- Before the graph: {before or 'nothing, the whole image'}.",
        *([f"- {_precision(manifest.quantisation)}"] if manifest.quantisation else []),
        f"- Versions: {', '.join(f'{name} {version}' for name, version in manifest.versions.items()) or 'unknown'}.",
        "- All settings, and the digests of all images seen in training, are in the same folder.",
    ]
    return "\n".join(lines)


def _precision(how: Quantisation) -> str:
    finer = "" if how.fine_agreement is None else f", {how.fine_agreement:.1%} equal finer types"
    return (
        f"Precision: {how.precision} ({how.method}); on {count(how.n_images)} images {how.agreement:.1%} equal predictions"
        f"{finer}; probabilities differ by {how.largest_difference:.2g} at most. Figures on training sets may be of the "
        "model before this step."
    )
