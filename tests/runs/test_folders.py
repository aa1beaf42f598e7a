"""Folders of runs: resumed, exchanged whole whatever stops it, and no file of somebody's lost."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

from hemalens.errors import OutputError
from hemalens.evaluation.results import Report
from hemalens.files import write_sealed
from hemalens.report.compose import Results, make_report
from hemalens.runs import folders
from hemalens.runs.folders import finish_run, open_run

NEW = ".new"


class StoppedError(BaseException):
    """Stands for a kill: nothing catches it."""


def _report() -> Report:
    return make_report("a run", "a protocol", Results(), data=[], methods={}, seed=0)


def _run(
    out: Path,
    files: dict[str, str],
    *,
    seed: int = 0,
    overwrite: bool = False,
    grows: bool = False,
    inside: Callable[[Path], None] = lambda folder: None,
    said: list[str] | None = None,
) -> None:
    """A run that writes files, in a folder of each name before the last "/"; those that are there already are known."""
    say = (said if said is not None else []).append
    request = {"job": "a job", "seed": seed}
    with open_run(out, request, overwrite=overwrite, grows=grows, say=say) as folder:
        for name, text in files.items():
            path = folder / name
            if path.exists():
                say(f"known: {name}")
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        inside(folder)
        finish_run(folder, _report())


def _tree(folder: Path) -> dict[str, str]:
    """The files of a folder, hidden ones too, without the report and the run file."""
    skipped = {"run.json", "report.json", "report.md", "report.html"}
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in skipped
    }


def _stop(folder: Path) -> None:
    raise StoppedError


OLD = {"bundle/model": "old", "bundle/extra": "old", "results/deep/a": "old"}
NEWER = {"bundle/model": "new", "results/b": "new", "curves/c": "new"}
MINE = {"notes.txt": "mine", "bundle/mine.png": "mine", "results/deep/mine": "mine"}


def _with_mine(out: Path, files: dict[str, str] = MINE) -> None:
    for name, text in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)


def test_a_finished_run_lists_its_files_and_is_not_run_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    _run(out, OLD)
    listed = json.loads((out / "run.json").read_text())["files"]
    assert set(listed) == {*OLD, "run.json", "report.json", "report.md", "report.html"}
    assert _tree(out) == OLD
    assert sorted(os.listdir(out)) == ["bundle", "report.html", "report.json", "report.md", "results", "run.json"]
    with pytest.raises(OutputError, match=r"holds this run, finished. Read its report.*--overwrite"):
        _run(out, OLD)
    with pytest.raises(OutputError, match=r"holds another run \(other data, settings or seed\)"):
        _run(out, OLD, seed=1)
    assert _tree(out) == OLD


def test_a_stopped_run_resumes_and_another_request_does_not_take_its_files(tmp_path: Path) -> None:
    out, said = tmp_path / "run", list[str]()
    with pytest.raises(StoppedError):
        _run(out, {"a": "of 0"}, inside=_stop)
    assert _tree(out) == {f"{NEW}/a": "of 0"}
    with pytest.raises(OutputError, match="holds another run"):
        _run(out, {"a": "of 1"}, seed=1)
    _run(out, {"a": "of 0"}, said=said)
    assert said == ["resuming the stopped run", "known: a"]
    assert _tree(out) == {"a": "of 0"}


def test_a_stopped_run_is_replaced_by_another_when_asked(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        _run(tmp_path / "run", {"a": "of 0"}, inside=_stop)
    _run(tmp_path / "run", {"b": "of 1"}, seed=1, overwrite=True)
    assert _tree(tmp_path / "run") == {"b": "of 1"}


def test_a_run_that_stops_before_it_writes_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        _run(tmp_path / "runs" / "run", {}, inside=_stop)
    assert os.listdir(tmp_path) == []
    _run(tmp_path / "run", OLD)
    with pytest.raises(StoppedError):
        _run(tmp_path / "run", {}, overwrite=True, inside=_stop)
    assert _tree(tmp_path / "run") == OLD


def test_a_run_that_fails_late_leaves_the_finished_one_and_resumes(tmp_path: Path) -> None:
    out, said = tmp_path / "run", list[str]()
    _run(out, OLD)
    with pytest.raises(StoppedError):
        _run(out, NEWER, seed=1, overwrite=True, inside=_stop)
    assert {name: text for name, text in _tree(out).items() if not name.startswith(NEW)} == OLD
    assert (out / "report.json").is_file()
    with pytest.raises(OutputError, match="holds this run, finished"):
        _run(out, OLD)
    with pytest.raises(OutputError, match="holds another run"):
        _run(out, NEWER, seed=1)
    _run(out, NEWER, seed=1, overwrite=True, said=said)
    assert said == ["resuming the stopped run", *(f"known: {name}" for name in NEWER)]
    assert _tree(out) == NEWER


def test_files_of_others_stay_and_are_named(tmp_path: Path) -> None:
    out, said = tmp_path / "run", list[str]()
    _run(out, OLD)
    _with_mine(out)
    (out / "empty").mkdir()
    (out / "linked").symlink_to(tmp_path)
    _run(out, NEWER, overwrite=True, said=said)
    assert _tree(out) == NEWER | MINE
    assert (out / "empty").is_dir()
    assert (out / "linked").is_symlink()
    assert said[-1] == (f"left 4 file(s) in '{out}' that no run has written: 'bundle/mine.png', 'linked', 'notes.txt' ...")
    _run(out, OLD, overwrite=True)
    assert _tree(out) == OLD | MINE, "they are not taken for files of the second run"


def test_files_put_there_while_a_run_works_stay(tmp_path: Path) -> None:
    out = tmp_path / "run"
    _run(out, OLD, inside=lambda folder: _with_mine(out))
    assert _tree(out) == OLD | MINE
    _run(out, NEWER, overwrite=True)
    assert _tree(out) == NEWER | MINE
    # also of a run that was stopped
    other = tmp_path / "other"
    with pytest.raises(StoppedError):
        _run(other, OLD, inside=_stop)
    _with_mine(other)
    _run(other, NEWER, seed=1, overwrite=True)
    assert _tree(other) == NEWER | MINE


@pytest.mark.parametrize("mine", ["curves/c", "curves", "curves/c/mine"])
def test_a_file_of_somebody_in_the_way_is_not_replaced_and_the_remedy_works(tmp_path: Path, mine: str) -> None:
    out, said = tmp_path / "run", list[str]()
    _run(out, OLD)
    _with_mine(out, {mine: "mine"})
    with pytest.raises(OutputError, match=r"'.*curves.*' is no file of a run.*Move it away, and run the same command"):
        _run(out, NEWER, overwrite=True)
    found = _tree(out)
    assert found.pop(mine) == "mine"
    assert {name: text for name, text in found.items() if not name.startswith(NEW)} == OLD
    os.replace(out / "curves", tmp_path / "moved")
    _run(out, NEWER, overwrite=True, said=said)
    assert said[1:] == [f"known: {name}" for name in NEWER], "nothing is computed again"
    assert _tree(out) == NEWER


def test_a_link_of_somebody_in_the_place_of_a_folder_is_not_written_through(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    _run(out, OLD)
    os.replace(out / "bundle", elsewhere)
    (out / "bundle").symlink_to(elsewhere)
    with pytest.raises(OutputError, match=r"'.*bundle' is no file of a run"):
        _run(out, NEWER, overwrite=True)
    assert _tree(elsewhere) == {"model": "old", "extra": "old"}


STEPS = ("replace", "unlink", "rmtree", "mkdir", "rmdir")


def _stopping(monkeypatch: pytest.MonkeyPatch, at: int) -> Callable[[], int]:
    """Stop at the `at`-th call that changes the disk; the number of calls so far."""
    n = 0

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **more: Any) -> Any:
            nonlocal n
            n += 1
            if n == at:
                raise StoppedError
            return function(*given, **more)

        return counted

    monkeypatch.setattr(folders.os, "replace", wrap(os.replace))
    monkeypatch.setattr(folders.shutil, "rmtree", wrap(shutil.rmtree))
    for step in ("unlink", "mkdir", "rmdir"):
        monkeypatch.setattr(Path, step, wrap(getattr(Path, step)))
    return lambda: n


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_stop_at_any_step_of_a_run_loses_nothing_and_the_same_command_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    at, stopped = 0, True
    while stopped:
        at += 1
        out = tmp_path / f"run{at}"
        if overwrite:
            _run(out, OLD)
            _with_mine(out)
        with monkeypatch.context() as patch:
            _stopping(patch, at)
            try:
                _run(out, NEWER, seed=1, overwrite=overwrite)
                stopped = False
            except StoppedError:
                pass
        if overwrite:
            assert MINE.items() <= _tree(out).items()
            if not (out / NEW / "run.json").exists() or not json.loads((out / NEW / "run.json").read_text())["finished"]:
                kept = _tree(out)
                assert all(kept.get(name) == text for name, text in OLD.items()) or NEWER.items() <= kept.items()
        if stopped:
            # not where it was stopped when all was done
            done = not overwrite and (out / "run.json").exists() and not (out / NEW / "run.json").exists()
            with pytest.raises(OutputError, match="this run, finished") if done else nullcontext():
                _run(out, NEWER, seed=1, overwrite=overwrite)
        assert _tree(out) == NEWER | (MINE if overwrite else {}), at
        assert json.loads((out / "run.json").read_text())["request"]["seed"] == 1
    assert at > 20


def test_a_run_of_that_grows_keeps_what_is_finished(tmp_path: Path) -> None:
    out, said = tmp_path / "run", list[str]()
    _run(out, {"results/a": "a"}, grows=True)
    _with_mine(out)
    with pytest.raises(StoppedError):
        _run(out, {"results/a": "a", "results/b": "b"}, seed=1, grows=True, inside=_stop, said=said)
    assert said[1:] == ["known: results/a"]
    assert {name: text for name, text in _tree(out).items() if not name.startswith(NEW)} == {"results/a": "a"} | MINE
    said.clear()
    _run(out, {"results/b": "b", "results/c": "c"}, seed=2, grows=True, said=said)
    assert said[1] == "known: results/b"
    assert _tree(out) == {f"results/{name}": name for name in "abc"} | MINE
    _run(out, {"results/a": "new"}, seed=2, grows=True, overwrite=True)
    assert _tree(out) == {"results/a": "new"} | MINE


def test_growth_copies_where_the_disk_has_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*given: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(folders.os, "link", no_links)
    _run(tmp_path / "run", {"results/a": "a"}, grows=True)
    _run(tmp_path / "run", {"results/a": "a", "results/b": "b"}, seed=1, grows=True)
    assert _tree(tmp_path / "run") == {"results/a": "a", "results/b": "b"}


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name, files in {"mine": {"a": "1"}, "hidden": {".new/a": "1"}, "json": {"run.json": "{}"}}.items():
        _with_mine(tmp_path / name, files)
    deep = {"run.json": "[" * 100_000}
    _with_mine(tmp_path / "deep", deep)
    for name in ("file", "mine", "hidden", "json", "deep"):
        before = _tree(tmp_path)
        for overwrite in (False, True):
            with pytest.raises(OutputError, match=r"is not a run folder|is no folder of a run"):
                _run(tmp_path / name, OLD, overwrite=overwrite)
        assert _tree(tmp_path) == before


def test_a_run_of_an_earlier_version_that_names_no_files_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "run"
    _run(out, OLD)
    known = json.loads((out / "run.json").read_text())
    del known["files"]
    write_sealed(out / "run.json", known)
    with pytest.raises(OutputError, match="does not name its files"):
        _run(out, NEWER, overwrite=True)
    assert _tree(out) == OLD


def test_the_run_of_another_command_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "run"
    _run(out, OLD)
    with (
        pytest.raises(OutputError, match=r"holds a run of another command \(a job\); expected a run of another"),
        open_run(out, {"job": "another"}, overwrite=True),
    ):
        raise AssertionError("the run has begun")
    assert _tree(out) == OLD


def test_an_edited_list_of_files_removes_nothing_outside(tmp_path: Path) -> None:
    out = tmp_path / "run"
    _run(out, OLD)
    _with_mine(tmp_path, {"mine.txt": "mine"})
    known = json.loads((out / "run.json").read_text())
    write_sealed(out / "run.json", known | {"files": [*known["files"], "../mine.txt", str(tmp_path / "mine.txt")]})
    _run(out, NEWER, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_temporary_files_of_a_killed_process_do_not_become_files_of_the_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(StoppedError):
        _run(out, OLD, inside=_stop)
    for name in ("bundle/.model.0a1b2c-1.x_y.part.onnx", ".bundle.0a1b2c-1.xyz.part/half", "results/.x.0a1b2c-9.q.old/x/y"):
        (out / NEW / name).parent.mkdir(parents=True, exist_ok=True)
        (out / NEW / name).write_text("half")
    _run(out, OLD)
    assert _tree(out) == OLD


def test_a_report_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"'.*run.json' is missing"):
        finish_run(tmp_path, _report())
    with (
        pytest.raises(OutputError, match=r"is not finished"),
        open_run(tmp_path / "a", {"job": ""}, overwrite=False) as new,
    ):
        (new / "a").write_text("")
    with suppress(FileNotFoundError):
        assert os.listdir(tmp_path / "a") == [NEW]


def test_a_run_folder_in_a_read_only_folder_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the test may run as root, to whom everything is writable
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(OutputError, match="is read-only"):
        _run(tmp_path / "new", OLD)
    (tmp_path / "run").mkdir()
    _run(tmp_path / "run", OLD)
    assert _tree(tmp_path / "run") == OLD
