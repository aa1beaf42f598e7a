"""Sampling of an epoch: shares of further types and of laboratories, from the definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import trained
from hemalens.datasets.base import CellDataset, Record
from hemalens.errors import ConfigError
from hemalens.methods import find_method
from hemalens.methods.finetune import FinetuneConfig
from hemalens.methods.robust import RobustConfig
from hemalens.training.fit import sampling_weights


def _cells(classes: dict[str, tuple[int, int]]) -> CellDataset:
    """So many records of each class in the laboratories x and y."""
    records = [
        Record(Path("a.png"), label, domain, label=label)
        for label, counts in classes.items()
        for domain, n in zip("xy", counts, strict=True)
        for _ in range(n)
    ]
    return CellDataset("cells", tuple(records), tuple(classes), "as_labelled", "-", "-")


def _sums(dataset: CellDataset, **settings: object) -> dict[str, float]:
    weights = sampling_weights(dataset.targets, dataset, RobustConfig.from_mapping(settings))
    assert weights is not None
    return {name: float(weights[dataset.targets == i].sum()) for i, name in enumerate(dataset.classes)}


def test_a_further_type_is_drawn_half_as_often_as_a_mature_one() -> None:
    cells = _cells({"neutrophil": (7, 0), "lymphocyte": (2, 1), "erythroblast": (30, 5), "artefact": (0, 90)})
    expected = {"neutrophil": 1 / 3, "lymphocyte": 1 / 3, "erythroblast": 1 / 6, "artefact": 1 / 6}
    assert _sums(cells) == pytest.approx(expected)
    assert _sums(cells, further_types=1.0) == pytest.approx(dict.fromkeys(expected, 1 / 4))
    assert _sums(cells, further_types=0.1)["artefact"] == pytest.approx(0.1 / 2.2)


@pytest.mark.parametrize("names", [("neutrophil", "band neutrophil"), ("blast", "not_blast"), ("tumor", "normal")])
def test_without_both_kinds_of_types_all_are_drawn_equally(names: tuple[str, str]) -> None:
    assert _sums(_cells({names[0]: (3, 0), names[1]: (9, 2)})) == pytest.approx(dict.fromkeys(names, 0.5))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_a_laboratory_is_drawn_by_a_power_of_its_size(alpha: float) -> None:
    cells = _cells({"neutrophil": (16, 4), "lymphocyte": (1, 9)})
    config = RobustConfig.from_mapping({"laboratories": alpha})
    weights = sampling_weights(cells.targets, cells, config)
    assert weights is not None
    share = weights[:16].sum() / weights[:20].sum()
    assert share == pytest.approx(16**alpha / (16**alpha + 4**alpha))
    assert np.ptp(weights[:16]) == pytest.approx(0)


def test_only_robust_holds_further_types_back() -> None:
    assert (RobustConfig().further_types, RobustConfig().laboratories) == (0.5, 1.0)
    assert (FinetuneConfig().further_types, FinetuneConfig().laboratories) == (1.0, 1.0)
    cells = _cells({"neutrophil": (1, 0), "lymphocyte": (3, 0)})
    assert sampling_weights(cells.targets, cells, FinetuneConfig.from_mapping({"sampling": "none"})) is None


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"sampling": "none"}, "laboratories=0.5 needs sampling=balanced; got sampling=none"),
        ({"masks": {"copies": 2}}, "laboratories=0.5 needs masks.copies=0; got masks.copies=2"),
    ],
)
def test_laboratories_need_balanced_sampling_of_the_images_themselves(
    settings: dict[str, object], text: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    shared, method = trained.fitted(tmp_path_factory, "finetune"), find_method("finetune")
    config = method.config.from_mapping({**trained.SETTINGS["finetune"], **settings, "laboratories": 0.5})
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match=text):
        method.fit(shared.train, validation=shared.validation, auxiliary={}, config=config, rng=rng, run_dir=tmp_path)
