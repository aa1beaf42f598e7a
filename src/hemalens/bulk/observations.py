"""What the end of a run needs to know of a shard: its counts, and what the monitor has kept of its images.

Kept beside the shard as plain NumPy arrays, until all shards are done.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemalens.files import atomic_path
from hemalens.inference.predict import Counts
from hemalens.inference.predictor import Prediction
from hemalens.inference.revision import LaterSets
from hemalens.trust.monitor import Kept, Monitor
from hemalens.trust.review import REASONS, Reason, rank


def write_arrays(path: Path, key: str, facts: Any, kept: Kept, arrays: Mapping[str, NDArray[Any]] | None = None) -> None:
    """Write `facts`, as JSON, what a monitor has `kept`, and further arrays; the `key` is that of the run."""
    content: dict[str, NDArray[Any]] = {"key": _text(key), "facts": _text(json.dumps(facts)), **(arrays or {})}
    content["probabilities"] = kept.probabilities.astype(np.float64)
    if kept.points is not None:
        content["points"] = kept.points
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **content)


def _text(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), np.uint8)


@dataclass(frozen=True, eq=False)
class Read:
    """What `write_arrays` has written: the facts, what the monitor has kept, and the further arrays."""

    facts: Any
    kept: Kept
    arrays: Mapping[str, NDArray[Any]]


def read_arrays(path: Path, key: str) -> Read | None:
    """Read the file; None where it is missing, damaged, or of another run than that of `key`."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        if arrays.pop("key").tobytes() != key.encode():
            return None
        facts = json.loads(arrays.pop("facts").tobytes())
        kept = Kept(arrays.pop("points", None), arrays.pop("probabilities"))
    except Exception:
        # of zipfile, zlib, NumPy or json
        return None
    return Read(facts, kept, arrays)


class Recorder:
    """Records the predictions of a shard, row by row."""

    def __init__(self) -> None:
        self.counts = Counts()
        self._reasons, self._if_foreign, self._sets = array("B"), array("B"), array("I")
        self._known: dict[tuple[str, ...] | None, int] = {}

    def add(self, prediction: Prediction) -> None:
        """Take the prediction of the next row."""
        self.counts.add(prediction)
        self._reasons.append(rank(prediction.review) or 0)
        self._if_foreign.append(rank(prediction.review_if_foreign) or 0)
        self._sets.append(self._known.setdefault(prediction.prediction_set_elsewhere, len(self._known)))

    def save(self, path: Path, kept: Kept, key: str) -> None:
        """Write what is recorded and `kept`, with the `key` of the run; the file appears whole."""
        facts = {
            "sets": list(self._known),
            "labels": dict(self.counts.labels),
            "cells": dict(self.counts.cells),
            "reasons": dict(self.counts.reasons),
            "n_abstained": self.counts.n_abstained,
            "errors": self.counts.errors,
            "first_error": self.counts.first_error,
        }
        arrays: dict[str, NDArray[Any]] = {
            "reasons": np.array(self._reasons, np.uint8),
            "if_foreign": np.array(self._if_foreign, np.uint8),
            "sets": np.array(self._sets, np.uint32),
        }
        write_arrays(path, key, facts, kept, arrays)


class Observed:
    """What `Recorder` has written of a shard."""

    def __init__(self, read: Read) -> None:
        self._facts, self._kept, self._arrays = read.facts, read.kept, read.arrays

    @classmethod
    def read(cls, path: Path, key: str) -> Observed | None:
        """Read the file; None where it is missing, damaged, or of another run than that of `key`."""
        found = read_arrays(path, key)
        return None if found is None else cls(found)

    @property
    def n_rows(self) -> int:
        """Rows of the shard."""
        return len(self._arrays["reasons"])

    @property
    def n_unreadable(self) -> int:
        """Rows with an error."""
        return int(self._facts["errors"])

    def add_to(self, counts: Counts, monitor: Monitor) -> None:
        """Count the shard's rows, and let the monitor see its images, after those of the shards before it."""
        counts.n_rows += self.n_rows
        counts.labels.update(self._facts["labels"])
        counts.cells.update(self._facts["cells"])
        counts.reasons.update(self._facts["reasons"])
        counts.n_abstained += self._facts["n_abstained"]
        counts.errors += self._facts["errors"]
        counts.first_error = counts.first_error or self._facts["first_error"]
        for reason, if_foreign in zip(self._arrays["reasons"], self._arrays["if_foreign"], strict=True):
            counts.review.add(_reason(reason), _reason(if_foreign))
        monitor.take(self._kept)

    @property
    def later_sets(self) -> LaterSets:
        """The prediction set of each row where a domain shift is detected or unknown."""
        named = [None if members is None else tuple(members) for members in self._facts["sets"]]
        found = LaterSets()
        for number in self._arrays["sets"]:
            found.add(named[number])
        return found


def _reason(place: int) -> Reason | None:
    return REASONS[place - 1] if place else None
