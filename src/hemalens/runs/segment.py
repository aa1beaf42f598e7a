"""Train a segmenter on masks, or segment the cells of images: masks, cell images, a table and a report."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from hemalens.bundle.segmenter import open_segmenter
from hemalens.bundle.stages import CLASSICAL, ClassicalSegmenter, Segmenter
from hemalens.config import check_texts, checked
from hemalens.datasets import READERS, CellDataset, Record
from hemalens.datasets.masks import check_cell_masks, read_cell_mask, with_masks
from hemalens.datasets.open import check_spec, check_specs, spec_path
from hemalens.datasets.parts import given_part, without
from hemalens.datasets.splits import part_of, seeded
from hemalens.datasets.table_text import cell, plain
from hemalens.errors import ImageError, InputError, public
from hemalens.evaluation.results import ComparisonTable, PictureTable, Report
from hemalens.evaluation.segmentation import mask_table, outlines, score_masks, shown_records
from hemalens.files import PathLike, as_path, atomic_dir, open_regular
from hemalens.imaging.segmentation import CellImageConfig, cell_image, cut_source, dice, intersection_over_union
from hemalens.inference.predict import open_images
from hemalens.inference.rows import BOX
from hemalens.outputs import check_outside, claim_folder
from hemalens.progress import Say, track
from hemalens.report import report_files, write_report
from hemalens.report.compose import Results, data_card, make_report
from hemalens.runs.curves import read_curves
from hemalens.runs.folders import finish_run, open_run
from hemalens.runs.inputs import open_inputs, report_inputs
from hemalens.runs.train import DEFAULTS, TrainOptions, refuse_unused
from hemalens.taxonomy import AS_LABELLED

TABLE_NAME = "segmentation.csv"
MASKS, CELLS = "masks", "cells"
USED = ("test_fraction", "config_file", "drop_unreadable")
"""The options of a training that a segmenter has a use for."""
COLUMNS = ("path", "mask", "outcome", "cell_share", "iou", "dice", "error")


@public
def train_segmenter(
    train_specs: PathLike | Sequence[PathLike],
    *,
    out: PathLike,
    settings: Sequence[str] = (),
    options: TrainOptions = DEFAULTS,
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Report:
    """Train on masks, write `out`/segmenter, and report IoU and Dice on held-out masks; the same call resumes.

    The report compares with the classical segmenter. Of a set that is given in parts, the test part is held out. Labels
    are not used: raises `InputError` for options other than `test_fraction`, `config_file` and `drop_unreadable`.
    """
    from hemalens.methods.bc_sam_segmenter import NAME, SegmenterConfig, build, fit_segmenter
    from hemalens.models.lora import count_parameters

    check_texts(settings, "the settings")
    options = checked(options, TrainOptions)
    out, specs = as_path(out, "out"), check_specs(train_specs, "the training data")
    refuse_unused(options, USED, "a segmenter is trained on masks alone")
    config = SegmenterConfig.load(options.settings_file, settings)
    given = open_inputs(specs, labels=AS_LABELLED, role="train and test", unreadable=options.unreadable)
    report_inputs(say, [given])
    masked = with_masks(given.dataset)
    check_cell_masks(masked)
    rest, test, held_out = _held_out(masked, options.test_fraction, seed)
    learn, amount = _learned_masks(rest, len(given.dataset), config.mask_fraction, seed)
    trained, total = count_parameters(build(config))
    request = {
        "job": "train",
        "method": NAME,
        "config": config.model_dump(mode="json"),
        "train": learn.fingerprint,
        "test": test.fingerprint if test else None,
        "seed": seed,
    }
    inputs = [*(spec_path(spec) for spec in (*specs, options.config_file) if spec), *config.named_paths()]
    with open_run(out, request, overwrite=overwrite, inputs=inputs, say=say) as folder:
        say(f"{trained:,} of {total:,} parameters are trained")
        say(f"training on {amount}, {len(test) if test else 0} held out for the test")
        fit_segmenter(learn, config=config, run_dir=folder)
        origin = "trained from random weights" if config.weights == "none" else "fine-tuned from SAM's weights"
        name = f"SAM {config.architecture}" + (", from scratch" if config.weights == "none" else ", fine-tuned")
        segmenters = {name: open_segmenter(str(folder / "segmenter")), CLASSICAL: ClassicalSegmenter()}
        note = f"{config.architecture}: {origin}; {amount}; {trained:,} of {total:,} parameters trained."
        report = make_report(
            f"{NAME} on {masked.name}",
            held_out,
            Results(
                tables=[_compared(segmenters, test, "Held-out masks", seed=seed, note=note)] if test else [],
                pictures=[_shown("Held-out cells", test.records, segmenters)] if test else [],
                curves=read_curves([folder], NAME),
            ),
            data=[data_card(masked, "train and test").model_copy(update={"notes": given.card.notes})],
            methods={NAME: config.model_dump(mode="json")},
            seed=seed,
        )
        return finish_run(folder, report)


def _held_out(masked: CellDataset, fraction: float, seed: int) -> tuple[CellDataset, CellDataset | None, str]:
    """(rest, test part, protocol): the test part as given, otherwise `fraction` of the masks; with 0 it is left out."""
    given = given_part(masked, "test")
    rest = without(masked, given)
    if not fraction:
        return rest, None, "no test part"
    if given:
        return rest, masked.subset(sorted(given)), f"one split: the given test part, {len(given)} mask(s)"
    return *part_of(masked, fraction, seeded(seed, "test")), f"one split: {fraction:.0%} of the masks held out for the test"


def _learned_masks(masked: CellDataset, n_images: int, fraction: float, seed: int) -> tuple[CellDataset, str]:
    """A share of the images as masks, rounded up, at most all of them; and their number in words."""
    wanted = math.ceil(n_images * Fraction(str(fraction)))
    learn = masked.subset(np.sort(seeded(seed, "masks").permutation(len(masked))[:wanted]))
    words = f"{len(learn)} mask{'s' if len(learn) > 1 else ''} of {n_images} images"
    if wanted > len(masked):
        words += f" (mask_fraction={fraction} asks for {wanted})"
    elif wanted < len(masked):
        words += f" (mask_fraction={fraction}, {len(masked) - wanted} unused; 1.0 uses all)"
    return learn, words


def _compared(
    segmenters: Mapping[str, Segmenter], masked: CellDataset, title: str, *, seed: int, note: str = ""
) -> ComparisonTable:
    return mask_table(title, {name: score_masks(each, masked) for name, each in segmenters.items()}, seed=seed, note=note)


def _shown(title: str, records: Sequence[Record], segmenters: Mapping[str, Segmenter]) -> PictureTable:
    return outlines(title, [records[i] for i in shown_records(records)], segmenters)


@dataclass(frozen=True, slots=True)
class Segmented:
    """Counts of a segmentation run: images, outcomes and unreadable images."""

    n_images: int
    outcomes: dict[str, int]
    n_unreadable: int
    first_error: str | None


@public
def segment(
    segmenter: PathLike,
    source: PathLike,
    *,
    out: PathLike,
    config: CellImageConfig | None = None,
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> tuple[Segmented, Report]:
    """Segment the cell in every image of `source`; write masks and cell images as PNG, a CSV and a report into `out`.

    `segmenter` is "classical" or the folder of a trained one, `source` an image, a folder or "reader:path". Images
    with masks get IoU and Dice. An unreadable image is a row with its error.
    """
    if config is not None and not isinstance(config, CellImageConfig):
        raise InputError("these are no settings of a cell image", expected="CellImageConfig", got=type(config).__name__)
    name, source = check_spec(segmenter, "the segmenter"), check_spec(source, "the source of the images")
    out = as_path(out, "out")
    inputs = [spec_path(name), spec_path(source)]
    check_outside(out, spec_path(source), "--out")
    with claim_folder(out, segmented_files, "masks of cells", overwrite=overwrite, inputs=inputs):
        found_by = open_segmenter(name)
        records = open_images(source, say=say)
        chosen = config or CellImageConfig()
        with atomic_dir(out, segmented_files) as folder:
            rows = _write_cells(records, found_by, chosen, folder)
            readable = [record for record, row in zip(records, rows, strict=True) if not row["error"]]
            report = _report(found_by, (name, source), readable, chosen, seed=seed)
            write_report(report, folder)
            text = io.StringIO()
            boxes = BOX if any(record.box is not None for record in records) else ()
            table = csv.DictWriter(text, (COLUMNS[0], *boxes, *COLUMNS[1:]))
            table.writeheader()
            table.writerows(rows)
            (folder / TABLE_NAME).write_text(text.getvalue(), encoding="utf-8", errors="backslashreplace")
        outcomes = Counter(row["outcome"] for row in rows if row["outcome"])
        errors = [plain(row["error"]) for row in rows if row["error"]]
        found = Segmented(len(rows), dict(outcomes), len(errors), next(iter(errors), None))
        return found, report


def segmented_files(folder: Path) -> list[str] | None:
    """The files that `segment` has written in a folder, as its table names them; None for a folder of something else."""
    reports = report_files(folder)
    try:
        with io.TextIOWrapper(open_regular(folder / TABLE_NAME), encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        return None
    if reports is None or any("mask" not in row for row in rows):
        return None
    names = [plain(row["mask"]).removeprefix(f"{MASKS}/") for row in rows if row["mask"]]
    # the folders are empty where no image was readable
    return [TABLE_NAME, *reports, *(f"{part}/{name}" for part in (MASKS, CELLS) for name in ("", *names))]


def _write_cells(
    records: Sequence[Record], segmenter: Segmenter, config: CellImageConfig, folder: Path
) -> list[dict[str, str]]:
    """Write the mask (0 and 255) and cell image of each record into `folder`, and return its row."""
    rows = []
    for part in (MASKS, CELLS):
        (folder / part).mkdir()
    with track("finding cells", len(records)) as progress:
        for number, record in enumerate(records):
            row: dict[str, str] = {**dict.fromkeys(COLUMNS, ""), "path": cell(record.name)}
            row |= dict(zip(BOX, map(str, record.box), strict=True)) if record.box is not None else {}
            try:
                image = record.read()
                truth = read_cell_mask(record, image) if record.mask_path is not None else None
            except ImageError as error:
                row["error"] = cell(str(error))
            else:
                mask = segmenter(image)
                source = cut_source(image, config)
                cut = cell_image(source, mask if source is image else segmenter(source), config)
                # two folders may hold the same name
                name = f"{number:05d}_{record.path.stem}.png"
                Image.fromarray(mask.astype(np.uint8) * 255).save(folder / MASKS / name)
                Image.fromarray(cut.pixels).save(folder / CELLS / name)
                row |= {"mask": cell(f"{MASKS}/{name}"), "outcome": cut.outcome, "cell_share": f"{mask.mean():.4f}"}
                if truth is not None:
                    row |= {"iou": f"{intersection_over_union(mask, truth):.4f}", "dice": f"{dice(mask, truth):.4f}"}
            rows.append(row)
            progress(1)
    return rows


def _dataset(records: Sequence[Record], source: str) -> CellDataset:
    """Images as a dataset without classes."""
    domains = dict.fromkeys(record.domain for record in records)
    reader = READERS.get(source.partition(":")[0], READERS["folder"])
    return CellDataset(
        name=", ".join(domains) or "no image",
        records=tuple(records),
        classes=(),
        label_map=AS_LABELLED,
        licence=reader.licence,
        citation=reader.citation,
        synthetic=reader.synthetic,
    )


def _report(
    segmenter: Segmenter, names: tuple[str, str], readable: Sequence[Record], config: CellImageConfig, *, seed: int
) -> Report:
    name, source = names
    dataset = _dataset(readable, source)
    masked = [record for record in readable if record.mask_path is not None]
    shown = {Path(name).name: segmenter}
    return make_report(
        f"Cells segmented by {Path(name).name}",
        "every image, its mask and its cell image",
        Results(
            tables=[_compared(shown, _dataset(masked, source), "Agreement with reference masks", seed=seed)]
            if masked
            else [],
            pictures=[_shown("Outlines", readable, shown)] if readable else [],
        ),
        data=[data_card(dataset, "segmented")],
        methods={"segment": {"segmenter": name, **config.model_dump(mode="json")}},
        seed=seed,
    )
