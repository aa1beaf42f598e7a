"""The summary of a report: its main results as sentences."""

from __future__ import annotations

from collections.abc import Sequence

from hemalens.evaluation import formatting
from hemalens.evaluation.results import Comparison, Efficiency, Estimate, Evaluation, Failure, FractionCurve, KShot
from hemalens.report import efficiency as costs
from hemalens.report.comparisons import sentences as comparison_sentences
from hemalens.report.curve_sections import Line, Target
from hemalens.report.fractions import ascending, targets
from hemalens.report.tables import interval_cell, majority, quoted
from hemalens.report.trust import sentences as trust_sentences

MOST_SENTENCES = 3
"""With more evaluations, or more embedders on one target, their range is given."""


def summarise(evaluation: Evaluation) -> list[str]:
    """One evaluation; a further sentence where the model is not better than the majority class."""
    scores = evaluation.scores
    where = f"{evaluation.method}, {evaluation.source} -> {evaluation.target}"
    folds = f", mean of {evaluation.n_folds} folds" if evaluation.n_folds > 1 else ""
    sentences = [
        f"{where}: balanced accuracy {interval_cell(scores.balanced_accuracy)} and accuracy "
        f"{interval_cell(scores.accuracy)} on {evaluation.n_images} images of "
        f"{len(evaluation.tested_classes)} classes{folds}; "
        f"{majority(scores.majority_rate)}."
    ]
    low, high = scores.accuracy.low, scores.accuracy.high
    if low is not None and high is not None and scores.majority_rate is not None:
        if high < scores.majority_rate:
            sentences.append(f"{where}: the accuracy is worse than always predicting the most frequent class.")
        elif low <= scores.majority_rate:
            sentences.append(f"{where}: the accuracy does not differ from always predicting the most frequent class.")
    return [*sentences, *trust_sentences(evaluation)]


def summarise_failures(failures: Sequence[Failure]) -> list[str]:
    """How many parts of a benchmark failed, and which."""
    if not failures:
        return []
    named = formatting.listed([f"{formatting.visible(f.method)} from {formatting.visible(f.source)}" for f in failures])
    return [f"{formatting.counted(len(failures), 'part')} of this benchmark failed: {named}. The others completed."]


def summarise_evaluations(evaluations: Sequence[Evaluation], comparisons: Sequence[Comparison] = ()) -> list[str]:
    """Each of a few evaluations; of many, the range of each model over targets; then the paired tests."""
    if len(evaluations) <= MOST_SENTENCES:
        found = [sentence for evaluation in evaluations for sentence in summarise(evaluation)]
    else:
        groups: dict[tuple[str, str], list[Evaluation]] = {}
        for evaluation in evaluations:
            groups.setdefault((evaluation.method, evaluation.source), []).append(evaluation)
        found = [_range_over_targets(group) for group in groups.values()] + _no_better_than_guessing(evaluations)
    return found + list(comparison_sentences(comparisons, evaluations))


def _range_over_targets(group: Sequence[Evaluation]) -> str:
    """One model on its training laboratory, and its worst and best among the other targets."""
    first = group[0]
    scores = [f"{interval_cell(e.scores.balanced_accuracy)} in-domain" for e in group if e.target == e.source]
    known = [e for e in group if e.target != e.source and e.scores.balanced_accuracy.value is not None]
    ranked = sorted(known, key=lambda e: e.scores.balanced_accuracy.value or 0.0)
    ends = ranked if len(ranked) <= 1 else [ranked[0], ranked[-1]]
    shown = [
        f"{interval_cell(e.scores.balanced_accuracy)} on {formatting.visible(e.target)}"
        + (f" ({formatting.TRANSDUCTIVE})" if e.transductive else "")
        for e in ends
    ]
    if shown:
        scores.append(" to ".join(shown))
    where = f"{formatting.visible(first.method)}, trained on {formatting.visible(first.source)}"
    return f"{where}: balanced accuracy {formatting.listed(scores)}."


