"""List the cells of a new laboratory to label next, in a CSV that becomes a support set once labels are filled in."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from pydantic import Field
from scipy.special import softmax

from hemalens.adaptation.active_learning import WHY, Pool, check_strategy, choose
from hemalens.adaptation.source_head import SourceHead
from hemalens.bundle.bundle import Bundle, BundleLike, bundle_folder, open_bundle
from hemalens.cache import FeatureCache
from hemalens.config import checked
from hemalens.datasets import READERS, Record
from hemalens.datasets.images import prepared
from hemalens.datasets.open import check_spec, spec_path
from hemalens.datasets.splits import seeded
from hemalens.datasets.table_text import cell
from hemalens.datasets.tables import Table, read_table
from hemalens.errors import DatasetError, InputError, OutputError, one_line, public, shell_words
from hemalens.files import PathLike, as_path, atomic_path, default_cache_dir, open_regular
from hemalens.graphs import build as graphs
from hemalens.graphs.features import extract
from hemalens.imaging.reading import named
from hemalens.inference.predict import open_images
from hemalens.outputs import check_outside, claim_output
from hemalens.progress import Say, track

DEFAULT_STRATEGY = "typical"
"""The strategy for very few labels (Hacohen et al. 2022)."""
COLUMNS = ("path", "label", "rank", "guess", "probability", "why")
SHEET_COLUMNS, SHEET_PX, CAPTION_PX = 5, 144, 16
SHEET_MARK = "hemalens suggest"
"""Text in the PNG of a sheet, by which it is known."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A cell to label: its image, rank from 1, predicted type with its probability, and the reason for its choice."""

    path: str
    rank: int
    guess: str
    probability: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestOptions:
    """Which cells are suggested: `n` of them, by the `strategy`.

    `labelled` is a CSV path,label of cells that have a label: none of them is chosen. `sheet` (.png) shows the cells.
    """

    n: Annotated[int, Field(ge=1)] = 20
    strategy: str = DEFAULT_STRATEGY
    labelled: PathLike | None = None
    sheet: PathLike | None = None


DEFAULTS = SuggestOptions()


