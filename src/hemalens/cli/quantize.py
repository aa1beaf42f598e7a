"""`hemalens quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hemalens.cli.options import ADVANCED, DropUnreadable, FollowLinks, Json, Out, Overwrite, Quiet, Seed, Talk

if TYPE_CHECKING:
    from hemalens.bundle.bundle import Manifest

MEGABYTE = 1e6
Precision = Literal["int8", "fp16"]


def quantize(
    *,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle to make smaller.")],
    calibrate: Annotated[
        str, typer.Option("--calibrate", metavar="SPEC", help="Images for calibration, as in folder:my_cells.")
    ],
    out: Out,
    precision: Annotated[
        Precision, typer.Option(help="int8 computes in 8 bits; fp16 stores weights in 16 bits and computes in 32.")
    ] = "int8",
    images: Annotated[
        int, typer.Option(min=1, metavar="N", help="Maximum number of images, drawn evenly over the classes.")
    ] = 200,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Setting of int8: fp32_layers or reduce_range; repeatable.",
            rich_help_panel=ADVANCED,
        ),
    ] = None,
    drop_unreadable: DropUnreadable = False,
    follow_links: FollowLinks = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a bundle smaller: int8 is faster and changes predictions slightly, fp16 halves the size at the same speed.

    The images calibrate int8 and measure the change of the predictions; their labels are not used.

    \b
    Examples:
    hemalens quantize runs/net/bundle --precision fp16 --calibrate folder:my_cells --out runs/net_fp16
    hemalens quantize runs/net/bundle --calibrate folder:my_cells --images 100 --out runs/net_int8
    """
    from hemalens.bundle.bundle import MODEL, open_bundle
    from hemalens.runs.quantize import QuantizeOptions
    from hemalens.runs.quantize import quantize as run

    talk = Talk(quiet, as_json)
    before = open_bundle(bundle).manifest.files[MODEL].n_bytes / MEGABYTE
    made = run(
        bundle,
        calibrate,
        out=out,
        precision=precision,
        options=QuantizeOptions(n_images=images, settings=settings or [], drop_unreadable=drop_unreadable),
        seed=seed,
        overwrite=overwrite,
        say=talk.say,
    ).manifest
    talk.result(made.model_dump(mode="json"), [*_describe(made, before), *_next_steps(out, bundle)])


def _describe(made: Manifest, before: float) -> list[str]:
    """The size of the bundle, from `before` megabytes, and the change of its predictions."""
    from hemalens.bundle.bundle import MODEL

    lines = []
    if (how := made.quantisation) is not None:
        after = made.files[MODEL].n_bytes / MEGABYTE
        images = f"{'calibrated' if how.precision == 'int8' else 'compared'} on {how.n_images} images"
        lines += [
            f"{how.precision}, {images}: {before:.2f} MB -> {after:.2f} MB ({how.size_ratio:.2f})",
            f"same label on {how.agreement:.1%} of these images; probabilities differ by {how.mean_difference:.2g} on "
            f"average, {how.largest_difference:.2g} at most",
        ]
        if how.fine_agreement is not None:
            lines.append(f"same subtype on {how.fine_agreement:.1%}")
    return lines


def _next_steps(out: Path, bundle: Path) -> list[str]:
    return [
        f"next: compare the accuracy with `hemalens evaluate {out} --data SPEC --out REPORT`, and the same for {bundle}",
        f"bundle: {out}",
    ]
