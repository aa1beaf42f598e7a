"""White cells with few labels, study of Mo (2023): encoders from kidney and lymph-node tissue, combined.

Published: `--data wbc=wbc_subsets:WBC_100/train --data held=wbc_subsets:WBC_100/val --data cam16=cam16:CAM16_.../train
--data cam16_test=cam16:CAM16_.../test --data prcc=prcc:pRCC_nolabel`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hemalens.datasets import CellDataset
from hemalens.datasets.splits import hold_out, seeded
from hemalens.evaluation.evaluate import evaluate
from hemalens.evaluation.results import ComparisonTable, DataCard, Evaluation, Report
from hemalens.methods.combined_network import CAM16, PRCC, CombinedNetworkConfig
from hemalens.methods.finetune import FinetuneConfig
from hemalens.progress import Say
from hemalens.report.compose import Results, make_report
from hemalens.runs.folders import finish_run
from hemalens.runs.inputs import open_inputs
from hemalens.studies.base import Study, StudyOptions, published
from hemalens.studies.wbc.common import OpenStudy, Row, open_study, run_rows
from hemalens.studies.wbc.tables import gains_table, published_table
from hemalens.training.cluster_labels import Clusters, clusters_of
from hemalens.training.pretraining import pretrained

REFERENCE = "alone"
CAM16_TEST = "cam16_test"
ALONE: dict[str, Any] = CombinedNetworkConfig().model_dump(include=set(FinetuneConfig.model_fields), exclude={"masks"})
"""The published training without further data: that of the combined network on the ResNet-18 alone."""
ROWS: dict[str, Row] = {
    "alone": Row("without further data", "finetune", ALONE),
    "combined": Row("combined network", "combined_network", auxiliary=(CAM16, PRCC)),
    "clusters": Row("combined network, pRCC by clusters", "combined_network", {"prcc": "clusters"}, (CAM16, PRCC)),
    "lite0": Row(
        "Lite0 from ImageNet, fine-tuned",
        "finetune",
        {**ALONE, "backbone": "tf_efficientnet_lite0", "weights": "package", "open_stages": None},
        resnet=False,
    ),
}
"""The paper's first, then ours; by the names that the setting `rows` takes."""


def run(data: Mapping[str, Sequence[str]], options: StudyOptions) -> Report:
    """Train both encoders, then every row on every fraction; test all on the same images; the same call resumes."""
    out, seed, say = options.out, options.seed, options.say
    study = open_study(STUDY, ROWS, "combined_network", data, options)
    cells = study.cells
    tissue = _Tissue()
    for key in ("combined", "clusters"):
        if key in study.rows:
            tissue.add(key, study, data.get(CAM16_TEST, ()), seed=seed, say=say)
    runs = run_rows(study, out=out, say=say)
    report = make_report(
        f"White cells and other tissue: {cells.name}",
        f"study wbc-combined: {len(cells.parts.train)} training images in fractions, {study.protocol.seeds} seed(s)",
        Results(
            evaluations=tissue.evaluations,
            fractions=[found.curve for found in runs.values()],
            tables=[
                published_table(runs, published("wbc_combined")["accuracy"], comparable=cells.published),
                *gains_table(runs, REFERENCE, seed=seed),
                *tissue.tables,
            ],
        ),
        data=[*study.cards, *tissue.cards],
        methods=study.methods,
        seed=seed,
    )
    return finish_run(out, report)