@public
def suggest(
    bundle: BundleLike,
    source: PathLike,
    *,
    out: PathLike,
    options: SuggestOptions = DEFAULTS,
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> list[Suggestion]:
    """Choose images of a folder or dataset to label next, and list them in the CSV `out`, best first.

    Fill in the column `label` and adapt with `--support csv:FILE`; the file must be in a folder above the images.
    Unreadable images are left out and counted. Raises `InputError` if no image is left, `ConfigError` for an unknown
    strategy and `OutputError` for a file that cannot be written.
    """
    options = checked(options, SuggestOptions)
    check_strategy(options.strategy)
    out, source = as_path(out, "out"), check_spec(source, "the source of the images")
    sheet = None if options.sheet is None else as_path(options.sheet, "the sheet")
    if out.suffix != ".csv" or (sheet is not None and sheet.suffix != ".png"):
        raise OutputError("cannot write the suggestions", expected="an --out that ends in .csv and a --sheet in .png")
    if sheet is not None:
        check_outside(sheet, spec_path(source), "--sheet")
    known = [] if options.labelled is None else [as_path(options.labelled, "the list of labelled cells")]
    inputs = [bundle_folder(bundle), spec_path(source), *known]
    with ExitStack() as claims:
        claims.enter_context(claim_output(out, overwrite=overwrite, inputs=inputs, check=_check_unlabelled))
        if sheet is not None:
            claims.enter_context(
                claim_output(sheet, overwrite=overwrite, inputs=inputs, check=_check_sheet, option="--sheet")
            )
        return _suggest(open_bundle(bundle), source, out, options, seed=seed, say=say)


def _check_unlabelled(path: Path) -> None:
    """Raise `OutputError` unless `path` is a list of suggestions without a label."""
    try:
        # also as a spreadsheet has saved it, with semicolons or in cp1252
        table = read_table(path, fits=lambda names: set(COLUMNS) <= set(names))
    except DatasetError:
        table = Table((), ())
    if not set(COLUMNS) <= set(table.columns):
        raise OutputError(
            f"{one_line(path)} holds something else than suggestions",
            remedy="Choose another --out; it is not overwritten.",
        )
    label = table.columns.index("label")
    n_labelled = sum(bool(row[label].strip()) for _, row in table.rows)
    if n_labelled:
        raise OutputError(
            f"somebody has filled in {n_labelled} label(s) in {one_line(path)}",
            remedy="Choose another --out, and name this file with --labelled; it is not overwritten.",
        )


def _check_sheet(path: Path) -> None:
    """Raise `OutputError` unless `path` is a picture that `suggest` has drawn."""
    try:
        with open_regular(path) as file, Image.open(file, formats=["PNG"]) as picture:
            ours = picture.info.get(SHEET_MARK) == SHEET_MARK
    except (OSError, ValueError, SyntaxError):
        ours = False
    if not ours:
        raise OutputError(
            f"{one_line(path)} holds something else than a sheet of suggestions",
            remedy="Choose another --sheet; it is not overwritten.",
        )


def _suggest(bundle: Bundle, source: str, out: Path, options: SuggestOptions, *, seed: int, say: Say) -> list[Suggestion]:
    sheet = None if options.sheet is None else Path(options.sheet)
    labelled = None if options.labelled is None else Path(options.labelled)
    given = open_images(source, say=say)
    if any(record.box is not None for record in given):
        raise InputError(
            f"the cells of {one_line(source)} are boxes in larger images, which a list of paths cannot name",
            expected="an image a cell",
            remedy="Save each cell as an image of its own first.",
        )
    _check_place(out, [record.path for record in given])
    listed = prepared(READERS["csv"].read(labelled), labelled).records if labelled else []
    known = [record for record in listed if record.source_label]
    records = [replace(record, source_label="", before=bundle.stages) for record in (*given, *known)]
    encoder = graphs.cut(bundle.tested_graph, ["image"], ["embedding"])
    with track("embedding", len(records)) as progress:
        found = extract(records, encoder, cache=FeatureCache(default_cache_dir()), progress=progress)
    if found.errors:
        say(f"left out {len(found.errors)} unreadable image(s), first: {next(iter(found.errors.values()))}")
    if not len(found.readable):
        raise DatasetError(f"no image of {one_line(source)} can be read")
    readable = [records[i] for i in found.readable]
    contents = np.unique([record.content_id() for record in readable], return_inverse=True)[1]
    labels = bundle.manifest.labels
    probabilities = softmax(SourceHead.of(bundle).logits(found.embeddings, labels), axis=1)
    pool = Pool(found.embeddings.astype(np.float64), probabilities, found.readable >= len(given), contents)
    chosen = choose(options.strategy, pool, options.n, seeded(seed, "suggest"))
    if len(chosen) < options.n:
        say(f"only {len(chosen)} image(s) are left to label")
    suggestions = [
        Suggestion(
            named(readable[i].path.resolve().relative_to(out.parent.resolve()), readable[i].page),
            rank,
            labels[int(probabilities[i].argmax())],
            float(probabilities[i].max()),
            WHY[options.strategy],
        )
        for rank, i in enumerate(chosen, start=1)
    ]
    with atomic_path(out) as temporary:
        _write(temporary, suggestions)
    if sheet is not None:
        with atomic_path(sheet) as temporary:
            mark = PngInfo()
            mark.add_text(SHEET_MARK, SHEET_MARK)
            _contact_sheet([readable[i] for i in chosen], suggestions).save(temporary, "PNG", pnginfo=mark)
    return suggestions


def _check_place(out: Path, images: Sequence[Path]) -> None:
    """Raise `InputError` unless all images are below the folder of `out`."""
    folder = out.parent.resolve()
    outside = [path for path in images if not path.resolve().is_relative_to(folder)]
    if outside:
        common = Path(os.path.commonpath([path.resolve().parent for path in images]))
        raise InputError(
            f"{one_line(outside[0])} is not below the folder of {one_line(out)}",
            expected="a list in a folder above the images, to be read as --support csv:FILE",
            remedy=f"Use --out {shell_words([str(common / out.name)])}",
        )


def _write(file: Path, suggestions: Sequence[Suggestion]) -> None:
    with open(file, "w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        table.writerow(COLUMNS)
        table.writerows([cell(s.path), "", s.rank, cell(s.guess), f"{s.probability:.3f}", s.why] for s in suggestions)


def _contact_sheet(records: Sequence[Record], suggestions: Sequence[Suggestion]) -> Image.Image:
    """Draw the images in rows, each above its rank and predicted type."""
    height = SHEET_PX + CAPTION_PX
    columns = min(SHEET_COLUMNS, len(records))
    sheet = Image.new("RGB", (columns * SHEET_PX, -(-len(records) // columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (record, suggestion) in enumerate(zip(records, suggestions, strict=True)):
        x, y = i % columns * SHEET_PX, i // columns * height
        picture = Image.fromarray(record.unstaged().read())
        picture.thumbnail((SHEET_PX - 4, SHEET_PX - 4))
        sheet.paste(picture, (x + 2, y + 2))
        draw.text((x + 4, y + SHEET_PX), f"{suggestion.rank}  {suggestion.guess}?", fill="black")
    return sheet
