"""The datasets of a benchmark: sources, targets, and new laboratories with a pool of labelled images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar, cast

from hemalens.bundle.stages import Stage
from hemalens.datasets import CellDataset
from hemalens.datasets.leaks import refuse_leaks, traces
from hemalens.datasets.splits import Unreadable
from hemalens.errors import DatasetError, InputError
from hemalens.evaluation.results import DataCard
from hemalens.runs.inputs import Inputs, open_inputs

Opened = TypeVar("Opened")


@dataclass(frozen=True, slots=True)
class NewLaboratory:
    """A target, the pool that its few labelled images come from (None: the target itself), and the classes left out."""

    target: CellDataset
    pool: CellDataset | None
    left_out: dict[str, str] = field(default_factory=dict)
    cards: tuple[DataCard, ...] = ()
    notes: tuple[str, ...] = ()

    def refuse_source(self, source: CellDataset) -> None:
        """Raise `SplitError` where the target or the pool holds images of the source."""
        for part in (self.target, self.pool):
            if part is not None:
                refuse_leaks(traces(source), part)


def open_laboratories(
    target_specs: Sequence[str],
    support_spec: str | None,
    *,
    labels: str,
    min_per_class: int = 1,
    stages: tuple[Stage, ...] = (),
) -> list[NewLaboratory]:
    """Open the targets; `support_spec` names a pool of its own for a single target.

    Classes of fewer than `min_per_class` images on either side are left out, and classes of one side only. `stages` cut
    the cells out whenever an image is read.
    """
    if support_spec is not None and len(target_specs) != 1:
        raise InputError("a support set of its own goes with one target", got=f"{len(target_specs)} targets")
    read = partial(open_inputs, labels=labels, min_per_class=min_per_class, stages=stages, unreadable="keep")
    laboratories = []
    for spec in target_specs:
        target = read(spec, role="target")
        laboratories.append(_paired(target, read(support_spec, role="support") if support_spec else None))
    return laboratories


def _paired(target: Inputs, pool: Inputs | None) -> NewLaboratory:
    known = target.dataset.classes
    shared = known if pool is None else tuple(c for c in known if c in pool.dataset.classes)
    if len(shared) < 2:
        raise DatasetError(
            f"{target.dataset.name} leaves too few classes for k-shot",
            expected="two or more, each with labelled images for the support set",
            got=", ".join(shared) or "none",
        )
    lost = {}
    if pool is not None:
        name, small = pool.dataset.name, pool.left_out
        lost = {c: f"support {name}: {small.get(c, 'no image')}" for c in known if c not in shared}
    return NewLaboratory(
        target.dataset.under(shared),
        pool.dataset.under(shared) if pool else None,
        target.left_out | lost,
        (target.card, *((pool.card,) if pool else ())),
        (*target.notes, *(pool.notes if pool else ())),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkData:
    """Opens the datasets of a benchmark, each once.

    `support` and `target_labels` are the pool and the label map of new laboratories, where they have their own.
    """

    labels: str
    min_per_class: int = 1
    unreadable: Unreadable = "refuse"
    stages: tuple[Stage, ...] = ()
    seed: int = 0
    support: str | None = None
    target_labels: str | None = None
    _opened: dict[tuple[object, ...], object] = field(default_factory=dict)

    def source(self, spec: str) -> Inputs:
        """A dataset that methods are trained on."""
        return self._prepared(spec, "source", self.unreadable, self.min_per_class)

    def laboratory(self, spec: str) -> Inputs:
        """A dataset that is trained on, and tested when it is left out; small classes stay."""
        return self._prepared(spec, "train and test", self.unreadable, 1)

    def targets(self, specs: Sequence[str], *, min_per_class: int) -> list[Inputs]:
        """Datasets that are tested; their unreadable images are listed in the results."""
        return [self._prepared(spec, "target", "keep", min_per_class) for spec in specs]

    def laboratories(self, specs: Sequence[str]) -> list[NewLaboratory]:
        """Targets of which a few images are known, each with its pool."""
        read = partial(
            open_laboratories,
            labels=self.target_labels or self.labels,
            min_per_class=self.min_per_class,
            stages=self.stages,
        )
        if self.support is not None:
            return read(specs, self.support)
        return [found for spec in specs for found in self._once(("laboratory", spec), partial(read, [spec], None))]

    def _prepared(self, spec: str, role: str, unreadable: Unreadable, min_per_class: int) -> Inputs:
        read = partial(
            open_inputs,
            spec,
            labels=self.labels,
            role=role,
            unreadable=unreadable,
            min_per_class=min_per_class,
            stages=self.stages,
        )
        return self._once((spec, role, unreadable, min_per_class), read)

    def _once(self, key: tuple[object, ...], read: Callable[[], Opened]) -> Opened:
        if key not in self._opened:
            self._opened[key] = read()
        return cast("Opened", self._opened[key])
