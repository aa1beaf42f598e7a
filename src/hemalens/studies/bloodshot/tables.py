"""The tables of the BloodShot study, with the published numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hemalens.classifiers.few_shot import FewShotConfig
from hemalens.evaluation.results import ComparisonTable, Estimate, Evaluation, KShot
from hemalens.studies.base import published
from hemalens.studies.bloodshot.embedders import AUTHORS
from hemalens.taxonomy import AS_LABELLED

OPTIONS: Mapping[str, FewShotConfig] = {
    "class means, cosine (published)": FewShotConfig(),
    "unit length first": FewShotConfig(normalise=True),
    "centred on the support": FewShotConfig(centre="support"),
    "centred on the target (transductive)": FewShotConfig(centre="target"),
    "up to 3 means a class": FewShotConfig(n_prototypes=3),
    "nearest image": FewShotConfig(rule="nearest_neighbour"),
    "logistic regression": FewShotConfig(rule="logistic_regression"),
    "logistic regression, unit length, c = 10": FewShotConfig(rule="logistic_regression", normalise=True, c=10.0),
}
"""Settings of the few-shot classifier, each measured on every embedder."""
CNMC_CLASSES = {"all": "cancer (all)", "hem": "normal (hem)"}
"""The classes of C-NMC with the paper's words."""
PUBLISHED_ROW = "aam+consistency, random"
Row = tuple[str | int | float | None, ...]


def ten_shot_table(results: Sequence[KShot], k_shot: int) -> list[ComparisonTable]:
    """The paper's first table for each novel set; the published columns only where its classes are C-NMC's."""
    tables = []
    for target, here in _by_target(results):
        comparable = _is_cnmc(here) and k_shot == 10
        names = [CNMC_CLASSES.get(c, c) if comparable else c for c in here[0].classes]
        columns = ["embedder", "balanced accuracy", "95 %", "accuracy", *(f"F1 {name}" for name in names)]
        columns += ["published accuracy", *(f"published F1 {c}" for c in here[0].classes)] if comparable else []
        rows: list[Row] = []
        for result in here:
            shots = result.shots[0]
            row: list[str | int | float | None] = [
                result.method,
                _mean_std(shots.balanced_accuracy, shots.n_repeats),
                _interval(shots.balanced_accuracy),
                _mean_std(shots.accuracy, shots.n_repeats),
                *(_mean_std(shots.f1[c], shots.n_repeats) for c in result.classes),
            ]
            if comparable:
                reference = published("bloodshot")["ten_shot"].get(_published_row(result.method), {})
                row += [_pair(reference.get(name)) for name in ("accuracy", *(f"f1_{c}" for c in result.classes))]
            rows.append(tuple(row))
        if comparable:
            all_labels = published("bloodshot")["all_labels"]
            rows.append((all_labels["what"], *[None] * (len(columns) - 4), _value(all_labels["accuracy"]), None, None))
        first = here[0]
        note = (
            f"Mean ± standard deviation over {first.shots[0].n_repeats} drawings of {k_shot} images a class from "
            f"{first.support}; {first.classifier}. As published, the deviation divides by the number of drawings. "
            f"{_rates(first)}"
        )
        if comparable:
            note += " The last row learns from all labels; the accuracy is the one that the paper cites."
        else:
            note += " The published numbers are for ten images a class of another novel set, C-NMC, and are left out."
        title = f"{k_shot} labelled images a class, {target}"
        tables.append(ComparisonTable(title=title, columns=tuple(columns), rows=tuple(rows), note=note))
    return tables


def sweep_table(results: Sequence[KShot]) -> list[ComparisonTable]:
    """The paper's third figure as a table: accuracy against k; the published points only where the classes are C-NMC's."""
    tables = []
    for target, here in _by_target(results):
        shown = [shots.k for shots in here[0].shots]
        rows: list[Row] = [(r.method, *(_value(shots.accuracy.value) for shots in r.shots)) for r in here]
        repeats = " and ".join(str(n) for n in sorted({shots.n_repeats for shots in here[0].shots}))
        base = 1 / len(here[0].classes)
        note = f"Accuracy, the mean over {repeats} drawings for each k. Base rate (a uniform guess): {base:.3f}."
        if _is_cnmc(here):
            points = published("bloodshot")["sweep"]
            rows.append((f"published: {PUBLISHED_ROW}", *(_value(points.get(str(k))) for k in shown)))
            note += ' The paper draws its curve and prints two points: "almost" 0.60 and "up to" 0.65.'
        columns = ("embedder", *(f"k = {k}" for k in shown))
        title = f"Accuracy against the number k of labelled images a class, {target}"
        tables.append(ComparisonTable(title=title, columns=columns, rows=tuple(rows), note=note))
    return tables


