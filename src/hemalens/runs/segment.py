"""Train a segmenter on masks, or find the cells of images with one: masks, cell images, a table and a report."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hemalens.datasets import READERS, CellDataset, Record
from hemalens.datasets.masks import check_cell_masks, read_cell_mask, with_masks
from hemalens.errors import ImageError
from hemalens.evaluation.segmentation import mask_table, outlines, score_masks, shown_records
from hemalens.report import HTML_NAME, JSON_NAME, MARKDOWN_NAME, write_report
from hemalens.evaluation.results import ComparisonTable, PictureTable, Report
from hemalens.files import atomic_dir, claim_folder
from hemalens.inference.predict import open_images
from hemalens.runs.inputs import prepare
from hemalens.report.compose import Results, data_card, make_report
from hemalens.runs.folders import claim_run, finish_run
from hemalens.progress import Say
from hemalens.progress import track
from hemalens.datasets.splits import Unreadable, part_of, seeded
from hemalens.imaging.segmentation import CellImageConfig, Outcome, cell_image, dice, intersection_over_union
from hemalens.bundle.segmenter import open_segmenter
from hemalens.bundle.stages import CLASSICAL, ClassicalSegmenter, Segmenter
from hemalens.taxonomy import AS_LABELLED

TABLE_NAME = "segmentation.csv"
MASKS, CELLS = "masks", "cells"
COLUMNS = ("path", "mask", "outcome", "cell_share", "iou", "dice", "error")


def train_segmenter(
    train_specs: Sequence[str],
    *,
    out: Path,
    test_fraction: float = 0.2,
    config_file: Path | None = None,
    settings: Sequence[str] = (),
    seed: int = 0,
    overwrite: bool = False,
    drop_unreadable: bool = False,
    say: Say = lambda text: None,
) -> Report:
    """Train on a share of the masks, write `out`/segmenter, report IoU and Dice on held-out masks; the same call resumes.

    Labels are not looked at. Beside it stands the classical segmenter on the same held-out masks.
    """
    from hemalens.methods.bc_sam_segmenter import NAME, SegmenterConfig, build, fit_segmenter
    from hemalens.models.lora import count_parameters

    config = SegmenterConfig.load(config_file, settings)
    unreadable: Unreadable = "drop" if drop_unreadable else "refuse"
    given = prepare(train_specs, labels=AS_LABELLED, role="train and test", unreadable=unreadable)
    for note in given.notes:
        say(note)
    masked = with_masks(given.dataset)
    check_cell_masks(masked)
    rest, test = part_of(masked, test_fraction, seeded(seed, "test")) if test_fraction else (masked, None)
    n_masks = max(1, math.floor(len(rest) * config.mask_fraction + 1e-9))
    learn = rest.subset(np.sort(seeded(seed, "masks").permutation(len(rest))[:n_masks]))
    trained, total = count_parameters(build(config))
    request = {
        "job": "train",
        "method": NAME,
        "config": config.model_dump(mode="json"),
        "train": learn.fingerprint,
        "test": test.fingerprint if test else None,
        "seed": seed,
    }
    claim_run(out, request, overwrite=overwrite, say=say)
    say(f"{trained:,} of {total:,} parameters learn")
    say(f"training on {n_masks} of {len(rest)} masks, {len(test) if test else 0} held out for the test")
    fit_segmenter(learn, config=config, run_dir=out)
    origin = "trained from random weights, not from SAM's" if config.weights == "none" else "tuned from SAM's weights"
    tuned = open_segmenter(str(out / "segmenter"))
    learned = f"SAM {config.architecture}" + (", from scratch" if config.weights == "none" else ", tuned")
    segmenters = {learned: tuned, CLASSICAL: ClassicalSegmenter()}
    note = f"{config.architecture}: {origin}; {n_masks} masks; {trained:,} of {total:,} parameters learned."
    report = make_report(
        f"{NAME} on {masked.name}",
        f"one split: {test_fraction:.0%} of the masks held out for the test" if test else "no test part",
        Results(
            tables=[_compared(segmenters, test, "Held-out masks", seed=seed, note=note)] if test else [],
            pictures=[_shown("Held-out cells", test.records, segmenters)] if test else [],
        ),
        data=[data_card(masked, "train and test").model_copy(update={"notes": given.card.notes})],
        methods={NAME: config.model_dump(mode="json")},
        seed=seed,
    )
    return finish_run(out, report)


def _compared(
    segmenters: Mapping[str, Segmenter], masked: CellDataset, title: str, *, seed: int, note: str = ""
) -> ComparisonTable:
    return mask_table(title, {name: score_masks(each, masked) for name, each in segmenters.items()}, seed=seed, note=note)


def _shown(title: str, records: Sequence[Record], segmenters: Mapping[str, Segmenter]) -> PictureTable:
    return outlines(title, [records[i] for i in shown_records(records)], segmenters)


@dataclass(frozen=True, slots=True)
class Segmented:
    """What became of the images: how many cells came out how, and the unreadable ones."""

    n_images: int
    outcomes: dict[Outcome, int]
    n_unreadable: int
    first_error: str | None


def segment(
    segmenter_name: str,
    source: str,
    *,
    out: Path,
    config: CellImageConfig | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> tuple[Segmented, Report]:
    """Find the cell in every image of `source`: masks and cell images as PNG, a CSV, a report with outlines, in `out`.

    `segmenter_name` is "classical" or the folder of a trained one, `source` an image, a folder or "reader:path". Where
    images have masks, IoU and Dice stand beside them. An unreadable image is a row with its error.
    """
    parts = (MASKS, CELLS, TABLE_NAME, HTML_NAME, MARKDOWN_NAME, JSON_NAME)
    claim_folder(out, parts, "masks of cells", overwrite=overwrite)
    segmenter = open_segmenter(segmenter_name)
    records = open_images(source)
    chosen = config or CellImageConfig()
    with atomic_dir(out) as folder:
        rows = _write_cells(records, segmenter, chosen, folder)
        readable = [record for record, row in zip(records, rows, strict=True) if not row["error"]]
        report = _report(segmenter, (segmenter_name, source), readable, chosen, seed=seed)
        write_report(report, folder)
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS)
        table.writeheader()
        table.writerows(rows)
        (folder / TABLE_NAME).write_text(text.getvalue(), encoding="utf-8", errors="backslashreplace")
    outcomes = Counter(row["outcome"] for row in rows if row["outcome"])
    errors = [row["error"] for row in rows if row["error"]]
    found = Segmented(len(rows), dict(outcomes), len(errors), next(iter(errors), None))
    return found, report


def _write_cells(
    records: Sequence[Record], segmenter: Segmenter, config: CellImageConfig, folder: Path
) -> list[dict[str, Any]]:
    """A row for each record; its mask (0 and 255) and its cell image are written into `folder`."""
    rows = []
    for part in (MASKS, CELLS):
        (folder / part).mkdir()
    with track("finding cells", len(records)) as progress:
        for number, record in enumerate(records):
            row: dict[str, Any] = {**dict.fromkeys(COLUMNS, ""), "path": str(record.path)}
            try:
                image = record.read()
                truth = read_cell_mask(record, image) if record.mask_path is not None else None
            except ImageError as error:
                row["error"] = str(error)
            else:
                mask = segmenter(image)
                cut = cell_image(image, mask, config)
                # names may come twice, from two folders
                name = f"{number:05d}_{record.path.stem}.png"
                Image.fromarray(mask.astype(np.uint8) * 255).save(folder / MASKS / name)
                Image.fromarray(cut.pixels).save(folder / CELLS / name)
                row |= {"mask": f"{MASKS}/{name}", "outcome": cut.outcome, "cell_share": f"{mask.mean():.4f}"}
                if truth is not None:
                    row |= {"iou": f"{intersection_over_union(mask, truth):.4f}", "dice": f"{dice(mask, truth):.4f}"}
            rows.append(row)
            progress(1)
    return rows


def _dataset(records: Sequence[Record], source: str) -> CellDataset:
    """Images as a dataset, whatever they are of."""
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
        f"Cells found by {Path(name).name}",
        "every image, its mask and its cell image",
        Results(
            tables=[_compared(shown, _dataset(masked, source), "Agreement with the given masks", seed=seed)]
            if masked
            else [],
            pictures=[_shown("Outlines", readable, shown)] if readable else [],
        ),
        data=[data_card(dataset, "segmented")],
        methods={"segment": {"segmenter": name, **config.model_dump(mode="json")}},
        seed=seed,
    )
