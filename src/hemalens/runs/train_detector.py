"""Train a detector on fields with boxes; laboratories and a test part are kept from it."""

from __future__ import annotations

from collections.abc import Sequence

from hemalens.config import check_texts, checked
from hemalens.datasets.fields.open import open_fields
from hemalens.datasets.open import check_specs, spec_path
from hemalens.errors import InputError, public
from hemalens.evaluation.results import ComparisonTable, DataCard, Report
from hemalens.files import PathLike, as_path
from hemalens.imaging.boxes import KINDS
from hemalens.progress import Say
from hemalens.report.compose import Results, field_card, make_report
from hemalens.runs.curves import read_curves
from hemalens.runs.field_parts import FieldParts, split_fields
from hemalens.runs.folders import finish_run, open_run
from hemalens.runs.train import DEFAULTS, TrainOptions, refuse_unused

USED = ("test_fraction", "config_file", "drop_unreadable")
"""The options of a training that a detector has a use for."""


@public
def train_detector(
    train_specs: PathLike | Sequence[PathLike],
    *,
    out: PathLike,
    settings: Sequence[str] = (),
    options: TrainOptions = DEFAULTS,
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Report:
    """Train on fields with boxes, and write `out`/detector; the same call resumes.

    Fields of the laboratories in the setting `leave_out`, and the test part, are not learned; `evaluate` measures on them.
    Of a set that is given in parts, the test part is held out. Raises `InputError` for options other
    than `test_fraction`, `config_file` and `drop_unreadable`, and for fields that nothing can be learned from.
    """
    from hemalens.methods.detector import NAME, DetectorConfig, fit_detector

    check_texts(settings, "the settings")
    options = checked(options, TrainOptions)
    out, specs = as_path(out, "out"), list(dict.fromkeys(check_specs(train_specs, "the training data")))
    if names := ",".join(options.leave_out):
        raise InputError("--leave-out is of classifiers", expected=f"the detector's setting, --set leave_out={names}")
    refuse_unused(options, USED, "a detector is trained on fields with boxes alone")
    config = DetectorConfig.load(options.settings_file, settings)
    parts = split_fields(
        [open_fields(spec) for spec in specs],
        leave_out=config.leave_out,
        test_fraction=options.test_fraction,
        seed=seed,
        unreadable=options.unreadable,
    )
    for note in parts.notes:
        say(note)
    request = {
        "job": "train",
        "method": NAME,
        "config": config.model_dump(mode="json"),
        "sources": config.file_digests(),
        "train": [dataset.fingerprint for dataset in parts.learn],
        "masks": parts.masks,
        "test": [dataset.fingerprint for dataset in parts.test],
        "seed": seed,
    }
    inputs = [*(spec_path(spec) for spec in (*specs, options.config_file) if spec), *config.named_paths()]
    with open_run(out, request, overwrite=overwrite, inputs=inputs, say=say) as folder:
        n_learn, n_test = (sum(map(len, datasets)) for datasets in (parts.learn, parts.test))
        say(f"training on {n_learn} field(s), {n_test} held out for the test")
        fit_detector(parts.learn, config=config, run_dir=folder, dropped=parts.dropped, left_out=parts.left_out)
        report = make_report(
            f"{NAME} on {' + '.join(dataset.name for dataset in parts.learn)}",
            parts.protocol,
            Results(tables=[_laboratories(parts)], curves=read_curves([folder], NAME)),
            data=_cards(parts),
            methods={NAME: config.model_dump(mode="json")},
            seed=seed,
        )
        return finish_run(folder, report)


def _laboratories(parts: FieldParts) -> ComparisonTable:
    """Fields and boxes of each laboratory, learned, held out, or left out."""
    rows: list[tuple[str | int | float | None, ...]] = []
    for role, datasets in (("train", parts.learn), ("test", parts.test)):
        fields = [field for dataset in datasets for field in dataset.fields]
        for domain in sorted({field.record.domain for field in fields}):
            chosen = [field for field in fields if field.record.domain == domain]
            boxes = [sum(len(field.boxes.of_kind(kind)) for field in chosen) for kind in range(len(KINDS))]
            rows.append((domain, role, len(chosen), *boxes))
    rows += [(domain, "left out", n, *[None] * len(KINDS)) for domain, n in parts.left_out.items()]
    return ComparisonTable(
        title="Fields by laboratory",
        columns=("laboratory", "part", "fields", *(f"{kind}s" for kind in KINDS)),
        rows=tuple(rows),
    )


def _cards(parts: FieldParts) -> list[DataCard]:
    learned = [field_card(dataset, "train", dropped) for dataset, dropped in zip(parts.learn, parts.dropped, strict=True)]
    return [*learned, *(field_card(dataset, "test") for dataset in parts.test)]
