"""How the help shows options: no type behind a flag, no range behind a metavar, default and need in words."""

from __future__ import annotations

import copy
from typing import Any

import typer
import typer.core


def _plain(command: Any, ctx: Any) -> Any:
    """A copy of the command to be shown, not run: its parameters have neither ranges nor needs."""
    shown = copy.copy(command)
    shown.params = [copy.copy(each) for each in command.params]
    for each in shown.get_params(ctx):
        each.min = each.max = None
        if getattr(each, "is_flag", False):
            each.metavar = ""
        default = each.show_default if isinstance(each.show_default, str) else each.default
        if each.show_default and default is not None and each.metavar != "":
            each.help = f"{each.help} Default: {default}."
        if each.required and each.param_type_name == "option":
            each.help, each.required = f"{each.help} Required.", False
        each.show_default = False
    return shown


class Verb(typer.core.TyperCommand):
    """A command with plain help. Errors state the range of an option."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        typer.core.TyperCommand.format_help(_plain(self, ctx), ctx, formatter)


class Verbs(typer.core.TyperGroup):
    """A group of commands with plain help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        typer.core.TyperGroup.format_help(_plain(self, ctx), ctx, formatter)
