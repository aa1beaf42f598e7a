"""The house rules that no linter knows: rooms and their docstrings, the size of modules and functions, mirrored tests."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hemalens

PACKAGE = Path(hemalens.__file__).parent
TESTS = Path(__file__).parent
ROOMS = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_ENTRIES, MOST_MODULES = 27, 7
MOST_LINES, MOST_FUNCTION_LINES = 400, 60


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def test_the_package_root_is_small() -> None:
    modules = [path for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MOST_MODULES
    assert len(modules) + len(ROOMS) <= MOST_ENTRIES


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_introduces_itself(room: Path) -> None:
    docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert 3 <= len(docstring.splitlines()) <= 8
    assert "Begin with" in docstring, "a newcomer needs a place to begin"
    assert "mports" in docstring, "a room states what it may import"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_modules_and_functions_stay_short(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MOST_LINES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= MOST_FUNCTION_LINES, f"{node.name} has {lines} lines"


def test_tests_lie_where_the_module_lies() -> None:
    """A test folder without a room of the same name would be looked for in vain."""
    own = {"docs", "fakes", "recipes", "bad_inputs", "tools"}
    folders = {path.parent.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")} - {"."}
    strangers = {folder for folder in folders if folder.split("/")[0] not in own and not (PACKAGE / folder).is_dir()}
    assert not strangers
