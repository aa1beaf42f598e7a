"""The whole workflow in two minutes, on two synthetic laboratories: train, evaluate, adapt, predict, count fields."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np

from hemalens.adaptation.adapt import adapt
from hemalens.adaptation.options import AdaptOptions
from hemalens.bundle.stages import CENTRED
from hemalens.datasets import open_dataset
from hemalens.datasets.splits import seeded
from hemalens.datasets.synthetic import CELL_TYPES, LABORATORIES, synthesize
from hemalens.datasets.synthetic.fields import TRUTH, synthesize_fields
from hemalens.datasets.synthetic.smear import SmearConfig
from hemalens.differential.rules import is_leukocyte
from hemalens.evaluation.results import ComparisonTable, Report
from hemalens.evaluation.results.slides import SlideResult
from hemalens.files import write_text
from hemalens.inference.predict import PredictionSummary, predict
from hemalens.progress import Say, track
from hemalens.report import read_report, write_report
from hemalens.report.compose import Results, make_report
from hemalens.runs.count import count
from hemalens.runs.evaluate import EvaluateOptions, evaluate
from hemalens.runs.folders import finish_run, open_run
from hemalens.runs.train import TrainOptions, train
from hemalens.taxonomy import AS_LABELLED

N_PER_CLASS = 40
N_SUPPORT = 10
"""Labelled target cells of each class."""
SMEAR = SmearConfig(n_slides=1, n_fields=12, white_cells=9.0, empty=False)
"""The smear of the second laboratory: a hundred white cells in few fields, so that it takes seconds."""


def quickstart(
    *, out: Path, seed: int = 0, overwrite: bool = False, say: Say = lambda text: None
) -> tuple[Report, PredictionSummary]:
    """Draw cells of two laboratories, train on the first, adapt to the second, predict, count fields, report in `out`.

    The source model is tested on both laboratories, the adapted one on the second. It also counts a smear drawn there.
    """
    request = {"job": "quickstart", "n_per_class": N_PER_CLASS, "smear": SMEAR.model_dump(mode="json"), "seed": seed}
    with open_run(out, request, overwrite=overwrite, say=say) as folder:
        data = folder / "data"
        if not data.exists():
            _draw(data, seed, say)
        source, target = (f"synthetic:{data / name}" for name in ("lab_a", "lab_b"))
        say("training on lab_a")
        trained = train(
            "linear_probe",
            source,
            out=folder / "train",
            options=TrainOptions(labels=AS_LABELLED, cell_image=CENTRED, validation_fraction=0.2),
            seed=seed,
            overwrite=True,
        )
        say("testing on lab_b, which the model has not seen")
        tested = evaluate(
            folder / "train" / "bundle",
            target,
            out=folder / "lab_b",
            seed=seed,
            overwrite=True,
        )
        n_support = min(N_SUPPORT, N_PER_CLASS // 2)
        say(f"adapting to lab_b with {n_support} labelled cells of each type, testing on the others")
        support = write_support(data, target, n_support, seed)
        adapted = adapt(
            folder / "train" / "bundle",
            out=folder / "adapted",
            overwrite=True,
            support=f"csv:{support}",
            options=AdaptOptions(few_shot=("rule=prototype",)),
        )
        say(adapted.manifest.adaptation.expected.verdict if adapted.manifest.adaptation else "")
        tested_again = evaluate(
            folder / "adapted",
            target,
            out=folder / "lab_b_adapted",
            options=EvaluateOptions(drop_seen=True, explain="none"),
            seed=seed,
            overwrite=True,
        )
        say("predicting lab_b into predictions.csv")
        predicted = predict(
            folder / "adapted", str(data / "lab_b" / "images"), out=folder / "predictions.csv", overwrite=True
        )
        # the table names images of the folder in which the run works
        table = (folder / "predictions.csv").read_text(encoding="utf-8")
        write_text(folder / "predictions.csv", table.replace(str(folder), str(out)))
        counted, drawn = _count_smear(folder, out, seed, say)
        report = _report((trained, tested, tested_again), n_support, (counted, drawn), seed)
        return finish_run(folder, report), predicted


def _count_smear(folder: Path, out: Path, seed: int, say: Say) -> tuple[SlideResult, Counter[str]]:
    """Draw a smear of lab_b, count it with the adapted bundle; the differential, and the white cells drawn by type."""
    say(f"counting a smear of lab_b: {SMEAR.n_fields} fields")
    fields = folder / "fields"
    if not fields.exists():
        synthesize_fields(fields, config=SMEAR, seed=seed, laboratories=("lab_b",))
    found = count(folder / "adapted", fields / "lab_b" / "images", out=folder / "count", overwrite=True)
    # the report names the bundle in the folder in which the run works
    made = read_report(folder / "count" / "report.json")
    methods = {**made.methods, "count": {**made.methods["count"], "bundle": str(out / "adapted")}}
    write_report(made.model_copy(update={"methods": methods}), folder / "count")
    with (fields / "lab_b" / TRUTH).open(encoding="utf-8", newline="") as file:
        drawn = Counter(row["type"] for row in csv.DictReader(file) if is_leukocyte(row["type"]))
    return found.slides[0].result, drawn


def _beside_truth(counted: SlideResult, drawn: Counter[str]) -> ComparisonTable:
    """The differential of the program with what was drawn, in per cent."""
    found = {each.code: each for each in counted.types if not each.total_of}
    rows = []
    for code in sorted({*found, *drawn}, key=lambda code: (-drawn[code], code)):
        each = found.get(code)
        share = each.share if each else None
        limits = "" if share is None or share.low is None else f"{100 * share.low:.1f}–{100 * (share.high or 0):.1f}"
        per_cent = "n/a" if share is None or share.value is None else f"{100 * share.value:.1f}"
        rows.append(
            (code, drawn[code], f"{100 * drawn[code] / drawn.total():.1f}", each.count if each else 0, per_cent, limits)
        )
    return ComparisonTable(
        title=f"A smear of lab_b: {counted.total} white cells counted, {drawn.total()} drawn",
        columns=("type", "drawn", "%", "counted", "%", "95 %"),
        rows=tuple(rows),
        note="Cells that the right or bottom border of a field cuts are not counted.",
    )


def _report(
    reports: tuple[Report, Report, Report], n_support: int, smear: tuple[SlideResult, Counter[str]], seed: int
) -> Report:
    """One report of the training, the test on lab_b, the test of the adapted bundle, and the counted smear."""
    trained, tested, adapted = reports
    after = [
        e.model_copy(update={"method": f"{e.method}, adapted", "name": f"{e.name}, adapted"}) for e in adapted.evaluations
    ]
    return make_report(
        "Quickstart: one laboratory's model in the next laboratory",
        "trained on lab_a, tested on a held-out part of it and on all of lab_b; then adapted to lab_b with "
        f"{n_support} labelled cells of each type and tested on the others; it counts a smear of lab_b",
        Results(
            evaluations=[*trained.evaluations, *tested.evaluations, *after],
            tables=[_beside_truth(*smear)],
            pictures=tested.pictures,
            curves=trained.curves,
        ),
        data=[*trained.data, *tested.data, *adapted.data],
        methods=trained.methods,
        seed=seed,
    )


def _draw(data: Path, seed: int, say: Say) -> None:
    """Draw the cells of both laboratories into `data`."""
    say(f"drawing {N_PER_CLASS} cells of {len(CELL_TYPES)} types for each of {len(LABORATORIES)} laboratories")
    with track("drawing", N_PER_CLASS * len(CELL_TYPES) * len(LABORATORIES)) as progress:
        synthesize(data, n_per_class=N_PER_CLASS, seed=seed, progress=lambda: progress(1))


def write_support(data: Path, laboratory: str, n_per_class: int, seed: int) -> Path:
    """Write a CSV in `data` with `n_per_class` labelled cells of each type of a laboratory, drawn at random."""
    dataset = open_dataset(laboratory, labels=AS_LABELLED)
    rng = seeded(seed, "support")
    drawn = [
        dataset.records[i]
        for target in range(len(dataset.classes))
        for i in rng.choice(np.flatnonzero(dataset.targets == target), n_per_class, replace=False)
    ]
    rows = [f"{record.path.relative_to(data).as_posix()},{record.label}" for record in drawn]
    write_text(data / "support.csv", "\n".join(["path,label", *rows]) + "\n")
    return data / "support.csv"
