"""Test a saved bundle on labelled images."""

from __future__ import annotations

from pathlib import Path

from hemalens.bundle.bundle import Bundle, open_bundle
from hemalens.evaluation.evaluate import evaluate_with_answers
from hemalens.datasets.leaks import refuse_leaks
from hemalens.evaluation.occlusion import N_SHOWN, occlusion_table
from hemalens.report import HTML_NAME, JSON_NAME, MARKDOWN_NAME, write_report
from hemalens.evaluation.results import MethodCard, Report
from hemalens.evaluation.trust_check import trust_check
from hemalens.files import atomic_dir, claim_folder
from hemalens.runs.inputs import prepare, tell
from hemalens.report.compose import Results, make_report
from hemalens.progress import Say


def evaluate(
    bundle_path: Path,
    data_spec: str,
    *,
    out: Path,
    min_per_class: int = 1,
    drop_seen: bool = False,
    n_occluded: int = N_SHOWN,
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Report:
    """Test a bundle on a dataset under the bundle's own label map, and write a report into `out`.

    Raises `SplitError` when the bundle has seen some of the images, unless `drop_seen` takes them out. Unreadable
    images are listed in the report. `n_occluded` cells at most are shown with what the answer rests on.
    """
    claim_folder(out, (JSON_NAME, MARKDOWN_NAME, HTML_NAME), "a report", overwrite=overwrite)
    bundle = open_bundle(bundle_path)
    # an adapted bundle may know classes that its label map has no place for
    known = bundle.manifest.labels
    given = prepare(
        data_spec,
        labels=bundle.manifest.label_map,
        role="test",
        unreadable="keep",
        keep=lambda label: label in known,
        stages=bundle.stages,
    )
    if drop_seen:
        given = given.unseen(bundle.seen)
    tell(say, [given])
    dataset, card = given.dataset, given.card
    refuse_leaks(bundle.seen, dataset)
    evaluation, (answered,) = evaluate_with_answers(
        [bundle], [dataset], target=dataset, source_name=bundle.manifest.trained_on, seed=seed, min_per_class=min_per_class
    )
    evaluation = evaluation.model_copy(update={"trust": trust_check(bundle, answered, seed=seed)})
    pictures = [occlusion_table(bundle, dataset, answered, n=n_occluded)] if n_occluded else []
    if any(not table.rows for table in pictures):
        say("no picture of what answers rest on: the network is too large, or its work cannot be counted")
    report = make_report(
        f"{bundle.manifest.method} tested on {dataset.name}",
        "a saved bundle on images whose labels it has not seen",
        Results(evaluations=[evaluation], pictures=pictures),
        data=[card],
        methods={bundle.manifest.method: bundle.manifest.config},
        method_cards=[_card_of(bundle)],
        seed=seed,
    )
    with atomic_dir(out) as folder:
        write_report(report, folder)
    return report


def _card_of(bundle: Bundle) -> MethodCard:
    """What a bundle says of itself."""
    manifest = bundle.manifest
    lines = [f"{entry.name} ({entry.role}), {sum(entry.class_counts.values()):,} images" for entry in manifest.data]
    return MethodCard(name=manifest.method, method=manifest.method, learned_from=tuple(lines))
