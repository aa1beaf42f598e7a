"""The tables of the two white-cell studies, with the published numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hemalens.benchmark.protocols.fractions import FractionRun, balanced_accuracy_gain
from hemalens.evaluation.results import ComparisonTable, Estimate, FractionScores

Cell = str | int | float | None


def published_table(
    runs: Mapping[str, FractionRun], published: Mapping[str, Any], *, shown: bool, comparable: bool = True
) -> ComparisonTable:
    """Accuracy of each row at each fraction, with the published number where the data are the published ones, `shown`.

    `published` is the study's file: its "accuracy" by row and fraction; "about" names the rows that it rounds.
    """
    told = "published" if comparable else "published, not comparable"
    shares, accuracy, about = _shares(runs), published["accuracy"], published.get("about", ())
    columns = ["method"]
    for share in shares:
        columns += [_percent(share), told] if shown else [_percent(share)]
    rows: list[tuple[Cell, ...]] = []
    for key, run in runs.items():
        cells: list[Cell] = [run.curve.method]
        for share in shares:
            cells.append(_mean_std(_at(run, share).accuracy))
            if shown:
                cells.append(_published(accuracy.get(key, {}).get(f"{share:g}"), rounded=key in about))
        rows.append(tuple(cells))
    first = next(iter(runs.values())).curve
    rate = first.fractions[0].majority_rate
    n_seeds, tested = first.fractions[0].n_seeds, f"on {first.n_images} tested images"
    note = f"Mean ± standard deviation over {n_seeds} seeds {tested}." if n_seeds > 1 else f"One training each, {tested}."
    note += f" Always predicting the most frequent class: {rate:.3f}."
    if not shown:
        note += " The published numbers are for WBC_100 and its subsets, and are left out."
    elif not comparable:
        note += " Why the published numbers are not comparable is listed under the differences from the paper."
    return ComparisonTable(title="Accuracy by the share of the labels", columns=tuple(columns), rows=tuple(rows), note=note)


def gains_table(runs: Mapping[str, FractionRun], reference: str, *, seed: int) -> list[ComparisonTable]:
    """Balanced accuracy of each row less that of the reference row, with intervals; none where that row was not run."""
    if reference not in runs or len(runs) < 2:
        return []
    shares = _shares(runs)
    base = runs[reference]
    rows: list[tuple[Cell, ...]] = []
    for key, run in runs.items():
        if key != reference:
            gains = [balanced_accuracy_gain(run, base, share, seed=seed) for share in shares]
            rows.append((run.curve.method, *(_signed(gain) for gain in gains)))
    return [
        ComparisonTable(
            title=f"Balanced accuracy, difference to: {base.curve.method}",
            columns=("method", *(_percent(share) for share in shares)),
            rows=tuple(rows),
            note="Mean over the seeds with its 95 % interval, paired by seed and by tested image; both are resampled. An "
            "interval that holds 0 shows no difference.",
        )
    ]


def _shares(runs: Mapping[str, FractionRun]) -> list[float]:
    return [scores.fraction for scores in next(iter(runs.values())).curve.fractions]


def _at(run: FractionRun, share: float) -> FractionScores:
    return next(scores for scores in run.curve.fractions if scores.fraction == share)


def _published(percent: float | None, *, rounded: bool) -> str | None:
    if percent is None:
        return None
    return f"about {percent / 100:.2f}" if rounded else f"{percent / 100:.4f}"


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _mean_std(estimate: Estimate) -> str:
    value = "n/a" if estimate.value is None else f"{estimate.value:.3f}"
    return value if estimate.std is None else f"{value} ± {estimate.std:.3f}"


def _signed(gain: Estimate) -> str:
    value = "n/a" if gain.value is None else f"{gain.value:+.3f}"
    return value if gain.low is None else f"{value} ({gain.low:+.3f} to {gain.high:+.3f})"
