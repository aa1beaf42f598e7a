"""What the check of a wheel's contents finds; `make wheel` runs the installation."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from check_wheel import content_faults

FILES = ("hemalens/__init__.py", "hemalens/py.typed", "hemalens/taxonomy/cell_types.toml", "hemalens/report/style.css")
INFO = "hemalens-0.1.0.dist-info/METADATA"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in (*FILES, "hemalens/__pycache__/x.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path / "hemalens"


def _wheel(folder: Path, *names: str) -> Path:
    with zipfile.ZipFile(folder / "a.whl", "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return folder / "a.whl"


def test_a_wheel_of_exactly_the_package_has_no_fault(source: Path, tmp_path: Path) -> None:
    assert content_faults(_wheel(tmp_path, *FILES, INFO), source) == []


def test_missing_and_further_files_are_faults(source: Path, tmp_path: Path) -> None:
    faults = content_faults(_wheel(tmp_path, *FILES[:-1], INFO, "tests/test_a.py"), source)
    assert [fault.split()[2] for fault in faults] == ["lacks", "holds"]
    assert "hemalens/report/style.css" in faults[0]
    assert "tests/test_a.py" in faults[1]
