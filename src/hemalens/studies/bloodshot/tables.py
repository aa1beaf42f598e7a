"""The tables of the BloodShot study, with the published numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hemalens.classifiers.few_shot import FewShotConfig
from hemalens.evaluation.results import ComparisonTable, Estimate, Evaluation, KShot
from hemalens.studies.base import published

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
CNMC_CLASSES = ("all", "hem")


def ten_shot_table(results: Sequence[KShot], k_shot: int) -> list[ComparisonTable]:
    """The paper's first table for each novel set; the published columns only where its classes are C-NMC's."""
    tables = []
    for target in dict.fromkeys(result.target for result in results):
        here = [result for result in results if result.target == target]
        comparable = set(here[0].classes) == set(CNMC_CLASSES) and k_shot == 10
        columns = ["embedder", "balanced accuracy", "95 %", "accuracy", *(f"F1 {c}" for c in here[0].classes)]
        columns += ["published accuracy", "published F1 all", "published F1 hem"] if comparable else []
        rows = []
        for result in here:
            shots = result.shots[0]
            reference = published("bloodshot")["ten_shot"].get(result.method, {})
            row: list[str | int | float | None] = [
                result.method,
                _mean_std(shots.balanced_accuracy),
                _interval(shots.balanced_accuracy),
                _mean_std(shots.accuracy),
                *(_mean_std(shots.f1[c]) for c in result.classes),
            ]
            if comparable:
                row += [_pair(reference.get(name)) for name in ("accuracy", "f1_all", "f1_hem")]
            rows.append(tuple(row))
        rate = here[0].shots[0].majority_rate
        note = (
            f"Mean ± standard deviation over {here[0].shots[0].n_repeats} drawings of {k_shot} images a class from "
            f"{here[0].support}; {here[0].classifier}. Always predicting the most frequent class: accuracy {rate:.3f}, "
            f"balanced accuracy {1 / len(here[0].classes):.3f}."
        )
        if not comparable:
            note += " The published numbers are for another novel set, C-NMC, and are left out."
        tables.append(
            ComparisonTable(
                title=f"{k_shot} labelled images a class, {target}", columns=tuple(columns), rows=tuple(rows), note=note
            )
        )
    return tables


def generic_table(evaluations: Sequence[Evaluation], label_map: str) -> list[ComparisonTable]:
    """The paper's second table: precision and recall on the generic set; published columns where it is Matek-19."""
    reference = published("bloodshot")["generic"]
    ours = next((e for e in evaluations if e.method == "aam+consistency, random"), None)
    if ours is None:
        return []
    comparable = label_map == "as_labelled" and {c.label for c in ours.per_class} <= set(reference)
    columns = ["class", "images", "precision", "recall"]
    columns += ["published precision", "published recall", "published images"] if comparable else []
    rows = []
    for scores in ours.per_class:
        row: list[str | int | float | None] = [scores.label, scores.n, scores.precision.value, scores.recall.value]
        if comparable:
            precision, recall, n = reference[scores.label]
            row += [precision, recall, n]
        rows.append(tuple(row))
    majority = ours.scores.majority_rate
    note = (
        f"Accuracy {_value(ours.scores.accuracy.value)}, balanced accuracy {_value(ours.scores.balanced_accuracy.value)}, "
    )
    note += f"majority rate {_value(majority)}."
    note += "" if comparable else " The published numbers are for Matek-19, and are left out."
    title = f"Generic set: the test part of {ours.target}, {ours.method}"
    return [ComparisonTable(title=title, columns=tuple(columns), rows=tuple(rows), note=note)]


def options_table(options: Mapping[str, Sequence[KShot]], k_shot: int) -> list[ComparisonTable]:
    """The balanced accuracy of every embedder under every setting of the few-shot classifier."""
    tables = []
    first = next(iter(options.values()))
    for target in dict.fromkeys(result.target for result in first):
        rows: list[tuple[str | int | float | None, ...]] = []
        for i, result in enumerate(first):
            if result.target == target:
                rows.append(
                    (result.method, *(_mean_std(found[i].shots[0].balanced_accuracy) for found in options.values()))
                )
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


def _value(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _mean_std(estimate: Estimate) -> str:
    return _value(estimate.value) if estimate.std is None else f"{_value(estimate.value)} ± {estimate.std:.3f}"


def _interval(estimate: Estimate) -> str:
    return "n/a" if estimate.low is None else f"{estimate.low:.3f}–{estimate.high:.3f}"


def _pair(values: Sequence[float] | None) -> str | None:
    return None if values is None else f"{values[0]:.3f} ± {values[1]:.3f}"
