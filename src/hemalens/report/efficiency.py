"""What networks cost and score as tables and figures, for HTML, Markdown and the terminal alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hemalens.evaluation import formatting
from hemalens.evaluation.results import Efficiency, Estimate, Timing
from hemalens.report import tradeoffs
from hemalens.report.tables import Cell, Column, Group, Table, estimate_cell
from hemalens.report.tradeoffs import Place, PointStyle

ANCHOR = "efficiency"
HEADING = "What the networks cost"
COUNT_NOTE = (
    "FLOPs = 2 \N{MULTIPLICATION SIGN} MACs of convolutions and matrix products, for one image; products inside attention "
    "count, which some published figures leave out; norms, activations and trees do not. Parameters of a bundle: what its "
    "graph keeps, where batch norms are folded into convolutions. Weights: of a backbone as 32-bit floats in "
    "safetensors, of a bundle its model.onnx."
)
TIME_NOTE = (
    "Latency: one image. Images/s: in batches of 32. Medians of the rounds, in which all networks took turns, with the 2.5 "
    "and 97.5 percentiles of the rounds. A backbone runs in torch from pixels to logits, a bundle in ONNX Runtime from the "
    "8-bit image through resize and normalisation to probabilities. bf16: autocast, channels last. Memory: the peak of a "
    "process of its own that loads the network and runs one image and one batch; not measured on a GPU."
)
SCORE_NOTE = (
    "In small print: the 95 % interval. Pareto front: no other network scores as high for fewer FLOPs, or higher for as "
    "many; by the values alone, whatever their intervals."
)
PROCESSOR = "cpu"


@dataclass(frozen=True, slots=True)
class Test:
    """The networks whose scores can be compared, since they answered on the same images of the same classes."""

    name: str
    results: tuple[Efficiency, ...]
    front: frozenset[int]
    """Positions in `results` that are on the Pareto front."""

    __test__ = False  # not a test of pytest's


def tests(results: Sequence[Efficiency]) -> tuple[Test, ...]:
    """The networks with a known balanced accuracy, by what they were tested on."""
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
    """Positions, by rising cost, that no other one beats: at most the cost, at least the score, and one of them better."""
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


def tables(results: Sequence[Efficiency]) -> tuple[tuple[Table, str], ...]:
    """Every table with its note: what is counted, what is timed, what is scored."""
    found = [(counts(results), COUNT_NOTE)]
    if any(result.timings for result in results):
        found.append((times(results), TIME_NOTE))
    if tests(results):
        found.append((scores(results), SCORE_NOTE))
    return tuple(found)


def counts(results: Sequence[Efficiency]) -> Table:
    """Parameters, multiply-adds and weights of every network."""
    names = ("Input, px", "Parameters, M", "Without head, M", "MACs, G", "FLOPs, G", "Weights, MB")
    return Table(
        "Size of every network, for one image",
        (Column("Network", numeric=False, heads=True), *(Column(name) for name in names)),
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
    )


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def times(results: Sequence[Efficiency]) -> Table:
    """Latency, throughput and memory of every network in every way that it was run."""
    names = ("Device", "Precision", "Threads", "Latency, ms", "Images/s", "Memory, MB")
    return Table(
        "Time and memory of every network, with 95 % of the rounds",
        (Column("Runs in", numeric=False, heads=True), *(Column(n, numeric=i > 1) for i, n in enumerate(names))),
        groups=tuple(
            Group(Cell(formatting.visible(result.name)), tuple(_time_row(timing) for timing in result.timings))
            for result in results
            if result.timings
        ),
        grouped_by="Network",
        stacked=True,
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
        (Column("Network", numeric=False, heads=True), *(Column(name) for name in names)),
        groups=tuple(Group(Cell(test.name), _score_rows(test)) for test in tests(results)),
        grouped_by="Tested on",
        stacked=True,
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


def styles(results: Sequence[Efficiency]) -> tuple[PointStyle, ...]:
    """How each network is drawn in every figure, in the same order."""
    return tuple(tradeoffs.point_style(i) for i in range(len(results)))


def figures(results: Sequence[Efficiency]) -> tuple[tuple[str, str], ...]:
    """(caption, SVG) of each figure: a score against FLOPs for each test, and latency against parameters."""
    style_of = dict(zip(map(id, results), styles(results), strict=True))
    found = []
    for number, test in enumerate(tests(results), start=1):
        drawn = [(i, result) for i, result in enumerate(test.results) if result.flops]
        if not drawn:
            continue
        places = [
            Place(r.flops / 1e9, r.balanced_accuracy or Estimate(value=None), style_of[id(r)], on_front=i in test.front)
            for i, r in drawn
        ]
        svg = tradeoffs.score_figure(places, name=f"{ANCHOR}-score-{number}", tested_on=test.name)
        names = [r.name for r in test.results if not r.flops]
        caption = (
            f"Balanced accuracy against FLOPs on {test.name}. Upright lines: 95 % intervals; dashed: the Pareto front."
        )
        found.append((caption + _left_out(names, "no FLOPs to draw"), svg))
    timed = [(r, [t for t in r.timings if t.device == PROCESSOR]) for r in results]
    places = [
        Place(r.parameters / 1e6, t.latency_ms, style_of[id(r)], hollow=t.precision == "bf16")
        for r, timings in timed
        if r.parameters
        for t in timings
    ]
    if places:
        names = [r.name for r, timings in timed if not r.parameters or not timings]
        caption = (
            "Latency of one image on the processor against parameters. Upright lines: 95 % of the rounds; hollow: bf16."
        )
        svg = tradeoffs.latency_figure(places, name=f"{ANCHOR}-latency", n_networks=len(results) - len(names))
        found.append((caption + _left_out(names, "no parameters or no time to draw"), svg))
    return tuple(found)


def _left_out(names: Sequence[str], reason: str) -> str:
    return f" Not shown, {reason}: {formatting.listed([formatting.visible(name) for name in names])}." if names else ""
