"""Train on finer cell types than the label map has, and sum their probabilities to its classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import log_softmax, softmax

from hemalens.datasets.base import CellDataset, Record
from hemalens.taxonomy import cell_types


@dataclass(frozen=True, slots=True)
class FineLabels:
    """The outputs of a network, class by class: `outputs`, (f,), names its logits in the order of `classes`, (k,).

    `sizes`, (k,), is the number of outputs of each class. A class without finer types is its own output.
    """

    classes: tuple[str, ...]
    outputs: tuple[str, ...]
    sizes: tuple[int, ...]

    @classmethod
    def none(cls, classes: tuple[str, ...]) -> FineLabels:
        """One output for each class."""
        return cls(classes, classes, (1,) * len(classes))

    @classmethod
    def of(cls, train: CellDataset, *, min_images: int) -> FineLabels:
        """The finest cell types of `train` with `min_images` or more images; a class needs two of them to be split."""
        counts = Counter((record.label, record.cell_type) for record in train.records)
        outputs: list[str] = []
        sizes = []
        for label in train.classes:
            common = [code for (of, code), n in counts.items() if of == label and code is not None and n >= min_images]
            # a type with a finer one among the outputs is no output of its own
            above = {code for known in common for code in _lineage(known)[1:]}
            finest = sorted(set(common) - above)
            outputs += finest if len(finest) > 1 else [label]
            sizes.append(max(1, len(finest)))
        return cls(train.classes, tuple(outputs), tuple(sizes))

    @classmethod
    def from_finer(cls, classes: tuple[str, ...], finer: Sequence[tuple[str, str]]) -> FineLabels:
        """The inverse of `finer`: labels from the (output, class) pairs that a bundle stores."""
        if not finer:
            return cls.none(classes)
        counts = Counter(of for _, of in finer)
        return cls(classes, tuple(output for output, _ in finer), tuple(counts[label] for label in classes))

    @property
    def class_of_output(self) -> NDArray[np.int64]:
        """Position in `classes` of each output, (f,)."""
        return np.repeat(np.arange(len(self.classes)), self.sizes)

    @property
    def finer(self) -> tuple[tuple[str, str], ...]:
        """(output, its class) of each output, in their order; empty where no class has finer types."""
        if len(self.outputs) == len(self.classes):
            return ()
        of_class = (self.classes[i] for i in self.class_of_output)
        return tuple(zip(self.outputs, of_class, strict=True))

    @property
    def target_names(self) -> tuple[str, ...]:
        """Training targets, (t,): the outputs, then for each class "any <class>" where the finer type is unknown."""
        return (*self.outputs, *(f"any {label}" for label in self.classes))

    @property
    def class_of_target(self) -> NDArray[np.int64]:
        """Position in `classes` of each target, (t,)."""
        return np.concatenate([self.class_of_output, np.arange(len(self.classes))])

    def admitted(self) -> Tensor:
        """The outputs that are correct for each target, bool (t, f)."""
        of_class = torch.from_numpy(self.class_of_output) == torch.arange(len(self.classes))[:, None]
        return torch.cat([torch.eye(len(self.outputs), dtype=torch.bool), of_class])

    def relabelled(self, dataset: CellDataset) -> CellDataset:
        """The same images under their targets: the cell type, the next coarser output, or any output of the class."""
        records = tuple(replace(record, label=self._target(record)) for record in dataset.records)
        shown = replace(dataset, records=records, classes=self.target_names)
        shown.__dict__["contents"] = dataset.contents
        return shown

    def _target(self, record: Record) -> str | None:
        if record.label is None:
            return None
        i = self.classes.index(record.label)
        own = self.outputs[sum(self.sizes[:i]) : sum(self.sizes[: i + 1])]
        if len(own) == 1:
            return own[0]
        return next((code for code in _lineage(record.cell_type) if code in own), f"any {record.label}")

    def class_logits(self, logits: Tensor) -> Tensor:
        """Logits of outputs (n, f) -> logits of classes (n, k), whose softmax sums the outputs' probabilities."""
        if len(self.outputs) == len(self.classes):
            return logits
        parts = logits.split(self.sizes, dim=1)
        return torch.cat([p if p.shape[1] == 1 else p.logsumexp(dim=1, keepdim=True) for p in parts], dim=1)

    def within_classes(self, logits: Tensor) -> Tensor:
        """Logits of outputs (n, f) -> probability of each output given its class, (n, f); they sum to 1 over each class.

        A temperature or prior over the classes leaves them unchanged.
        """
        return torch.cat([softmax(part, dim=1) for part in logits.split(self.sizes, dim=1)], dim=1)


def _lineage(code: str | None) -> tuple[str, ...]:
    """The type and its ancestors, nearest first; a label outside the taxonomy has none."""
    if code is None:
        return ()
    return cell_types()[code].lineage() if code in cell_types() else (code,)


def admitted_cross_entropy(
    logits: Tensor, admitted: Tensor, *, smoothing: float, output_weights: Tensor, image_weights: Tensor
) -> Tensor:
    """Cross-entropy where several outputs may be correct: -log of their summed probability, averaged with image weights.

    `logits` (n, f), `admitted` bool (n, f), `output_weights` (f,), `image_weights` (n,). Label smoothing as torch's: a
    share `smoothing` of the loss is the mean over all outputs of -log p. With one correct output each it
    equals `torch.nn.functional.cross_entropy`.
    """
    log_p = log_softmax(logits.float(), dim=1)
    right = log_p.masked_fill(~admitted, -torch.inf).logsumexp(dim=1)
    spread = (log_p * output_weights).mean(dim=1)
    losses = (1 - smoothing) * image_weights * right + smoothing * spread
    return -losses.sum() / image_weights.sum()
