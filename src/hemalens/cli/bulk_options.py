"""Options of bulk runs that `predict` and `count` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hemalens.errors import InputError, near_matches, one_line

if TYPE_CHECKING:
    from hemalens.bulk.options import BulkOptions

BULK = "Many images: Ray"
"""The help panel of these options."""
LOCAL, RAY = "local", "ray"

Engine = Annotated[
    str,
    typer.Option(
        metavar="ENGINE",
        help="local (default), or ray: in shards, on all processors or a cluster.",
        show_default=False,
        rich_help_panel=BULK,
    ),
]
Address = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="A Ray cluster, or auto; by default this machine.", rich_help_panel=BULK),
]
ShardSize = Annotated[int | None, typer.Option(min=1, metavar="N", help="Images a shard.", rich_help_panel=BULK)]
Actors = Annotated[
    int | None,
    typer.Option(
        "--n-actors", min=1, metavar="N", help="Workers at once; by default one a processor.", rich_help_panel=BULK
    ),
]


def bulk_options(engine: str, address: str | None, shard_size: int | None, n_actors: int | None) -> BulkOptions | None:
    """The options of a run on Ray, None for a run without; raises `InputError` for options that need Ray."""
    if engine not in (LOCAL, RAY):
        raise InputError(f"unknown --engine {one_line(engine)}", remedy=near_matches(engine, (LOCAL, RAY)))
    given = {"--address": address, "--shard-size": shard_size, "--n-actors": n_actors}
    if engine == LOCAL:
        for name, value in given.items():
            if value is not None:
                raise InputError(f"{name} is for runs on Ray", expected=f"--engine {RAY} beside it")
        return None
    from hemalens.bulk.options import BulkOptions

    return BulkOptions(address, shard_size, n_actors).check()
