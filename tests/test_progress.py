"""Progress: no bar for quick work, when quiet, or where standard error is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from hemalens import progress
from hemalens.progress import is_quiet, set_quiet, track


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    set_quiet(False)
    yield
    set_quiet(False)


def test_quiet_is_set_or_follows_from_standard_error(terminal: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_quiet()
    set_quiet(True)
    assert is_quiet()
    set_quiet(False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert is_quiet()


@pytest.mark.parametrize(("delay_s", "shown"), [(-1.0, True), (60.0, False)])
def test_a_bar_appears_for_long_work_only(
    terminal: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    delay_s: float,
    shown: bool,
) -> None:
    monkeypatch.setattr(progress, "DELAY_S", delay_s)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with track("reading images", 3) as advance:
        advance(1)
        advance(1, "reading more")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert ("reading" in printed.err) is shown


def test_nothing_is_printed_when_quiet(
    terminal: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "DELAY_S", -1.0)
    set_quiet(True)
    with track("reading images", None) as advance:
        advance(1)
    assert capsys.readouterr().err == ""
