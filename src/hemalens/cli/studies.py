"""`hemalens study`."""

from __future__ import annotations

from typing import Annotated

import typer

from hemalens.cli.common import Json, Out, Overwrite, Quiet, Seed, Set, Talk, role_specs, show_report


def study(
    *,
    name: Annotated[str, typer.Argument(help="bloodshot, bc-sam, mobilevit, wbc-augmentation or wbc-combined.")],
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

    bloodshot: generic, novel (repeatable), support.

    bc-sam: first, second (repeatable: several are one laboratory).

    mobilevit: cells.

    wbc-augmentation: wbc, held, wbc_50, wbc_10, wbc_1, pretraining (repeatable).

    wbc-combined: wbc, held, wbc_50, wbc_10, wbc_1, cam16, cam16_test, prcc.
    """
    from hemalens.studies import find_study

    talk = Talk(quiet, as_json)
    chosen = find_study(name)
    roles: dict[str, list[str]] = {}
    for role, spec in role_specs(data, "--data"):
        roles.setdefault(role, []).append(spec)
    report = chosen.run(roles, out=out, settings=settings or [], seed=seed, overwrite=overwrite, say=talk.say)
    show_report(talk, report, out)
