"""How long `import hemalens` and `hemalens --help` take, in a process of their own, beside an empty Python."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 9
HELP = "import sys; sys.argv = ['hemalens', '--help']; from hemalens.cli.main import main; main()"
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import hemalens": [sys.executable, "-c", "import hemalens"],
    "hemalens --help": [sys.executable, "-c", HELP],
}


def main() -> None:
    """Measure in alternation and print medians."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            begun = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - begun)
    for name, values in seconds.items():
        print(f"{name:<18} median {statistics.median(values):.3f} s, fastest {min(values):.3f} s of {ROUNDS}")


if __name__ == "__main__":
    main()
