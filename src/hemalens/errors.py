"""The exceptions of hemalens: each message states what was expected, what was found and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_NAMES = 20
"""Names that a hint lists; of more, it lists so many and their number."""

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
        plain = " ".join(message.splitlines())
        # what a file holds must not reach the terminal as an escape code
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in plain))


def _shortened(text: str) -> str:
    """A part of a message, without its middle where that is very long."""
    half = LONGEST_PART // 2
    return text if len(text) <= LONGEST_PART else f"{text[:half]} ... {text[-half:]}"


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


def access_error(error: OSError) -> FileAccessError:
    """An `OSError` in one line: the path, and the right that is missing."""
    path = error.filename if error.filename is not None else "a file"
    if isinstance(error, PermissionError):
        return FileAccessError(
            f"no permission for {one_line(path)}",
            expected="the right to read it, and to enter every folder above it",
            got=error.strerror,
            remedy="Ask its owner for the right, or copy it to a folder of your own.",
        )
    return FileAccessError(f"cannot use {one_line(path)}", got=error.strerror or str(error), remedy="Check the path.")


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
