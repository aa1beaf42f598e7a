"""Check a wheel: its contents, then an installation without torch: `python tools/check_wheel.py dist/hemalens-*.whl`.

The wheel must hold the files of `src/hemalens` and no others. It is installed with its base dependencies, as pinned in
`constraints.txt`, into a fresh environment outside the checkout, and predicts one synthetic cell there.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "torchvision", "timm", "lightning")


def content_faults(wheel: Path, source: Path) -> list[str]:
    """How the wheel's files differ from those of the package folder `source`, one line a fault."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.partition("/")[0].endswith(".dist-info")}
    files = (path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    expected = {path.relative_to(source.parent).as_posix() for path in files}
    missing = [f"the wheel lacks {name}" for name in sorted(expected - held)]
    return missing + [f"the wheel holds {name}, which is not in {source}" for name in sorted(held - expected)]


def check_installation(wheel: Path, folder: Path) -> None:
    """Install the wheel into `folder` and predict there; raises `CalledProcessError` or `SystemExit` for what fails."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PIP_CONSTRAINT")}
    environment |= {"HEMALENS_CACHE": str(folder / "cache"), "NO_COLOR": "1"}

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            [str(word) for word in command], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout

    run(sys.executable, "-m", "venv", folder / "venv")
    python, hemalens = folder / "venv" / "bin" / "python", folder / "venv" / "bin" / "hemalens"
    pip = (python, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--quiet", "--constraint", REPOSITORY / "constraints.txt", wheel)
    run(*pip, "check")
    found = run(python, "-c", f"import importlib.util as u; print(*filter(u.find_spec, {HEAVY!r}))").split()
    if found:
        raise SystemExit(f"the base installation brings {', '.join(found)}; these belong in the extra 'train'")
    print(run(hemalens, "--version").strip())
    run(hemalens, "data", "synthesize", "cells", "--n-per-class", "1", "--laboratory", "lab_b", "--quiet")
    (cell,) = (folder / "cells" / "lab_b" / "images" / "monocyte").iterdir()
    run(hemalens, "predict", cell, "--out", "predictions.csv", "--quiet")
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    if len(rows) != 1 or not rows[0]["label"]:
        raise SystemExit(f"expected one prediction of one cell, got {rows}")
    print(f"predicted {rows[0]['label']} for one synthetic monocyte")


def main() -> int:
    """Check the one wheel named; 1 for a fault."""
    (wheel,) = (Path(word).resolve() for word in sys.argv[1:])
    faults = content_faults(wheel, REPOSITORY / "src" / "hemalens")
    if faults:
        print("\n".join(faults), file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        check_installation(wheel, Path(folder))
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, installs and predicts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