def _no_better_than_guessing(evaluations: Sequence[Evaluation]) -> list[str]:
    """How many accuracies are not clearly above the majority rate."""
    scores = [e.scores for e in evaluations if e.scores.accuracy.low is not None and e.scores.majority_rate is not None]
    n = sum((s.accuracy.low or 0.0) <= (s.majority_rate or 0.0) for s in scores)
    if n == 0:
        return []
    verb = "is" if n == 1 else "are"
    return [
        f"{n} of {formatting.counted(len(scores), 'accuracy', 'accuracies')} {verb} not shown to be better than always "
        "predicting the most frequent class."
    ]


def summarise_k_shot(results: Sequence[KShot]) -> list[str]:
    """The k-shot results on one target, at the k nearest to ten, marked where transductive.

    Where k counts images, the best and the worst line at the last k, after the unchanged model.
    """
    if results and results[0].against != "shots":
        return [_budget_sentence(results)]
    if len(results) <= MOST_SENTENCES:
        return [_k_shot_sentence(result) for result in results]
    at_ten = [(result, min(result.shots, key=lambda s: abs(s.k - 10))) for result in results]
    ranked = sorted(at_ten, key=lambda entry: entry[1].balanced_accuracy.value or 0.0)
    (worst, low), (best, high) = ranked[0], ranked[-1]
    return [
        f"{best.target}: with {high.k} labelled image(s) of each of {len(best.classes)} classes the balanced accuracy of "
        f"{len(results)} embedders runs from {interval_cell(low.balanced_accuracy)} ({_named(worst)}) to "
        f"{interval_cell(high.balanced_accuracy)} ({_named(best)}); "
        f"{majority(high.majority_rate)}."
    ]


def _budget_sentence(results: Sequence[KShot]) -> str:
    """The start of the curves of one target, and the ends of the highest and the lowest."""
    first = results[0]
    what = "labelled images" if first.against == "labelled" else "images without labels, tested on others,"
    ranked = sorted(results, key=lambda result: result.shots[-1].balanced_accuracy.value or 0.0)
    ends = [ranked[-1]] if len(ranked) == 1 else [ranked[-1], ranked[0]]
    reached = [f"{interval_cell(r.shots[-1].balanced_accuracy)} ({formatting.visible(r.variant)})" for r in ends]
    return (
        f"{first.method}, {first.source} -> {first.target}: balanced accuracy "
        f"{interval_cell(first.shots[0].balanced_accuracy)} as it is; with {first.shots[-1].k} {what} "
        f"{' down to '.join(reached)}; "
        f"{majority(first.shots[-1].majority_rate)}."
    )


def _named(result: KShot) -> str:
    return f"{result.method}, transductive" if result.transductive else result.method


def _k_shot_sentence(result: KShot) -> str:
    shots = min(result.shots, key=lambda s: abs(s.k - 10))
    where = f"{result.method}, {result.source} -> {result.target}"
    how = f"{result.classifier}{', transductive' if result.transductive else ''}"
    sentence = (
        f"{where}: with {shots.k} labelled image(s) of each of {len(result.classes)} classes ({how}) balanced accuracy "
        f"{interval_cell(shots.balanced_accuracy)} and accuracy {interval_cell(shots.accuracy)}, mean of "
        f"{shots.n_repeats} repeats; {majority(shots.majority_rate)}"
    )
    if result.supervised is not None:
        sentence += f"; {result.supervised.what} gives a balanced accuracy of "
        sentence += str(interval_cell(result.supervised.balanced_accuracy))
    return sentence + "."


def summarise_fractions(curves: Sequence[FractionCurve]) -> list[str]:
    """The best and the worst method of each target at its smallest fraction.

    A method is called the best only where its interval lies above all others.
    """
    return [sentence for target in targets(curves) for sentence in _fraction_sentences(target)]


