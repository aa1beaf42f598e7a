"""White cells with few labels, study of Mo (2023): encoders from kidney and lymph-node tissue, combined.

Published: `--data wbc=wbc_subsets:WBC_100/train --data held=wbc_subsets:WBC_100/val --data cam16=cam16:CAM16_.../train
--data cam16_test=cam16:CAM16_.../test --data prcc=prcc:pRCC_nolabel`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hemalens.bundle.bundle import Bundle
from hemalens.datasets import CellDataset
from hemalens.datasets.leaks import refuse_leaks
from hemalens.datasets.splits import hold_out, seeded
from hemalens.evaluation.evaluate import plan_test, predict_dataset, score
from hemalens.evaluation.results import ComparisonTable, DataCard, Evaluation, Report
from hemalens.methods.combined_network import CAM16, CAM16_HELD, PRCC, CombinedNetworkConfig
from hemalens.methods.finetune import FinetuneConfig
from hemalens.progress import Say
from hemalens.report.compose import Results, make_report
from hemalens.runs.folders import finish_run
from hemalens.runs.inputs import open_inputs
from hemalens.studies.base import Study, StudyOptions, published
from hemalens.studies.wbc.common import OpenStudy, Row, open_study, run_rows, study_config
from hemalens.studies.wbc.differences import changed_settings, departures, differences, other_images
from hemalens.studies.wbc.tables import gains_table, published_table
from hemalens.training.cluster_labels import FEATURE_TABLE, LABEL_TABLE, Clusters, clusters_of, write_clusters
from hemalens.training.pretraining import pretrained

REFERENCE = "alone"
CAM16_TEST = "cam16_test"
CLUSTER_TABLES = "clusters"
"""Folder in a run for the tables of the clusters."""
ALONE: dict[str, Any] = CombinedNetworkConfig().model_dump(include=set(FinetuneConfig.model_fields), exclude={"masks"})
"""The published training without further data: that of the combined network on the ResNet-18 alone."""
ROWS: dict[str, Row] = {
    "alone": Row("without further data", "finetune", ALONE),
    "combined": Row("combined network", "combined_network", auxiliary=(CAM16, PRCC), optional=(CAM16_HELD,)),
    "clusters": Row(
        "combined network, pRCC by clusters", "combined_network", {"prcc": "clusters"}, (CAM16, PRCC), (CAM16_HELD,)
    ),
    "lite0": Row(
        "Lite0 from ImageNet, fine-tuned",
        "finetune",
        {**ALONE, "backbone": "tf_efficientnet_lite0", "weights": "package", "open_stages": None},
        resnet=False,
        ours=True,
    ),
}
"""The paper's three first, then ours; by the names that the setting `rows` takes."""


def run(data: Mapping[str, Sequence[str]], options: StudyOptions) -> Report:
    """Train both encoders, then every row on every fraction; test all on the same images; the same call resumes."""
    seed, say = options.seed, options.say
    as_published = study_config(options).selection == "published-selection"
    if as_published and CAM16_TEST in data and not data.get(CAM16_HELD):
        data = {**data, CAM16_HELD: data[CAM16_TEST]}
    with open_study(STUDY, ROWS, "combined_network", data, options) as study:
        cells = study.cells
        tissue = _Tissue(study, study.out, say)
        for key in ("combined", "clusters"):
            if key in study.rows:
                tissue.add(key, data.get(CAM16_TEST, ()))
        runs = run_rows(study, say=say)
        report = make_report(
            f"White cells and other tissue: {cells.name}",
            f"study wbc-combined: {len(cells.parts.train)} training images in fractions, {study.protocol.seeds} seed(s)",
            Results(
                evaluations=tissue.evaluations,
                fractions=[found.curve for found in runs.values()],
                differences=differences(STUDY, study),
                curves=[curve for found in runs.values() for curve in found.training],
                tables=[
                    published_table(
                        runs, published("wbc_combined"), shown=cells.published, comparable=not departures(STUDY, study)
                    ),
                    *gains_table(runs, REFERENCE, seed=seed),
                    *tissue.tables,
                ],
            ),
            data=[*study.cards, *tissue.cards],
            methods=study.methods,
            seed=seed,
        )
        return finish_run(study.out, report)


