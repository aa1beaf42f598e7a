"""Choose the views of `robust` by the rule of `choice_rule`: `python tools/choose_views.py CANDIDATES.yaml --fits DIR`.

The models of a leave-one-laboratory-out benchmark are tested with other views than they were trained to serve, in the
laboratory that they have not seen and in its imitations. Both networks of `robust` get each number of views; candidates
are in the order of the work that they take. The output folder gets `views.csv` and `views.md`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from choice_rule import TRAINING, Row, Test, markdown, ranked, verdict
from choose_defaults import Candidates, Training, table, trainings
from hemalens.benchmark.config import read_yaml
from hemalens.errors import HemalensError
from hemalens.files import write_text
from hemalens.graphs.build import cut
from hemalens.graphs.runtime import run_rows
from hemalens.methods.few_shot_finetune import FewShotFinetuneConfig, module_of
from hemalens.methods.robust import RobustModule
from hemalens.models.test_time_augmentation import Views, views_of
from hemalens.training.data import resized_images

PAIRS: tuple[tuple[Views, Views], ...] = ((1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (2, 4), (4, 1), (4, 2), (4, 4))
"""Views of the colours and of the outline, the cheaper ones first: an outline costs a quarter of the colours."""
MOST: Views = 4
BATCH = 32


def name_of(pair: tuple[int, int]) -> str:
    """A candidate's name."""
    return f"{pair[0]} and {pair[1]} of the outline"


def embeddings(module: RobustModule, images: NDArray[np.uint8]) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Of images (n, 3, s, s), the embedding of the colours and of the outline, (n, d) each, in every view."""
    found: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in range(MOST)]
    served = module.served
    with torch.inference_mode():
        for first in range(0, len(images), BATCH):
            given = module.network_input(module.pixels(torch.from_numpy(images[first : first + BATCH].copy())))
            seen = zip(*(views_of(each, MOST).chunk(MOST) for each in (given, served.outlines(given))), strict=True)
            for own, (colours, outlines) in zip(found, seen, strict=True):
                own.append((served.embed_colours(colours), served.outlined.embed(outlines)))
    return [tuple(torch.cat(part).numpy() for part in zip(*own, strict=True)) for own in found]  # type: ignore[misc]


def tests_of(training: Training, scratch: Path) -> Iterator[Test]:
    """The test of each candidate in each set of the laboratory that a model has not seen."""
    bundle = training.bundle
    module = module_of(bundle, FewShotFinetuneConfig(), seed=0).eval()
    head = cut(bundle.graph, ["embedding"], ["probabilities"]).SerializeToString()
    for each in training.sets:
        views = embeddings(module, resized_images(each.cells, bundle.manifest.preprocessing, scratch / "pixels.npy"))
        for pair in PAIRS:
            parts = [np.mean([view[i] for view in views[:n]], axis=0) for i, n in enumerate(pair)]
            made = run_rows(head, {"embedding": np.concatenate(parts, axis=1)}, ["probabilities"])["probabilities"]
            score = training.balanced(each.cells, made)
            yield Test(name_of(pair), training.laboratory, training.seed, each.name, each.mix, score, score)


def run(candidates: Candidates, sources: Sequence[str], fits: Path, out: Path) -> list[Row]:
    """Test and choose; the tables are written into `out`."""
    tests: list[Test] = []
    for training in trainings(candidates, sources, fits, out / "cells"):
        tests += tests_of(training, out)
        print(f"tested: {training.laboratory}, seed {training.seed}", file=sys.stderr)
    rows = ranked(tests)
    write_text(out / "views.csv", table([asdict(row) for row in rows]))
    write_text(out / "views.md", f"{verdict(TRAINING, rows)}\n\n{markdown(rows)}")
    return rows


def main() -> int:
    """Print what is chosen; 2 for models or sources that cannot be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidates", type=Path, metavar="CANDIDATES.yaml", help="how the models were trained")
    parser.add_argument("--source", action="append", required=True, metavar="SPEC", help="a laboratory; repeatable")
    parser.add_argument("--fits", type=Path, required=True, metavar="DIR", help="the benchmark that has trained the models")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the tables are written")
    given = parser.parse_args()
    try:
        candidates = Candidates.from_mapping(read_yaml(given.candidates), source=str(given.candidates))
        rows = run(candidates, given.source, given.fits, given.out)
    except HemalensError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(verdict(TRAINING, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
