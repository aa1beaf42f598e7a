"""Two questions for a network: which of the mature types a cell is, and whether it is one of them at all.

With one softmax over all types, further ones take cells of a mature type in a laboratory that was not learned: a
monocyte of another stain resembles an immature granulocyte. The network therefore answers twice. Its first outputs tell the
mature types apart and learn from mature cells alone; the others compare all types and learn from every image. The
probability of a mature type is that of being mature at all, by the second outputs, times that of the type, by the first.

A further type is then predicted near its training cells alone: where the embedding lies farther from them than held-out
cells of the training laboratories usually do, its logit falls with the distance (`FurtherTypes`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from hemalens.models.class_distance import ClassDistance
from hemalens.taxonomy import is_mature

AT_ALL = 0.5
"""Weight of the loss of the outputs for all types, beside 1 for those of the mature types."""
FALSE_ALARMS = 0.01
"""Largest share of mature cells that may be answered as a further type, in the training laboratories and in imitated ones.
Real laboratories are harder: several times as many are there."""
SLOPE = 4.0
"""What a further type loses, in natural log odds, for each usual distance that an image lies farther from its cells."""
STEP, MOST = 0.1, 10.0
"""Steps of what all further types are held back by beyond that, in natural log odds, and its largest value."""


Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class MatureTypes:
    """Which of a network's f outputs belong to mature types, bool (f,); all or none for a network that answers once."""

    mature: NDArray[np.bool_]

    @classmethod
    def of(cls, classes: Sequence[str], class_of_output: NDArray[np.int64]) -> MatureTypes:
        """By the class of each output, (f,); one mature type alone needs no question of its own."""
        of_class = np.array([is_mature(label) for label in classes])
        return cls(of_class[class_of_output] if of_class.sum() > 1 else np.zeros(len(class_of_output), bool))

    @property
    def twice(self) -> bool:
        """Whether the network answers twice: there are mature types, and others."""
        return bool(self.mature.any() and not self.mature.all())

    @property
    def n_outputs(self) -> int:
        """Number of the network's own outputs."""
        return len(self.mature) + (int(self.mature.sum()) if self.twice else 0)

    def parts(self, own: Tensor) -> tuple[Tensor, Tensor]:
        """The network's outputs (n, n_outputs): those of the mature types (n, m), and those of all types (n, f)."""
        first = self.n_outputs - len(self.mature)
        return own[:, :first], own[:, first:]

    def joined(self, own: Tensor) -> Tensor:
        """The network's outputs (n, n_outputs) -> log probabilities, or logits where it answers once, (n, f)."""
        if not self.twice:
            return own
        first, every = self.parts(own)
        mature = torch.from_numpy(np.flatnonzero(self.mature)).to(own.device)
        log_p = log_softmax(every, dim=1)
        at_all = log_p.index_select(1, mature).logsumexp(dim=1, keepdim=True)
        places = torch.from_numpy(self._places).to(own.device)
        return torch.cat([log_softmax(first, dim=1) + at_all, log_p], dim=1).index_select(1, places)

    @property
    def _places(self) -> NDArray[np.int64]:
        """Where each output lies in (mature types, all types), (f,)."""
        n = int(self.mature.sum())
        return np.where(self.mature, np.cumsum(self.mature) - 1, n + np.arange(len(self.mature)))


class FurtherTypes(nn.Module):
    """Lowers the logits of further types: by `back`, and by `SLOPE` for each unit of distance beyond the first.

    `further`, 1 or 0 (k,), marks their classes; a unit is the median distance of held-out cells to their own class.
    """

    def __init__(self, distance: ClassDistance, further: Tensor, back: float) -> None:
        super().__init__()
        self.distance = distance
        self.further: Tensor
        self.back: Tensor
        self.register_buffer("further", further.float())
        self.register_buffer("back", torch.tensor(back))

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self | None:
        """From the tensors of its state, by name; None without them."""
        if not tensors:
            return None
        distance = ClassDistance(
            **{name: tensors[f"distance.{name}"] for name in ("means", "components", "precisions", "rest")}
        )
        return cls(distance, tensors["further"], float(tensors["back"]))

    def forward(self, logits: Tensor, embedding: Tensor) -> Tensor:
        """Logits (n, k) of embeddings (n, d) -> log probabilities (n, k)."""
        beyond = (self.distance(embedding) - 1).clamp(min=0)
        return log_softmax(logits - self.further * (SLOPE * beyond + self.back), dim=1)


def held_back(logits: Sequence[Floats], classes: Sequence[str], *, least: float) -> float:
    """What to subtract from the logits of all further types, in natural log odds.

    At most `FALSE_ALARMS` of each of some sets of mature cells, by their logits (n, k), are then answered as one. It is
    `least` where that suffices; below 0 it favours further types.
    """
    further = np.array([not is_mature(label) for label in classes])
    found = least
    for each in (np.asarray(one, np.float64) for one in logits if len(one)):
        ahead = np.sort(each[:, further].max(axis=1) - each[:, ~further].max(axis=1))[::-1]
        # the lead of the first cell beyond the share that may be answered so
        found = max(found, float(np.ceil(ahead[int(FALSE_ALARMS * len(ahead))] / STEP) * STEP))
    return min(found, MOST)
