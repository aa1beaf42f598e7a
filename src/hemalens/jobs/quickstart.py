"""The whole way in two minutes, on synthetic cells of two laboratories."""

from __future__ import annotations

from pathlib import Path

from hemalens.datasets.synthetic import CELL_TYPES, LABORATORIES, synthesize
from hemalens.evaluation.report import write_report
from hemalens.evaluation.results import Report
from hemalens.jobs.evaluate import evaluate
from hemalens.jobs.predict import PredictionSummary, predict
from hemalens.jobs.reporting import make_report
from hemalens.jobs.runs import claim_run, finish_run
from hemalens.jobs.train import Say, train
from hemalens.progress import track
from hemalens.taxonomy import AS_LABELLED

N_PER_CLASS = 40


def quickstart(
    *, out: Path, seed: int = 0, overwrite: bool = False, say: Say = lambda text: None
) -> tuple[Report, PredictionSummary]:
    """Draw the cells of two laboratories, train in the first, test in both, predict in the second; report in `out`."""
    data = out / "data"
    request = {"job": "quickstart", "n_per_class": N_PER_CLASS, "seed": seed}
    claim_run(out, request, overwrite=overwrite)
    if not data.exists():
        say(f"drawing {N_PER_CLASS} cells of {len(CELL_TYPES)} types for each of {len(LABORATORIES)} laboratories")
        with track("drawing", N_PER_CLASS * len(CELL_TYPES) * len(LABORATORIES)) as progress:
            synthesize(data, n_per_class=N_PER_CLASS, seed=seed, progress=lambda: progress(1))
    home, away = (f"synthetic:{data / name}" for name in ("lab_a", "lab_b"))
    say("training on lab_a")
    at_home = train(
        "linear_probe", home, out=out / "train", labels=AS_LABELLED, validation_fraction=0.2, seed=seed, overwrite=True
    )
    say("testing on lab_b, which the model has never seen")
    abroad = evaluate(out / "train" / "bundle", away, out=out / "lab_b", seed=seed, overwrite=True)
    say("predicting lab_b into predictions.csv")
    predicted = predict(
        out / "train" / "bundle", str(data / "lab_b" / "images"), out=out / "predictions.csv", overwrite=True
    )
    report = make_report(
        "Quickstart: one laboratory's model in the next laboratory",
        "trained on lab_a, tested on a held-out part of it and on all of lab_b",
        evaluations=[*at_home.evaluations, *abroad.evaluations],
        data=[*at_home.data, *abroad.data],
        methods=at_home.methods,
        seed=seed,
    )
    write_report(report, out)
    finish_run(out)
    return report, predicted
