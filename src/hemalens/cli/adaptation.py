"""`hemalens adapt`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hemalens.cli.common import DropUnreadable, FewShot, Json, Out, Overwrite, Quiet, Talk


def adapt(
    *,
    bundle: Annotated[Path, typer.Argument(help="The bundle to adapt.")],
    support: Annotated[str, typer.Option("--support", metavar="SPEC", help="A few labelled cells, as in folder:my_cells.")],
    out: Out,
    beside: Annotated[
        list[Path] | None,
        typer.Option("--beside", metavar="BUNDLE", help="A further bundle whose embedding stands beside; repeatable."),
    ] = None,
    few_shot: FewShot = None,
    allow_new: Annotated[
        bool, typer.Option("--allow-new", help="Learn labels that the bundle does not know as new classes.")
    ] = False,
    drop_unreadable: DropUnreadable = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Adapt a bundle to a new laboratory with a few labelled cells, in seconds; ten of each type are a good start."""
    from hemalens.jobs.adapt import adapt as run

    talk = Talk(quiet, as_json)
    adapted = run(
        bundle,
        support,
        out=out,
        beside=beside or [],
        few_shot=few_shot or [],
        allow_new=allow_new,
        drop_unreadable=drop_unreadable,
        overwrite=overwrite,
        say=talk.say,
    ).manifest
    counts = adapted.data[-1].class_counts
    lines = [
        f"adapted to {', '.join(f'{label} ({n})' for label, n in counts.items())}",
        *([adapted.adaptation.expected.verdict] if adapted.adaptation else []),
        f"bundle: {out}",
    ]
    talk.result(adapted.model_dump(mode="json"), lines)
