"""Options of bulk runs that `predict` and `count` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hemalens.cli.options import ADVANCED
from hemalens.errors import InputError, near_matches, one_line

if TYPE_CHECKING:
    from hemalens.bulk.options import BulkOptions

LOCAL, RAY = "local", "ray"

Engine = Annotated[
    str, typer.Option(metavar="NAME", help="local, or ray: in shards.", show_default=False, rich_help_panel=ADVANCED)
]
Address = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="A Ray cluster, or auto.", rich_help_panel=ADVANCED)]
ShardSize = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Images a shard, with Ray.", rich_help_panel=ADVANCED)
]
Actors = Annotated[
    int | None, typer.Option("--n-actors", min=1, metavar="N", help="Workers at once, with Ray.", rich_help_panel=ADVANCED)
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
