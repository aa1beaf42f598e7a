"""`hemalens predict`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from hemalens.cli.options import (
    BundleOrImages,
    Json,
    Out,
    Overwrite,
    Quiet,
    Talk,
    bundle_and_images,
    bundle_or_default,
    numbers,
)
from hemalens.errors import InputError

if TYPE_CHECKING:
    from hemalens.imaging.segmentation import Outcome

USAGE = "hemalens predict [BUNDLE] IMAGES --out FILE"


def predict(
    *,
    bundle: BundleOrImages = None,
    images: Annotated[
        str | None,
        typer.Argument(metavar="IMAGES", help="An image, a folder of images, or a dataset as in jtsc:zheng2018."),
    ] = None,
    out: Out,
    abstain_below: Annotated[float, typer.Option(min=0, max=1, help="Mark predictions below this probability.")] = 0.0,
    coverage: Annotated[
        str, typer.Option(metavar="SHARE", help='Nominal coverage of the prediction sets; "" leaves the sets out.')
    ] = "0.9",
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Add the embedding (Parquet only).")] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Classify images into a .csv or .parquet file: one row an image, in input order, with an error where unreadable.

    Also reports a domain shift and the estimated accuracy, without labels.

    \b
    Examples:
    hemalens predict my_cells --out predictions.csv
    hemalens predict runs/probe/bundle my_cells --out predictions.parquet --embeddings
    """
    from hemalens.inference.predict import predict as run

    talk = Talk(quiet, as_json)
    named, source = bundle_and_images(bundle, images, usage=USAGE)
    found = run(
        bundle_or_default(named, talk),
        source,
        out=out,
        abstain_below=abstain_below,
        embeddings=embeddings,
        coverage=_coverage(coverage),
        overwrite=overwrite,
    )
    counts = ", ".join(f"{label} {n}" for label, n in found.by_label.items())
    lines = [f"{found.n_rows} rows in {out}: {counts or 'no prediction'}"]
    if abstain_below:
        lines.append(f"below {abstain_below:g}: {found.n_abstained}")
    if found.cell_images:
        lines.append(_describe_cells(found.cell_images))
    lines.append(f"unreadable: {found.n_unreadable}" + (f", first: {found.first_error}" if found.first_error else ""))
    lines += found.trust.lines
    value = asdict(found)
    value["trust"]["lines"] = list(found.trust.lines)
    talk.result(value, lines)


def _describe_cells(outcomes: Mapping[Outcome, int]) -> str:
    """How many cells are found, and how many of them touch the border."""
    n, cut = sum(outcomes.values()), outcomes.get("touches border", 0)
    text = f"cells found: {n - outcomes.get('empty mask', 0)} of {n}"
    return f"{text}; {cut} touch the image's border" if cut else text


def _coverage(text: str) -> float | None:
    """The number of --coverage, None for an empty text; raises `InputError`."""
    if not text.strip():
        return None
    try:
        return numbers(text, "--coverage")[0]
    except InputError as error:
        raise InputError("cannot read --coverage", expected='a number, as in 0.9, or ""', got=repr(text)) from error
