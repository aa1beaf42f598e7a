"""Finer types from training through every job: answered within the class, kept or dropped as the job says."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from pyarrow import parquet

import trained
from hemalens.adaptation.adapt import adapt
from hemalens.bundle.bundle import FINE, MODEL, Bundle, open_bundle, write_bundle
from hemalens.bundle.export import check_parity
from hemalens.datasets import CellDataset
from hemalens.datasets.walking import walk_files
from hemalens.errors import BundleError, ParityError
from hemalens.graphs import build as graphs
from hemalens.graphs.runtime import GraphRunner
from hemalens.inference.predict import predict
from hemalens.inference.predictor import Predictor
from hemalens.methods.robust import METHOD
from hemalens.runs.quantize import QuantizeOptions, quantize

TYPES = ("band_neutrophil", "segmented_neutrophil")


def _with_finer_types(dataset: CellDataset) -> CellDataset:
    """Every other neutrophil is banded, the rest segmented."""
    records = tuple(
        replace(record, cell_type=TYPES[i % 2]) if record.cell_type == "neutrophil" else record
        for i, record in enumerate(dataset.records)
    )
    finer = replace(dataset, records=records)
    finer.__dict__["contents"] = dataset.contents
    return finer


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """`robust` on cells of which the neutrophils are told apart."""
    plain = trained.fitted(tmp_path_factory, "robust")
    config = METHOD.config.from_mapping({**trained.ROBUST, "epochs": 1, "min_fine_images": 3})
    return METHOD.fit(
        _with_finer_types(plain.train),
        validation=plain.validation,
        auxiliary={},
        config=config,
        rng=np.random.default_rng(1),
        run_dir=tmp_path_factory.mktemp("fine"),
    )


@pytest.fixture(scope="module")
def abroad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.cells(tmp_path_factory) / "lab_b"


def _outputs(bundle: Bundle) -> list[str]:
    return [value.name for value in bundle.graph.graph.output]


def _answers(bundle: Bundle, folder: Path) -> dict[str, np.ndarray]:
    records = [p.record for p in Predictor(bundle).predict(walk_files(folder / "images"))]
    found = [answer for _, answer in GraphRunner(bundle.graph_bytes, ["probabilities", FINE]).map(records)]
    return {name: np.stack([answer[name] for answer in found]) for name in ("probabilities", FINE)}


def test_the_finest_type_is_one_of_the_answered_class(bundle: Bundle, abroad: Path) -> None:
    manifest = bundle.manifest
    answers = _answers(bundle, abroad)
    for i, found in enumerate(Predictor(bundle).predict(walk_files(abroad / "images"))):
        p, fine = answers["probabilities"][i], answers[FINE][i]
        of_answer = [j for j, entry in enumerate(manifest.fine) if entry.of == found.label]
        finest = max(of_answer, key=lambda j: fine[j])
        assert found.fine_label == manifest.fine[finest].code
        assert found.fine_probability == pytest.approx(p.max() * fine[finest], abs=1e-6)
    classes = np.array([manifest.labels.index(entry.of) for entry in manifest.fine])
    for k in range(len(manifest.labels)):
        np.testing.assert_allclose(answers[FINE][:, classes == k].sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_predict_writes_two_more_columns_and_leaves_them_empty_for_what_cannot_be_read(
    bundle: Bundle, abroad: Path, tmp_path: Path, suffix: str
) -> None:
    source = tmp_path / "images"
    shutil.copytree(abroad / "images", source)
    (source / "zz.png").write_bytes(b"no image")
    out = tmp_path / f"answers{suffix}"
    predict(bundle.path, str(source), out=out)
    if suffix == ".csv":
        with open(out, encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    else:
        rows = parquet.read_table(out).to_pylist()
    assert list(rows[0])[-7:] == [
        *("fine_label", "fine_probability", "typicality", "prediction_set", "cell_found", "cell_reason", "error")
    ]
    assert {row["fine_label"] for row in rows[:-1]} <= {entry.code for entry in bundle.manifest.fine}
    assert all(float(row["fine_probability"]) <= float(row["probability"]) + 1e-6 for row in rows[:-1])
    assert not rows[-1]["fine_label"]
    assert not rows[-1]["fine_probability"]


def test_a_bundle_without_finer_types_has_no_such_columns(
    abroad: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path / "answers.csv"
    predict(trained.fitted(tmp_path_factory, "robust").bundle.path, str(abroad / "images"), out=out)
    assert "fine" not in out.read_text().partition("\n")[0]


def test_adapting_without_labels_leaves_the_shares_within_classes(
    bundle: Bundle, abroad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hemalens.adaptation.guards.FEWEST_MOVED", 0)
    monkeypatch.setattr("hemalens.adaptation.guards.ONE_TYPE", 1)
    made = adapt(bundle.path, out=tmp_path / "adapted", unlabelled=f"synthetic:{abroad}")
    assert made.manifest.fine == bundle.manifest.fine
    assert set(_outputs(made)) == set(_outputs(bundle))
    assert made.manifest.parity <= 1e-3
    before, after = _answers(bundle, abroad), _answers(made, abroad)
    np.testing.assert_allclose(after[FINE], before[FINE], atol=1e-5)
    assert np.abs(after["probabilities"] - before["probabilities"]).max() > 1e-4


@pytest.mark.slow
def test_adapting_by_labels_drops_them(bundle: Bundle, abroad: Path, tmp_path: Path) -> None:
    made = adapt(bundle.path, out=tmp_path / "adapted", support=f"synthetic:{abroad}")
    assert made.manifest.fine == ()
    assert FINE not in _outputs(made)
    assert next(Predictor(made).predict(walk_files(abroad / "images")[:1])).fine_label is None


def test_8_bits_keep_them_and_say_how_far_they_moved(bundle: Bundle, abroad: Path, tmp_path: Path) -> None:
    made = quantize(
        bundle.path, f"synthetic:{abroad}", out=tmp_path / "int8", options=QuantizeOptions(settings=["fp32_layers=1"])
    )
    assert made.manifest.fine == bundle.manifest.fine
    assert FINE in _outputs(made)
    how = made.manifest.quantisation
    assert how is not None
    assert how.fine_agreement is not None
    before, after = _answers(bundle, abroad), _answers(made, abroad)
    of_class = [bundle.manifest.labels.index(entry.of) for entry in bundle.manifest.fine]
    joint = [a["probabilities"][:, of_class] * a[FINE] for a in (before, after)]
    assert how.fine_largest_difference == pytest.approx(np.abs(joint[0] - joint[1]).max(), abs=1e-5)


def test_parity_looks_at_the_finer_types_too(bundle: Bundle, abroad: Path) -> None:
    records = [p.record for p in Predictor(bundle).predict(walk_files(abroad / "images")[:4])]
    runner = GraphRunner(bundle.graph_bytes, ["probabilities", FINE])

    def own(name: str, off: float = 0.0):  # type: ignore[no-untyped-def]
        return lambda chosen: np.stack([runner.run(r.read())[name] for r in chosen]) + off

    parity, _ = check_parity(bundle.graph_bytes, records, own("probabilities"), fine=own(FINE))
    assert parity == 0
    with pytest.raises(ParityError, match="does not reproduce"):
        check_parity(bundle.graph_bytes, records, own("probabilities"), fine=own(FINE, 0.01))


def test_subtypes_in_the_manifest_that_the_graph_lacks_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    others = [name for name in _outputs(bundle) if name != FINE]
    graph: onnx.ModelProto = graphs.cut(bundle.graph, ["image"], others)
    with pytest.raises(BundleError, match=f"does not fit its manifest; got no output {FINE}"):
        write_bundle(tmp_path / "lacking", bundle.manifest, {MODEL: graph.SerializeToString()})


def test_subtypes_of_some_classes_only_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    some = bundle.manifest.model_copy(update={"fine": bundle.manifest.fine[1:2]})
    with pytest.raises(BundleError, match="subtypes of every class"):
        write_bundle(tmp_path / "some", some, {MODEL: bundle.graph_bytes})
    assert open_bundle(bundle.path).manifest.fine == bundle.manifest.fine
