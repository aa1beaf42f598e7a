"""Peak memory of commands, each in a process of its own: of every verb on synthetic cells, or of the one given.

python benchmarks/memory.py                       # every verb
python benchmarks/memory.py hemalens train ...    # one command; its children are counted too
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from commands import spent


def main() -> None:
    """Measure and print."""
    given = sys.argv[1:]
    if given:
        found = spent(given[1:] if given[0] == "hemalens" else given)
        print(f"exit code {found.exit_code}, {found.seconds:.1f} s, peak {found.peak_mb:.0f} MB")
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
            found = spent([*arguments, "--quiet"])
            print(f"{name:<20} exit code {found.exit_code} {found.seconds:>7.1f} s {found.peak_mb:>7.0f} MB")


if __name__ == "__main__":
    main()
