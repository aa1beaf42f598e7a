"""Downloads: kept only whole and as published, one clear line otherwise; no network, and none but when asked."""

from __future__ import annotations

import errno
import hashlib
import http.client
import io
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from command import Command
from fakes import bloodmnist
from hemalens.datasets import READERS
from hemalens.datasets import download as downloads
from hemalens.datasets.base import Download
from hemalens.datasets.download import download
from hemalens.datasets.readers.bloodmnist import SIDES_PX
from hemalens.errors import DatasetError, InputError, OutputError


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A published file of this computer in the place of the one of 28 px."""
    bloodmnist.write(tmp_path / "server", n_per_class=1)
    path = tmp_path / "server" / "bloodmnist.npz"
    _publish(path, monkeypatch)
    return path


def _publish(path: Path, monkeypatch: pytest.MonkeyPatch, md5: str | None = None) -> None:
    md5 = md5 or hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setitem(READERS["bloodmnist"].downloads, 28, Download("bloodmnist.npz", path.as_uri(), md5))


def _answer(monkeypatch: pytest.MonkeyPatch, parts: list[bytes | Exception], length: str | None = None) -> None:
    """Have every address answer with these parts, or fail as they say."""

    class Response:
        headers = Message()

        def __init__(self) -> None:
            self.parts = iter(parts)

        def read(self, _: int) -> bytes:
            part = next(self.parts, b"")
            if isinstance(part, Exception):
                raise part
            return part

    @contextmanager
    def opened(*_: object, **__: object) -> Iterator[Response]:
        yield Response()

    if length is not None:
        Response.headers["Content-Length"] = length
    monkeypatch.setattr(urllib.request, "urlopen", opened)


def _error(out: Path, **more: Any) -> str:
    with pytest.raises(InputError) as caught:
        download("bloodmnist", out, size_px=28, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is offered


def test_every_size_that_the_reader_knows_has_an_address_and_a_checksum() -> None:
    assert {p.name: side for side, p in READERS["bloodmnist"].downloads.items()} == SIDES_PX
    for published in READERS["bloodmnist"].downloads.values():
        assert published.url.startswith("https://zenodo.org/")
        assert f"/{published.name}?" in published.url
        assert re.fullmatch(r"[0-9a-f]{32}", published.md5)
    assert len({p.md5 for p in READERS["bloodmnist"].downloads.values()}) == 4


def test_an_unknown_name_and_an_unknown_size_name_the_known(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no download of 'bloodmist' is known. did you mean 'bloodmnist'"):
        download("bloodmist", tmp_path, size_px=28)
    with pytest.raises(DatasetError, match=r"no images of 32 px; expected 28, 64, 128, 224; got 32. Choose another --size"):
        download("bloodmnist", tmp_path, size_px=32)


def test_reading_never_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    for name, reader in READERS.items():
        with pytest.raises(DatasetError):
            reader.read(tmp_path / "nowhere" / name)


def test_the_network_s_modules_are_not_even_imported_for_reading() -> None:
    code = "import sys, hemalens.datasets; sys.exit('hemalens.datasets.download' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Whole


def test_the_file_is_kept_as_published(served: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    path = download("bloodmnist", out, size_px=28)
    assert path == out / "bloodmnist.npz"
    assert path.read_bytes() == served.read_bytes()
    assert list(out.iterdir()) == [path]


def test_a_file_of_many_parts_is_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large").write_bytes(os.urandom(3 * downloads.CHUNK_BYTES + 17))
    _publish(tmp_path / "large", monkeypatch)
    path = download("bloodmnist", tmp_path / "out", size_px=28)
    assert path.read_bytes() == (tmp_path / "large").read_bytes()


def test_a_server_that_does_not_say_the_length_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"one two")
    _publish(tmp_path / "file", monkeypatch)
    _answer(monkeypatch, [b"one", b" two"])
    assert download("bloodmnist", tmp_path / "out", size_px=28).read_bytes() == b"one two"


def test_a_file_that_exists_stays_unless_told_otherwise(served: Path, tmp_path: Path) -> None:
    (tmp_path / "bloodmnist.npz").write_text("mine")
    assert "bloodmnist.npz' exists already" in _error(tmp_path)
    assert (tmp_path / "bloodmnist.npz").read_text() == "mine"
    download("bloodmnist", tmp_path, size_px=28, overwrite=True)
    assert (tmp_path / "bloodmnist.npz").read_bytes() == served.read_bytes()


# Not at all


@pytest.mark.parametrize("exists", [False, True])
def test_a_wrong_checksum_is_told_and_nothing_is_kept(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    md5 = hashlib.md5(served.read_bytes()).hexdigest()
    _publish(served, monkeypatch, md5="0" * 32)
    out = tmp_path / "out"
    if exists:
        out.mkdir()
        (out / "bloodmnist.npz").write_text("mine")
    text = _error(out, overwrite=True)
    assert f"is not the published file; expected MD5 {'0' * 32}; got {md5}" in text
    assert out.exists() == exists
    if exists:
        assert [path.read_text() for path in out.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("parts", "length", "got"),
    [
        ([urllib.error.URLError("Name or service not known")], None, "Name or service not known"),
        ([urllib.error.HTTPError("u", 503, "Service Unavailable", Message(), None)], None, "HTTP Error 503"),
        ([b"half", TimeoutError("timed out")], "8", "timed out"),
        ([b"half", ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")], "8", "Connection reset by peer"),
        ([b"half", http.client.IncompleteRead(b"", 4)], "8", "IncompleteRead"),
        ([b"half"], "8", "4 of 8 bytes"),
        ([b""], "8", "0 of 8 bytes"),
        ([b"half"], "many", "invalid literal"),
    ],
)
def test_a_server_that_fails_is_one_line_and_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[bytes | Exception], length: str | None, got: str
) -> None:
    _answer(monkeypatch, parts, length)
    text = _error(tmp_path / "new" / "out")
    assert "cannot download https://zenodo.org/" in text
    assert got in text
    assert not (tmp_path / "new").exists()


def test_without_a_network_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # nothing listens on the port for discarding
    url = "http://127.0.0.1:9/bloodmnist.npz"
    monkeypatch.setitem(READERS["bloodmnist"].downloads, 28, Download("bloodmnist.npz", url, "0" * 32))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert f"cannot download {url}" in _error(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_server_is_given_a_limited_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object, timeout: float) -> None:
        assert 0 < timeout <= 60
        raise TimeoutError("timed out")

    monkeypatch.setattr(urllib.request, "urlopen", silent)
    assert "got timed out" in _error(tmp_path / "out")


def test_a_full_disk_is_one_line_and_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    _answer(monkeypatch, [b"half"])
    monkeypatch.setattr(downloads, "open", lambda *_: Full(), raising=False)
    text = _error(tmp_path / "out")
    assert "the disk is full while writing" in text
    assert not (tmp_path / "out").exists()


def test_a_stopped_download_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(urllib.request, "urlopen", stop)
    (tmp_path / "kept").mkdir()
    with pytest.raises(KeyboardInterrupt):
        download("bloodmnist", tmp_path / "kept" / "new", size_px=28)
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_place_that_is_no_folder_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*; expected a folder; got the file"):
        download("bloodmnist", tmp_path / "file", size_px=28)


# The command


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("COLUMNS", "80")
    return Command(monkeypatch, capsys)


def test_the_command_says_what_was_checked_and_how_to_open_it(command: Command, served: Path, tmp_path: Path) -> None:
    ended = command("data", "download", "bloodmnist", "--out", tmp_path / "out", "--quiet")
    assert (ended.code, ended.err) == (0, "")
    assert f"MD5 verified ({hashlib.md5(served.read_bytes()).hexdigest()})" in ended.out
    assert "licence CC BY 4.0" in ended.out
    spec = f"bloodmnist:{tmp_path / 'out' / 'bloodmnist.npz'}"
    assert f"open it as {spec}" in ended.out
    assert "24 images under eight_class" in command("data", "audit", spec, "--labels", "eight_class", "--quiet").out


def test_the_command_fails_with_one_line(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _answer(monkeypatch, [urllib.error.URLError("no route to host")])
    ended = command("data", "download", "bloodmnist", "--size", 224, "--out", tmp_path / "out")
    assert (ended.code, ended.out) == (2, "")
    assert ended.error.startswith("error: cannot download https://zenodo.org/records/10519652/files/bloodmnist_224.npz")
    assert command("data", "download", "bloodmnist", "--size", 30, "--out", tmp_path / "out").code == 2
    assert command("data", "download", "acevedo20", "--out", tmp_path / "out").code == 2
    assert command("data", "download", "bloodmnist").code == 2