def generic_table(evaluations: Sequence[Evaluation], label_map: str) -> list[ComparisonTable]:
    """The paper's second table: precision and recall on the generic set; published columns where it is Matek-19.

    There is one for the embedder of the paper, and one for the authors' weights.
    """
    reference = published("bloodshot")["generic"]
    tables = []
    for found in (e for e in evaluations if _published_row(e.method) == PUBLISHED_ROW):
        comparable = label_map == AS_LABELLED and {c.label for c in found.per_class} <= set(reference)
        columns = ["class", "short name"] if comparable else ["class"]
        columns += ["images", "precision", "recall"]
        columns += ["published precision", "published recall", "published images"] if comparable else []
        rows: list[Row] = []
        for scores in found.per_class:
            ours = (scores.label, scores.n, scores.precision.value, scores.recall.value)
            if comparable:
                known = reference[scores.label]
                rows.append((known["name"], *ours, known["precision"], known["recall"], known["n_images"]))
            else:
                rows.append(ours)
        majority = found.scores.majority_rate
        note = (
            f"Accuracy {_value(found.scores.accuracy.value)}, "
            f"balanced accuracy {_value(found.scores.balanced_accuracy.value)}, majority rate {_value(majority)}. "
        )
        note += (
            "The paper finds its results below those of Matek et al. (2019), most of all for rare classes, and prints none "
            "of their numbers."
            if comparable
            else "The published numbers are for Matek-19, and are left out."
        )
        title = f"Generic set: the test part of {found.target}, {found.method}"
        tables.append(ComparisonTable(title=title, columns=tuple(columns), rows=tuple(rows), note=note))
    return tables


def options_table(options: Mapping[str, Sequence[KShot]], k_shot: int) -> list[ComparisonTable]:
    """The balanced accuracy of every embedder under every setting of the few-shot classifier; none without settings."""
    tables = []
    first = next(iter(options.values()), ())
    for target in dict.fromkeys(result.target for result in first):
        rows: list[Row] = []
        for i, result in enumerate(first):
            if result.target == target:
                each = (found[i].shots[0] for found in options.values())
                rows.append((result.method, *(_mean_std(shots.balanced_accuracy, shots.n_repeats) for shots in each)))
        tables.append(
            ComparisonTable(
                title=f"Balanced accuracy with {k_shot} labelled images a class, by few-shot classifier, {target}",
                columns=("embedder", *options),
                rows=tuple(rows),
                note=f"Mean ± standard deviation over {first[0].shots[0].n_repeats} drawings, the same for every cell of "
                "the table. A transductive classifier uses the tested images, without their labels.",
            )
        )
    return tables


def _by_target(results: Sequence[KShot]) -> list[tuple[str, list[KShot]]]:
    names = dict.fromkeys(result.target for result in results)
    return [(name, [result for result in results if result.target == name]) for name in names]


def _is_cnmc(results: Sequence[KShot]) -> bool:
    return set(results[0].classes) == set(CNMC_CLASSES)


def _published_row(method: str) -> str:
    """The paper's row that a row is compared with."""
    return PUBLISHED_ROW if method == AUTHORS else method


def _rates(result: KShot) -> str:
    base, majority = 1 / len(result.classes), result.shots[0].majority_rate
    return (
        f"Base rate (a uniform guess, as in the paper): accuracy {base:.3f}. Always predicting the most frequent class: "
        f"accuracy {majority:.3f}, balanced accuracy {base:.3f}."
    )


def _value(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _mean_std(estimate: Estimate, n: int) -> str:
    """Mean and population standard deviation of `n` drawings, as published; the estimate's divides by n - 1."""
    if estimate.std is None:
        return _value(estimate.value)
    return f"{_value(estimate.value)} ± {estimate.std * math.sqrt((n - 1) / n):.3f}"


def _interval(estimate: Estimate) -> str:
    return "n/a" if estimate.low is None else f"{estimate.low:.3f}–{estimate.high:.3f}"


def _pair(values: Sequence[float] | None) -> str | None:
    return None if values is None else f"{values[0]:.3f} ± {values[1]:.3f}"
