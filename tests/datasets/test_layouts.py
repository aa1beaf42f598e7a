"""The one folder that holds a layout: at any depth of known outer folders, and never one of two."""

from __future__ import annotations

from pathlib import Path

import pytest

from hemalens.datasets.layouts import has_folder, root_holding
from hemalens.errors import DatasetError


def _found(root: Path) -> Path:
    return root_holding(root, has_folder(["images"]), ["PKG*", "set"], title="cells", layout="images/*.png")


@pytest.mark.parametrize("outer", ["", "set", "PKG - 1/set"])
def test_a_layout_is_found_within_the_folders_of_a_download(outer: str, tmp_path: Path) -> None:
    (tmp_path / outer / "images").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    assert _found(tmp_path) == tmp_path / outer


@pytest.mark.parametrize("folders", [(), ("other/images",), ("PKG a/images", "PKG b/images")], ids=str)
def test_no_layout_or_two_of_them_are_an_error(folders: tuple[str, ...], tmp_path: Path) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"is not laid out as cells.*images/\*.png"):
        _found(tmp_path)
