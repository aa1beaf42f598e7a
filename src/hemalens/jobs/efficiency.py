"""What networks cost, side by side: counted, timed in one run, and scored where there are labelled images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hemalens.bundle import MODEL, Bundle, open_bundle
from hemalens.errors import BundleError, ConfigError, InputError, one_line, require_extra
from hemalens.evaluation.evaluate import evaluate, refuse_leaks
from hemalens.evaluation.report import formatting
from hemalens.evaluation.results import DataCard, Efficiency, Evaluation, Report, Timing
from hemalens.graph_counts import GraphCounts, count_graph
from hemalens.graphs import cut
from hemalens.jobs.prepare import Prepared, prepare, tell
from hemalens.jobs.reporting import make_report
from hemalens.jobs.runs import claim_run, finish_run
from hemalens.jobs.timing import Run, alternate, graph_runner, peak_memory_mb
from hemalens.jobs.train import Say
from hemalens.runtime import n_cores

if TYPE_CHECKING:
    from hemalens.models.backbone import BackboneConfig

N_CLASSES = 8


def efficiency(
    backbones: Sequence[str] = (),
    bundle_paths: Sequence[Path] = (),
    *,
    out: Path,
    target_spec: str | None = None,
    n_classes: int = N_CLASSES,
    n_rounds: int = 5,
    n_threads: int | None = None,
    min_per_class: int = 1,
    drop_seen: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Report:
    """Count and time timm backbones (NAME or NAME@PX, random weights, a head of `n_classes`) and bundles; report in `out`.

    Times come from `n_rounds` rounds in which all networks take turns, on `n_threads` threads (None: all cores). The
    bundles are tested on the labelled images of `target_spec`, where it is given, each under its own label map;
    `drop_seen` leaves out what any of them has seen. Raises
    `SplitError` for an image that a bundle has seen, `ConfigError` for a backbone or an input size that timm does not have,
    `BundleError` for a folder that is no bundle. A stopped run begins anew, since all is timed together.
    """
    networks: list[_Network] = [*_backbones(backbones, n_classes, seed), *_bundles(bundle_paths)]
    _check(networks, target_spec, n_rounds=n_rounds, n_threads=n_threads, n_classes=n_classes)
    tests = _open_tests(networks, target_spec, drop_seen=drop_seen)
    tell(say, tests.values())
    counted = [network.count() for network in networks]
    threads = n_threads or n_cores()
    request = {
        "job": "efficiency",
        "networks": [network.asked for network in networks],
        "target": sorted({test.dataset.fingerprint for test in tests.values()}),
        "n_rounds": n_rounds,
        "n_threads": threads,
        "min_per_class": min_per_class,
        "seed": seed,
    }
    if claim_run(out, request, overwrite=overwrite):
        say("the stopped run begins anew: all networks are timed together")
    evaluations = _evaluate(networks, tests, seed=seed, min_per_class=min_per_class)
    how = f"{formatting.counted(n_rounds, 'round')}, {formatting.counted(threads, 'thread')}"
    say(f"timing {formatting.counted(len(networks), 'network')}: {how}")
    timings = _time(networks, n_rounds, threads)
    rows = [
        row.model_copy(update={"timings": tuple(times)} | _scores(network, evaluations))
        for network, row, times in zip(networks, counted, timings, strict=True)
    ]
    report = make_report(
        f"What {formatting.counted(len(networks), 'network')} cost",
        f"efficiency, all networks taking turns: {how}",
        efficiency=rows,
        evaluations=list(evaluations.values()),
        verdicts=_remarks(networks, rows),
        data=_cards(tests),
        methods={network.name: network.settings for network in networks},
        seed=seed,
    )
    return finish_run(out, report)


# ------------------------------------------------------------------------------------------------------------- networks


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to run a network: with what, where, and how precisely; `alone` is what a process of its own is told."""

    runtime: Literal["torch", "onnxruntime"]
    device: str
    precision: Literal["fp32", "bf16", "int8"]
    run: Run
    alone: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class _Backbone:
    """A timm network of random weights at an input size."""

    name: str
    config: BackboneConfig
    input_px: int
    n_classes: int

    @property
    def settings(self) -> dict[str, Any]:
        return {**self.config.model_dump(mode="json"), "n_classes": self.n_classes}

    @property
    def asked(self) -> dict[str, Any]:
        return self.settings

    def count(self) -> Efficiency:
        from hemalens.models.efficiency import count, random_network, weights_bytes

        network = random_network(self.config, n_classes=self.n_classes)
        try:
            counted = count(network, self.input_px)
        except (RuntimeError, AssertionError, ValueError) as error:
            # each network has checks of its own
            raise ConfigError(
                f"{self.config.backbone!r} does not take images of {self.input_px} px", got=str(error)[:120]
            ) from error
        return Efficiency(
            name=self.name,
            kind="backbone",
            input_px=self.input_px,
            parameters=counted.parameters,
            parameters_without_head=counted.parameters_without_head,
            macs=counted.macs,
            flops=counted.flops,
            weights_mb=weights_bytes(network) / 1e6,
        )

    def ways(self, n_threads: int) -> Iterator[_Way]:
        """fp32 on the processor, and on a GPU where there is one; bf16 where the better of the two multiplies it."""
        import torch

        from hemalens.models.efficiency import random_network, runner
        from hemalens.training.trainer import has_bf16

        network = random_network(self.config, n_classes=self.n_classes)
        devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        for device in devices:
            precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32",)
            if device == devices[-1] and has_bf16():
                precisions = ("fp32", "bf16")
            for precision in precisions:
                run = runner(network, self.input_px, device=device, precision=precision)
                alone = {"backbone": self.config.backbone, "n_classes": self.n_classes, "precision": precision}
                alone |= {"input_px": self.input_px, "n_threads": n_threads}
                shown = "cpu" if device == "cpu" else torch.cuda.get_device_name()
                yield _Way("torch", shown, precision, run, alone if device == "cpu" else None)


