"""What an error tells the user to do, as something to run: commands, and options to add to the command that failed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

COMMAND = re.compile(r"`(hemalens [^`]+)`|: (hemalens .+?)(?:\. |\.?$)")
OPTION = re.compile(r"--[a-z][a-z-]*")


def named_commands(error: str) -> list[list[str]]:
    """The arguments of each `hemalens ...` that an error names."""
    return [shlex.split(quoted or plain)[1:] for quoted, plain in COMMAND.findall(error)]


def named_options(error: str) -> list[list[str]]:
    """Each option that an error names, outside of commands, with the word after it, which may be its value."""
    words = (
        shlex.split(COMMAND.sub(" ", error).replace("'", "\\'"))
        if error.count("'") % 2
        else shlex.split(COMMAND.sub(" ", error))
    )
    found = []
    for i, word in enumerate(words):
        option = word.rstrip(".,;")
        if OPTION.fullmatch(option):
            value = words[i + 1].rstrip(".,;") if option == word and i + 1 < len(words) else None
            found.append([option] if value is None else [option, value])
    return found


def with_option(arguments: Sequence[object], option: Sequence[str]) -> list[str]:
    """The arguments with an option, in the place of the same option where it is there."""
    given = [str(argument) for argument in arguments]
    if option[0] in given and len(option) > 1:
        at = given.index(option[0])
        return [*given[:at], *option, *given[at + 2 :]]
    return [*given, *option]
