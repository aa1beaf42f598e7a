"""The configuration of a benchmark: protocols by name, with their settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hemalens.benchmark.config import EFFICIENCY, BenchmarkConfig, settings_key
from hemalens.benchmark.protocols import PROTOCOLS
from hemalens.benchmark.protocols.folds import KFoldProtocol
from hemalens.errors import ConfigError, SplitError

NAMED: dict[str, Any] = {"methods": ("linear_probe",), "sources": "synthetic:a", "targets": "synthetic:b"}


def _config(**values: Any) -> BenchmarkConfig:
    return BenchmarkConfig.from_mapping({**NAMED, **values})


def test_every_protocol_has_its_settings() -> None:
    config = _config(folds=7, k_shot={"shots": [2], "repeats": 3})
    for name, kind in PROTOCOLS.items():
        assert type(config.protocol(name)) is kind
        if not issubclass(kind, KFoldProtocol):
            assert config.protocol(name) is getattr(config, settings_key(name))
    assert config.protocol("cross-domain") == PROTOCOLS["cross-domain"].from_mapping({"folds": 7})
    assert config.protocol("k-shot").model_dump()["shots"] == (2,)


def test_the_protocols_that_train() -> None:
    assert _config(protocols=("k-fold", "cross-domain", EFFICIENCY, "k-shot", "k-shot")).trained_protocols() == (
        "cross-domain",
        "k-shot",
    )
    assert _config(protocols="k-fold").trained_protocols() == ("k-fold",)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"protocols": "k-shots"}, ConfigError, r"unknown protocol 'k-shots'.*'k-shot'"),
        ({"k_shot": {"shots": [0]}}, SplitError, "cannot use these k"),
        ({"k_shot": {"repeats": 1}}, ConfigError, r"k_shot\.repeats"),
        ({"finetuning": {"shots": [1, 1]}}, SplitError, "cannot use these k"),
        ({"labelling": {"strategies": []}}, ConfigError, "no strategy is named"),
        ({"unlabelled": {"pieces": []}}, ConfigError, "no piece is named"),
        ({"unlabelled": {"images": [1]}}, SplitError, "numbers of images"),
        ({"fractions": {"seeds": 0}}, ConfigError, r"fractions\.seeds"),
    ],
)
def test_bad_settings_are_refused(values: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        _config(**values)


def test_bundles_beside_the_model_are_inputs_by_their_folders(tmp_path: Path) -> None:
    (tmp_path / "run" / "bundle").mkdir(parents=True)
    (tmp_path / "run" / "bundle" / "manifest.json").touch()
    beside = {"beside": [str(tmp_path / "run"), "imagenet"], "support": "csv:cells.csv"}
    config = _config(protocols="k-shot", k_shot=beside, labelling={"beside": ["unused"]})
    assert config.paths() == [Path("a"), Path("b"), Path("cells.csv"), tmp_path / "run" / "bundle"]


def test_settings_may_be_words_with_commas() -> None:
    config = _config(finetuning={"shots": "1, 3", "training": "steps=5,batch=2"}, labelling={"budgets": 8})
    assert (config.finetuning.shots, config.finetuning.training) == ((1, 3), ("steps=5", "batch=2"))
    assert config.labelling.budgets == (8,)
