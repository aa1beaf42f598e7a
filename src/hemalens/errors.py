"""The exceptions of hemalens: each message states what was expected, what was found and what to do."""

from __future__ import annotations

import difflib
import errno
import functools
import operator
import os
import re
import shlex
import subprocess
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import ParamSpec, TypeVar

MAX_SEED = 2**32 - 1
"""Largest seed: that of NumPy's and scikit-learn's generators."""
MOST_NAMES = 8
"""Names that a hint lists where none is close; of more, it says where they are listed."""
NEAREST = 3
CLOSE = 0.6
"""Ratio of matching letters from which on two names are close."""
SHORTEST = 3
"""Letters of a name that is looked for within others."""

LONGEST_PART = 400
"""Characters of a part of a message; of a longer one, a value or a library's words, the middle is left out."""


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
        parts = [_shortened(what)]
        if expected is not None:
            parts.append(f"expected {expected}")
        if got is not None:
            parts.append(f"got {_shortened(got)}")
        message = "; ".join(parts)
        if remedy is not None:
            message = f"{message}. {remedy}"
        # what a file holds must not reach the terminal as an escape code
        super().__init__(visible(" ".join(message.splitlines())))


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
    """A bundle is missing, damaged, of another program, or of another schema."""


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


def near_matches(name: str, known: Iterable[str], *, listed: str | None = None) -> str:
    """A hint: at most three known names close to `name`; where none is close, all of a few, or what lists them.

    `listed` is the command or page that lists all names.
    """
    known = list(known)
    folded = {k.casefold(): k for k in known}
    wanted = name.casefold()
    within = [k for k in folded if len(wanted) >= SHORTEST and wanted in k]
    matches = within + difflib.get_close_matches(wanted, list(folded), n=NEAREST, cutoff=CLOSE)
    close = [folded[match] for match in dict.fromkeys(matches)][:NEAREST]
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    names = sorted(known)
    if len(names) <= MOST_NAMES:
        return "known: " + ", ".join(names)
    return f"{len(names)} names are known; `{listed}` lists them." if listed else f"known: {_some(names)}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMES]) + f", ... ({len(names)} in all)"


def one_line(name: object) -> str:
    """A name in quotes on one line, with control characters and newlines escaped."""
    return repr(str(name))


def shell_words(words: Sequence[str]) -> str:
    """A command to copy into a shell: words with spaces or other special characters are quoted."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _shortened(text: str, longest: int = LONGEST_PART) -> str:
    """A name or a part of a message, without its middle where it is longer than a line has room for."""
    return text if len(text) <= longest else f"{text[: longest // 2]} ... {text[-longest // 2 :]}"


def visible(text: object) -> str:
    """A user's text on one line: control, direction and other invisible characters are escaped."""
    return "".join(escaped(c) for c in str(text))


def escaped(character: str) -> str:
    """The character, or its escape where it is invisible: an escape code of the terminal becomes \\x1b."""
    shown = character.isprintable() or unicodedata.category(character) == "Zs"
    return character if shown else character.encode("unicode_escape").decode("ascii")


def access_error(error: OSError) -> FileAccessError:
    """An `OSError` in one line: the path, and the right that is missing."""
    path = "a file" if error.filename is None else _shortened(one_line(error.filename), 240)
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
        return InputError(
            f"the name {one_line(error.object)[:200]} cannot be written",
            expected=f"a name in {error.encoding}",
            got=given[:40],
            remedy="Rename the file or folder.",
        )
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
