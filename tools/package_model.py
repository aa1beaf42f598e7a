"""Make a bundle the package's default model: `python tools/package_model.py BUNDLE --report REPORT.json ...`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hemalens.bundle.default_model import FOLDER
from hemalens.errors import HemalensError
from hemalens.runs.package_model import package_model


def main() -> int:
    """Copy the bundle into the package with a model card; 2 for a bundle or report that cannot be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="a bundle of at most 13 MB")
    parser.add_argument("--report", type=Path, action="append", default=[], help="report.json of a test; repeatable")
    parser.add_argument("--remarks", type=Path, help="what the reader of the figures must know, one remark a line")
    parser.add_argument("--left-out", type=Path, help="report.json of its method with each laboratory left out")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the package keeps it")
    parser.add_argument("--overwrite", action="store_true", help="replace the one that is there")
    given = parser.parse_args()
    try:
        remarks = given.remarks.read_text(encoding="utf-8").splitlines() if given.remarks else []
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"cannot read {given.remarks}: {error}")
    try:
        made = package_model(
            given.bundle,
            given.report,
            remarks=remarks,
            left_out_path=given.left_out,
            out=given.out,
            overwrite=given.overwrite,
        )
    except HemalensError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    n_bytes = sum(entry.n_bytes for entry in made.manifest.files.values())
    print(f"default model: {made.path} ({n_bytes / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
