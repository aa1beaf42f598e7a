"""`hemalens quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hemalens.cli.common import DropUnreadable, Json, Out, Overwrite, Quiet, Seed, Talk

MEGABYTE = 1e6


def quantize(
    *,
    bundle: Annotated[Path, typer.Argument(help="The bundle to make smaller and faster.")],
    calibrate: Annotated[
        str, typer.Option("--calibrate", metavar="SPEC", help="Images like those to come, as in folder:my_cells.")
    ],
    out: Out,
    images: Annotated[int, typer.Option(min=1, help="At most so many of them, drawn evenly over the classes.")] = 200,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="method=minmax, entropy or percentile; percentile, fp32_layers, reduce_range; repeatable.",
        ),
    ] = None,
    drop_unreadable: DropUnreadable = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a bundle that computes in 8 bits (int8): a third of the size, faster, not quite the same answers.

    The images set the ranges of the 8 bits; labels are not used.
    """
    from hemalens.bundle import MODEL, open_bundle
    from hemalens.jobs.quantize import quantize as run

    talk = Talk(quiet, as_json)
    before = open_bundle(bundle).manifest.files[MODEL].n_bytes / MEGABYTE
    made = run(
        bundle,
        calibrate,
        out=out,
        n_images=images,
        settings=settings or [],
        drop_unreadable=drop_unreadable,
        seed=seed,
        overwrite=overwrite,
        say=talk.say,
    ).manifest
    lines = []
    if (how := made.quantisation) is not None:
        after = made.files[MODEL].n_bytes / MEGABYTE
        lines += [
            f"int8 by {how.method} from {how.n_images} images: {before:.2f} MB -> {after:.2f} MB ({how.size_ratio:.2f})",
            f"same answer on {how.agreement:.1%} of these images; probabilities differ by {how.mean_difference:.2g} on "
            f"average, {how.largest_difference:.2g} at most",
        ]
    lines += [
        f"what it costs in accuracy: hemalens evaluate {out} --data SPEC --out REPORT, and the same with {bundle}",
        f"bundle: {out}",
    ]
    talk.result(made.model_dump(mode="json"), lines)
