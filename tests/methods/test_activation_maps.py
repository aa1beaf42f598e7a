"""Which methods have an exact map of their evidence; logits are recomputed here from the maps and by ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

import trained
from hemalens.errors import BundleError
from hemalens.graphs.activation import ActivationMaps
from hemalens.methods import METHODS
from methods.test_contract import BC_SAM, _again
from trained import Fitted

trained.SETTINGS.setdefault("bc_sam", BC_SAM)
EXACT = {"bc_sam", "bloodshot", "finetune", "linear_probe", "mask_augmentation", "mobilevit", "robust"}
"""`combined_network` concatenates features that are not pooled."""


@pytest.fixture(params=list(METHODS))
def fit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return trained.fitted(tmp_path_factory, request.param)


def test_a_method_has_an_exact_map_or_refuses_in_one_line(fit: Fitted) -> None:
    if fit.method.name not in EXACT:
        with pytest.raises(BundleError, match=r"^this model has no exact map .*--explain occlusion\)\.$"):
            ActivationMaps(fit.bundle.graph)
        return
    maps = ActivationMaps(fit.bundle.graph)
    session = onnxruntime.InferenceSession(fit.bundle.graph_bytes, providers=["CPUExecutionProvider"])
    tail = maps.linear.tail_graph()
    for record in fit.validation.records[:3]:
        image = record.read()
        found = maps(image)
        linear = sum((part.mean(axis=(1, 2)) for part in found.parts), start=found.constant)
        scale = max(1.0, np.abs(found.outputs).max())
        assert np.abs(linear - found.outputs).max() <= 1e-4 * scale
        logits, probabilities = session.run(["logits", "probabilities"], {"image": image[None]})
        if tail is None:
            assert np.abs(linear - logits[0]).max() <= 1e-4 * scale
        elif len(maps.linear.outputs) == 1 and not maps.linear.beside:
            # the logits follow from the maps alone
            given = {maps.linear.outputs[0]: linear[None].astype(np.float32)}
            part = onnxruntime.InferenceSession(tail.SerializeToString(), providers=["CPUExecutionProvider"])
            assert np.abs(part.run(["logits"], given)[0] - logits).max() <= 1e-3
        else:
            pytest.fail("no method has other outputs in this small size")
        np.testing.assert_allclose(found.probabilities, probabilities[0], atol=1e-3)
        assert found.best == probabilities[0].argmax()


@pytest.mark.parametrize("head", ["lr", "rf", "ann", "svm_rbf", "svm_linear"])
def test_a_probe_has_an_exact_map_with_a_linear_head_alone(head: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    fit = trained.fitted(tmp_path_factory, "linear_probe")
    bundle = _again(fit, tmp_path_factory.mktemp(head), head=head)
    if head == "lr":
        assert not ActivationMaps(bundle.graph).more_than_places
    else:
        with pytest.raises(BundleError, match="no exact map"):
            ActivationMaps(bundle.graph)


def test_a_network_of_two_questions_with_an_outline_and_distances_has_one(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """All parts of the default model at once: four views, two networks, further types with a distance."""
    fit = trained.fitted(tmp_path_factory, "robust")
    bundle = _again(fit, tmp_path_factory.mktemp("whole"), views=4, outline=True, white_balance=True)
    maps = ActivationMaps(bundle.graph)
    assert len(maps.linear.pools) == 2
    found = maps(fit.validation.records[0].read())
    linear = sum((part.mean(axis=(1, 2)) for part in found.parts), start=found.constant)
    np.testing.assert_allclose(linear, found.outputs, atol=1e-4 * max(1.0, np.abs(found.outputs).max()))
