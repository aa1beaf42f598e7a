"""Benchmark: methods x protocols x sources x targets, in one report.

Begin with `run.benchmark`. `config` holds the settings, `plan` opens the data and plans the trials. A trial (`trials`) is
one method in one test of a task; its result is kept, so that a run resumes. `workers` runs trials in several processes.
`protocols/` has one module a protocol, `efficiency/` measures the cost of networks, `figures` makes the report's pictures.
`saved_bundle` runs protocols on one saved bundle, without training.
Imports `adaptation`, `runs` and the rooms below.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """Python gives the name `hemalens.benchmark` to this room once it is loaded; it stays the public function as well."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        from hemalens.benchmark.run import benchmark

        return benchmark(*given, **named)


sys.modules[__name__].__class__ = _Callable
