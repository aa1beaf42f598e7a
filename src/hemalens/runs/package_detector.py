"""Copy a trained detector with its card to the package's detector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hemalens.bundle.artifact import MANIFEST, WEIGHTS
from hemalens.bundle.bundle import CARD
from hemalens.bundle.default_model import LARGEST_BYTES
from hemalens.bundle.detector import FOLDER, Detector, open_detector, write_detector
from hemalens.bundle.folders import artifact_files
from hemalens.errors import BundleError, InputError, ReportError, one_line
from hemalens.evaluation.formatting import visible
from hemalens.evaluation.results import Detection
from hemalens.outputs import claim_folder
from hemalens.report import read_report
from hemalens.report.detector_card import detector_card


def package_detector(
    path: Path,
    report_paths: Sequence[Path],
    *,
    remarks: Sequence[str] = (),
    out: Path = FOLDER,
    overwrite: bool = False,
) -> Detector:
    """Copy the detector in `path`, or in a run's folder, to `out` with a card of its manifest, test reports and remarks.

    Weights for further training are left out. Raises `BundleError` for a detector of more than 13 MB or one that fails its
    own test, `ReportError` for a report of another detector.
    """
    if not report_paths:
        raise InputError("a model card needs test results", expected="one report.json or more")
    folder = path if (path / MANIFEST).is_file() else path / "detector"
    with claim_folder(out, artifact_files, "a detector", overwrite=overwrite, inputs=[folder, *report_paths]):
        base = open_detector(folder)
        base.check_test()
        card = detector_card(base.manifest, list(_tests(base, report_paths)), remarks)
        kept = [name for name in base.manifest.files if name not in (WEIGHTS, CARD)]
        files = {name: (base.path / name).read_bytes() for name in kept} | {CARD: card.encode("utf-8")}
        # the manifest counts too
        n_bytes = sum(map(len, files.values())) + (base.path / MANIFEST).stat().st_size
        if n_bytes > LARGEST_BYTES:
            raise BundleError(
                f"the detector {one_line(path)} is too large for the package",
                expected=f"at most {LARGEST_BYTES / 1e6:.0f} MB",
                got=f"{n_bytes / 1e6:.1f} MB",
            )
        return write_detector(out, base.manifest, files)


def _tests(detector: Detector, paths: Sequence[Path]) -> Iterator[Detection]:
    """The tests in reports; raises `ReportError` for one of a detector with other settings, and one without a test."""
    manifest = detector.manifest
    for path in paths:
        report = read_report(path)
        if not report.detections or any(report.methods.get(test.detector) != manifest.config for test in report.detections):
            raise ReportError(
                f"the report {visible(report.title)!r} tests another model",
                expected=f"a test of {manifest.method} with the settings of {one_line(detector.path)}",
            )
        yield from report.detections
