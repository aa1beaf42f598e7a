"""Labels that the bundle and the other labelled cells doubt."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hemalens.adaptation.adapt import adapt
from hemalens.adaptation.doubtful_labels import doubtful_labels
from hemalens.datasets import CellDataset, open_dataset
from trained import Colour, colour_bundle, colour_cells

HOME: dict[str, Colour] = {"neutrophil": (200, 60, 60), "lymphocyte": (60, 60, 200), "monocyte": (60, 200, 60)}


def _cells(folder: Path) -> CellDataset:
    return open_dataset(f"folder:{colour_cells(folder, HOME, 4, seed=0)}")


def _answers(cells: CellDataset, wrong: dict[int, int]) -> np.ndarray:
    """Probabilities (n, 3) of the labels, but for the rows `wrong` of other classes; the first of them is the surest."""
    found = np.full((len(cells), 3), 0.1)
    for i, target in enumerate(cells.targets):
        found[i, wrong.get(i, target)] = 0.8 + (0.1 if i == min(wrong, default=-1) else 0)
    return found


def test_a_label_is_doubtful_where_both_agree_on_another(tmp_path: Path) -> None:
    cells = _cells(tmp_path / "cells")
    wrong = {i: int((cells.targets[i] + 1) % 3) for i in (2, 5, 9)}
    text = doubtful_labels(cells, _answers(cells, wrong), np.log(_answers(cells, wrong)))
    assert text is not None
    assert text.startswith("3 of 12 labels are doubtful, check them: ")
    names = [str(cells.records[i].path) for i in (2, 5, 9)]
    assert all(name in text for name in names)
    assert text.index(names[0]) < min(text.index(name) for name in names[1:]), "the surest first"
    # one of the two alone, or two cells, or cells that cannot be left out
    assert doubtful_labels(cells, _answers(cells, wrong), np.log(_answers(cells, {}))) is None
    assert doubtful_labels(cells, _answers(cells, {}), np.log(_answers(cells, wrong))) is None
    two = dict(list(wrong.items())[:2])
    assert doubtful_labels(cells, _answers(cells, two), np.log(_answers(cells, two))) is None
    assert doubtful_labels(cells, np.zeros((12, 3)), np.log(_answers(cells, wrong))) is None


def test_a_support_with_a_third_of_wrong_labels_is_reported_and_a_right_one_is_not(tmp_path: Path) -> None:
    base = colour_bundle(tmp_path / "base", _cells(tmp_path / "home"))
    folder = colour_cells(tmp_path / "support", HOME, 9, seed=3)
    said: list[str] = []
    adapt(base.path, out=tmp_path / "right", support=f"folder:{folder}", say=said.append)
    assert not any("doubtful" in line for line in said)
    for first, second in (("neutrophil", "lymphocyte"), ("lymphocyte", "monocyte"), ("monocyte", "neutrophil")):
        for path in sorted((folder / first).glob("*.png"))[:3]:
            path.rename(folder / second / f"wrong_{first}_{path.name}")
    adapt(base.path, out=tmp_path / "wrong", support=f"folder:{folder}", say=said.append)
    (line,) = [line for line in said if "doubtful" in line]
    assert line.startswith("warning: 9 of 27 labels are doubtful")
    assert line.count("wrong_") == 5