@dataclass(slots=True)
class _Tissue:
    """The encoders on their own tissue: the CAM16 classifier, and the clusters of pRCC."""

    study: OpenStudy
    out: Path
    say: Say
    evaluations: list[Evaluation] = field(default_factory=list)
    tables: list[ComparisonTable] = field(default_factory=list)
    cards: list[DataCard] = field(default_factory=list)

    def add(self, key: str, test_specs: Sequence[str]) -> None:
        """Train and test the encoders of the row `key`; they stay in the cache."""
        _, config = self.study.rows[key]
        assert isinstance(config, CombinedNetworkConfig)
        if key == "clusters":
            self._cluster(config, self.study.auxiliary[PRCC])
        elif test_specs:
            self._classify(config, self.study.auxiliary[CAM16], test_specs[0])

    def _classify(self, config: CombinedNetworkConfig, train: CellDataset, spec: str) -> None:
        self.say(f"classifier of {train.name}: {len(train)} images")
        test = open_inputs(spec, role=CAM16_TEST, labels=train.label_map)
        held = self.study.auxiliary.get(CAM16_HELD)
        bundle = pretrained(train, config, config.pretraining, held=held)
        optimistic = held is not None and not set(held.contents).isdisjoint(test.dataset.contents)
        target = replace(test.dataset, name=f"{test.dataset.name}, the epoch chosen on it") if optimistic else test.dataset
        if not optimistic:
            refuse_leaks(bundle.seen, target)
        found = self._tested(bundle, target, method="classifier of tissue", source=train.name)
        self.cards.append(test.card)
        shown = spec.startswith("cam16:") and not test.dataset.synthetic
        cards = {CAM16: self.study.more[CAM16].card, CAM16_TEST: test.card}
        reasons = self._departures("combined", cards)
        self.tables.append(_accuracy_table(found, reasons if shown else None, optimistic=optimistic))

    def _cluster(self, config: CombinedNetworkConfig, regions: CellDataset) -> None:
        self.say(f"clusters of {regions.name}: {len(regions)} images")
        clusters = clusters_of(regions, config.clustering)
        write_clusters(clusters, self.out / CLUSTER_TABLES)
        learn, test = hold_out(clusters.dataset, 0.2, seeded(self.study.seed, "clusters"))
        bundle = pretrained(learn, config, config.pretraining)
        refuse_leaks(bundle.seen, test)
        found = self._tested(bundle, test, method="classifier of clusters", source=clusters.dataset.name)
        reasons = self._departures("clusters", {PRCC: self.study.more[PRCC].card})
        self.tables.append(clusters_table(clusters, found, reasons))

    def _departures(self, key: str, cards: Mapping[str, DataCard]) -> list[str]:
        """Reasons why published numbers of the encoders of a row are not comparable."""
        settings = ["settings, as listed under the differences from the paper"] if changed_settings(self.study, key) else []
        return [*other_images(STUDY, cards), *settings]

    def _tested(self, bundle: Bundle, target: CellDataset, *, method: str, source: str) -> Evaluation:
        plan = plan_test(bundle.manifest.labels, target)
        found = score(
            [predict_dataset(bundle, target.only_classes(plan.tested))],
            plan,
            target=target,
            method=method,
            source_name=source,
            seed=self.study.seed,
        )
        self.evaluations.append(found)
        return found


def clusters_table(clusters: Clusters, classified: Evaluation, departures: Sequence[str] = ()) -> ComparisonTable:
    """Sizes of the clusters, their agreement with type labels where there are any, and the accuracy of their classifier.

    `departures` are reasons why the published numbers are not comparable.
    """
    reference = published("wbc_combined")
    real = clusters.dataset.name.startswith("prcc") and not clusters.dataset.synthetic
    labels = [record.source_label for record in clusters.regions.records]
    rows: list[tuple[str | int | float | None, ...]] = [
        (f"regions in cluster {i + 1}", n, reference["prcc_cluster_sizes"][i] if real and i < 2 else None)
        for i, n in enumerate(clusters.sizes.values())
    ]
    rows += [
        (f"regions of type {i + 1}", labels.count(f"type{i + 1}") or None, n if real else None)
        for i, n in enumerate(reference["prcc_type_sizes"])
    ]
    agreement = clusters.agreement
    rows += [
        ("agreement with the type labels, best matching", agreement.accuracy if agreement else None, None),
        ("agreement of a single cluster", agreement.majority_rate if agreement else None, None),
        ("adjusted Rand index with the type labels", agreement.adjusted_rand if agreement else None, None),
        (
            "accuracy of a classifier of the clusters, held-out regions",
            classified.scores.accuracy.value,
            reference["prcc_classifier"] / 100 if real else None,
        ),
    ]
    return ComparisonTable(
        title=f"Clusters of {clusters.dataset.name.removesuffix(', clustered')}",
        columns=("", "ours", "published, not comparable" if real and departures else "published"),
        rows=tuple(rows),
        note=f"{clusters.n_components} principal components keep {clusters.explained:.0%} of the features' variance. A "
        "classifier of the clusters is no evidence about the types. Features and clusters of the regions: "
        f"{CLUSTER_TABLES}/{FEATURE_TABLE} and {CLUSTER_TABLES}/{LABEL_TABLE}."
        + (" The paper counts the types in a first version of the set, of two regions fewer." if real else "")
        + ("" if agreement else " Without type labels the agreement is unknown.")
        + _not_comparable(departures if real else ()),
    )


def _accuracy_table(found: Evaluation, departures: Sequence[str] | None, *, optimistic: bool) -> ComparisonTable:
    """The classifier's accuracy; `departures` are reasons why the published one is not comparable, None to leave it out."""
    accuracy = found.scores.accuracy
    interval = "n/a" if accuracy.low is None else f"{accuracy.low:.3f}–{accuracy.high:.3f}"
    reference = None if departures is None else published("wbc_combined")["cam16"] / 100
    told = "published, not comparable" if departures else "published"
    return ComparisonTable(
        title="Classifier of the labelled tissue",
        columns=("tested on", "images", "accuracy", "95 %", "majority rate", told),
        rows=((found.target, found.n_images, accuracy.value, interval, found.scores.majority_rate, reference),),
        note=(
            "The epoch is chosen on the tested images, as published: the accuracy is optimistic."
            if optimistic
            else "Published: the best epoch on the test images (optimistic); here other images choose the epoch."
        )
        + _not_comparable(departures or ()),
    )


def _not_comparable(departures: Sequence[str]) -> str:
    return f" Not comparable: {'; '.join(departures)}." if departures else ""


STUDY = Study.of("wbc_combined", run)
