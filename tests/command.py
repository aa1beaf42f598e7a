"""The command line in this process: what `hemalens ...` prints and with which code it ends."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from hemalens.cli.main import main


@dataclass(frozen=True)
class Ended:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The last line on standard error; fails when there is a traceback."""
        assert "Traceback" not in self.err
        return self.err.rstrip("\n").rpartition("\n")[2]


class Command:
    """Call it with the arguments of `hemalens`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Ended:
        self._monkeypatch.setattr(sys, "argv", ["hemalens", *(str(a) for a in arguments)])
        self._capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as ending:
            code = ending.code or 0
        printed = self._capsys.readouterr()
        assert isinstance(code, int)
        return Ended(code, printed.out, printed.err)
