"""Files: whole or not at all, under a full disk, a read-only place and an exception half-way."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemalens import files
from hemalens.datasets.walking import walk_files
from hemalens.errors import InputError, OutputError
from hemalens.files import atomic_dir, atomic_path, output_errors, sha256_file, sha256_text, write_json, write_text


def _fail_with(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def _check(error: OutputError, path: Path) -> None:
    assert repr(str(path)) in str(error)
    assert "\n" not in str(error)
    assert isinstance(error, InputError)


def _write_half(path: Path, error: BaseException) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error


def _fill_half(path: Path, error: BaseException) -> None:
    with atomic_dir(path) as temporary:
        _fill(temporary, "half")
        raise error


# Digests


def test_sha256_of_known_vectors(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_sha256_follows_a_changed_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    before = sha256_file(path)
    path.write_bytes(b"two, longer")
    assert sha256_file(path) == hashlib.sha256(b"two, longer").hexdigest() != before
    path.write_bytes(b"two, LONGER")
    os.utime(path, ns=(1, 1))
    assert sha256_file(path) == hashlib.sha256(b"two, LONGER").hexdigest()


def test_sha256_of_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sha256_file(tmp_path / "none")


@given(
    parts=st.lists(st.text("ab\u00e9\udcff", max_size=3), min_size=1, max_size=3),
    other=st.lists(st.text("ab", max_size=3), min_size=1, max_size=3),
)
def test_digest_of_texts_keeps_their_borders_apart(parts: list[str], other: list[str]) -> None:
    assert (sha256_text(*parts) == sha256_text(*other)) is (parts == other)


# Atomic files


def test_written_file_is_there_with_the_usual_rights_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "report.json"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".json"
        assert not path.exists()
        temporary.write_text("x")
    assert path.read_text() == "x"
    assert os.listdir(path.parent) == ["report.json"]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("existed", [False, True])
@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_exception_half_way_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, existed: bool, error: BaseException
) -> None:
    path = tmp_path / "a.txt"
    if existed:
        path.write_text("old")
    with pytest.raises(type(error)):
        _write_half(path, error)
    assert os.listdir(tmp_path) == (["a.txt"] if existed else [])
    assert not existed or path.read_text() == "old"


@pytest.mark.parametrize("step", ["mkstemp", "fsync", "replace", "write"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_at_any_step_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    owner = {"mkstemp": files.tempfile, "fsync": os, "replace": os, "write": Path}[step]
    monkeypatch.setattr(owner, "write_text" if step == "write" else step, _fail_with(number))
    with pytest.raises(OutputError, match=r"the disk is full while writing .*Free space") as error:
        write_text(path, "new")
    _check(error.value, path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["a.txt"]
    assert path.read_text() == "old"


def test_read_only_place_is_an_output_error_that_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.tempfile, "mkstemp", _fail_with(errno.EROFS))
    with pytest.raises(OutputError, match=r"expected a writable place; got Read-only file system. Choose another") as error:
        write_text(tmp_path / "a.txt", "x")
    _check(error.value, tmp_path / "a.txt")


def test_file_in_the_place_of_the_folder_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as error:
        write_text(tmp_path / "file" / "a.txt", "x")
    _check(error.value, tmp_path / "file" / "a.txt")


@pytest.mark.parametrize("name", ["ä ö 細胞.txt", "x" * 200 + ".txt", "new\nline.txt"])
def test_unusual_names_are_written(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "x")
    assert os.listdir(tmp_path) == [name]


def test_other_errors_pass_through_output_errors_unchanged(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), output_errors(tmp_path):
        _ = 1 / 0


# JSON and text


def test_json_is_utf8_indented_and_ends_with_a_newline(tmp_path: Path) -> None:
    value = {"name": "Zelle ä", "counts": [1, 2.5, None, True]}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_bytes().decode("utf-8")
    assert json.loads(text) == value
    assert "Zelle ä" in text
    assert text.endswith("}\n")
    assert "\n  " in text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [-float("inf")]}, object()])
def test_json_that_other_programs_could_not_read_is_refused_and_nothing_is_written(tmp_path: Path, value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "a.json", value)
    assert os.listdir(tmp_path) == []


def test_json_with_a_file_name_that_is_no_utf8_is_written_and_read_back(tmp_path: Path) -> None:
    name = os.fsdecode(b"Zelle \xe4.png")
    write_json(tmp_path / "a.json", {"path": name})
    text = (tmp_path / "a.json").read_bytes().decode("utf-8")
    assert os.fsencode(json.loads(text)["path"]) == b"Zelle \xe4.png"


# Atomic folders


def _fill(folder: Path, text: str) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "a.txt").write_text(text)


@pytest.mark.parametrize("existed", ["no", "empty", "full", "file"])
def test_folder_takes_its_place_whole(tmp_path: Path, existed: str) -> None:
    path = tmp_path / "bundle"
    if existed == "file":
        path.write_text("old")
    elif existed != "no":
        path.mkdir()
    if existed == "full":
        (path / "old.txt").write_text("old")
    with atomic_dir(path) as temporary:
        _fill(temporary, "new")
        assert not (path / "sub").exists()
    assert os.listdir(tmp_path) == ["bundle"]
    assert os.listdir(path) == ["sub"]
    assert (path / "sub" / "a.txt").read_text() == "new"
    assert os.access(path, os.R_OK | os.W_OK | os.X_OK)


@pytest.mark.parametrize("existed", [False, True])
def test_exception_half_way_leaves_the_old_folder_and_nothing_else(tmp_path: Path, existed: bool) -> None:
    path = tmp_path / "bundle"
    if existed:
        path.mkdir()
        _fill(path, "old")
    with pytest.raises(KeyboardInterrupt):
        _fill_half(path, KeyboardInterrupt())
    assert os.listdir(tmp_path) == (["bundle"] if existed else [])
    assert not existed or (path / "sub" / "a.txt").read_text() == "old"


@pytest.mark.parametrize("failing", [1, 2])
def test_full_disk_while_folders_change_places_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    path = tmp_path / "bundle"
    path.mkdir()
    _fill(path, "old")
    replace, calls = os.replace, []

    def fail_once(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_once)
    with pytest.raises(OutputError, match="the disk is full") as error, atomic_dir(path) as temporary:
        _fill(temporary, "new")
    _check(error.value, path)
    assert os.listdir(tmp_path) == ["bundle"]
    assert (path / "sub" / "a.txt").read_text() == "old"


def test_full_disk_inside_the_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the disk is full") as error:
        _fill_half(tmp_path / "bundle", OSError(errno.ENOSPC, "No space left on device"))
    _check(error.value, tmp_path / "bundle")
    assert os.listdir(tmp_path) == []


# What killed processes leave behind

WRITE = """
import sys, time
from pathlib import Path
from hemalens import files

