"""Adding a head, as CONTRIBUTING describes it: a function from a seed to a classifier, and a line in `HEADS`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trained
from head_contract import check_head_contract
from hemalens.classifiers.heads import HEADS, HeadKind, check_head
from hemalens.errors import ConfigError
from hemalens.inference.predictor import Predictor
from hemalens.methods import find_method


def _linear_discriminant(seed: int) -> Any:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    return LinearDiscriminantAnalysis()


def _naive_bayes(seed: int) -> Any:
    from sklearn.naive_bayes import GaussianNB

    return GaussianNB()


LINES = {
    "lda": HeadKind(_linear_discriminant, "linear discriminant analysis", sample_weights=False),
    "naive_bayes": HeadKind(_naive_bayes, "Gaussian naive Bayes", standardise=True, float64=True),
}


@pytest.fixture(params=LINES)
def added(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name = str(request.param)
    monkeypatch.setitem(HEADS, name, LINES[name])
    return name


def test_a_head_of_one_line_keeps_the_contract(added: str) -> None:
    check_head_contract(added)


def test_a_head_of_one_line_is_trained_and_predicts(
    added: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    fit = trained.fitted(tmp_path_factory, "linear_probe")
    config = fit.method.config.from_mapping({**trained.PROBE, "head": added})
    rng = np.random.default_rng(1)
    bundle = find_method("linear_probe").fit(
        fit.train, validation=fit.validation, auxiliary={}, config=config, rng=rng, run_dir=tmp_path
    )
    assert bundle.manifest.config["head"] == added
    assert bundle.manifest.parity <= 1e-3
    predictions = list(Predictor(bundle).predict(fit.validation.records))
    assert all(prediction.error is None for prediction in predictions)


def test_class_weights_are_refused_before_training_where_a_head_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HEADS, "lda", LINES["lda"])
    check_head("lda")
    with pytest.raises(ConfigError, match="'lda' takes no class weights"):
        check_head("lda", "balanced")
