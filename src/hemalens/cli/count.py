"""`hemalens count`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from hemalens.cli.bulk_options import LOCAL, Actors, Address, Engine, bulk_options
from hemalens.cli.options import (
    ADVANCED,
    FollowLinks,
    Json,
    Out,
    Overwrite,
    Quiet,
    Runtime,
    Seed,
    Set,
    Talk,
    bundle_or_default,
)
from hemalens.cli.shares import limits, percent
from hemalens.errors import ImageError, one_line

if TYPE_CHECKING:
    from hemalens.evaluation.results.slides import SlideResult
    from hemalens.graphs.runtimes import RuntimeChoice
    from hemalens.runs.count import CountSummary
    from hemalens.runs.counting.options import CountOptions

MOST_TABLES = 6
"""Slides of which the differential is printed; of more, one line each."""
WIDTH = 80


Fields = Annotated[
    Path,
    typer.Argument(
        metavar="FIELDS", help="A folder of fields, one slide a folder; a CSV of slide,field; an image or TIFF of pages."
    ),
]
ByBundle = Annotated[
    Path | None,
    typer.Option("--bundle", "-b", metavar="BUNDLE", help="By default the model of hemalens."),
]
WhiteCount = Annotated[
    float | None, typer.Option(metavar="N", help="White cells in 10^3 per microlitre, as 7.2: absolute counts.")
]
RedCount = Annotated[
    float | None, typer.Option(metavar="N", help="Red cells in 10^6 per microlitre, as 4.8: platelets by ratio.")
]
Target = Annotated[int | None, typer.Option(min=1, metavar="N", help="Count the first 100, 200, 400 white cells.")]
Rules = Annotated[
    Path | None, typer.Option("--rules", metavar="FILE", help="Rules of counting, TOML.", rich_help_panel=ADVANCED)
]
Confusion = Annotated[Path | None, typer.Option(metavar="REPORT", help="Adjust shares by this test of the model.")]
Review = Annotated[int | None, typer.Option(min=1, metavar="N", help="Draw N cells a slide for you: review.csv.")]
ByDetector = Annotated[Path | None, typer.Option(metavar="DIR", help="A detector of your own.", rich_help_panel=ADVANCED)]
NoCrops = Annotated[bool, typer.Option("--no-crops", help="Write no pictures of cells.", rich_help_panel=ADVANCED)]
NoOverlays = Annotated[bool, typer.Option("--no-overlays", help="Write no pictures of fields.", rich_help_panel=ADVANCED)]
Shown = Annotated[int, typer.Option(min=0, max=200, metavar="N", help="Fields in the report.", rich_help_panel=ADVANCED)]
Parquet = Annotated[bool, typer.Option("--parquet", help="Write cells.parquet, too.", rich_help_panel=ADVANCED)]


def count(
    *,
    fields: Fields,
    out: Out,
    bundle: ByBundle = None,
    white_count: WhiteCount = None,
    red_count: RedCount = None,
    target: Target = None,
    confusion: Confusion = None,
    review: Review = None,
    settings: Set = None,
    rules: Rules = None,
    detector: ByDetector = None,
    no_crops: NoCrops = False,
    no_overlays: NoOverlays = False,
    shown: Shown = 12,
    parquet: Parquet = False,
    runtime: Runtime = "onnxruntime",
    engine: Engine = LOCAL,
    address: Address = None,
    n_actors: Actors = None,
    seed: Seed = 0,
    follow_links: FollowLinks = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Find, classify and count the cells of slides: a differential with limits, tables, crops, overlays and a report.

    \b
    Examples:
    hemalens count my_slides --out runs/count
    hemalens count slide_7 --out runs/slide_7 --white-count 7.2 --target 200
    """
    on_ray = bulk_options(engine, address, None, n_actors)
    run = _count if on_ray is None else partial(_count_on_ray, bulk=on_ray)
    talk = Talk(quiet, as_json)
    options = _options(white_count, red_count, runtime)
    options = replace(options, target=target, settings=tuple(settings or ()), rules_file=rules, parquet=parquet)
    options = replace(options, confusion=confusion, review=review, seed=seed)
    options = replace(options, crops=not no_crops, overlays=not no_overlays, most_overlays=shown)
    found = run(
        bundle_or_default(bundle, talk),
        fields,
        out=out,
        detector=detector,
        options=options,
        overwrite=overwrite,
        say=lambda text: talk.say(f"note: {text}"),
    )
    for note in found.notes:
        talk.say(f"note: {note}")
    written = [f"report: {out / 'report.html'}"]
    if review is not None:
        written.append(f"to review: fill the column reviewed of {out / 'review.csv'}, then")
        written.append(f"  hemalens compare {out} --reviewed {out / 'review.csv'}")
    talk.result(_value(found), [*_lines(found), *written])
    if found.n_unreadable == found.n_fields:
        reason = str(found.slides[0].first_error).rstrip(".")
        raise ImageError(f"no field can be read: {reason}. The error of each field is in {one_line(out / 'cells.csv')}")


