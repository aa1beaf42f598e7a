"""An ordinary user's rights inside a block, also where the tests run as root: the modes of files count."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

_VERSION_3 = 0x20080522
_OVERRIDES = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH of linux/capability.h


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _capabilities() -> object:
    libc = ctypes.CDLL(None, use_errno=True)
    sets = (_Sets * 2)()
    if libc.capget(ctypes.byref(_Header(_VERSION_3, 0)), sets):
        raise OSError(ctypes.get_errno(), "capget")
    return sets


def _set_capabilities(sets: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(ctypes.byref(_Header(_VERSION_3, 0)), sets):
        raise OSError(ctypes.get_errno(), "capset")


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Give up root's right to pass by the modes of files, in this thread and those it starts, and take it back."""
    if os.name != "posix" or os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root of this system cannot give up its rights for a while")
    before, less = _capabilities(), _capabilities()
    less[0].effective &= ~_OVERRIDES  # type: ignore[index]
    _set_capabilities(less)
    try:
        with pytest.MonkeyPatch.context() as patch:
            # by default the question is about the user who has started the process
            patch.setattr(os, "access", partial(os.access, effective_ids=True))
            yield
    finally:
        _set_capabilities(before)


def close(path: Path, mode: int = 0) -> Path:
    """Take away all rights to a file or folder, or leave those of `mode`."""
    path.chmod(mode)
    return path
