"""`hemalens predict`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hemalens.cli.bulk_options import LOCAL, Actors, Address, Engine, ShardSize, bulk_options
from hemalens.cli.options import (
    BundleOrImages,
    FollowLinks,
    Json,
    Out,
    Overwrite,
    Quiet,
    Runtime,
    Talk,
    bundle_and_images,
    bundle_or_default,
    numbers,
)
from hemalens.errors import ImageError, InputError, one_line

if TYPE_CHECKING:
    from hemalens.bulk.options import BulkOptions
    from hemalens.graphs.runtimes import RuntimeChoice
    from hemalens.imaging.segmentation import CellFound
    from hemalens.inference.predict import PredictionSummary

WORDS: tuple[CellFound, ...] = ("found", "doubtful", "several", "none")
Explain = Annotated[
    Path | None,
    typer.Option("--explain", metavar="DIR", help="Also write a picture of the evidence for each image into DIR."),
]
USAGE = "hemalens predict [BUNDLE] IMAGES --out FILE"


def predict(
    *,
    bundle: BundleOrImages = None,
    images: Annotated[
        str | None,
        typer.Argument(metavar="IMAGES", help="An image, a folder of images, or a dataset as in jtsc:zheng2018."),
    ] = None,
    out: Out,
    abstain_below: Annotated[
        float, typer.Option(min=0, max=1, metavar="P", help="Mark predictions below this probability.")
    ] = 0.0,
    coverage: Annotated[
        str,
        typer.Option(
            metavar="SHARE",
            help='Nominal coverage of prediction sets; the last line says where it holds. "" leaves them out.',
        ),
    ] = "0.9",
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Add the embedding (Parquet only).")] = False,
    runtime: Runtime = "onnxruntime",
    explain: Explain = None,
    engine: Engine = LOCAL,
    address: Address = None,
    shard_size: ShardSize = None,
    n_actors: Actors = None,
    follow_links: FollowLinks = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Classify images into a .csv or .parquet file: one row an image, in input order, with an error where unreadable.

    Also reports a domain shift and the estimated accuracy, without labels.

    \b
    Examples:
    hemalens predict my_cells --out predictions.csv
    hemalens predict runs/probe my_cells --out cells.parquet --embeddings
    hemalens predict my_cells --out predictions.csv --explain evidence
    hemalens predict my_million_cells --out runs/all --engine ray
    """
    on_ray = bulk_options(engine, address, shard_size, n_actors)
    run = _predict if on_ray is None else partial(_predict_on_ray, options=on_ray)
    if on_ray is not None and explain is not None:
        raise InputError("--explain writes no shards", remedy="Leave out --engine ray, or --explain.")
    talk = Talk(quiet, as_json)
    named, source = bundle_and_images(bundle, images, usage=USAGE)
    model = bundle_or_default(named, talk)
    explaining = None if explain is None else Explaining(model, source, explain, overwrite)
    found = run(
        model,
        source,
        out=out,
        abstain_below=abstain_below,
        embeddings=embeddings,
        coverage=_coverage(coverage),
        runtime=runtime,
        overwrite=overwrite,
    )
    _show(found, talk, out, abstain_below, explaining)


def _show(found: PredictionSummary, talk: Talk, out: Path, abstain_below: float, explaining: Explaining | None) -> None:
    """Print the summary, and write the pictures; raises `ImageError` where no image could be read."""
    for note in found.notes:
        talk.say(f"note: {note}")
    value = asdict(found)
    value["trust"]["lines"] = list(found.trust.lines)
    lines = _lines(found, out, abstain_below)
    value |= {} if explaining is None else {"explained": explaining.written(lines)}
    talk.result(value, lines)
    if found.n_unreadable == found.n_rows:
        reason = str(found.first_error).rstrip(".")
        raise ImageError(f"no prediction: {reason}. The table with the error of each image is {one_line(out)}")


@dataclass(frozen=True)
class Explaining:
    """The pictures of `--explain`; a bundle or folder that does not allow them is refused before the prediction."""

    model: Path
    source: str
    folder: Path
    overwrite: bool

    def __post_init__(self) -> None:
        from hemalens.inference.explain import check_explainable

        check_explainable(self.model, self.source, out=self.folder, overwrite=self.overwrite)

    def written(self, lines: list[str]) -> dict[str, int]:
        """Write them, add a line, and return the counts."""
        from hemalens.inference.explain import explain

        explained = explain(self.model, self.source, out=self.folder, overwrite=self.overwrite)
        lines.append(f"pictures of the evidence: {explained.n_pictures} in {self.folder}")
        return asdict(explained)


def _predict(*given: Any, **settings: Any) -> PredictionSummary:
    from hemalens.inference.predict import predict as run

    return run(*given, **settings)


def _predict_on_ray(*given: Any, options: BulkOptions, runtime: RuntimeChoice, **settings: Any) -> PredictionSummary:
    from hemalens.bulk.predict import predict_on_ray as run

    return run(*given, options=replace(options, runtime=runtime), **settings)


def _lines(found: PredictionSummary, out: object, abstain_below: float) -> list[str]:
    """The summary: counts, what was found, domain shift, and what the prediction sets hold for."""
    counts = ", ".join(f"{label} {n}" for label, n in found.by_label.items())
    lines = [f"{found.n_rows} rows in {out}: {counts or 'no prediction'}"]
    if abstain_below:
        lines.append(f"below {abstain_below:g}: {found.n_abstained}")
    lines += _cell_lines(found)
    lines.append(f"to review: {_review(found)}")
    lines.append(f"unreadable: {found.n_unreadable}" + (f", first: {found.first_error}" if found.first_error else ""))
    lines += found.trust.lines
    if found.sets is not None:
        lines.append(found.sets.text)
    return lines


def _review(found: PredictionSummary) -> str:
    """How many cells a person must look at, by the reason, the most urgent first."""
    from hemalens.trust.review import in_words

    if found.review is None:
        return "unknown, the bundle has no thresholds for it"
    return in_words(found.review)


def _cell_lines(found: PredictionSummary) -> list[str]:
    """How many cells are found, beyond doubt or not, with the reasons, and how many images get no label."""
    if not found.cell_found:
        return []
    counts = ", ".join(f"{what} {found.cell_found[what]}" for what in WORDS if what in found.cell_found)
    reasons = ", ".join(f"{why} {n}" for why, n in found.cell_reasons.items())
    return [f"cells: {counts}" + (f" ({reasons})" if reasons else "")]


def _coverage(text: str) -> float | None:
    """The number of --coverage, None for an empty text; raises `InputError`."""
    if not text.strip():
        return None
    try:
        (found,) = numbers(text, "--coverage")
    except (InputError, ValueError) as error:
        raise InputError("cannot read --coverage", expected='a number, as in 0.9, or ""', got=repr(text)) from error
    return found
