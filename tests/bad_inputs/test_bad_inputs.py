"""The table of bad inputs: each ends with its exit code, one clear line, no traceback, and loses nothing.

The cases lie in the modules beside this one, one for each kind of input; each module has a tuple `CASES`.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import trained
from command import Command

FOLDER = Path(__file__).parent
LONGEST_LINE = 600
"""Characters of an error: two paths and three sentences."""


def _load(name: str):  # type: ignore[no-untyped-def]
    """A module beside this one, under a name of its own."""
    full = f"bad_inputs_{name}" if name != "cases" else "bad_input_cases"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        spec.loader.exec_module(module)
    return sys.modules[full]


cases = _load("cases")
TABLES = {
    path.stem: _load(path.stem).CASES for path in sorted(FOLDER.glob("*.py")) if path.stem[:5] not in ("cases", "test_")
}
RECIPE = re.findall(r"^```python\n(.*?)^```$", (FOLDER.parents[1] / "CONTRIBUTING.md").read_text("utf-8"), re.M | re.S)[-1]
"""The module that CONTRIBUTING shows."""


def _recipe():  # type: ignore[no-untyped-def]
    names: dict[str, object] = {}
    exec(compile(RECIPE, "CONTRIBUTING.md", "exec"), names)
    return names["CASES"]


TABLES["recipe"] = _recipe()
ALL = [pytest.param(case, id=f"{table}: {case.name}") for table, found in TABLES.items() for case in found]


def test_every_case_has_a_name_of_its_own() -> None:
    twice = [name for name, n in Counter(param.id for param in ALL).items() if n > 1]
    assert not twice


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("case", ALL)
def test_bad_input(
    case,  # type: ignore[no-untyped-def]
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if case.stub:
        monkeypatch.setattr("hemalens.runs.train.find_method", lambda name: trained.stub_method())
    monkeypatch.chdir(tmp_path)
    arguments = case.make(cases.Place(tmp_path, tmp_path_factory))
    before = cases.snapshot(tmp_path)
    with case.around():
        ended = Command(monkeypatch, capsys)(*arguments)
    late = capsys.readouterr()
    ended = replace(ended, out=ended.out + late.out, err=ended.err + late.err)
    after = cases.snapshot(tmp_path)
    printed = ended.error if case.code else ended.out + ended.err
    assert "Traceback" not in ended.err
    assert ended.code == case.code, ended.err + ended.out
    for part in case.says:
        assert part in printed
    if case.code:
        assert ended.error.startswith(("error: ", "failure: ", "stopped"))
        assert len(ended.error) <= LONGEST_LINE
    lost = {name for name, state in before.items() if after.get(name) != state}
    new = {
        name for name in after.keys() - before.keys() if not any(name == w or name.startswith(f"{w}/") for w in case.writes)
    }
    assert not lost - set(case.writes), "files that were there have changed"
    assert not new, "files are left behind"
