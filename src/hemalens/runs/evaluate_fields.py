"""Test a detector on fields with boxes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from hemalens.bundle.bundle import bundle_folder, open_bundle
from hemalens.bundle.detector import Detector, default_detector, open_detector
from hemalens.bundle.folders import kind_of
from hemalens.bundle.seen import SEEN
from hemalens.config import checked
from hemalens.datasets.fields.base import Field, FieldDataset
from hemalens.datasets.fields.open import open_fields
from hemalens.datasets.fields.readers import FIELD_READERS
from hemalens.datasets.open import check_specs
from hemalens.errors import DatasetError, InputError, SplitError, near_matches, one_line, public
from hemalens.evaluation.fields import Classifier, TestedDetector, find_in_fields, is_white_cell, score_fields
from hemalens.evaluation.results import Detection, MethodCard, Report
from hemalens.files import PathLike, as_path, atomic_dir
from hemalens.inference.predictor import Predictor
from hemalens.outputs import claim_folder
from hemalens.progress import Say
from hemalens.report import report_files, write_report
from hemalens.report.compose import Results, field_card, make_report

DETECTOR_KIND = "hemalens-detector"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldOptions:
    """Which fields are tested, and with what behind the detector.

    `domains` are the laboratories that are tested, by default all. `drop_seen` leaves out fields that the detector was
    trained on. A `bundle` classifies the white cells that are found: those that it calls something else, or finds no cell
    in, are left out of a further row.
    """

    domains: tuple[str, ...] = ()
    drop_seen: bool = False
    bundle: PathLike | None = None


DEFAULTS = FieldOptions()


def is_fields(spec: str) -> bool:
    """Whether a name "reader:path" is one of fields with boxes."""
    name, separator, _ = spec.partition(":")
    return bool(separator) and name in FIELD_READERS


def fields_path(spec: str) -> Path:
    """The path in a name of fields."""
    return Path(spec.partition(":")[2]).expanduser()


def takes_fields(model: Path | None, specs: Sequence[str]) -> bool:
    """Whether `specs` are fields for a detector, `model` or the default one.

    Raises `InputError` for a detector with single-cell images, a bundle with fields, and both in one test.
    """
    fields = [spec for spec in specs if is_fields(spec)]
    others = [spec for spec in specs if not is_fields(spec)]
    detects = bool(fields) if model is None else kind_of(detector_folder(model)) == DETECTOR_KIND
    if detects and others:
        what = f"{one_line(model)} is a detector, and" if model else "the default detector"
        raise InputError(
            f"{what} finds cells in fields",
            expected=f"fields with boxes in --data, as in {' or '.join(f'{name}:PATH' for name in FIELD_READERS)}",
            got=one_line(others[0]),
        )
    if fields and not detects:
        raise InputError(
            f"{one_line(model)} is no detector, and {one_line(fields[0])} are fields",
            expected="a detector for fields, or single-cell images for a bundle",
            remedy="Name the detector first, and a bundle behind it with --bundle; without a name the default detector is "
            "tested.",
        )
    return detects


def detector_folder(path: Path) -> Path:
    """The folder of a detector; of a run folder, the one in it."""
    within = path / "detector"
    return within if kind_of(path) is None and kind_of(within) is not None else path


@public
def evaluate_fields(
    detector: PathLike | None,
    data: PathLike | Sequence[PathLike],
    *,
    out: PathLike,
    options: FieldOptions = DEFAULTS,
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Report:
    """Test a detector, by default the package's, on fields with boxes, and write a report into `out`.

    Each laboratory is reported, and several together. An unreadable field is a row of the report. Raises `SplitError` for
    fields that the detector has seen, unless dropped, and `DatasetError` where no box or no field is left.
    """
    options = checked(options, FieldOptions)
    out, specs = as_path(out, "out"), list(dict.fromkeys(check_specs(data, "the fields")))
    folder = None if detector is None else detector_folder(as_path(detector, "the detector"))
    behind = [] if options.bundle is None else [bundle_folder(options.bundle)]
    inputs = [*([folder] if folder else []), *behind, *map(fields_path, specs)]
    with claim_folder(out, report_files, "a report", overwrite=overwrite, inputs=inputs):
        opened = default_detector() if folder is None else open_detector(folder)
        opened.check_test()
        classifier = None if options.bundle is None else _classifier(options.bundle, say)
        given = fields_of([open_fields(spec) for spec in specs], options.domains)
        recorded = SEEN in opened.manifest.files
        given, seen = _unseen(given, opened.seen, drop=options.drop_seen)
        for note in [f"{each.name}: {note}" for each in given for note in each.notes]:
            say(note)
        names = TestedDetector(
            detector=opened.manifest.method,
            source=" + ".join(entry.name for entry in opened.manifest.data if entry.role == "train") or "unknown data",
            target=" + ".join(each.name for each in given if len(each)),
            seen="left out" if any(seen) else "none" if recorded else "unknown",
            classifier=classifier.name if classifier else "",
        )
        if not recorded:
            say("the detector does not record its training images: fields that it has seen are not recognised")
        say(f"finding the cells of {sum(map(len, given))} field(s)")
        report = make_report(
            f"{names.detector} tested on {names.target}",
            "a saved detector on fields with boxes",
            Results(detections=detections_of(opened, given, names, classifier, seed=seed, say=say)),
            data=[
                field_card(each, "test", {"seen in training": n} if n else {}) for each, n in zip(given, seen, strict=True)
            ],
            methods={names.detector: opened.manifest.config},
            method_cards=[detector_card(opened)],
            seed=seed,
        )
        with atomic_dir(out, report_files) as new:
            write_report(report, new)
        return report


def detections_of(
    detector: Detector,
    given: Sequence[FieldDataset],
    names: TestedDetector,
    classifier: Classifier | None = None,
    *,
    seed: int,
    say: Say,
) -> list[Detection]:
    """Find the cells of all fields, and score them by laboratory; says how many fields cannot be read."""
    tested = find_in_fields(detector.finder, [field for each in given for field in each.fields], classifier=classifier)
    if tested.unreadable:
        name, error = next(iter(tested.unreadable.items()))
        say(f"left out {len(tested.unreadable)} unreadable field(s), first: {one_line(name)}: {error}")
    return score_fields(tested, names, seed=seed)


def fields_of(given: Sequence[FieldDataset], domains: Sequence[str] = ()) -> list[FieldDataset]:
    """The fields of some laboratories, by default of all; a dataset without one is left out.

    Raises `InputError` for an unknown laboratory, and `DatasetError` for fields without any box.
    """
    known = list(dict.fromkeys(field.record.domain for each in given for field in each.fields))
    for name in domains:
        if name not in known:
            raise InputError(f"--domain {one_line(name)} is no laboratory of the fields", remedy=near_matches(name, known))
    chosen = [
        each.subset(i for i, field in enumerate(each.fields) if not domains or field.record.domain in domains)
        for each in given
    ]
    chosen = [each for each in chosen if len(each)]
    if not any(len(field.boxes) for each in chosen for field in each.fields):
        raise DatasetError(
            f"no field of {' + '.join(each.name for each in given)} has a box",
            expected="fields in which cells are annotated",
            got=f"{sum(map(len, chosen))} field(s) without a box",
            remedy="Annotate cells, or name other fields.",
        )
    return chosen


def _unseen(given: Sequence[FieldDataset], seen: Collection[str], *, drop: bool) -> tuple[list[FieldDataset], list[int]]:
    """The fields that are not among `seen`, and how many of each set are; raises `SplitError` for these unless dropped.

    A set of which no field is left stays, without fields, where another has some.
    """
    fresh = [each.subset(i for i, field in enumerate(each.fields) if _content(field) not in seen) for each in given]
    n_seen = [len(each) - len(rest) for each, rest in zip(given, fresh, strict=True)]
    if any(n_seen) and not drop:
        name = next(f.record.file_name for each in given for f in each.fields if _content(f) in seen)
        raise SplitError(
            f"the detector was trained on {sum(n_seen)} of these fields, first: {one_line(name)}",
            expected="fields that it has not seen",
            remedy="Use other fields; --drop-seen leaves these out.",
        )
    if not any(map(len, fresh)):
        raise DatasetError(
            "no field is left to test",
            expected="fields that the detector has not seen",
            got="training fields only",
            remedy="Test on other fields.",
        )
    return fresh, n_seen


def _content(field: Field) -> str:
    try:
        return field.record.content_id()
    except OSError:
        return ""  # found unreadable when it is tested


def _classifier(bundle: PathLike, say: Say) -> Classifier:
    opened = open_bundle(bundle)
    labels = opened.manifest.labels
    if all(map(is_white_cell, labels)):
        say(f"{opened.manifest.method} knows white cells alone: only boxes in which it finds no cell are left out")
    return Classifier(opened.manifest.method, Predictor(opened, n_workers=1))


def detector_card(detector: Detector) -> MethodCard:
    """The method card of a detector."""
    manifest = detector.manifest
    cells = ", ".join(f"{n:,} {kind}s" for kind, n in manifest.n_boxes.items())
    learned = f"{manifest.n_fields:,} fields: {cells}"
    return MethodCard(
        name=manifest.method,
        method=manifest.method,
        what=f"{manifest.n_parameters:,} weights",
        learned_from=(*(entry.name for entry in manifest.data), learned),
    )
