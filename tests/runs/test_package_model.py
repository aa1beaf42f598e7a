"""A bundle on its way into the package: with its card, without weights for training, and not too large."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import trained
from hemalens.adaptation.adapt import adapt
from hemalens.bundle.artifact import MANIFEST, WEIGHTS
from hemalens.bundle.bundle import CARD, Bundle, open_bundle
from hemalens.errors import BundleError, InputError, OutputError
from hemalens.runs.evaluate import EvaluateOptions, evaluate
from hemalens.runs.package_model import package_model
from networks import conv_bundle

TOOL = Path(__file__).resolve().parents[2] / "tools" / "package_model.py"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return conv_bundle(tmp_path_factory.mktemp("home") / "bundle", trained.laboratory(tmp_path_factory))


@pytest.fixture(scope="module")
def abroad(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"synthetic:{trained.cells(tmp_path_factory) / 'lab_b'}"


@pytest.fixture(scope="module")
def report(bundle: Bundle, abroad: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("test") / "report"
    with trained.undrawn():
        evaluate(bundle.path, abroad, out=out, options=EvaluateOptions(explain="none"))
    return out / "report.json"


def test_it_has_a_card_and_no_weights_for_training(bundle: Bundle, report: Path, abroad: str, tmp_path: Path) -> None:
    made = package_model(bundle.path, [report], remarks=["chosen on lab_b | too"], out=tmp_path / "packaged")
    assert "\n- chosen on lab_b | too\n" in (made.path / CARD).read_text(encoding="utf-8")
    assert set(made.manifest.files) == set(bundle.manifest.files) - {WEIGHTS} | {CARD}
    assert (made.path / CARD).read_text(encoding="utf-8").startswith("# Model card: random_filters")
    assert made.manifest.model_copy(update={"files": {}}) == bundle.manifest.model_copy(update={"files": {}})
    assert made.graph == bundle.graph
    adapted = adapt(made.path, out=tmp_path / "adapted", support=abroad)
    assert CARD not in adapted.manifest.files, "its figures are those of another model"


def test_what_is_there_is_replaced_only_when_asked(bundle: Bundle, report: Path, tmp_path: Path) -> None:
    out = tmp_path / "packaged"
    package_model(bundle.path, [report], out=out)
    with pytest.raises(OutputError, match="exists already"):
        package_model(bundle.path, [report], out=out)
    package_model(bundle.path, [report], out=out, overwrite=True)
    assert {file.name for file in out.iterdir()} == {*open_bundle(out).manifest.files, MANIFEST}


def test_a_bundle_too_large_or_without_figures_is_refused(
    bundle: Bundle, report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"model card.*expected one report\.json or more"):
        package_model(bundle.path, [], out=tmp_path / "x")
    monkeypatch.setattr("hemalens.runs.package_model.LARGEST_BYTES", 1000)
    with pytest.raises(BundleError, match=r"too large for the package; expected at most 0 MB.* --precision fp16"):
        package_model(bundle.path, [report], out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_the_tool_says_what_it_wrote_or_what_was_wrong(bundle: Bundle, report: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(TOOL), str(bundle.path), "--out", str(tmp_path / "packaged")]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: a model card")
    done = subprocess.run([*command, "--report", str(report)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"default model: {tmp_path / 'packaged'} (")
