"""Print the test files of a change: `python tools/changed_tests.py [BASE]`, where BASE is a git revision (default HEAD).

Tests mirror the source: `src/hemalens/a/b.py` is tested by `tests/a/test_b.py`, and by `tests/a/test_contract.py` where
there is one. A module without a test file of its own selects the whole folder.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = (".md", ".cff")


def changed_files(base: str, repository: Path = REPOSITORY) -> list[str]:
    """Files that differ from `base`, and untracked ones; raises `CalledProcessError` for an unknown revision."""
    commands = (
        ["git", "diff", "--name-only", "--no-renames", base, "--"],
        ["git", "ls-files", "--others", "--exclude-standard"],
    )
    found: list[str] = []
    for command in commands:
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
        found += done.stdout.splitlines()
    return found


def select_tests(changed: Iterable[str], repository: Path = REPOSITORY) -> list[str]:
    """The test files that cover the changed files, sorted, relative to the repository."""
    found = {test for name in changed for test in _tests_of(Path(name), repository)}
    return sorted(test.relative_to(repository).as_posix() for test in found)


def _tests_of(name: Path, repository: Path) -> list[Path]:
    tests = repository / "tests"
    top, *inner = name.parts
    if (name.suffix in PAGES and top not in ("src", "tests")) or top == "docs" or name.name == "mkdocs.yml":
        return _tests_below(tests / "docs")
    if top == "src":
        return _tests_of_module(tests.joinpath(*inner[1:-1]), name, tests)
    if top == "tools":
        return _tests_of_module(tests / "tools", name, tests)
    if top == "tests":
        path = repository / name
        return [path] * path.is_file() if path.name.startswith("test_") else _importers(path, tests)
    return []


def _tests_of_module(folder: Path, module: Path, tests: Path) -> list[Path]:
    own = folder / f"test_{module.stem}.py"
    if own.is_file():
        return [own, *folder.glob("test_contract.py")]
    while not folder.is_dir():
        folder = folder.parent
    # a module at the top of the package: the tests at the top, not all of them
    return sorted(folder.glob("test_*.py")) if folder == tests else _tests_below(folder)


def _tests_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("test_*.py"))


def _importers(helper: Path, tests: Path) -> list[Path]:
    """The test files that import a helper, as `trained` or `fakes`; all of them for `conftest.py`."""
    name = helper.parent.name if (helper.parent / "__init__.py").is_file() else helper.stem
    if helper.name == "conftest.py":
        return _tests_below(helper.parent)
    statement = re.compile(rf"^\s*(?:from|import) {re.escape(name)}\b", re.M)
    return [test for test in _tests_below(tests) if statement.search(test.read_text(encoding="utf-8"))]


def main() -> int:
    """Print one test file a line; 2 for an unknown revision."""
    base = sys.argv[1] if len(sys.argv) > 1 else "HEAD"
    try:
        changed = changed_files(base)
    except subprocess.CalledProcessError as error:
        print(f"error: git cannot compare with {base!r}; got {error.stderr.strip()}", file=sys.stderr)
        return 2
    print("\n".join(select_tests(changed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
