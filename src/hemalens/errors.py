"""The one exception tree: every message says what was expected, what was found and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HemalensError(Exception):
    """Base of every error this package raises on purpose.

    The message is one line: `what`, then the expected, the found and the remedy, as far as they are given.
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
    """A configuration has an unknown key, a value of the wrong kind, or cannot be read."""


class ImageError(InputError):
    """An image file is missing, empty, truncated, not an image, or outside the accepted sizes."""


class DatasetError(InputError):
    """A dataset folder is missing, has another layout, or cannot serve what was asked of it."""


class LabelError(InputError):
    """A source label, cell type or label map is unknown."""


class SplitError(InputError):
    """A split cannot be made without breaking its rules."""


class WeightsError(InputError):
    """Pretrained weights cannot be had, or do not fit the network."""


class BundleError(InputError):
    """A bundle is missing, damaged, foreign, or of a newer schema."""


class ReportError(InputError):
    """A report is missing, damaged, foreign, or of a newer schema."""


class OutputError(InputError):
    """An output cannot be written: it exists, the place is not writable, or the disk is full."""


class MissingExtraError(InputError):
    """An optional package is not installed."""


class ParityError(HemalensError):
    """An exported graph does not reproduce the trained model: a failure of ours, exit code 1."""


def near_matches(name: str, known: Iterable[str]) -> str:
    """A short text naming the known names closest to `name`, or all of them when none is close."""
    known = list(known)
    folded = {k.casefold(): k for k in known}
    wanted = name.casefold()
    matches = [k for k in folded if wanted and wanted in k] + difflib.get_close_matches(
        wanted, list(folded), n=3, cutoff=0.5
    )
    close = [folded[match] for match in dict.fromkeys(matches)][:3]
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "known: " + ", ".join(sorted(known))


def one_line(name: object) -> str:
    """A name made printable on one line: control characters and newlines are escaped, quotes added."""
    return repr(str(name))


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
