"""Size, speed and scores of networks as tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hemalens.evaluation import formatting
from hemalens.evaluation.results import Efficiency, Estimate, Timing
from hemalens.report import tradeoffs
from hemalens.report.curves import LineStyle
from hemalens.report.figures import Figures, Key, Legend, Panel, line_colour
from hemalens.report.tables import Cell, Column, Group, Section, Table, estimate_cell, number_columns
from hemalens.report.tradeoffs import Place

ANCHOR = "efficiency"
HEADING = "Efficiency"
COUNT_NOTE = (
    "FLOPs = 2 \N{MULTIPLICATION SIGN} MACs of convolutions and matrix products, for one image. Products inside attention "
    "count, which some published figures leave out; norms, activations and trees do not. Parameters of a bundle: those of "
    "its graph, with batch norms folded into convolutions. Weights: of a backbone as 32-bit floats in safetensors, of a "
    "bundle its model.onnx."
)
TIME_NOTE = (
    "Latency: one image. Images/s: in batches of 32. Medians over rounds, in which all networks take turns, with the 2.5 "
    "and 97.5 percentiles of the rounds. A backbone runs in torch from pixels to logits, a bundle in ONNX Runtime from the "
    "8-bit image to probabilities. bf16: autocast, channels last. Memory: the peak of a separate process that loads the "
    "network and runs one image and one batch; not measured on a GPU."
)
SCORE_NOTE = (
    "In small print: the 95 % interval. Pareto front: no other network scores as high for fewer FLOPs, or higher for as "
    "many, by the values alone."
)
PROCESSOR = "cpu"


@dataclass(frozen=True, slots=True)
class Test:
    """The networks tested on the same images and classes, whose scores can be compared."""

    name: str
    results: tuple[Efficiency, ...]
    front: frozenset[int]
    """Positions in `results` that are on the Pareto front."""

    __test__ = False  # not a test of pytest's


def tests(results: Sequence[Efficiency]) -> tuple[Test, ...]:
    """The networks with a known balanced accuracy, by test."""
    by_test: dict[str, list[Efficiency]] = {}
    for result in results:
        if balanced_accuracy(result) is not None:
            by_test.setdefault(result.tested_on, []).append(result)
    return tuple(
        Test(
            formatting.visible(name),
            tuple(here),
            frozenset(pareto_front([r.flops for r in here], [balanced_accuracy(r) or 0.0 for r in here])),
        )
        for name, here in by_test.items()
    )


def balanced_accuracy(result: Efficiency) -> float | None:
    """The balanced accuracy of a network, or None where it is not known."""
    return result.balanced_accuracy.value if result.balanced_accuracy else None


def pareto_front(costs: Sequence[float], scores: Sequence[float]) -> tuple[int, ...]:
    """Positions, by rising cost, that no other one beats: at most the cost, at least the score, one of them strictly."""
    front: list[int] = []
    best: float | None = None
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -scores[i]))
    for i in order:
        twin = bool(front) and (costs[front[-1]], scores[front[-1]]) == (costs[i], scores[i])
        if best is None or scores[i] > best or twin:
            front.append(i)
            best = scores[i]
    return tuple(front)


# --------------------------------------------------------------------------------------------------------------- tables


def section(results: Sequence[Efficiency]) -> Section:
    """The figures with their legend, and the tables."""
    keys = tuple(
        Key(formatting.visible(result.name), line_colour(i), LineStyle(i).marker) for i, result in enumerate(results)
    )
    panels = figures(results)
    drawn = (Figures(panels, legends=(Legend("Networks", keys),)),) if panels else ()
    return Section(ANCHOR, HEADING, (*drawn, *tables(results)), "evaluation")


def tables(results: Sequence[Efficiency]) -> tuple[Table, ...]:
    """Sizes, then times and scores where they are known."""
    found = [counts(results)]
    if any(result.timings for result in results):
        found.append(times(results))
    if tests(results):
        found.append(scores(results))
    return tuple(found)


def counts(results: Sequence[Efficiency]) -> Table:
    """Parameters, multiply-adds and weights of every network."""
    names = ("Input, px", "Parameters, M", "Without head, M", "MACs, G", "FLOPs, G", "Weights, MB")
    return Table(
        "Size of every network, for one image",
        number_columns("Network", names),
        tuple(
            (
                Cell(formatting.visible(result.name), (result.kind,)),
                Cell(str(result.input_px)),
                Cell(formatting.amount(result.parameters / 1e6)),
                Cell(formatting.amount(_scaled(result.parameters_without_head, 1e6))),
                Cell(formatting.amount(result.macs / 1e9)),
                Cell(formatting.amount(result.flops / 1e9)),
                Cell(formatting.measured(result.weights_mb)),
            )
            for result in results
        ),
        note=COUNT_NOTE,
    )


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def times(results: Sequence[Efficiency]) -> Table:
    """Latency, throughput and memory of every network, by device, precision and threads."""
    names = ("Device", "Precision", "Threads", "Latency, ms", "Images/s", "Memory, MB")
    return Table(
        "Time and memory of every network, with the range of 95 % of the rounds",
        (Column("Runs in", numeric=False, heads=True), *(Column(n, numeric=i > 1) for i, n in enumerate(names))),
        groups=tuple(
            Group(Cell(formatting.visible(result.name)), tuple(_time_row(timing) for timing in result.timings))
            for result in results
            if result.timings
        ),
        grouped_by="Network",
        stacked=True,
        note=TIME_NOTE,
    )


def _time_row(timing: Timing) -> tuple[Cell, ...]:
    return (
        Cell(timing.runtime),
        Cell(formatting.visible(timing.device)),
        Cell(timing.precision),
        Cell(str(timing.n_threads)),
        _measured_cell(timing.latency_ms),
        _measured_cell(timing.images_per_s),
        Cell(formatting.measured(timing.peak_memory_mb)),
    )


def _measured_cell(estimate: Estimate) -> Cell:
    if estimate.low is None or estimate.high is None:
        return Cell(formatting.measured(estimate.value))
    limits = f"{formatting.measured(estimate.low)}{formatting.EN_DASH}{formatting.measured(estimate.high)}"
    return Cell(formatting.measured(estimate.value), (limits,))


def scores(results: Sequence[Efficiency]) -> Table:
    """The scores of every network that was tested, cheapest first, and whether it is on the Pareto front."""
    names = ("FLOPs, G", "Balanced accuracy", "Accuracy", "Majority rate", "Images", "Pareto front")
    return Table(
        "Scores of every network that was tested, with 95 % intervals",
        number_columns("Network", names),
        groups=tuple(Group(Cell(test.name), _score_rows(test)) for test in tests(results)),
        grouped_by="Tested on",
        stacked=True,
        note=SCORE_NOTE,
    )


def _score_rows(test: Test) -> tuple[tuple[Cell, ...], ...]:
    unknown = Estimate(value=None)
    ranked = sorted(enumerate(test.results), key=lambda entry: entry[1].flops)
    return tuple(
        (
            Cell(formatting.visible(result.name)),
            Cell(formatting.amount(result.flops / 1e9)),
            estimate_cell(result.balanced_accuracy or unknown),
            estimate_cell(result.accuracy or unknown),
            Cell(formatting.score(result.majority_rate)),
            Cell(formatting.count(result.n_images)),
            Cell("yes" if i in test.front else "no"),
        )
        for i, result in ranked
    )


# -------------------------------------------------------------------------------------------------------------- figures


def figures(results: Sequence[Efficiency]) -> tuple[Panel, ...]:
    """A score against FLOPs for each test, and latency against parameters."""
    number_of = {id(result): i for i, result in enumerate(results)}
    found = []
    for number, test in enumerate(tests(results), start=1):
        places = [
            Place(r.flops / 1e9, r.balanced_accuracy or Estimate(value=None), LineStyle(number_of[id(r)]), i in test.front)
            for i, r in enumerate(test.results)
            if r.flops
        ]
        if not places:
            continue
        note = (
            f"Balanced accuracy against FLOPs on {test.name}; up and to the left is better. Vertical lines: 95 % "
            "intervals; dashed: the Pareto front."
            + _left_out([r.name for r in test.results if not r.flops], "no FLOPs to draw")
        )
        drawing = tradeoffs.score_figure(places, name=f"{ANCHOR}-score-{number}", tested_on=test.name)
        found.append(Panel(drawing, note=note))
    timed = [(r, [t for t in r.timings if t.device == PROCESSOR]) for r in results]
    places = [
        Place(r.parameters / 1e6, t.latency_ms, LineStyle(number_of[id(r)], hollow=t.precision == "bf16"))
        for r, timings in timed
        if r.parameters
        for t in timings
    ]
    if places:
        names = [r.name for r, timings in timed if not r.parameters or not timings]
        note = (
            "Latency of one image on the processor against parameters; lower is faster. Vertical lines: 95 % of the "
            "rounds; hollow: bf16." + _left_out(names, "no parameters or no time to draw")
        )
        drawing = tradeoffs.latency_figure(places, name=f"{ANCHOR}-latency", n_networks=len(results) - len(names))
        found.append(Panel(drawing, note=note))
    return tuple(found)


def _left_out(names: Sequence[str], reason: str) -> str:
    return f" Not shown, {reason}: {formatting.listed([formatting.visible(name) for name in names])}." if names else ""
