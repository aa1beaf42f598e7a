"""Choose the defaults of `robust` and `adapt --unlabelled` by one rule: `python tools/choose_defaults.py CANDIDATES.yaml`.

CANDIDATES.yaml names trainings and adaptations, `--source` the laboratories. All laboratories but one train, each in turn
and with several seeds (`hemalens benchmark --protocol leave-one-laboratory-out`). The left-out laboratory tests, as it is
and as imitated laboratories with other looks and mixes of cell types. Adaptations are tested on the models of the first
training. `choice_rule` states the rule. The output folder gets `choice.csv`, `choice.md` and all tests in `tests.csv`. The
same command resumes.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

import hemalens.adaptation
from choice_rule import ADAPTATION, TRAINING, Row, Test, in_common, markdown, ranked, verdict
from hemalens.adaptation.adjustment import Images
from hemalens.adaptation.guards import choose
from hemalens.adaptation.unlabelled_config import UnlabelledConfig
from hemalens.benchmark.config import BenchmarkConfig, Contender, read_yaml
from hemalens.benchmark.plan import plan_benchmark
from hemalens.benchmark.protocols.base import Names
from hemalens.benchmark.protocols.left_out import LeftOutTask
from hemalens.benchmark.run import benchmark
from hemalens.benchmark.trials import Trial
from hemalens.bundle.bundle import MODEL, Bundle, open_bundle
from hemalens.bundle.nucleus_size import extent_of, log_diameters
from hemalens.cache import FeatureCache
from hemalens.config import StrictConfig
from hemalens.datasets import CellDataset, Record
from hemalens.datasets.mixes import MIXES
from hemalens.errors import ConfigError, HemalensError, InputError, near_matches, one_line
from hemalens.evaluation import metrics
from hemalens.evaluation.left_out import NONE
from hemalens.files import atomic_dir, default_cache_dir, read_sealed, sha256_text, write_sealed, write_text
from hemalens.graphs.build import cut
from hemalens.graphs.features import extract
from hemalens.graphs.runtime import run_rows

PROTOCOL = "leave-one-laboratory-out"
REAL = "real"
"""The mix of a laboratory as it is."""
PACKAGE = hemalens.adaptation.__name__
CODE = sha256_text(*(file.read_text("utf-8") for file in sorted(Path(hemalens.adaptation.__path__[0]).glob("*.py"))))
"""A digest of the adaptation: its tests are computed anew where it changes."""

# ---------------------------------------------------------------------------------------------------------- candidates


class Adaptation(StrictConfig):
    """Settings of `adapt --unlabelled`, and constants of modules below `hemalens.adaptation`, as `neighbours.WEIGHT`."""

    name: str
    settings: Names = ()
    constants: dict[str, float] = Field(default_factory=dict)


class Candidates(StrictConfig):
    """Trainings and adaptations, from simple to complex, and how they are tested.

    Each left-out laboratory is imitated `imitated` times, with `images` cells; the imitations take turns through the mixes.
    """

    training: tuple[Contender, ...] = Field(strict=False, min_length=1)
    adaptation: tuple[Adaptation, ...] = Field(default=(), strict=False)
    labels: str = "five_class"
    cell_image: str | None = None
    min_per_class: int = Field(default=5, ge=1)
    seeds: int = Field(default=3, ge=1)
    seed: int = Field(default=0, ge=0)
    imitated: int = Field(default=10, ge=0)
    images: int = Field(default=60, ge=8)

    def benchmark(self, sources: Sequence[str], *, imitated: int) -> BenchmarkConfig:
        """The benchmark that trains the models, with so many imitated laboratories."""
        own = {"seeds": self.seeds, "adapt": NONE, "imitated": imitated, "mixes": MIXES, "images": self.images}
        kept = self.model_dump(include={"labels", "cell_image", "min_per_class", "seed"})
        values = {"methods": self.training, "sources": tuple(sources), "protocols": (PROTOCOL,), **kept}
        return BenchmarkConfig.from_mapping({**values, "leave_one_laboratory_out": own})

    def check(self) -> None:
        """Raise `ConfigError` for two adaptations of one name, and for settings or constants that do not exist."""
        names = [NONE, *(each.name for each in self.adaptation)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"two adaptations are called {twice[0]!r}", remedy="Give one of them another name.")
        for each in self.adaptation:
            UnlabelledConfig.load(None, each.settings)
            with constants(each.constants):
                pass


@contextmanager
def constants(values: Mapping[str, float]) -> Iterator[None]:
    """Other values of constants, `MODULE.NAME`, within the block; raises `ConfigError` for one that does not exist."""
    before = []
    try:
        for key, value in values.items():
            module, name = _constant(key)
            before.append((module, name, getattr(module, name)))
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in reversed(before):
            setattr(module, name, value)


def _constant(key: str) -> tuple[Any, str]:
    path, _, name = key.rpartition(".")
    try:
        module = importlib.import_module(f"{PACKAGE}.{path}")
        numbers = [own for own, value in vars(module).items() if own.isupper() and isinstance(value, int | float)]
    except (ImportError, ValueError):
        raise ConfigError(f"unknown constant {key!r}", expected=f"MODULE.NAME of a module below {PACKAGE}") from None
    if name not in numbers:
        raise ConfigError(f"unknown constant {key!r}", remedy=near_matches(name, numbers))
    return module, name


# ----------------------------------------------------------------------------------------------------------------- tests


@dataclass(frozen=True)
class CellSet:
    """Cells of a laboratory as a model sees them, from files: the laboratory as it is, or an imitation of it."""

    name: str
    mix: str
    digest: str
    cells: CellDataset

    @classmethod
    def kept(cls, name: str, mix: str, cells: CellDataset, folder: Path) -> CellSet:
        """The set with its crops in a folder of `folder`, so that imitation and stages are computed once."""
        digest = sha256_text(*(record.view_id() for record in cells.records))
        own = folder / digest[:16]
        if not own.exists():
            with atomic_dir(own) as new:
                for i, record in enumerate(cells.records):
                    Image.fromarray(record.read()).save(new / f"{i:05}.png", compress_level=1)
        records = [
            Record(own / f"{i:05}.png", r.source_label, r.domain, group=r.group, cell_type=r.cell_type, label=r.label)
            for i, r in enumerate(cells.records)
        ]
        return cls(name, mix, digest, replace(cells, records=tuple(records)))

    @property
    def labelled(self) -> list[str | None]:
        """What its tests depend on: the digest of its images, and their labels."""
        return [self.digest, *(record.label for record in self.cells.records)]


@dataclass(frozen=True)
class Training:
    """A trained model, the sets of the laboratory that it has not seen, and its classes that are tested there."""

    trial: Trial
    bundle: Bundle
    sets: tuple[CellSet, ...]
    tested: tuple[str, ...]

    @property
    def seed(self) -> int:
        """The seed of the training."""
        return self.trial.task.seed + self.trial.i

    @property
    def laboratory(self) -> str:
        """The laboratory that it has not seen."""
        return _task(self.trial).laboratory.name

    @cached_property
    def images(self) -> list[Images]:
        """What the model computes of each set: once for all candidates."""
        graph, extent = self.bundle.tested_graph, extent_of(self.bundle.stages)
        encoder = cut(graph, ["image"], ["embedding"])
        head = cut(graph, ["embedding"], ["logits"]).SerializeToString()
        found = []
        for each in self.sets:
            records = each.cells.records
            embeddings = extract(records, encoder, cache=FeatureCache(default_cache_dir())).complete()
            logits = run_rows(head, {"embedding": embeddings}, ["logits"])["logits"].astype(np.float64)
            found.append(Images(logits, embeddings, None if extent is None else log_diameters(records, extent)))
        return found

    def tests(self, candidate: Adaptation | None, name: str, out: Path) -> list[Test]:
        """The tests of a candidate; without one, of the model as it is. They are kept in `out`."""
        asked = {} if candidate is None else {**candidate.model_dump(mode="json", exclude={"name"}), "code": CODE}
        model, sets = self.bundle.manifest.files[MODEL].sha256, [each.labelled for each in self.sets]
        key = sha256_text(json.dumps([asked, model, sets, self.tested, self.trial.task.seed], sort_keys=True))
        file = out / f"{key[:16]}.json"
        scores = (read_sealed(file) or {}).get(key)
        if scores is None:
            out.mkdir(parents=True, exist_ok=True)
            scores = self._scores(candidate)
            write_sealed(file, {key: scores})
        return [
            Test(name, self.laboratory, self.seed, each.name, each.mix, score, before)
            for each, (score, before) in zip(self.sets, scores, strict=True)
        ]

    def _scores(self, candidate: Adaptation | None) -> list[tuple[float, float]]:
        """Balanced accuracy of a candidate in each set, and of the model as it is."""
        found = []
        for each, images in zip(self.sets, self.images, strict=True):
            logits = images.logits
            if candidate is not None:
                config, extent = UnlabelledConfig.load(None, candidate.settings), extent_of(self.bundle.stages)
                with constants(candidate.constants):
                    chosen = choose(self.bundle, images, config, extent, self.trial.task.seed)
                    logits = images.logits if chosen.adjustment is None else chosen.adjustment.logits(images)
            found.append((self.balanced(each.cells, logits), self.balanced(each.cells, images.logits)))
        return found

    def balanced(self, cells: CellDataset, logits: NDArray[np.floating[Any]]) -> float:
        """Balanced accuracy over the tested classes, of logits or probabilities (n, k)."""
        labels = list(self.bundle.manifest.labels)
        places = [i for i, record in enumerate(cells.records) if record.label in self.tested]
        truth = np.array([labels.index(str(cells.records[i].label)) for i in places], np.int64)
        return float(metrics.balanced_accuracy(metrics.confusion(truth, logits.argmax(axis=1)[places], len(labels))))


def _task(trial: Trial) -> LeftOutTask:
    if not isinstance(trial.task, LeftOutTask):
        raise TypeError(trial.task)
    return trial.task


def trainings(candidates: Candidates, sources: Sequence[str], fits: Path, out: Path) -> Iterator[Training]:
    """The trained models in the folder of a benchmark, one laboratory after another; those not there are left out."""
    plan = plan_benchmark(candidates.benchmark(sources, imitated=candidates.imitated), fits)
    sets: dict[str, tuple[CellSet, ...]] = {}
    for trial in plan.trials:
        task = _task(trial)
        folder = task.folder(trial.i, trial.fits) / "bundle"
        if not folder.is_dir():
            print(f"not trained: {trial.entry.name}, {trial.target}", file=sys.stderr)
            continue
        bundle = open_bundle(folder)
        cells = task.laboratory.cells
        if [stage.digest for stage in bundle.stages] != [stage.digest for stage in cells.stages]:
            raise InputError(f"{one_line(folder)} sees other cell images", remedy="Set cell_image as it was trained.")
        if cells.name not in sets:
            made = [CellSet.kept(REAL, REAL, cells, out)]
            made += [CellSet.kept(f"imitation {one.seed}", one.mix, one.cells, out) for one in task.imitations]
            sets[cells.name] = tuple(made)
        known = tuple(label for label in task.laboratory.tested if label in bundle.manifest.labels)
        yield Training(trial, bundle, sets[cells.name], known)


# ---------------------------------------------------------------------------------------------------------------- output


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, floats with four digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: f"{v:.4f}" if isinstance(v, float) else v for key, v in row.items()} for row in rows)
    return text.getvalue()


def run(candidates: Candidates, sources: Sequence[str], out: Path, fits: Path | None = None) -> dict[str, list[Row]]:
    """Train, test and choose; the tables are written into `out`. `fits` is a benchmark that has trained the models."""
    candidates.check()
    if fits is None:
        fits = out / "benchmark"
        benchmark(candidates.benchmark(sources, imitated=0), out=fits, say=lambda text: print(text, file=sys.stderr))
    found: dict[str, list[Test]] = {TRAINING: [], ADAPTATION: []}
    first = candidates.training[0].name or candidates.training[0].method
    for training in trainings(candidates, sources, fits, out / "cells"):
        name, place = training.trial.entry.name, out / "tests"
        found[TRAINING] += training.tests(None, name, place)
        if name == first:
            found[ADAPTATION] += training.tests(None, NONE, place)
            for each in candidates.adaptation:
                found[ADAPTATION] += training.tests(each, each.name, place)
        print(f"tested: {name}, {training.trial.target}", file=sys.stderr)
    if not found[ADAPTATION]:
        raise InputError("no model of the first training is there", got=one_line(fits), remedy="Leave --fits out.")
    rows = {kind: ranked(in_common(tests)) for kind, tests in found.items()}
    each_row = [{"kind": kind, **asdict(row)} for kind, own in rows.items() for row in own]
    each_test = [{"kind": kind, **asdict(test)} for kind, tests in found.items() for test in tests]
    write_text(out / "choice.csv", table(each_row))
    write_text(out / "tests.csv", table(each_test))
    parts = [f"{verdict(kind, own)}\n\n{markdown(own)}" for kind, own in rows.items()]
    write_text(out / "choice.md", "\n".join(parts))
    return rows


def main() -> int:
    """Print what is chosen; 2 for candidates or sources that cannot be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidates", type=Path, metavar="CANDIDATES.yaml")
    parser.add_argument("--source", action="append", required=True, metavar="SPEC", help="a laboratory; repeatable")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the tables are written")
    parser.add_argument("--fits", type=Path, metavar="DIR", help="a benchmark that has trained the models, used as it is")
    given = parser.parse_args()
    try:
        candidates = Candidates.from_mapping(read_yaml(given.candidates), source=str(given.candidates))
        rows = run(candidates, given.source, given.out, given.fits)
    except HemalensError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for kind, own in rows.items():
        print(verdict(kind, own))
    return 0


if __name__ == "__main__":
    sys.exit(main())
