"""The protocol k-shot for several targets: what is memorised from, what is tested, and an embedder's scores on each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import onnx

from hemalens.adaptation.encoders import bundles_of, digests_of, open_embedders
from hemalens.adaptation.source_head import BaseHead
from hemalens.benchmark.protocols.k_shot import Embedded, KShotPlan, check_k_shot, embed, k_shot, supervised_reference
from hemalens.bundle.bundle import Bundle
from hemalens.bundle.stages import Stage
from hemalens.classifiers.few_shot import unit_length
from hemalens.datasets import CellDataset
from hemalens.datasets.leaks import refuse_leaks
from hemalens.errors import DatasetError, InputError, SplitError
from hemalens.evaluation.results import DataCard, KShot, Supervised
from hemalens.runs.inputs import Inputs, open_inputs


@dataclass(frozen=True, slots=True)
class NewLaboratory:
    """A target, the pool its few labelled images come from (None: from the target itself), and what was left out."""

    target: CellDataset
    pool: CellDataset | None
    left_out: dict[str, str] = field(default_factory=dict)
    cards: tuple[DataCard, ...] = ()
    notes: tuple[str, ...] = ()


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
    wanted: dict[str, Any] = {"labels": labels, "min_per_class": min_per_class, "stages": stages}
    if support_spec is not None and len(target_specs) != 1:
        raise InputError("a support of its own goes with one target", got=f"{len(target_specs)} targets")
    laboratories = []
    for spec in target_specs:
        target = open_inputs(spec, role="target", unreadable="keep", **wanted)
        pool = open_inputs(support_spec, role="support", unreadable="keep", **wanted) if support_spec else None
        laboratories.append(_paired(target, pool))
    return laboratories


def _paired(target: Inputs, pool: Inputs | None) -> NewLaboratory:
    known = target.dataset.classes
    shared = known if pool is None else tuple(c for c in known if c in pool.dataset.classes)
    if len(shared) < 2:
        raise DatasetError(
            f"{target.dataset.name} leaves too few classes for k-shot",
            expected="two or more, each with labelled images to memorise",
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


def refuse_source(laboratories: Sequence[NewLaboratory], source: CellDataset) -> None:
    """Raise `SplitError` where a laboratory holds images of the source."""
    for laboratory in laboratories:
        for part in (laboratory.target, laboratory.pool):
            if part is not None:
                refuse_leaks(set(source.contents), part)


def check_laboratories(laboratories: Sequence[NewLaboratory], plan: KShotPlan, source: CellDataset) -> None:
    """Raise `SplitError` before anything is trained: too large a k, overlaps, images of the source."""
    refuse_source(laboratories, source)
    for laboratory in laboratories:
        check_k_shot(laboratory.target, laboratory.pool, plan)


def possible_shots(laboratory: NewLaboratory, plan: KShotPlan) -> tuple[KShotPlan, tuple[int, ...]]:
    """The plan with those k that the laboratory's classes allow, and the k left out."""
    allowed = []
    for k in plan.shots:
        try:
            check_k_shot(laboratory.target, laboratory.pool, replace(plan, shots=(k,)))
        except SplitError:
            continue
        allowed.append(k)
    if not allowed:
        check_k_shot(laboratory.target, laboratory.pool, plan)  # says why
    return replace(plan, shots=tuple(allowed)), tuple(k for k in plan.shots if k not in allowed)


@dataclass(frozen=True, slots=True)
class EmbeddedLaboratory:
    """A laboratory seen by one embedder: embeddings of target and pool, and what all labels would give."""

    laboratory: NewLaboratory
    target: Embedded
    pool: Embedded | None
    supervised: Supervised | None

    def score(self, plan: KShotPlan, *, method: str, source: str) -> KShot:
        """The embedder's k-shot scores under a plan."""
        return k_shot(
            self.target,
            self.pool,
            plan,
            method=method,
            source=source,
            supervised=self.supervised,
            left_out=self.laboratory.left_out,
        )