def _count(*given: Any, **settings: Any) -> CountSummary:
    from hemalens.runs.count import count as run

    return run(*given, **settings)


def _count_on_ray(*given: Any, **settings: Any) -> CountSummary:
    from hemalens.bulk.count import count_on_ray as run

    return run(*given, **settings)


def _options(white_count: float | None, red_count: float | None, runtime: str) -> CountOptions:
    """Options with the counts of the analyser and the runtime, checked under the names that the command gives them."""
    from hemalens.graphs.runtimes import check_runtime
    from hemalens.runs.counting.options import CountOptions, check_red_count, check_white_count

    check_runtime(runtime)
    if white_count is not None:
        check_white_count(white_count, "--white-count")
    if red_count is not None:
        check_red_count(red_count, "--red-count")
    return CountOptions(white_count=white_count, red_count=red_count, runtime=cast("RuntimeChoice", runtime))


def _value(found: CountSummary) -> dict[str, Any]:
    slides = [
        {**each.result.model_dump(mode="json"), "n_fields": len(each.slide.fields), "notes": list(each.notes)}
        for each in found.slides
    ]
    trust = {"trust": list(found.trust.lines), "sets": None if found.sets is None else asdict(found.sets)}
    return {"slides": slides, "notes": list(found.notes), **trust, "review": found.review}


def _lines(found: CountSummary) -> Iterator[str]:
    """The differential of each slide, or of many slides a line each, then the domain shift."""
    for counts in found.slides if len(found.slides) <= MOST_TABLES else ():
        yield from _differential(counts.result)
        yield ""
    if len(found.slides) > MOST_TABLES:
        for counts in found.slides:
            result = counts.result
            most = ", ".join(f"{each.code} {percent(each.share)}" for each in result.types[:2] if each.count)
            yield f"{result.name}: {result.total} white cells" + (f"; {most} %" if most else "")
            yield from (f"  flag: {flag}" for flag in result.flags)
    for line in (*_to_review(found), *found.trust.lines, *([] if found.sets is None else [found.sets.text])):
        yield from textwrap.wrap(line, WIDTH, subsequent_indent="  ")


def _to_review(found: CountSummary) -> Iterator[str]:
    """How many cells a person must look at, by the reason, the most urgent first."""
    from hemalens.trust.review import in_words

    if found.review is not None:
        yield f"cells to review: {in_words(found.review)}"


def _differential(result: SlideResult) -> Iterator[str]:
    """A slide as a haematologist reads it, 80 columns wide."""
    absolute = any(each.absolute for each in result.types)
    yield f"{result.name}: {result.total} white cells on {result.n_fields} field(s)"
    head = f"{'type':<28}{'n':>6}{'%':>8}  {'95 % limits':<14}"
    yield head.rstrip() + (f"{'10^3/uL':>9}" if absolute else "")
    for each in result.types:
        name = each.code.replace("_", " ") + (", all" if each.total_of else "")
        line = f"{name[:27]:<28}{each.count:>6}{percent(each.share):>8}  {limits(each.share):<14}"
        if absolute:
            line += "" if each.absolute is None else f"{each.absolute.value or 0:>9.2f}"
        yield line.rstrip() + ("  flag" if each.flagged else "")
    for other in (other for other in result.beside if other.count):
        per_100 = "n/a" if other.per_100 is None else f"{other.per_100:.1f}"
        yield f"{other.code.replace('_', ' ')[:27]:<28}{other.count:>6}{per_100:>8}  per 100 white cells"
    yield from _wrapped(_further(result))


def _further(result: SlideResult) -> Iterator[str]:
    if result.corrected_white_count is not None:
        yield f"white count {result.white_count:.2f}, {result.corrected_white_count:.2f} without nucleated red cells"
    yield f"red cells {result.n_red_cells}, platelets {result.n_platelets}{_platelets(result)}"
    if result.not_counted:
        yield "not counted: " + "; ".join(f"{reason} {n}" for reason, n in result.not_counted.items())
    if result.n_beyond:
        yield f"beyond the target of {result.target}: {result.n_beyond} white cells"
    yield from (f"flag: {flag}" for flag in result.flags)
    needed = [f"{each.cells} more for {each.goal}" for each in result.needed if each.cells]
    # the nearest number, and the width
    yield result.decision + (f" Needed: {'; '.join(dict.fromkeys((needed[0], needed[-1])))}." if needed else "")


def _platelets(result: SlideResult) -> str:
    parts = []
    if result.platelets_by_ratio is not None:
        parts.append(f"{result.platelets_by_ratio:.0f} x 10^3/uL by the ratio to red cells")
    if result.platelets_by_field is not None and result.n_platelets:
        parts.append(f"{result.platelets_by_field:.0f} x 10^3/uL by the mean of a field")
    return f": {', '.join(parts)}" if parts else ""


def _wrapped(lines: Iterator[str]) -> Iterator[str]:
    return (part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent="  "))
