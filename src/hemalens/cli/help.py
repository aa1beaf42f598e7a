"""How the help shows options: no type behind a flag, no range behind a metavar, default and need in words."""

from __future__ import annotations

from typing import Any

import typer
import typer.core


def _plain(parameters: list[Any]) -> None:
    """Change how parameters are shown. It cannot run afterwards: ranges and needs are gone."""
    for each in parameters:
        each.min = each.max = None
        if getattr(each, "is_flag", False):
            each.metavar = ""
        default = each.show_default if isinstance(each.show_default, str) else each.default
        if each.show_default and default is not None and each.metavar != "":
            each.help = f"{each.help} Default: {default}."
        if each.required and each.param_type_name == "option":
            each.help, each.required = f"{each.help} Required.", False
        each.show_default = False


class Verb(typer.core.TyperCommand):
    """A command with plain help. Errors state the range of an option."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        _plain(self.get_params(ctx))
        super().format_help(ctx, formatter)


class Verbs(typer.core.TyperGroup):
    """A group of commands with plain help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        _plain(self.get_params(ctx))
        super().format_help(ctx, formatter)
