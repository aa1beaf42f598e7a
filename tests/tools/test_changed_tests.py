"""The tests that a change selects."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from changed_tests import changed_files, select_tests

FILES = (
    "src/hemalens/config.py",
    "src/hemalens/progress.py",
    "src/hemalens/datasets/audit.py",
    "src/hemalens/datasets/readers/bccd.py",
    "src/hemalens/datasets/synthetic/cells.py",
    "tests/test_config.py",
    "tests/test_files.py",
    "tests/datasets/test_audit.py",
    "tests/datasets/test_tiles.py",
    "tests/datasets/readers/test_bccd.py",
    "tests/datasets/readers/test_contract.py",
    "tests/docs/test_pages.py",
    "tests/tools/test_check_wheel.py",
    "tests/fakes/__init__.py",
)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "tests/datasets/test_tiles.py").write_text("from trained import cells\nfrom fakes import FAKES\n")
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("src/hemalens/config.py", ["tests/test_config.py"]),
        ("src/hemalens/progress.py", ["tests/test_config.py", "tests/test_files.py"]),
        ("src/hemalens/datasets/audit.py", ["tests/datasets/test_audit.py"]),
        (
            "src/hemalens/datasets/readers/bccd.py",
            ["tests/datasets/readers/test_bccd.py", "tests/datasets/readers/test_contract.py"],
        ),
        (
            "src/hemalens/datasets/readers/gone.py",
            ["tests/datasets/readers/test_bccd.py", "tests/datasets/readers/test_contract.py"],
        ),
        (
            "src/hemalens/datasets/synthetic/cells.py",
            [
                "tests/datasets/readers/test_bccd.py",
                "tests/datasets/readers/test_contract.py",
                "tests/datasets/test_audit.py",
                "tests/datasets/test_tiles.py",
            ],
        ),
        ("tests/docs/test_pages.py", ["tests/docs/test_pages.py"]),
        ("tests/docs/test_gone.py", []),
        ("tests/trained.py", ["tests/datasets/test_tiles.py"]),
        ("tests/fakes/bccd.py", ["tests/datasets/test_tiles.py"]),
        ("README.md", ["tests/docs/test_pages.py"]),
        ("docs/images/make.py", ["tests/docs/test_pages.py"]),
        ("src/hemalens/bundle/default/MODEL_CARD.md", ["tests/test_config.py", "tests/test_files.py"]),
        ("tools/check_wheel.py", ["tests/tools/test_check_wheel.py"]),
        ("constraints.txt", []),
    ],
)
def test_a_change_selects_the_tests_that_mirror_it(repository: Path, changed: str, expected: list[str]) -> None:
    assert select_tests([changed], repository) == expected


def test_a_test_selected_twice_comes_once(repository: Path) -> None:
    assert select_tests(["src/hemalens/config.py", "tests/test_config.py"], repository) == ["tests/test_config.py"]


def test_changed_files_are_modified_deleted_and_untracked_ones(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init", "--quiet")
    for name in ("same.py", "modified.py", "deleted.py", ".gitignore"):
        (tmp_path / name).write_text("ignored.py\n")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    (tmp_path / "modified.py").write_text("more\n")
    (tmp_path / "deleted.py").unlink()
    (tmp_path / "untracked.py").touch()
    (tmp_path / "ignored.py").touch()
    assert sorted(changed_files("HEAD", tmp_path)) == ["deleted.py", "modified.py", "untracked.py"]
    with pytest.raises(subprocess.CalledProcessError):
        changed_files("no-such-revision", tmp_path)
