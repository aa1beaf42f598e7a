"""The recipe of CONTRIBUTING.md for a dataset: the first two blocks as they stand there, and a line in the table."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from command import Command
from hemalens.datasets import READERS, open_dataset
from hemalens.datasets.audit import audit
from hemalens.errors import DatasetError
from hemalens.taxonomy import AS_LABELLED

REPOSITORY = Path(__file__).resolve().parents[2]
N = 4

PLUGIN = """
import toyset
import fake_toyset
from fakes import FAKES
from hemalens.datasets import READERS

READERS["toyset"] = toyset.READER
FAKES["toyset"] = fake_toyset.write
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader and the fake of the recipe, as files."""
    folder = tmp_path_factory.mktemp("recipe")
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    reader, fake, *_ = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    (folder / "toyset.py").write_text(reader, encoding="utf-8")
    (folder / "fake_toyset.py").write_text(fake, encoding="utf-8")
    return folder


def _imported(path: Path) -> ModuleType:
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def toyset(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the fake set, its reader in the table."""
    monkeypatch.setitem(READERS, "toyset", _imported(written / "toyset.py").READER)
    name: str = _imported(written / "fake_toyset.py").write(tmp_path / "set", n_per_class=N)
    return name


def test_it_opens_under_a_label_map_and_as_labelled(toyset: str) -> None:
    dataset = open_dataset(toyset)
    assert dataset.class_counts == {"neutrophil": N, "lymphocyte": N}
    assert dataset.excluded_counts == {"artefact, not a cell": N}
    assert {record.group for record in dataset.records} == {"0", "1"}
    assert open_dataset(toyset, labels=AS_LABELLED).classes == ("lym", "neu")


def test_another_layout_is_refused(toyset: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="ToySet"):
        open_dataset(f"toyset:{tmp_path / 'empty'}")


def test_it_is_audited(toyset: str) -> None:
    found = audit(open_dataset(toyset))
    assert (found.n_images, found.unreadable, found.conflicts) == (3 * N, {}, [])
    assert found.n_groups == 2


def test_the_command_line_knows_it(
    toyset: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command(monkeypatch, capsys)
    assert json.loads(command("data", "list", "--json").out)["toyset"]["size"] == "30 images"
    assert command("data", "audit", toyset, "--quiet").out.startswith("toyset: 12 images")


@pytest.mark.slow
def test_the_contract_of_all_readers_covers_it(written: Path) -> None:
    (written / "recipe_plugin.py").write_text(PLUGIN, encoding="utf-8")
    paths = [str(written), str(REPOSITORY / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    options = "-q -p recipe_plugin -p no:cacheprovider -k toyset"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options.split(), "tests/datasets/readers/test_contract.py"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 20