@dataclass(frozen=True)
class _Bundle:
    """A saved bundle."""

    name: str
    bundle: Bundle

    @property
    def settings(self) -> dict[str, Any]:
        return {"method": self.bundle.manifest.method, **self.bundle.manifest.config}

    @property
    def asked(self) -> dict[str, Any]:
        return {"name": self.name, "sha256": self.bundle.manifest.files[MODEL].sha256}

    @property
    def input_px(self) -> int:
        return self.bundle.manifest.preprocessing.size_px

    @cached_property
    def counted(self) -> GraphCounts:
        """The counts of the whole graph; raises `BundleError` naming the folder."""
        try:
            return count_graph(self.bundle.graph, self.input_px)
        except BundleError as error:
            where = one_line(self.bundle.path)
            raise BundleError(f"{error.what}, in {where}", expected=error.expected, got=error.got) from error

    def count(self) -> Efficiency:
        counted = self.counted
        encoder = count_graph(cut(self.bundle.graph, ["image"], ["embedding"]), self.input_px)
        return Efficiency(
            name=self.name,
            kind="bundle",
            input_px=self.input_px,
            parameters=counted.parameters,
            parameters_without_head=encoder.parameters,
            macs=counted.macs,
            flops=counted.flops,
            weights_mb=self.bundle.manifest.files[MODEL].n_bytes / 1e6,
        )

    def ways(self, n_threads: int) -> Iterator[_Way]:
        """On the processor, as precise as the graph is."""
        run = graph_runner(self.bundle.graph_bytes, self.input_px, n_threads)
        alone = {"graph": str((self.bundle.path / MODEL).resolve()), "input_px": self.input_px, "n_threads": n_threads}
        yield _Way("onnxruntime", "cpu", self.counted.precision, run, alone)


_Network = _Backbone | _Bundle


def _backbones(names: Sequence[str], n_classes: int, seed: int) -> list[_Backbone]:
    if not names:
        return []
    require_extra("torch", "train", "a backbone")
    from hemalens.models.backbone import BackboneConfig, preprocessing_of

    found: dict[tuple[str, int], _Backbone] = {}
    for text in names:
        name, at, size = text.partition("@")
        if at and not (size.isascii() and size.isdecimal()):
            raise InputError(f"cannot read --backbone {text!r}", expected="NAME or NAME@PX, as in mobilevit_xs@256")
        values = {"backbone": name, "weights": "none", "seed": seed, "image_size_px": int(size) if at else None}
        config = BackboneConfig.from_mapping(values)
        input_px = preprocessing_of(config).size_px
        found.setdefault((name, input_px), _Backbone(text, config, input_px, n_classes))
    return list(found.values())


def _bundles(paths: Sequence[Path]) -> list[_Bundle]:
    """Bundles by method and folder, the run's folder where it is called "bundle"; a number where these are the same."""
    found: list[_Bundle] = []
    for path in dict.fromkeys(path.resolve() for path in paths):
        bundle = open_bundle(path)
        folder = path.parent.name if path.name == "bundle" else path.name
        name = f"{bundle.manifest.method} ({folder})"
        n_same = sum(other.name.split(", ")[0] == name for other in found)
        found.append(_Bundle(f"{name}, {n_same + 1}" if n_same else name, bundle))
    return found


