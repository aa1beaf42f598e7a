"""The mature types among the classes of a bundle: adaptation moves probability among them alone.

A further class, such as a platelet, keeps its probability. Every image counts by its probability of a mature type, so that
other cells do not skew what is estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from scipy.special import log_softmax, logsumexp

from hemalens.taxonomy import is_mature

Floats = NDArray[np.floating[Any]]
Constants = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class AmongMature:
    """The columns of the mature types among `n_classes`; all of them where fewer than two classes are mature types."""

    columns: tuple[int, ...]
    n_classes: int

    @classmethod
    def of(cls, labels: Sequence[str]) -> AmongMature:
        """The mature types among these labels, and the types below them."""
        mature = tuple(i for i, label in enumerate(labels) if is_mature(label))
        return cls(mature if len(mature) > 1 else tuple(range(len(labels))), len(labels))

    @property
    def further(self) -> tuple[int, ...]:
        """The columns of the other classes."""
        return tuple(i for i in range(self.n_classes) if i not in self.columns)

    def log_mass(self, logits: Floats) -> NDArray[np.float64]:
        """Log probability (n,) that an image shows a mature type, by logits (n, k) of all classes."""
        return np.asarray(logsumexp(log_softmax(np.asarray(logits, np.float64), axis=1)[:, self.columns], axis=1))

    def into(self, logits: Floats, among: Floats) -> NDArray[np.float64]:
        """Logits (n, k) of all classes with those of the mature types, `among` (n, m), in place of their own."""
        found = log_softmax(np.asarray(logits, np.float64), axis=1)
        found[:, self.columns] = log_softmax(among, axis=1) + self.log_mass(logits)[:, None]
        return np.asarray(found)

    def first_nodes(self, after: str) -> tuple[list[onnx.NodeProto], Constants]:
        """A node from the logits of all classes to those of the mature types, `after`."""
        constants: Constants = {"mature_columns": np.array(self.columns, np.int64)}
        return [helper.make_node("Gather", ["logits_before", "mature_columns"], [after], axis=1)], constants

    def last_nodes(self, before: str) -> tuple[list[onnx.NodeProto], Constants]:
        """Nodes from the adapted logits `before` to the logits of all classes, as `into`; they follow `first_nodes`."""
        if not self.further:
            return [helper.make_node("LogSoftmax", [before], ["logits"], axis=1)], {}
        constants: Constants = {
            "mature_axis": np.array([1], np.int64),
            "mature_others": np.array(self.further, np.int64),
            "mature_order": np.argsort([*self.columns, *self.further]).astype(np.int64),
        }
        nodes = [
            helper.make_node("LogSoftmax", [before], ["mature_among"], axis=1),
            helper.make_node("LogSoftmax", ["logits_before"], ["mature_all"], axis=1),
            helper.make_node("Gather", ["mature_all", "mature_columns"], ["mature_own"], axis=1),
            helper.make_node("ReduceLogSumExp", ["mature_own", "mature_axis"], ["mature_mass"], keepdims=1),
            helper.make_node("Add", ["mature_among", "mature_mass"], ["mature_moved"]),
            helper.make_node("Gather", ["mature_all", "mature_others"], ["mature_further"], axis=1),
            helper.make_node("Concat", ["mature_moved", "mature_further"], ["mature_joined"], axis=1),
            helper.make_node("Gather", ["mature_joined", "mature_order"], ["logits"], axis=1),
        ]
        return nodes, constants
