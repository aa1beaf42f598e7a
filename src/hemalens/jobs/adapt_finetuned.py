"""Adapt a bundle to a new laboratory by training its whole network on with a few labelled cells; it takes minutes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hemalens import graphs
from hemalens.artifacts import WEIGHTS, DataEntry, library_versions
from hemalens.bundle import (
    FILES,
    MODEL,
    SEEN,
    SEEN_UNLABELLED,
    Adaptation,
    Bundle,
    Manifest,
    open_bundle,
    seen_images,
    write_bundle,
)
from hemalens.datasets import CellDataset
from hemalens.errors import require_extra
from hemalens.evaluation.metrics import fit_temperature, log_softmax
from hemalens.files import claim_folder
from hemalens.home import HOME, home_bytes, home_of
from hemalens.jobs.adapt import expected_accuracy, open_support
from hemalens.jobs.train import Say
from hemalens.sampling import Unreadable, k_fold, seeded, units
from hemalens.training.export import check_parity

if TYPE_CHECKING:
    from hemalens.methods.few_cells import FewCellsConfig, TrainedOn

RULE = "finetune"
"""How the manifest names this way among those of `FewShotConfig`."""
Logits = NDArray[np.float64]


def adapt_finetuned(
    bundle_path: Path,
    support_spec: str,
    *,
    out: Path,
    settings: Sequence[str] = (),
    drop_unreadable: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Bundle:
    """Write a bundle `out`: the network of `bundle_path`, trained on with the labelled cells of `support_spec` alone.

    `settings` are settings key=value of `FewCellsConfig`. The classes stay those of the bundle. Cells of a class that the
    support lacks will hardly be answered any more, and it is said. Raises `LabelError` for labels unknown to the bundle,
    `SplitError` for a support of one class, and `BundleError` for a bundle whose network cannot be taken up.
    """
    require_extra("torch", "train", "adapting by training on")
    from hemalens.methods.few_cells import FewCellsConfig, TrainedOn

    config = FewCellsConfig.load(None, settings)
    claim_folder(out, FILES, "a bundle", overwrite=overwrite)
    base = open_bundle(bundle_path)
    unreadable: Unreadable = "drop" if drop_unreadable else "refuse"
    gone = "it will hardly be answered any more"
    support = open_support(base, support_spec, allow_new=None, gone=gone, unreadable=unreadable, say=say)
    if seen := sum(content in base.seen for content in support.contents):
        say(f"{seen} support image(s) were in the bundle's training data: the expected accuracy is too good")
    with tempfile.TemporaryDirectory(prefix="hemalens_") as scratch:
        way = TrainedOn(base, config, Path(scratch))
        way.check(support)
        logits = left_out(way, support, seed=seed)
        return _trained_on(way, support, logits, out=out, seed=seed)


def left_out(way: TrainedOn, support: CellDataset, *, seed: int) -> Logits:
    """Logits (n, k) of each support image by a training on the folds without it; minus infinity where that cannot be."""
    found = np.full((len(support), len(support.classes)), -np.inf)
    present = support.under(tuple(c for c in support.classes if support.class_counts[c]))
    unit = units(present)
    smallest = min(len(np.unique(unit[present.targets == i])) for i in range(len(present.classes)))
    n_folds = min(way.config.folds, smallest)
    if n_folds < 2:
        return found
    place = {id(record): i for i, record in enumerate(support.records)}
    for i, (_, test) in enumerate(k_fold(present, n_folds, seeded(seed, "folds"))):
        held = np.array([place[id(record)] for record in test.records])
        module = way.learn(support.subset(np.setdiff1d(np.arange(len(support)), held)), seed=seed + i + 1)
        found[held] = way.logits(module, support.subset(held))
    return found


def _trained_on(way: TrainedOn, support: CellDataset, logits: Logits, *, out: Path, seed: int) -> Bundle:
    """Train on all of the support, calibrate by the logits of the folds, and write the bundle."""
    from hemalens.training.checkpoints import tensor_bytes
    from hemalens.training.fit import ModuleAnswers, graph_of

    base = way.base
    told: NDArray[np.bool_] = np.isfinite(logits.min(axis=1))
    temperature = base.manifest.temperature
    if told.any():
        temperature = fit_temperature(logits[told], support.targets[told])
    module = way.learn(support, seed=seed)
    tail = graphs.temperature_graph(len(support.classes), temperature)
    content = graphs.join(graph_of(module, base.manifest.preprocessing), tail).SerializeToString()
    answers = ModuleAnswers(module, support, base.manifest.preprocessing, way.scratch, temperature)
    fine = answers.fine if module.finer else None
    parity, _ = check_parity(content, support.records, answers.probabilities, fine=fine)
    manifest = _manifest(base, support, way.config, logits, told)
    manifest = manifest.model_copy(update={"temperature": temperature, "parity": parity})
    files = {
        MODEL: content,
        SEEN: seen_images(base.seen.union(support.contents)),
        WEIGHTS: tensor_bytes(module.weights()),
    }
    if told.any():
        # the embedding has moved: only the answers tell of the new home
        probabilities = np.exp(log_softmax(logits[told] / temperature))
        files[HOME] = home_bytes(home_of(None, np.zeros((0, 0)), probabilities, support.targets[told]))
    if base.seen_unlabelled:
        files[SEEN_UNLABELLED] = seen_images(base.seen_unlabelled)
    return write_bundle(
        out, manifest, files | {name: more for stage in base.stages for name, more in stage.files().items()}
    )


def _manifest(
    base: Bundle, support: CellDataset, config: FewCellsConfig, logits: Logits, told: NDArray[np.bool_]
) -> Manifest:
    """The base's manifest, changed in what the training changes."""
    expected = expected_accuracy(support, logits, told, how="each of {n} support images answered by a training on others")
    if not config.folds:
        expected = expected.model_copy(update={"verdict": "the accuracy to expect was not asked for (folds=0)"})
    adaptation = Adaptation(
        base_model_sha256=(base.manifest.files[MODEL].sha256,),
        few_shot={"rule": RULE, **config.model_dump(mode="json")},
        support_images=support.contents,
        new_classes=(),
        expected=expected,
    )
    changed: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": (*base.manifest.data, DataEntry.of(support, "support")),
        "adaptation": adaptation,
        # weights in 16 bits were rounded before this training, not after it
        "quantisation": None,
        "versions": library_versions(),
    }
    return base.manifest.model_copy(update=changed)
