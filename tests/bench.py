"""A benchmark of one source and one protocol in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hemalens.benchmark.config import BenchmarkConfig
from hemalens.benchmark.plan import plan_benchmark
from hemalens.benchmark.protocols import ProtocolConfig
from hemalens.benchmark.run import benchmark as run
from hemalens.config import StrictConfig
from hemalens.evaluation.results import Report

Config = TypeVar("Config", bound=StrictConfig)


def changed(config: Config, **values: Any) -> Config:
    """A configuration with other values, validated."""
    return type(config).model_validate({**dict(config), **values})


def configured(
    methods: Sequence[str],
    source: str,
    *,
    protocol: str,
    target_specs: Sequence[str] = (),
    plan: ProtocolConfig | None = None,
    auxiliary_specs: Sequence[tuple[str, str]] = (),
    **values: Any,
) -> BenchmarkConfig:
    """The configuration; `plan` are the protocol's settings, `values` are further keys."""
    parts: dict[str, Any] = {} if plan is None else {protocol.replace("-", "_"): plan}
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
    """Run it; `values` as in `configured`."""
    return run(configured(methods, source, **values), out=out, overwrite=overwrite, say=say)


def keys(methods: Sequence[str], source: str, *, out: Path, **values: Any) -> list[str]:
    """The keys of its trials: what was run under another key is not taken for it."""
    return [trial.key for trial in plan_benchmark(configured(methods, source, **values), out).trials]
