"""A `hemalens` command in a process of its own: seconds, processor seconds and peak memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

MAIN = "import sys; sys.argv[0] = 'hemalens'; from hemalens.cli.main import main; main()"


@dataclass(frozen=True)
class Spent:
    """What a process has spent, its children included; of memory the peak of the largest of them."""

    exit_code: int
    seconds: float
    processor_s: float
    peak_mb: float


def spent(arguments: Sequence[str], *, code: str = MAIN, environment: dict[str, str] | None = None) -> Spent:
    """Run Python code, by default the `hemalens` command, with arguments; standard output is dropped."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL, env={**os.environ, **(environment or {})}
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begun
    return Spent(process.returncode, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
