"""Peak memory of commands, each in a process of its own: of every verb on synthetic cells, or of the one given.

python benchmarks/memory.py                       # every verb
python benchmarks/memory.py hemalens train ...    # one command; its children are counted too
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MAIN = "import sys; sys.argv[0] = 'hemalens'; from hemalens.cli.main import main; main()"


def measured(arguments: list[str]) -> tuple[int, float, float]:
    """(exit code, seconds, peak MB) of a `hemalens` command."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", MAIN, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, time.perf_counter() - begun, usage.ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    given = sys.argv[1:]
    if given:
        code, seconds, peak = measured(given[1:] if given[0] == "hemalens" else given)
        print(f"exit code {code}, {seconds:.1f} s, peak {peak:.0f} MB")
        return
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        home, away = f"synthetic:{top / 'cells' / 'lab_a'}", f"synthetic:{top / 'cells' / 'lab_b'}"
        bundle = str(top / "probe" / "bundle")
        commands = {
            "data synthesize": ["data", "synthesize", str(top / "cells"), "--n-per-class", "40"],
            "data audit": ["data", "audit", home],
            "train linear_probe": ["train", "linear_probe", "--train", home, "--out", str(top / "probe")],
            "train finetune": ["train", "finetune", "--train", home, "--out", str(top / "net"), "--set", "epochs=1"],
            "predict": ["predict", bundle, str(top / "cells"), "--out", str(top / "p.parquet"), "--embeddings"],
            "evaluate": ["evaluate", bundle, "--data", away, "--out", str(top / "evaluation")],
            "benchmark": [
                "benchmark",
                "--methods",
                "linear_probe",
                "--source",
                home,
                "--target",
                away,
                "--out",
                str(top / "b"),
            ],
            "quickstart": ["quickstart", "--out", str(top / "quickstart")],
        }
        for name, arguments in commands.items():
            code, seconds, peak = measured([*arguments, "--quiet"])
            print(f"{name:<20} exit code {code} {seconds:>7.1f} s {peak:>7.0f} MB")


if __name__ == "__main__":
    main()
