"""Protocols on one saved bundle: k-shot, finetuning, labelling and unlabelled in new laboratories, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hemalens.benchmark.protocols.data import open_laboratories
from hemalens.benchmark.protocols.laboratory import LaboratoryProtocol, score_bundle
from hemalens.bundle.bundle import bundle_folder, open_bundle
from hemalens.datasets.leaks import refuse_leaks
from hemalens.datasets.open import spec_path
from hemalens.errors import InputError
from hemalens.evaluation.results import MethodCard, Report
from hemalens.files import atomic_dir
from hemalens.outputs import claim_folder
from hemalens.progress import Say
from hemalens.report import report_files, write_report
from hemalens.report.compose import Results, make_report


def benchmark_bundle(
    bundle_path: Path,
    target_specs: Sequence[str],
    protocols: Mapping[str, LaboratoryProtocol],
    *,
    out: Path,
    min_per_class: int = 1,
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Report:
    """Run protocols, by name, for a bundle on each target, and write a report into `out`.

    Targets are read under the bundle's label map. Raises `InputError` without a target, and `SplitError` for images that
    the bundle was trained on.
    """
    if not target_specs:
        raise InputError("no target is named", remedy="Name one or more with --target SPEC.")
    beside = [folder for protocol in protocols.values() for folder in protocol.beside_folders]
    inputs = [bundle_folder(bundle_path), *beside, *map(spec_path, target_specs)]
    with claim_folder(out, report_files, "a report", overwrite=overwrite, inputs=inputs):
        bundle = open_bundle(bundle_path)
        manifest = bundle.manifest
        laboratories = open_laboratories(
            target_specs, None, labels=manifest.label_map, min_per_class=min_per_class, stages=bundle.stages
        )
        for note in dict.fromkeys(note for laboratory in laboratories for note in laboratory.notes):
            say(note)
        for laboratory in laboratories:
            refuse_leaks(bundle.seen, laboratory.target)
        for protocol in protocols.values():
            protocol.check(laboratories, seed=seed)
        source = next((entry.name for entry in manifest.data if entry.role == "train"), "unknown data")
        results = []
        for name, protocol in protocols.items():
            for laboratory in laboratories:
                say(f"{name}: {laboratory.target.name}")
                results += score_bundle(protocol, bundle, laboratory, source=source, seed=seed)
        learned = tuple(
            f"{entry.name} ({entry.role}), {sum(entry.class_counts.values()):,} images" for entry in manifest.data
        )
        report = make_report(
            f"{manifest.method} from {source}: {', '.join(protocols)}",
            "; ".join(f"{name}, {protocol.description}" for name, protocol in protocols.items()),
            Results(k_shot=results),
            data=[card for laboratory in laboratories for card in laboratory.cards],
            methods={manifest.method: manifest.config},
            method_cards=[MethodCard(name=manifest.method, method=manifest.method, learned_from=learned)],
            seed=seed,
        )
        with atomic_dir(out, report_files) as folder:
            write_report(report, folder)
        return report
