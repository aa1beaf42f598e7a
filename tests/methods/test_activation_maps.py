"""Which methods have an exact map of their evidence; the linear outputs are recomputed here by ONNX Runtime alone."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

import trained
from hemalens.errors import BundleError
from hemalens.graphs.activation import ActivationMaps
from hemalens.methods import METHODS
from methods.test_contract import BC_SAM
from trained import Fitted

trained.SETTINGS.setdefault("bc_sam", BC_SAM)
EXACT = {"bloodshot", "finetune", "linear_probe", "mask_augmentation", "mobilevit", "robust"}
"""The others have no pooled feature map before a linear head."""


@pytest.fixture(params=list(METHODS))
def fit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return trained.fitted(tmp_path_factory, request.param)


def test_a_method_has_an_exact_map_or_refuses_in_one_line(fit: Fitted) -> None:
    try:
        maps = ActivationMaps(fit.bundle.graph)
    except Exception as e:
        print(fit.method.name, e); raise
    print(fit.method.name, maps.linear.pools, maps.linear.outputs, maps.linear.beside)
    for r in fit.validation.records[:3]:
        a=maps(r.read())
        print([p.shape for p in a.parts], a.slope.round(2), np.abs(sum(p.mean((1,2)) for p in a.parts)+a.constant-a.outputs).max())
