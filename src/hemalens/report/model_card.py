"""The card of a model: what it is for, what it has learned from, how well it does where, and where it fails.

Rendered from a bundle's manifest and the reports of its tests, so that no figure is typed by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hemalens.bundle.bundle import Manifest, Quantisation
from hemalens.bundle.default_model import USE
from hemalens.errors import ReportError
from hemalens.evaluation.formatting import count, interval, label, listed, score, share, visible
from hemalens.evaluation.results import ClassScores, Estimate, Evaluation, Report

N_WEAKEST = 8
"""How many of the lowest recalls are told."""


def model_card(manifest: Manifest, reports: Sequence[Report], remarks: Sequence[str] = ()) -> str:
    """The card in Markdown; `reports` are those of the model's tests, each test once.

    `remarks` are what no file tells and a reader of the figures must know, as in what was chosen on which set. Raises
    `ReportError` for a report of another model, and where nothing was tested.
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
        f"## What fails\n\n{_weakest(tests)}",
        f"## How it was made\n\n{_made(manifest)}",
    ]
    return "\n\n".join(sections) + "\n"


def _tests_of(manifest: Manifest, report: Report) -> Iterable[Evaluation]:
    """The evaluations of a report, all of this model; raises `ReportError`."""
    for test in report.evaluations:
        found = (test.method, test.source, report.methods.get(test.method))
        if found != (manifest.method, manifest.trained_on, manifest.config):
            raise ReportError(
                f"the report {visible(report.title)!r} tests another model",
                expected=f"{manifest.method} trained on {manifest.trained_on}, with the bundle's settings",
                got=f"{visible(test.method)} trained on {visible(test.source)}",
            )
        yield test


def _name(manifest: Manifest) -> str:
    backbone = manifest.config.get("backbone")
    return f"{manifest.method} ({visible(backbone)})" if backbone else manifest.method


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _estimate(estimate: Estimate) -> str:
    limits = interval(estimate)
    return f"{score(estimate.value)} ({limits})" if limits else score(estimate.value)


def _where(test: Evaluation) -> str:
    """What was tested on, and whether the model had been adapted to it before."""
    return visible(test.target) + (" (transductive)" if test.transductive else "")


def _intended(manifest: Manifest) -> str:
    names = listed([label(code) for code in manifest.labels])
    return (
        f"To sort images of single blood cells from stained smears, of one cell each, into {names}. It knows no other "
        "cells: whatever it is shown, it answers with one of these. It is no medical device, and nobody is to be "
        "diagnosed or treated by its answers: a morphologist looks at every cell. Before it is used in a laboratory that "
        "stands in no table below, it is tested there (`hemalens evaluate`) on cells that a morphologist has labelled."
    )


def _classes(manifest: Manifest) -> str:
    rows = []
    for entry in manifest.classes:
        within = [fine for fine in manifest.fine if fine.of == entry.code != fine.code]
        finer = ", ".join(f"{fine.name} ({fine.loinc or 'no LOINC'})" for fine in within)
        rows.append([entry.name, entry.loinc or "none", finer or "none"])
    return _table(["class", "LOINC", "finer types told apart"], rows)


def _data(manifest: Manifest) -> str:
    rows = []
    for entry in manifest.data:
        counts = ", ".join(f"{label(code)} {count(n)}" for code, n in entry.class_counts.items())
        total = count(sum(entry.class_counts.values()))
        drawn = " (drawn, not photographed)" if entry.synthetic else ""
        rows.append([f"{visible(entry.name)}{drawn}", entry.role, total, counts, entry.licence, visible(entry.citation)])
    return _table(["set", "part", "images", "of each class", "licence", "attribution"], rows)


def _figures(tests: Sequence[Evaluation], remarks: Sequence[str]) -> str:
    rows = [
        [
            _where(test),
            count(test.n_images),
            str(len(test.tested_classes)),
            _estimate(test.scores.balanced_accuracy),
            _estimate(test.scores.accuracy),
            score(test.scores.majority_rate),
            score(test.scores.ece),
        ]
        for test in tests
    ]
    head = ["tested on", "images", "classes", "balanced accuracy", "accuracy", "majority rate", "ECE"]
    told = [
        "In parentheses 95 % intervals. No tested image was trained on. The majority rate is the accuracy of always "
        "answering the most frequent class."
    ]
    for test in tests:
        low, majority = test.scores.accuracy.low, test.scores.majority_rate
        if low is not None and majority is not None and low <= majority:
            told.append(f"On {_where(test)} the accuracy is not shown to be better than the majority rate.")
        if test.transductive:
            told.append(f"{visible(test.target)}: where transductive, its images were seen without their labels.")
        if test.left_out:
            reasons = "; ".join(f"{label(code)}: {visible(why)}" for code, why in test.left_out.items())
            told.append(f"{visible(test.target)}, not tested: {reasons}.")
    return f"{_table(head, rows)}\n\n" + "\n".join(f"- {line}" for line in dict.fromkeys((*told, *map(visible, remarks))))


@dataclass(frozen=True, slots=True)
class _Weak:
    test: Evaluation
    of_class: ClassScores
    recall: float

    @property
    def taken_for(self) -> str:
        """The class that cells of this one were most often taken for, with the share of its cells."""
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
        return "No cell of any test was answered wrongly."
    weakest = sorted(found, key=lambda each: each.recall)[:N_WEAKEST]
    rows = [
        [
            label(weak.of_class.label),
            _where(weak.test),
            count(weak.of_class.n),
            _estimate(weak.of_class.recall),
            weak.taken_for,
        ]
        for weak in weakest
    ]
    head = ["class", "tested on", "images", "recall", "most often taken for"]
    return f"The lowest recalls, with exact 95 % intervals.\n\n{_table(head, rows)}"


def _made(manifest: Manifest) -> str:
    before = ", ".join(label(entry.kind) for entry in manifest.before_graph)
    lines = [
        f"- Method `{manifest.method}`, images of {manifest.preprocessing.size_px} px, written {manifest.created}.",
        f"- Before the graph: {before or 'nothing; the whole image'}.",
        *([f"- {_said_of_rounding(manifest.quantisation)}"] if manifest.quantisation else []),
        f"- Versions: {', '.join(f'{name} {version}' for name, version in manifest.versions.items()) or 'not noted'}.",
        "- All settings, and the digests of all images it has seen, lie beside this card.",
    ]
    return "\n".join(lines)


def _said_of_rounding(how: Quantisation) -> str:
    finer = "" if how.fine_agreement is None else f", the same finer type on {how.fine_agreement:.1%}"
    return (
        f"Made smaller ({how.precision}, {how.method}): on {count(how.n_images)} images the same answer on "
        f"{how.agreement:.1%}{finer}; probabilities differ by {how.largest_difference:.2g} at most. Figures of sets that "
        "it was trained on may be those from before."
    )
