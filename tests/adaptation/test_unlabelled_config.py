"""Settings of adaptation to unlabelled images."""

from __future__ import annotations

import pytest

from hemalens.adaptation.unlabelled_config import PIECES, UnlabelledConfig
from hemalens.errors import ConfigError

REFUSED = {
    "neighbours=false class_means=false": "set one of size, neighbours, class_means to true",
    "class_mean=true": "unknown key 'class_mean'. did you mean 'class_means'",
    "batch_norm=true": "unknown key 'batch_norm'",
    "class_bias=true": "unknown key 'class_bias'",
    "size=perhaps": "key 'size'",
}


@pytest.mark.parametrize(("setting", "message"), REFUSED.items(), ids=list(REFUSED))
def test_what_cannot_be_meant_is_refused(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        UnlabelledConfig.load(None, setting.split())


def test_the_size_is_off_and_each_piece_can_be_switched() -> None:
    assert UnlabelledConfig().pieces == PIECES[1:] == ("neighbours", "class_means")
    for piece in PIECES:
        others = tuple(name for name in PIECES if name != piece)
        assert UnlabelledConfig.load(None, ["size=true", f"{piece}=false"]).pieces == others
