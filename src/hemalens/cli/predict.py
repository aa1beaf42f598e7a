"""`hemalens predict`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from hemalens.cli.options import Json, Out, Overwrite, Quiet, Talk, chosen_bundle, told_apart
from hemalens.errors import InputError

SHAPE = "hemalens predict [BUNDLE] IMAGES --out FILE"


def predict(
    *,
    bundle: Annotated[
        str | None,
        typer.Argument(metavar="BUNDLE", help="A bundle folder; without one, the model that comes with hemalens."),
    ] = None,
    images: Annotated[
        str | None,
        typer.Argument(metavar="IMAGES", help="An image, a folder of images, or a dataset as in jtsc:zheng2018."),
    ] = None,
    out: Out,
    abstain_below: Annotated[float, typer.Option(min=0, max=1, help="Mark answers below this probability.")] = 0.0,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Add the embedding (Parquet only).")] = False,
    coverage: Annotated[
        str, typer.Option(metavar="SHARE", help='Coverage of the prediction sets, at home; "" leaves them out.')
    ] = "0.9",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Classify images into a .csv or .parquet: one row an image, in input order, an unreadable one with its error.

    With IMAGES alone, the model that comes with hemalens answers.
    """
    from hemalens.inference.predict import predict as run

    talk = Talk(quiet, as_json)
    named, source = told_apart(bundle, images, shape=SHAPE)
    chosen = chosen_bundle(named, talk)
    found = run(
        chosen,
        source,
        out=out,
        abstain_below=abstain_below,
        embeddings=embeddings,
        coverage=_coverage(coverage),
        overwrite=overwrite,
    )
    counts = ", ".join(f"{label} {n}" for label, n in found.by_label.items())
    lines = [f"{found.n_rows} rows in {out}: {counts or 'no answer'}"]
    if abstain_below:
        lines.append(f"below {abstain_below:g}: {found.n_abstained}")
    if found.cell_images:
        lines.append("cells cut out: " + ", ".join(f"{outcome} {n}" for outcome, n in found.cell_images.items()))
    lines.append(f"unreadable: {found.n_unreadable}" + (f", first: {found.first_error}" if found.first_error else ""))
    lines += found.trust.lines
    value = asdict(found)
    value["trust"]["lines"] = list(found.trust.lines)
    talk.result(value, lines)


def _coverage(text: str) -> float | None:
    """The number of --coverage, None for an empty text; raises `InputError`."""
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError as error:
        raise InputError("cannot read --coverage", expected='a number, as in 0.9, or ""', got=repr(text)) from error
