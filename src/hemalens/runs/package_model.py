"""Copy a bundle with its model card to the package's default model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hemalens.bundle.artifact import MANIFEST, WEIGHTS
from hemalens.bundle.bundle import CARD, Bundle, bundle_folder, open_bundle, write_bundle
from hemalens.bundle.default_model import FOLDER, LARGEST_BYTES
from hemalens.bundle.folders import artifact_files
from hemalens.errors import BundleError, InputError, one_line
from hemalens.outputs import claim_folder
from hemalens.report import read_report
from hemalens.report.model_card import model_card


def package_model(
    bundle_path: Path,
    report_paths: Sequence[Path],
    *,
    remarks: Sequence[str] = (),
    left_out_path: Path | None = None,
    out: Path = FOLDER,
    overwrite: bool = False,
) -> Bundle:
    """Copy the bundle to `out` with a model card of its manifest, the `report.json` files of its tests, and remarks.

    `left_out_path` is the `report.json` of a benchmark of its method under the protocol leave-one-laboratory-out. Weights
    for further training are left out. Raises `BundleError` for a bundle of more than 13 MB or one that fails its own test,
    `ReportError` for a report of another model or method.
    """
    if not report_paths:
        raise InputError("a model card needs test results", expected="one report.json or more")
    inputs = [bundle_folder(bundle_path), *report_paths, *([left_out_path] if left_out_path else [])]
    with claim_folder(out, artifact_files, "a bundle", overwrite=overwrite, inputs=inputs):
        base = open_bundle(bundle_path)
        base.runner(tuple(base.manifest.outputs), n_workers=1)
        left_out = read_report(left_out_path) if left_out_path else None
        card = model_card(base.manifest, [read_report(path) for path in report_paths], remarks, left_out)
        kept = [name for name in base.manifest.files if name not in (WEIGHTS, CARD)]
        files = {name: (base.path / name).read_bytes() for name in kept} | {CARD: card.encode("utf-8")}
        # the manifest counts too
        n_bytes = sum(map(len, files.values())) + (base.path / MANIFEST).stat().st_size
        if n_bytes > LARGEST_BYTES:
            raise BundleError(
                f"the bundle {one_line(bundle_path)} is too large for the package",
                expected=f"at most {LARGEST_BYTES / 1e6:.0f} MB",
                got=f"{n_bytes / 1e6:.1f} MB",
                remedy="Quantise it first: hemalens quantize --precision fp16.",
            )
        return write_bundle(out, base.manifest, files)
