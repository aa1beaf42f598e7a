"""`hemalens study`."""

from __future__ import annotations

from typing import Annotated

import typer

from hemalens.cli.common import Json, Out, Overwrite, Quiet, Seed, Set, Talk, show_report
from hemalens.errors import InputError


def study(
    *,
    name: Annotated[str, typer.Argument(help="Which study: bloodshot.")],
    data: Annotated[
        list[str], typer.Option("--data", metavar="ROLE=SPEC", help="A dataset and its part in the study; repeatable.")
    ],
    out: Out,
    settings: Set = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run a published study again: its tables, ours beside the published numbers. The same command resumes a stopped run.

    bloodshot takes generic=SPEC, novel=SPEC (repeatable) and support=SPEC.
    """
    from hemalens.studies import find_study

    talk = Talk(quiet, as_json)
    chosen = find_study(name)
    roles: dict[str, list[str]] = {}
    for given in data:
        role, separator, spec = given.partition("=")
        if not separator or not spec:
            raise InputError(f"cannot read --data {given!r}", expected="ROLE=SPEC, as in generic=matek19:my_data")
        roles.setdefault(role, []).append(spec)
    report = chosen.run(roles, out=out, settings=settings or [], seed=seed, overwrite=overwrite, say=talk.say)
    show_report(talk, report, out)