def hang(*given):
    print("there", flush=True)
    time.sleep(60)

what, path = sys.argv[1], Path(sys.argv[2])
if what == "file":
    with files.atomic_path(path) as temporary:
        temporary.write_text("half")
        hang()
elif what == "folder":
    with files.atomic_dir(path) as temporary:
        (temporary / "half").write_text("half")
        hang()
elif what == "scratch":
    with files.scratch_folder() as folder:
        (folder / "half").write_text("half")
        hang()
else:  # between the two renames of an exchange
    replace, calls = files.os.replace, []

    def hang_at_second(source, target):
        calls.append(source)
        if len(calls) == 2:
            hang()
        replace(source, target)

    files.os.replace = hang_at_second
    with files.atomic_dir(path) as temporary:
        (temporary / "new").write_text("new")
"""


def _kill_while(what: str, path: Path) -> None:
    """A process that writes `path` by a temporary name, killed half-way."""
    with subprocess.Popen([sys.executable, "-c", WRITE, what, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        process.send_signal(signal.SIGKILL)


NAMES = ["a.csv", "[a-z]*?.csv", "ä" * 100 + ".parquet", "x" * 60, "new\nline.csv"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_a_killed_process_was_writing_goes_with_the_next_that_writes_there(
    tmp_path: Path, what: str, name: str
) -> None:
    (tmp_path / "mine.part.csv").write_text("mine")
    _kill_while(what, tmp_path / name)
    (left,) = set(os.listdir(tmp_path)) - {"mine.part.csv"}
    assert files.is_temporary(left)
    write_text(tmp_path / "another", "x")
    assert set(os.listdir(tmp_path)) == {"mine.part.csv", "another"}


def test_a_folder_that_was_being_replaced_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    path.mkdir()
    _fill(path, "old")
    _kill_while("exchange", path)
    assert not path.exists()
    files.remove_stale(tmp_path)
    assert os.listdir(tmp_path) == ["bundle"]
    assert (path / "sub" / "a.txt").read_text() == "old"


def test_a_scratch_folder_of_a_killed_process_goes_with_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(files.tempfile, "tempdir", None)
    _kill_while("scratch", tmp_path)
    (left,) = os.listdir(tmp_path)
    with files.scratch_folder() as folder:
        assert os.listdir(tmp_path) == [folder.name] != [left]
        (folder / "a").write_text("")
    assert os.listdir(tmp_path) == []


def _temporary(folder: Path, name: str, owner: str, kind: str = "part") -> Path:
    path = folder / f".{name}.{owner}.x_y.{kind}"
    path.write_text("")
    return path


def test_what_another_process_is_writing_stays(tmp_path: Path) -> None:
    here = files._owner().partition("-")[0]
    alive = _temporary(tmp_path, "a", f"{here}-{os.getppid()}")
    elsewhere = _temporary(tmp_path, "a", "ffffff-1")
    files.remove_stale(tmp_path)
    assert alive.exists()
    assert elsewhere.exists()


@pytest.mark.parametrize("days", [-8, 8])
def test_after_a_week_a_number_was_used_again_and_a_clock_may_have_jumped(tmp_path: Path, days: int) -> None:
    here = files._owner().partition("-")[0]
    found = [_temporary(tmp_path, "a", owner) for owner in (f"{here}-{os.getppid()}", f"{here}-{os.getpid()}", "ffffff-1")]
    when = time.time() + days * 86_400
    for path in found:
        os.utime(path, (when, when))
    files.remove_stale(tmp_path)
    assert os.listdir(tmp_path) == []


def test_who_holds_the_lock_of_an_output_has_no_other_writer(tmp_path: Path) -> None:
    """Whatever machine, number and time say: another machine on a network folder that was switched off, say."""
    for owner in (files._owner(), "ffffff-1", "ffffff-99999999999999999999"):
        _temporary(tmp_path, "out.csv", owner)
    other = _temporary(tmp_path, "other.csv", files._owner())
    files.remove_stale(tmp_path, held="out.csv")
    assert os.listdir(tmp_path) == [other.name]


@given(name=st.text(st.characters(exclude_characters="/\x00.", exclude_categories=["Cs"]), min_size=1, max_size=100))
def test_temporary_names_are_told_from_all_others_and_fit_the_disk(name: str) -> None:
    prefix = files._temporary_prefix(Path("folder") / name)
    for end in (f"part{files._suffix(Path(name))}", "old"):
        temporary = f"{prefix}a1b2_c3d.{end}"
        assert len(os.fsencode(temporary)) <= 255
        assert files.is_temporary(temporary)
    assert not files.is_temporary(f"{name}.part")


# walk_files


def test_walk_lists_files_sorted_and_leaves_hidden_names_out(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.png", "a/x.txt", ".hidden/1.png", "a/.DS_Store", "c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "a" / "gone").symlink_to(tmp_path / "nowhere")
    assert [str(p.relative_to(tmp_path)) for p in walk_files(tmp_path)] == [
        "a/gone",
        "a/x.txt",
        "b/1.png",
        "b/2.png",
        "c.png",
    ]


def test_walk_does_not_run_in_circles(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_text("")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert [p.name for p in walk_files(tmp_path)].count("1.png") == 1
    shutil.rmtree(tmp_path / "a")
    assert walk_files(tmp_path) == []
