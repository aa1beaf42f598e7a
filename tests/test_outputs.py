"""Outputs: apart from inputs, one writer at a time, and nothing replaced that no command has written."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from hemalens.errors import OutputError
from hemalens.files import atomic_dir, atomic_path
from hemalens.outputs import LOCK, claim_folder, claim_output, locked


def _own(folder: Path) -> Collection[str] | None:
    """The files that a folder's list names; None without a list."""
    try:
        names: list[str] = json.loads((folder / "list.json").read_text())
    except OSError:
        return None
    return ["list.json", *names]


def _folder(path: Path, *, overwrite: bool) -> AbstractContextManager[None]:
    return claim_folder(path, _own, "a list", overwrite=overwrite)


def _filled(path: Path, **files: str) -> Path:
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / name).write_text(text)
    return path


# -------------------------------------------------------------------------------------------------- existing outputs


def test_an_existing_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    with pytest.raises(OutputError, match=r"'.*out' exists already.*--overwrite"), claim_output(path, overwrite=False):
        pass
    with claim_output(path, overwrite=True), atomic_path(path) as temporary:
        assert path.read_text() == "old"
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_is_replaced_only_when_asked_and_with_files_of_its_own_alone(tmp_path: Path) -> None:
    path = _filled(tmp_path / "out", **{"list.json": '["a"]', "a": "1"})
    with pytest.raises(OutputError, match="exists already"), _folder(path, overwrite=False):
        pass
    with _folder(path, overwrite=True):
        pass
    (path / "sub").mkdir()
    (path / "sub" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds 'sub/mine.txt' besides a list. Move"), _folder(path, overwrite=True):
        pass
    os.replace(path / "sub" / "mine.txt", tmp_path / "mine.txt")
    with pytest.raises(OutputError, match="holds 'sub/' besides a list"), _folder(path, overwrite=True):
        pass
    (path / "sub").rmdir()
    with _folder(path, overwrite=True):
        pass
    (path / "list.json").unlink()
    with pytest.raises(OutputError, match="holds something else than a list"), _folder(path, overwrite=True):
        pass
    assert (path / "a").read_text() == "1"


def test_a_link_to_a_folder_is_a_file_of_somebody(tmp_path: Path) -> None:
    path = _filled(tmp_path / "out", **{"list.json": "[]"})
    (path / "images").symlink_to(tmp_path)
    with pytest.raises(OutputError, match="holds 'images' besides a list"), _folder(path, overwrite=True):
        pass


def test_a_file_put_there_while_the_command_runs_stays(tmp_path: Path) -> None:
    path = _filled(tmp_path / "out", **{"list.json": '["a"]', "a": "1"})
    with _folder(path, overwrite=True), atomic_dir(path, _own) as folder:
        (folder / "list.json").write_text('["b"]')
        (folder / "b").write_text("2")
        (path / "b").write_text("mine")
        (path / "notes").mkdir()
        (path / "notes" / "c").write_text("mine")
    found = {p.relative_to(path).as_posix(): p.read_text() for p in path.rglob("*") if p.is_file()}
    assert found == {"list.json": '["b"]', "b": "2", "b.before": "mine", "notes/c": "mine"}
    assert os.listdir(tmp_path) == ["out"]


def test_a_free_or_empty_place_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name in ("free", "a/b/c", "empty"):
        with _folder(tmp_path / name, overwrite=False):
            pass
    with claim_output(Path("runs/one"), overwrite=False):
        pass
    assert os.listdir(tmp_path) == ["empty"]


@pytest.mark.parametrize("kind", ["folder", "fifo", "dangling link"])
def test_what_is_no_file_is_refused_before_the_work_starts(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out.csv"
    match kind:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case _:
            path.symlink_to(tmp_path / "nowhere")
    message = {"folder": "is a folder; expected the name of a file"}.get(kind, "is neither a file nor a folder")
    with pytest.raises(OutputError, match=message), claim_output(path, overwrite=True):
        pass
    assert os.listdir(tmp_path) == ["out.csv"]


def test_a_place_below_a_file_is_refused_before_the_work_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match=r"cannot write '.*out'; expected a folder; got the file '.*file'"),
        claim_output(tmp_path / "file" / "a" / "out", overwrite=False),
    ):
        pass


def test_a_read_only_place_is_refused_before_the_work_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the test may run as root, to whom everything is writable
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with (
        pytest.raises(OutputError, match=r"expected a writable place; got '.*' is read-only"),
        claim_output(tmp_path / "a" / "out", overwrite=False),
    ):
        pass