@dataclass(slots=True)
class _Tissue:
    """The encoders on their own tissue: the CAM16 classifier, and the clusters of pRCC."""

    evaluations: list[Evaluation] = field(default_factory=list)
    tables: list[ComparisonTable] = field(default_factory=list)
    cards: list[DataCard] = field(default_factory=list)

    def add(self, key: str, study: OpenStudy, test_specs: Sequence[str], *, seed: int, say: Say) -> None:
        """Train and test the encoders of the row `key`; they stay in the cache."""
        _, config = study.rows[key]
        assert isinstance(config, CombinedNetworkConfig)
        if key == "clusters":
            self._cluster(config, study.auxiliary[PRCC], seed=seed, say=say)
        elif test_specs:
            self._classify(config, study.auxiliary[CAM16], test_specs[0], seed=seed, say=say)

    def _classify(self, config: CombinedNetworkConfig, train: CellDataset, spec: str, *, seed: int, say: Say) -> None:
        say(f"classifier of {train.name}: {len(train)} images")
        test = open_inputs(spec, role=CAM16_TEST, labels=train.label_map)
        bundle = pretrained(train, config, config.pretraining)
        found = evaluate([bundle], [test.dataset], target=test.dataset, source_name=train.name, seed=seed)
        self.evaluations.append(found)
        self.cards.append(test.card)
        reference = published("wbc_combined")["cam16"] / 100 if _is_published(spec, test.dataset, "cam16:") else None
        self.tables.append(_accuracy_table("Classifier of the labelled tissue", found, reference))

    def _cluster(self, config: CombinedNetworkConfig, regions: CellDataset, *, seed: int, say: Say) -> None:
        say(f"clusters of {regions.name}: {len(regions)} images")
        clusters = clusters_of(regions, config.clustering)
        learn, test = hold_out(clusters.dataset, 0.2, seeded(seed, "clusters"))
        bundle = pretrained(learn, config, config.pretraining)
        found = evaluate([bundle], [test], target=test, source_name=clusters.dataset.name, seed=seed)
        self.evaluations.append(found)
        self.tables.append(clusters_table(clusters, found))


def clusters_table(clusters: Clusters, classified: Evaluation) -> ComparisonTable:
    """Sizes of the clusters, their agreement with type labels where there are any, and the accuracy of their classifier."""
    reference = published("wbc_combined")
    real = clusters.dataset.name.startswith("prcc") and not clusters.dataset.synthetic
    sizes = list(clusters.sizes.values())
    rows: list[tuple[str | int | float | None, ...]] = [
        (f"regions in cluster {i + 1}", n, reference["prcc_cluster_sizes"][i] if real and i < 2 else None)
        for i, n in enumerate(sizes)
    ]
    agreement = clusters.agreement
    rows += [
        ("agreement with the type labels, best matching", agreement.accuracy if agreement else None, None),
        ("  a single cluster would reach", agreement.majority_rate if agreement else None, None),
        ("  adjusted Rand index", agreement.adjusted_rand if agreement else None, None),
        (
            "accuracy of a classifier of the clusters, held-out regions",
            classified.scores.accuracy.value,
            reference["prcc_classifier"] / 100 if real else None,
        ),
    ]
    return ComparisonTable(
        title=f"Clusters of {clusters.dataset.name.removesuffix(', clustered')}",
        columns=("", "ours", "published"),
        rows=tuple(rows),
        note=f"{clusters.n_components} principal components keep {clusters.explained:.0%} of the features' variance. A "
        "classifier of the clusters is no evidence about the types."
        + ("" if agreement else " Without type labels the agreement is unknown."),
    )


def _accuracy_table(title: str, found: Evaluation, reference: float | None) -> ComparisonTable:
    accuracy = found.scores.accuracy
    interval = "n/a" if accuracy.low is None else f"{accuracy.low:.3f}–{accuracy.high:.3f}"
    return ComparisonTable(
        title=title,
        columns=("tested on", "images", "accuracy", "95 %", "majority rate", "published accuracy"),
        rows=((found.target, found.n_images, accuracy.value, interval, found.scores.majority_rate, reference),),
        note="Published: the best epoch on the test images; ours chooses the epoch on a part held out of training.",
    )


def _is_published(spec: str, dataset: CellDataset, reader: str) -> bool:
    return spec.startswith(reader) and not dataset.synthetic


STUDY = Study.of("wbc_combined", run)