def _check(networks: Sequence[_Network], target_spec: str | None, **numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise InputError(f"{name} must be one or more", got=str(number))
    if not networks:
        raise InputError(
            "no network is named", expected="backbones or bundles", remedy="Say --backbone NAME or --bundle DIR."
        )
    if target_spec is not None and not any(isinstance(network, _Bundle) for network in networks):
        raise InputError(
            "only a bundle can be tested on a target: a backbone of random weights knows no classes",
            remedy="Leave --target out, or name a --bundle.",
        )


# --------------------------------------------------------------------------------------------------------------- scores


def _open_tests(networks: Sequence[_Network], spec: str | None, *, drop_seen: bool) -> dict[str, Prepared]:
    """The target under the label map of each bundle, by the bundle's name; raises `SplitError` for a leak.

    `drop_seen`: all are tested without the images that any of them has seen.
    """
    tests: dict[str, Prepared] = {}
    seen = {content for network in networks if isinstance(network, _Bundle) for content in network.bundle.seen}
    for network in networks:
        if spec is None or isinstance(network, _Backbone):
            continue
        bundle = network.bundle
        known = bundle.manifest.labels
        given = prepare(
            spec,
            labels=bundle.manifest.label_map,
            role="test",
            unreadable="keep",
            # an adapted bundle may know classes that its label map has no place for
            keep=lambda label, known=known: label in known,  # type: ignore[misc]
            stages=bundle.stages,
        )
        tests[network.name] = given.unseen(seen) if drop_seen else given
        refuse_leaks(bundle.seen, tests[network.name].dataset)
    return tests


def _evaluate(
    networks: Sequence[_Network], tests: dict[str, Prepared], *, seed: int, min_per_class: int
) -> dict[str, Evaluation]:
    """The evaluation of each bundle that is tested, by its name."""
    found: dict[str, Evaluation] = {}
    for network in networks:
        if isinstance(network, _Backbone) or network.name not in tests:
            continue
        dataset = tests[network.name].dataset
        source = next((e.name for e in network.bundle.manifest.data if e.role == "train"), "unknown data")
        evaluation = evaluate(
            [network.bundle], [dataset], target=dataset, source_name=source, seed=seed, min_per_class=min_per_class
        )
        # several bundles may be of one method
        task = evaluation.name.removeprefix(f"{evaluation.method}: ")
        found[network.name] = evaluation.model_copy(update={"name": f"{network.name}: {task}", "method": network.name})
    return found


def _scores(network: _Network, evaluations: dict[str, Evaluation]) -> dict[str, Any]:
    """What a row says of its bundle's evaluation; scores over other classes are those of another test."""
    evaluation = evaluations.get(network.name)
    if evaluation is None:
        return {}
    task = (evaluation.target, len(evaluation.tested_classes), len(evaluation.classes))
    same = [e.tested_classes for e in evaluations.values() if (e.target, len(e.tested_classes), len(e.classes)) == task]
    number = list(dict.fromkeys(same)).index(evaluation.tested_classes) + 1
    n_tested, n_classes = len(evaluation.tested_classes), len(evaluation.classes)
    classes = f"{n_tested} cell types" if n_tested == n_classes else f"{n_tested} of {n_classes} cell types"
    other = f", another choice ({number})" if number > 1 else ""
    return {
        "name": f"{network.name}, {formatting.TRANSDUCTIVE}" if evaluation.transductive else network.name,
        "tested_on": f"{evaluation.target}, {classes}{other}",
        "n_images": evaluation.n_images,
        "accuracy": evaluation.scores.accuracy,
        "balanced_accuracy": evaluation.scores.balanced_accuracy,
        "majority_rate": evaluation.scores.majority_rate,
    }


def _cards(tests: dict[str, Prepared]) -> list[DataCard]:
    """The card of each test once: bundles of one label map share it."""
    cards: list[DataCard] = []
    for test in tests.values():
        if test.card not in cards:
            cards.append(test.card)
    return cards


# --------------------------------------------------------------------------------------------------------------- timing


def _time(networks: Sequence[_Network], n_rounds: int, n_threads: int) -> list[list[Timing]]:
    """The times of every network, each in all its ways."""
    with _torch_threads(n_threads, needed=any(isinstance(network, _Backbone) for network in networks)):
        ways = [list(network.ways(n_threads)) for network in networks]
        flat = [way for each in ways for way in each]
        times = iter(alternate([way.run for way in flat], n_rounds))
    return [[_timing(way, n_threads, *next(times)) for way in each] for each in ways]


def _timing(way: _Way, n_threads: int, latency: Any, rate: Any) -> Timing:
    return Timing(
        runtime=way.runtime,
        device=way.device,
        precision=way.precision,
        n_threads=n_threads,
        latency_ms=latency,
        images_per_s=rate,
        peak_memory_mb=None if way.alone is None else peak_memory_mb(way.alone),
    )


@contextmanager
def _torch_threads(n_threads: int, *, needed: bool) -> Iterator[None]:
    """torch on so many threads; it is not imported unless it is needed."""
    if not needed:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _remarks(networks: Sequence[_Network], rows: Sequence[Efficiency]) -> list[str]:
    """What the table cannot show: ways that were not timed, work that is not counted."""
    remarks = []
    in_torch = [timing for row in rows for timing in row.timings if timing.runtime == "torch"]
    if in_torch and not any(timing.precision == "bf16" for timing in in_torch):
        remarks.append("bf16 is not timed: the processor does not multiply it.")
    staged = [n.name for n in networks if isinstance(n, _Bundle) and n.bundle.manifest.before_graph]
    if staged:
        remarks.append(f"Cutting the cell out beforehand is neither counted nor timed: {formatting.listed(staged)}.")
    return remarks
