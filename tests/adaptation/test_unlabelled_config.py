"""Settings of adaptation to unlabelled images, and the class prior of scarce types."""

from __future__ import annotations

import numpy as np
import pytest

from hemalens.adaptation.unlabelled_config import PIECES, UnlabelledConfig, log_class_prior
from hemalens.errors import ConfigError

BAD = {
    "batch_norm=false size=false class_bias=false": "set one of batch_norm, size, class_bias, neighbours to true",
    "strength=0": "key 'strength'",
    "strength=1.5": "key 'strength'",
    "batch_size=2": "key 'batch_size'",
    "batchnorm=true": "unknown key 'batchnorm'. did you mean 'batch_norm'",
    "prior=true": "unknown key 'prior'",
    "size=2": "key 'size'",
    "batch_norm=false strength=0.5": "strength needs batch_norm=true",
    "scarce=0": "key 'scarce'",
    "scarce=2": "key 'scarce'",
    "neighbour_weight=2": "neighbour_weight needs neighbours=true",
    "class_bias=false scarce=0.5": "scarce needs class_bias=true",
}


@pytest.mark.parametrize("setting", BAD)
def test_a_bad_setting_is_told(setting: str) -> None:
    with pytest.raises(ConfigError, match=BAD[setting]):
        UnlabelledConfig.load(None, setting.split())


def test_the_defaults_are_batch_norm_by_half_size_and_a_class_bias() -> None:
    assert UnlabelledConfig().pieces == ("batch_norm", "size", "class_bias")
    assert UnlabelledConfig().strength == 0.5


def test_the_pieces_are_those_in_use_in_the_order_in_which_they_are_done() -> None:
    for settings, pieces in {
        "neighbours=true class_bias=false": ("batch_norm", "size", "neighbours"),
        "batch_norm=false class_bias=false": ("size",),
        "size=false strength=0.3": ("batch_norm", "class_bias"),
    }.items():
        assert UnlabelledConfig.load(None, settings.split()).pieces == pieces


def test_basophils_alone_are_taken_to_be_scarce() -> None:
    """Whatever they are called; a label that names no cell type is as frequent as any."""
    labels = ["neutrophil", "basophil", "BASO", "Basophils", "unlike any", "blast"]
    np.testing.assert_allclose(log_class_prior(labels, 0.25), [0, *[-np.log(4)] * 3, 0, 0])
    np.testing.assert_array_equal(log_class_prior(labels, 1), np.zeros(6))


@pytest.mark.parametrize("piece", PIECES)
def test_only_batch_norm_works_without_logits(piece: str) -> None:
    alone = UnlabelledConfig.from_mapping(dict.fromkeys(PIECES, False) | {piece: True})
    assert alone.needs_logits is (piece != "batch_norm")
