"""A benchmark of one source and one protocol in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hemalens.benchmark.config import BenchmarkConfig
from hemalens.benchmark.plan import open_benchmark
from hemalens.benchmark.protocols.fractions import FractionPlan
from hemalens.benchmark.protocols.k_shot import KShotPlan
from hemalens.benchmark.run import benchmark as run
from hemalens.evaluation.results import Report


def asked(
    methods: Sequence[str],
    source: str,
    *,
    protocol: str,
    target_specs: Sequence[str] = (),
    plan: KShotPlan | FractionPlan | None = None,
    support: str | None = None,
    target_labels: str | None = None,
    auxiliary_specs: Sequence[tuple[str, str]] = (),
    **values: Any,
) -> BenchmarkConfig:
    """The configuration; `plan` is that of k-shot or of fractions, but for its seed. `values` are further keys."""
    parts: dict[str, Any] = {}
    if isinstance(plan, FractionPlan):
        kept = {"fractions": plan.fractions, "seeds": plan.n_seeds, "selection": plan.selection, "strict": plan.strict}
        parts["fractions"] = kept
    elif protocol == "k-shot":
        plan = plan or KShotPlan()
        kept = {"shots": plan.shots, "repeats": plan.n_repeats, "replacement": plan.replacement}
        few_shot = plan.classifier.model_dump()
        parts["k_shot"] = kept | {"few_shot": few_shot, "support": support, "target_labels": target_labels}
    for role, spec in auxiliary_specs:
        parts.setdefault("auxiliary", {}).setdefault(role, []).append(spec)
    named = {"methods": tuple(methods), "sources": source, "targets": tuple(target_specs), "protocols": protocol}
    return BenchmarkConfig.from_mapping(named | parts | values)


def benchmark(
    methods: Sequence[str],
    source: str,
    *,
    out: Path,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
    **values: Any,
) -> Report:
    """Run it; `values` as in `asked`."""
    return run(asked(methods, source, **values), out=out, overwrite=overwrite, say=say)


def keys(methods: Sequence[str], source: str, *, out: Path, **values: Any) -> list[str]:
    """The keys of its trials: what was run under another key is not taken for it."""
    return [trial.key for trial in open_benchmark(asked(methods, source, **values), out).trials]
