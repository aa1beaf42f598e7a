"""Leaks: test images that a model was trained on are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fakes import folder
from hemalens.datasets import open_dataset
from hemalens.datasets.leaks import refuse_leaks
from hemalens.errors import SplitError


def test_a_copy_of_a_training_image_is_refused_under_any_name(tmp_path: Path) -> None:
    train = open_dataset(folder.write(tmp_path / "train", n_per_class=2, seed=0))
    test_name = folder.write(tmp_path / "test", n_per_class=2, seed=1)
    refuse_leaks(train.contents, open_dataset(test_name))
    shutil.copy(train.records[0].path, tmp_path / "test" / "monocyte" / "another name.png")
    with pytest.raises(SplitError, match=r"1 image\(s\) of test .*another name.png'"):
        refuse_leaks(train.contents, open_dataset(test_name))