def _fraction_sentences(target: Target[FractionCurve]) -> list[str]:
    fraction = min(ascending(line.result)[0].fraction for line in target.lines)
    here = [(line, part) for line in target.lines if (part := ascending(line.result)[0]).fraction == fraction]
    ranked = sorted(
        (entry for entry in here if entry[1].balanced_accuracy.value is not None),
        key=lambda entry: entry[1].balanced_accuracy.value or 0.0,
        reverse=True,
    )
    numbers = {part.n_train for _, part in here}
    images = f" ({formatting.counted(numbers.pop(), 'image')})" if len(numbers) == 1 else ""
    where = f"{target.name}: with {formatting.percent(fraction)} of the labels{images}"
    guessing = f"{majority(*(part.majority_rate for _, part in here))}."
    if not ranked:
        return [f"{where} no balanced accuracy is known; {guessing}"]
    (best, high), (worst, low) = ranked[0], ranked[-1]
    best_score, worst_score = interval_cell(high.balanced_accuracy), interval_cell(low.balanced_accuracy)
    if len(ranked) == 1:
        accuracy = interval_cell(high.accuracy)
        return [
            f"{where} {_quoted(best)} has a balanced accuracy of {best_score} and an accuracy of {accuracy}; {guessing}"
        ]
    rivals = [entry for entry in ranked[1:] if _may_be_equal(high.balanced_accuracy, entry[1].balanced_accuracy)]
    if not rivals:
        return [
            f"{where} the best of {len(ranked)} methods is {_quoted(best)} with a balanced accuracy of {best_score}, the "
            f"worst {_quoted(worst)} with {worst_score}; {guessing}"
        ]
    return [
        f"{where} the balanced accuracy of {len(ranked)} methods runs from {worst_score} for {_quoted(worst)} to "
        f"{best_score} for {_quoted(best)}; {guessing}",
        f"{target.name}: {_quoted(best)} does not differ clearly from "
        f"{formatting.listed([_quoted(line) for line, _ in rivals])}: no interval lies above all others.",
    ]


def summarise_efficiency(results: Sequence[Efficiency]) -> list[str]:
    """The range of FLOPs and latency, and the Pareto front of each test."""
    if not results:
        return []
    ranked = sorted(results, key=lambda result: result.flops)
    cheap, dear = (
        f"{formatting.amount(r.flops / 1e9)} GFLOPs ({formatting.visible(r.name)})" for r in (ranked[0], ranked[-1])
    )
    n = formatting.counted(len(results), "network")
    sentences = [f"{n}: an image costs from {cheap} to {dear}." if len(results) > 1 else f"{n}: an image costs {cheap}."]
    timed = [(timing.latency_ms.value, result.name, timing) for result in results for timing in result.timings]
    on_processor = [entry for entry in timed if entry[2].device == costs.PROCESSOR]
    by_time = sorted((value, name, timing.precision) for value, name, timing in on_processor if value is not None)
    if by_time:
        fast, slow = (
            f"{formatting.measured(value)} ms ({formatting.visible(name)}, {precision})"
            for value, name, precision in (by_time[0], by_time[-1])
        )
        threads = formatting.counted(on_processor[0][2].n_threads, "thread")
        range_ = f"from {fast} to {slow}" if len(by_time) > 1 else fast
        sentences.append(f"On {threads} of the processor one image takes {range_}.")
    return sentences + [_front_sentence(test) for test in costs.tests(results)]


def _front_sentence(test: costs.Test) -> str:
    front = sorted((test.results[i] for i in test.front), key=lambda result: result.flops)
    known = [
        f"{formatting.visible(r.name)} with {interval_cell(r.balanced_accuracy)} "
        f"for {formatting.amount(r.flops / 1e9)} GFLOPs"
        for r in front
    ]
    return (
        f"{test.name}: the Pareto front of balanced accuracy against FLOPs holds {len(front)} of {len(test.results)}: "
        f"{formatting.listed(known)}; {majority(*(result.majority_rate for result in test.results))}."
    )


def _may_be_equal(high: Estimate, low: Estimate) -> bool:
    """Whether two intervals overlap, or one of them is not known."""
    return high.low is None or low.high is None or low.high >= high.low


def _quoted(line: Line[FractionCurve]) -> str:
    """The name of a line in quotation marks, with its warning."""
    return f"{quoted([line.name])} ({line.tag})" if line.tag else quoted([line.name])
