"""`hemalens segment`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from hemalens.cli.options import FollowLinks, Json, Out, Overwrite, Quiet, Seed, Talk
from hemalens.cli.report_tables import print_table


def segment(
    *,
    segmenter: Annotated[str, typer.Argument(metavar="SEGMENTER", help="classical, or the folder of a trained segmenter.")],
    images: Annotated[
        str, typer.Argument(metavar="IMAGES", help="An image, a folder of images, or a dataset as in jtsc:zheng2018.")
    ],
    out: Out,
    size: Annotated[
        int, typer.Option(min=16, max=1024, metavar="PX", help="Side of the cell images, 16 to 1024 px.")
    ] = 128,
    follow_links: FollowLinks = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Segment the white cell in every image: masks and cell images as PNG, a CSV, and a report with the outlines.

    Images with masks are also scored by IoU and Dice.

    \b
    Examples:
    hemalens segment classical my_cells --out runs/masks
    hemalens segment runs/segmenter/segmenter jtsc:zheng2018 --out runs/jtsc_masks
    """
    from hemalens.imaging.segmentation import CellImageConfig
    from hemalens.runs.segment import segment as run

    talk = Talk(quiet, as_json)
    config = CellImageConfig(size_px=size)
    found, report = run(segmenter, images, out=out, config=config, seed=seed, overwrite=overwrite, say=talk.say)
    if not as_json:
        for table in report.tables:
            print_table(table)
    counts = ", ".join(f"{outcome} {n}" for outcome, n in found.outcomes.items())
    lines = [f"{found.n_images} image(s): {counts or 'none readable'}"]
    lines.append(f"unreadable: {found.n_unreadable}" + (f", first: {found.first_error}" if found.first_error else ""))
    lines.append(f"report: {out / 'report.html'}")
    talk.result({**asdict(found), "tables": [table.model_dump(mode="json") for table in report.tables]}, lines)