def embed_laboratory(
    laboratory: NewLaboratory,
    encoder: onnx.ModelProto,
    *,
    seed: int,
    head: BaseHead | None = None,
    parts: tuple[int, ...] = (),
) -> EmbeddedLaboratory:
    """Run an encoder (image -> embedding) over a laboratory's images, once.

    `head` is that of the bundle it comes from, `parts` are the widths of embeddings that stand side by side.
    """
    target = replace(embed(encoder, laboratory.target), head=head, parts=parts)
    pool = embed(encoder, laboratory.pool) if laboratory.pool else None
    return EmbeddedLaboratory(laboratory, target, pool, supervised_reference(target, pool, seed=seed))


class LaboratoryCurves(Protocol):
    """What a protocol draws of one bundle on a new laboratory: scores against a number of its images."""

    @property
    def described(self) -> str:
        """The protocol in words."""

    @property
    def beside(self) -> tuple[str, ...]:
        """What stands beside the bundle, as in `adapt`."""

    def check(self, laboratories: Sequence[NewLaboratory]) -> None:
        """Raise `SplitError` before anything is trained."""

    def request(self) -> dict[str, Any]:
        """All that the scores depend on, but for the bundle, the laboratory and the seed."""

    def run(self, bundle: Bundle, laboratory: NewLaboratory, *, source: str, seed: int) -> list[KShot]:
        """The scores of a bundle that learned from `source`."""


def draw(curves: LaboratoryCurves, bundle: Bundle, laboratory: NewLaboratory, *, source: str, seed: int) -> list[KShot]:
    """The scores of a bundle, called transductive where it, or what stands beside it, has looked at the tested images.

    Raises `SplitError` for images that what stands beside was trained on.
    """
    others, contents = bundles_of(curves.beside), laboratory.target.contents
    for other in others:
        refuse_leaks(other.seen, laboratory.target)
    looked = any(not one.seen_unlabelled.isdisjoint(contents) for one in (bundle, *others))
    found = curves.run(bundle, laboratory, source=source, seed=seed)
    return [result.model_copy(update={"transductive": result.transductive or looked}) for result in found]


@dataclass(frozen=True, slots=True)
class KShotCurves:
    """Scores against the number of labelled images a class; `beside` names what stands beside the bundle, as in `adapt`."""

    plan: KShotPlan
    beside: tuple[str, ...] = ()

    @property
    def described(self) -> str:
        """The protocol in words."""
        plan = self.plan
        words = f"{', '.join(map(str, plan.shots))} labelled images a class, {plan.n_repeats} repeats, {plan.classifier}"
        words += f", beside {', '.join(self.beside)}" if self.beside else ""
        return words + (" (transductive)" if plan.classifier.transductive else "")

    def check(self, laboratories: Sequence[NewLaboratory]) -> None:
        """Raise `SplitError` before anything is trained."""
        for laboratory in laboratories:
            check_k_shot(laboratory.target, laboratory.pool, self.plan)

    def request(self) -> dict[str, Any]:
        """All that the scores depend on."""
        plan = {**asdict(self.plan), "classifier": self.plan.classifier.model_dump(mode="json")}
        return {"plan": plan, **({"beside": digests_of(self.beside)} if self.beside else {})}

    def run(self, bundle: Bundle, laboratory: NewLaboratory, *, source: str, seed: int) -> list[KShot]:
        """The embedder on the laboratory."""
        embedders = open_embedders(bundle, self.beside, self.plan.classifier)
        seen = embed_laboratory(laboratory, embedders.encoder, seed=seed, head=embedders.head, parts=embedders.parts)
        return [seen.score(self.plan, method=" + ".join(one.name for one in embedders.each), source=source)]


def side_by_side(parts: Sequence[EmbeddedLaboratory], *, seed: int) -> EmbeddedLaboratory:
    """The same laboratory seen by several embedders at once: their embeddings at unit length, one behind the other.

    The numbers are those of `graphs.side_by_side`, without running the networks again.
    """
    first = parts[0]
    target = _joined([part.target for part in parts])
    pool = _joined([part.pool for part in parts if part.pool]) if first.pool else None
    return EmbeddedLaboratory(first.laboratory, target, pool, supervised_reference(target, pool, seed=seed))


def _joined(parts: Sequence[Embedded]) -> Embedded:
    embeddings = np.concatenate([unit_length(part.embeddings) for part in parts], axis=1)
    return replace(parts[0], embeddings=embeddings)