# ------------------------------------------------------------------------------------------------------------ inputs


@pytest.mark.parametrize("name", ["cells.csv", "./x/../cells.csv", "hard.csv", "link.csv", "linked/cells.csv"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_output_under_any_name_of_an_input_is_refused(tmp_path: Path, name: str, overwrite: bool) -> None:
    given = tmp_path / "cells.csv"
    given.write_text("path,label")
    (tmp_path / "x").mkdir()
    os.link(given, tmp_path / "hard.csv")
    (tmp_path / "link.csv").symlink_to(given)
    (tmp_path / "linked").symlink_to(tmp_path)
    with (
        pytest.raises(OutputError, match=r"would replace the input .*expected an output apart from all inputs"),
        claim_output(tmp_path / name, overwrite=overwrite, inputs=[given]),
    ):
        pass
    assert given.read_text() == "path,label"


def test_a_word_that_is_no_file_is_no_input(tmp_path: Path) -> None:
    with claim_output(tmp_path / "classical", overwrite=False, inputs=[tmp_path / "classical"]):
        pass


def test_errors_name_the_option_of_the_output(tmp_path: Path) -> None:
    given = tmp_path / "cells.csv"
    given.touch()
    with (
        pytest.raises(OutputError, match=r"would replace the input .*Choose another --sheet; nothing was changed"),
        claim_output(given, overwrite=True, inputs=[given], option="--sheet"),
    ):
        pass
    with (
        claim_output(tmp_path / "a", overwrite=False, option="--sheet"),
        pytest.raises(OutputError, match="or choose another --sheet"),
        claim_output(tmp_path / "a", overwrite=False, option="--sheet"),
    ):
        pass


def test_an_output_above_an_input_is_refused_and_one_below_is_not(tmp_path: Path) -> None:
    cells = _filled(tmp_path / "data" / "cells", a="1")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "data")
    for out in (tmp_path, tmp_path / "data", cells, tmp_path / "elsewhere"):
        with (
            pytest.raises(OutputError, match="would replace the input"),
            claim_folder(out, _own, "a list", overwrite=True, inputs=[cells]),
        ):
            pass
    with claim_output(cells / "out.csv", overwrite=False, inputs=[cells, tmp_path / "no such input"]):
        pass


# ------------------------------------------------------------------------------------------------------------- locks

HOLD = """
import sys, time
from pathlib import Path
from hemalens.outputs import claim_output
with claim_output(Path(sys.argv[1]), overwrite=True):
    print("held", flush=True)
    time.sleep(60)
"""


def _holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("other_name", ["out.csv", "link/out.csv"])
def test_a_second_process_is_told_at_once_and_a_killed_one_holds_nothing(tmp_path: Path, other_name: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    holder = _holder(tmp_path / "out.csv")
    try:
        with (
            pytest.raises(OutputError, match=r"is being written by another process. Wait until that ends"),
            claim_output(tmp_path / other_name, overwrite=True),
        ):
            pass
        with claim_output(tmp_path / "other.csv", overwrite=False):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with claim_output(tmp_path / other_name, overwrite=False):
        pass
    assert sorted(os.listdir(tmp_path)) == ["link"], "the lock of the killed process has gone with the next"


def test_a_second_claim_in_the_same_process_is_refused(tmp_path: Path) -> None:
    with (
        claim_output(tmp_path / "out", overwrite=False),
        pytest.raises(OutputError, match="is being written"),
        claim_output(tmp_path / "out", overwrite=False),
    ):
        pass


@pytest.mark.parametrize("name", ["x" * 240, "細" * 80, "[a-z]*?"])
def test_long_and_odd_names_have_a_lock_of_their_own(tmp_path: Path, name: str) -> None:
    with claim_output(tmp_path / name, overwrite=False), claim_output(tmp_path / f"{name}.c", overwrite=False):
        assert len(os.listdir(tmp_path)) == 2
    assert os.listdir(tmp_path) == []


def _count(counter: Path, lock: Path, n: int) -> None:
    done = 0
    while done < n:
        try:
            with locked(counter, lock):
                counter.write_text(str(int(counter.read_text()) + 1))
                done += 1
        except OutputError:
            continue


def test_never_two_hold_a_lock_that_comes_and_goes(tmp_path: Path) -> None:
    (tmp_path / "n").write_text("0")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_count, args=(tmp_path / "n", tmp_path / LOCK, 50)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert (tmp_path / "n").read_text() == "150"
