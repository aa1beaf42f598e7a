"""`hemalens quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hemalens.cli.options import DropUnreadable, Json, Out, Overwrite, Quiet, Seed, Talk

if TYPE_CHECKING:
    from hemalens.bundle.bundle import Manifest

MEGABYTE = 1e6
Precision = Literal["int8", "fp16"]


def quantize(
    *,
    bundle: Annotated[Path, typer.Argument(help="The bundle to make smaller and faster.")],
    calibrate: Annotated[
        str, typer.Option("--calibrate", metavar="SPEC", help="Images like those to come, as in folder:my_cells.")
    ],
    out: Out,
    precision: Annotated[
        Precision, typer.Option(help="int8 computes in 8 bits; fp16 keeps weights in 16 bits and computes in 32.")
    ] = "int8",
    images: Annotated[int, typer.Option(min=1, help="At most so many of them, drawn evenly over the classes.")] = 200,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="fp32_layers or reduce_range; repeatable.",
        ),
    ] = None,
    drop_unreadable: DropUnreadable = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a smaller bundle: int8, faster and not quite the same answers, or fp16, half the size and the same speed.

    The images set the ranges of the 8 bits, and tell how far the answers move; labels are not used.
    """
    from hemalens.bundle.bundle import MODEL, open_bundle
    from hemalens.runs.quantize import quantize as run

    talk = Talk(quiet, as_json)
    before = open_bundle(bundle).manifest.files[MODEL].n_bytes / MEGABYTE
    made = run(
        bundle,
        calibrate,
        out=out,
        precision=precision,
        n_images=images,
        settings=settings or [],
        drop_unreadable=drop_unreadable,
        seed=seed,
        overwrite=overwrite,
        say=talk.say,
    ).manifest
    talk.result(made.model_dump(mode="json"), [*_said_of(made, before), *_next_steps(out, bundle)])


def _said_of(made: Manifest, before: float) -> list[str]:
    """How large the bundle is after `before` megabytes, and how far its answers moved."""
    from hemalens.bundle.bundle import MODEL

    lines = []
    if (how := made.quantisation) is not None:
        after = made.files[MODEL].n_bytes / MEGABYTE
        made_by = f"by {how.method} from" if how.precision == "int8" else "weights, compared on"
        lines += [
            f"{how.precision} {made_by} {how.n_images} images: {before:.2f} MB -> {after:.2f} MB ({how.size_ratio:.2f})",
            f"same answer on {how.agreement:.1%} of these images; probabilities differ by {how.mean_difference:.2g} on "
            f"average, {how.largest_difference:.2g} at most",
        ]
        if how.fine_agreement is not None:
            lines.append(f"same finer type on {how.fine_agreement:.1%}")
    return lines


def _next_steps(out: Path, bundle: Path) -> list[str]:
    return [
        f"what it costs in accuracy: hemalens evaluate {out} --data SPEC --out REPORT, and the same with {bundle}",
        f"bundle: {out}",
    ]
