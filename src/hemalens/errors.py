"""The exceptions of hemalens: each message states what was expected, what was found and what to do."""

from __future__ import annotations

import difflib
import errno
import functools
import operator
import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

MAX_SEED = 2**32 - 1
"""Largest seed: that of NumPy's and scikit-learn's generators."""
MOST_NAMES = 20
"""Names that a hint lists; of more, it lists so many and their number."""


class HemalensError(Exception):
    """Base of the package's errors.

    The message is one line: `what`, then `expected`, `got` and `remedy` where given.
    """

    def __init__(
        self, what: str, *, expected: str | None = None, got: str | None = None, remedy: str | None = None
    ) -> None:
        self.what = what
        self.expected = expected
        self.got = got
        self.remedy = remedy
        parts = [what]
        if expected is not None:
            parts.append(f"expected {expected}")
        if got is not None:
            parts.append(f"got {got}")
        message = "; ".join(parts)
        if remedy is not None:
            message = f"{message}. {remedy}"
        super().__init__(" ".join(message.splitlines()))


class InputError(HemalensError):
    """Wrong usage or wrong input: the command line exits with 2."""


class ConfigError(InputError):
    """A configuration cannot be read, or has an unknown key or a value of the wrong type."""


class ImageError(InputError):
    """An image file is missing, empty, truncated, not an image, or outside the accepted sizes."""


class DatasetError(InputError):
    """A dataset is missing, has another layout, or lacks what the command needs."""


class LabelError(InputError):
    """A source label, cell type or label map is unknown."""


class SplitError(InputError):
    """Data cannot be split as requested, or training and test data overlap."""


class WeightsError(InputError):
    """Pretrained weights are missing, or do not fit the network."""


class BundleError(InputError):
    """A bundle is missing, damaged, of another program, or of a newer schema."""


class ReportError(InputError):
    """A report is missing, damaged, of another program, or of a newer schema."""


class OutputError(InputError):
    """An output cannot be written: it exists, the folder is not writable, or the disk is full."""


class FileAccessError(InputError):
    """A file or folder cannot be read: a permission is missing, or it lies on a failing device."""


class MissingExtraError(InputError):
    """An optional package is not installed."""


class ParityError(HemalensError):
    """An exported graph does not reproduce the trained model: a bug, exit code 1."""


def near_matches(name: str, known: Iterable[str]) -> str:
    """A hint with the known names closest to `name`, or with all of them, or the first of many, when none is close."""
    known = list(known)
    folded = {k.casefold(): k for k in known}
    wanted = name.casefold()
    matches = [k for k in folded if wanted and wanted in k] + difflib.get_close_matches(
        wanted, list(folded), n=3, cutoff=0.5
    )
    close = [folded[match] for match in dict.fromkeys(matches)][:3]
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    names = sorted(known)
    more = f", ... ({len(names)} in all)" if len(names) > MOST_NAMES else ""
    return "known: " + ", ".join(names[:MOST_NAMES]) + more


def one_line(name: object) -> str:
    """A name in quotes on one line, with control characters and newlines escaped."""
    return repr(str(name))


def visible(text: object) -> str:
    """A user's text on one line: control, direction and other invisible characters are escaped."""
    return "".join(escaped(c) for c in str(text))


def escaped(character: str) -> str:
    """The character, or its escape where it is invisible: an escape code of the terminal becomes \\x1b."""
    shown = character.isprintable() or unicodedata.category(character) == "Zs"
    return character if shown else character.encode("unicode_escape").decode("ascii")


def access_error(error: OSError) -> FileAccessError:
    """An `OSError` in one line: the path, and the right that is missing."""
    path = "a file" if error.filename is None else one_line(error.filename)
    if isinstance(error, PermissionError):
        return FileAccessError(
            f"no permission for {path}",
            expected="the right to read it, and to enter every folder above it",
            got=error.strerror,
            remedy="Ask its owner for the right, or copy it to a folder of your own.",
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FileAccessError(f"the disk is full while using {path}", remedy="Free space, also in the temporary folder.")
    return FileAccessError(f"cannot use {path}", got=error.strerror or str(error), remedy="Check the path.")


_OUT_OF_MEMORY = re.compile("out of memory|allocate memory|bad_alloc", re.IGNORECASE)
"""What libraries say instead of a `MemoryError`."""


def system_error(error: Exception) -> HemalensError | None:
    """What the system, the memory or the interpreter refuses, in one line; None for any other error."""
    if isinstance(error, OSError):
        return access_error(error)
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
        return InputError("not enough memory", remedy="Close other programs, or use fewer or smaller images.")
    if isinstance(error, RecursionError):
        return InputError("an input is nested too deeply, or refers to itself")
    if isinstance(error, UnicodeEncodeError):
        given = one_line(error.object[error.start : error.end])
        return InputError(f"a name holds {given}, which {error.encoding} does not have", remedy="Rename the file.")
    if isinstance(error, OverflowError):
        return InputError("a number is too large to compute with", got=str(error))
    return None


def check_seed(seed: object) -> None:
    """Raise `InputError` for a seed that is no whole number from 0 to `MAX_SEED`."""
    try:
        known = not isinstance(seed, bool) and 0 <= operator.index(seed) <= MAX_SEED  # type: ignore[arg-type]
    except TypeError:
        known = False
    if not known:
        raise InputError("the seed cannot be used", expected=f"a whole number from 0 to {MAX_SEED}", got=f"{seed!r:.40}")


_P = ParamSpec("_P")
_R = TypeVar("_R")


def public(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a public function: errors of the system leave it as a `HemalensError`.

    Its `seed`, `overwrite` and `say` are checked, where it has them.
    """

    @functools.wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        check_seed(kwargs.get("seed", 0))
        if not isinstance(kwargs.get("overwrite", False), bool):
            raise InputError("overwrite is neither True nor False", got=f"{kwargs['overwrite']!r:.40}")
        if not callable(kwargs.get("say", print)):
            raise InputError("say is no function", expected="a function of a text", got=f"{kwargs['say']!r:.40}")
        try:
            return function(*args, **kwargs)
        except Exception as error:
            known = system_error(error)
            if known is None:
                raise
            raise known from error

    return checked


def require_extra(module: str, extra: str, purpose: str) -> None:
    """Raise `MissingExtraError` unless `module` can be found; nothing is imported.

    `purpose` completes the sentence "<purpose> needs ...".
    """
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise MissingExtraError(
            f"{purpose} needs the package {module!r}, which is not installed",
            remedy=f"Install it with: pip install 'hemalens[{extra}]' -c constraints.txt",
        )
