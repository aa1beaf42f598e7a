"""`hemalens suggest`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hemalens.cli.options import (
    BundleOrImages,
    FollowLinks,
    Json,
    Out,
    Overwrite,
    Quiet,
    Seed,
    Talk,
    bundle_and_images,
    bundle_or_default,
)

USAGE = "hemalens suggest [BUNDLE] IMAGES --out FILE"


def suggest(
    *,
    bundle: BundleOrImages = None,
    images: Annotated[
        str | None, typer.Argument(metavar="IMAGES", help="A folder of images, or a dataset as in jtsc:zheng2018.")
    ] = None,
    out: Out,
    n: Annotated[int, typer.Option("--n", min=1, metavar="N", help="How many cells to label.")] = 20,
    strategy: Annotated[
        str, typer.Option(metavar="NAME", help="typical, even (better from 16 cells on) or random.")
    ] = "typical",
    labelled: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A CSV path,label of cells that have a label.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw the cells into one .png.")] = None,
    follow_links: FollowLinks = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """List the cells to label next in a .csv above the images; fill in its labels and adapt with --support.

    \b
    Examples:
    hemalens suggest runs/robust/bundle cells/images --n 20 --out cells/to_label.csv
    hemalens suggest cells/images --strategy even --sheet cells/to_label.png --out cells/to_label.csv
    """
    from hemalens.adaptation.suggest import SuggestOptions
    from hemalens.adaptation.suggest import suggest as run
    from hemalens.errors import shell_words

    talk = Talk(quiet, as_json)
    named, source = bundle_and_images(bundle, images, usage=USAGE)
    found = run(
        bundle_or_default(named, talk),
        source,
        out=out,
        seed=seed,
        overwrite=overwrite,
        options=SuggestOptions(n=n, strategy=strategy, labelled=labelled, sheet=sheet),
        say=talk.say,
    )
    lines = [f"{each.rank:3}  {each.path}: {each.guess} {each.probability:.2f}" for each in found]
    if found:
        lines.insert(0, f"reason for each cell: {found[0].why}")
    words = ["hemalens", "adapt", *([] if named is None else [str(named)]), "--support", f"csv:{out}", "--out", "NEW"]
    lines.append(f"fill in the column label of {out}, then: {shell_words(words)}")
    talk.result([asdict(each) for each in found], lines)
