"""Manifest and graph vouch for each other: every field of every kind of folder, one by one."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import trained
from hemalens.bundle.artifact import MANIFEST
from hemalens.bundle.bundle import FINE, MODEL, Bundle, Manifest, open_bundle, write_bundle
from hemalens.bundle.default_model import FOLDER
from hemalens.bundle.vouching import KEY, drop_statement, statement
from hemalens.errors import BundleError
from hemalens.graphs.build import cut, digest, join, temperature_of
from hemalens.graphs.fp16 import with_half_weights


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    cells = trained.laboratory(tmp_path_factory)
    return trained.colour_bundle(tmp_path_factory.mktemp("vouching") / "bundle", cells, temperature=2.0)


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.path, tmp_path / "copy"))


def _other(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value / 2 if isinstance(value, float) and value else value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, list):
        return value[::-1] if len(value) > 1 and value != value[::-1] else [_other(part) for part in value]
    if isinstance(value, dict):
        return {name: _other(part) for name, part in value.items()} or {"more": 1}
    return 1


FIELDS = sorted(set(Manifest.model_fields) - {"kind", "schema_version", "files"})


@pytest.mark.parametrize("folder", ["small", "default"])
@pytest.mark.parametrize("field", FIELDS)
def test_no_field_can_be_edited(bundle: Bundle, tmp_path: Path, folder: str, field: str) -> None:
    path = Path(shutil.copytree(bundle.path if folder == "small" else FOLDER, tmp_path / "edited"))
    manifest = json.loads((path / MANIFEST).read_text())
    edited = _other(manifest[field])
    assert edited != manifest[field] or manifest[field] in ([], [[]])
    (path / MANIFEST).write_text(json.dumps({**manifest, field: edited if edited != manifest[field] else [1]}))
    with pytest.raises(
        BundleError, match=rf"does not fit its graph; expected {field}: |is damaged; .*({field}|embedding; got something)"
    ) as caught:
        open_bundle(path)
    assert "\n" not in str(caught.value)


def test_every_field_is_in_the_statement(bundle: Bundle) -> None:
    kept = statement(bundle.manifest)
    absent = {name for name in Manifest.unstated if getattr(bundle.manifest, name) is None}
    assert {*kept["stated"], *kept["digests"]} == set(Manifest.model_fields) - absent
    assert not {*kept["stated"]} & {*kept["digests"]}
    assert MODEL not in kept["stated"]["files"], "a graph cannot hold its own digest"
    assert set(kept["stated"]["files"]) == set(bundle.manifest.files) - {MODEL}


def test_the_error_names_the_field_and_both_values(copy: Path) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["classes"].reverse()
    (copy / MANIFEST).write_text(json.dumps(manifest))
    first = "neutrophil, eosinophil, lymphocyte, monocyte"
    second = ", ".join(reversed(first.split(", ")))
    with pytest.raises(BundleError, match=f"expected classes: {first}: .*, as in the graph; got {second}: "):
        open_bundle(copy)


def test_the_default_model_has_its_statement_and_passes_its_own_test() -> None:
    bundle = open_bundle(FOLDER)
    assert not [entry for entry in bundle.graph.metadata_props if entry.key == KEY]
    assert bundle.tested_graph is bundle.graph


def test_metadata_changes_no_digest_and_no_output(bundle: Bundle, tmp_path: Path) -> None:
    again = write_bundle(
        tmp_path / "again",
        bundle.manifest.model_copy(update={"method": "another", "metrics": {"a": 1}}),
        {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files},
    )
    assert again.manifest.files[MODEL] != bundle.manifest.files[MODEL]
    assert again.graph == bundle.graph
    encoders = [cut(onnx.load_model(each.path / MODEL), ["image"], ["embedding"]) for each in (again, bundle)]
    assert digest(encoders[0]) == digest(encoders[1]), "what the feature cache is keyed by"
    image = np.random.default_rng(0).integers(0, 256, (1, 20, 20, 3), dtype=np.uint8)
    first, second = (onnxruntime.InferenceSession(each.graph_bytes).run(None, {"image": image}) for each in (again, bundle))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_graphs_of_two_bundles_join(bundle: Bundle, tmp_path: Path) -> None:
    other = bundle.derive(tmp_path / "b", bundle.manifest.model_copy(update={"method": "b"}), bundle.graph_bytes)
    head = cut(other.graph, ["embedding"], ["probabilities"])
    assert join(cut(bundle.graph, ["image"], ["embedding"]), head).graph.output[0].name == "probabilities"


def test_a_second_statement_is_refused(copy: Path) -> None:
    model = onnx.load_model(copy / MODEL)
    model.metadata_props.add(key=KEY, value=model.metadata_props[0].value)
    content = model.SerializeToString()
    (copy / MODEL).write_bytes(content)
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["files"][MODEL] = {"sha256": hashlib.sha256(content).hexdigest(), "n_bytes": len(content)}
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="does not name its manifest"):
        open_bundle(copy)
    drop_statement(model)
    assert not model.metadata_props


def test_the_temperature_is_found_in_the_graph(bundle: Bundle) -> None:
    assert temperature_of(bundle.graph) == 2.0
    assert temperature_of(open_bundle(FOLDER).graph) == pytest.approx(open_bundle(FOLDER).manifest.temperature)
    assert temperature_of(cut(bundle.graph, ["image"], ["embedding"])) is None


def test_a_graph_of_another_temperature_is_not_written(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not fit its manifest; got the temperature 2, not 1"):
        write_bundle(tmp_path / "b", bundle.manifest.model_copy(update={"temperature": 1.0}), {MODEL: bundle.graph_bytes})
    assert not (tmp_path / "b").exists()


def test_a_graph_without_its_subtypes_is_not_written(tmp_path: Path) -> None:
    default = open_bundle(FOLDER)
    graph = default.graph
    kept = [value for value in graph.graph.output if value.name != FINE]
    del graph.graph.output[:]
    graph.graph.output.extend(kept)
    with pytest.raises(BundleError, match=f"no output {FINE}"):
        write_bundle(tmp_path / "b", default.manifest, {MODEL: graph.SerializeToString()})


@pytest.mark.parametrize("method", ["linear_probe", "robust"])
def test_trained_bundles_vouch_also_in_16_bits(
    method: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    fitted = trained.fitted(tmp_path_factory, method).bundle
    assert open_bundle(fitted.path).tested_graph == fitted.graph
    half = fitted.derive(tmp_path / "half", fitted.manifest, with_half_weights(fitted.graph).SerializeToString())
    assert half.tested_graph
    assert {t.data_type for t in half.graph.graph.initializer} >= {onnx.TensorProto.FLOAT16}
    assert numpy_helper.to_array(half.graph.graph.initializer[0]).size
