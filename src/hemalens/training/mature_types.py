"""Two questions for a network: which of the mature types a cell is, and whether it is one of them at all.

With one softmax over all types, further ones take cells of a mature type in a laboratory that was not learned: a
monocyte of another stain resembles an immature granulocyte. The network therefore answers twice. Its first outputs tell the
mature types apart and learn from mature cells alone; the others compare all types and learn from every image. The
probability of a mature type is that of being mature at all, by the second outputs, times that of the type, by the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import log_softmax

from hemalens.taxonomy import is_mature

AT_ALL = 0.5
"""Weight of the loss of the outputs for all types, beside 1 for those of the mature types."""
HELD_BACK = 0.05
"""Share of the right answers of each further type that is given up for fewer wrong ones in other laboratories."""
FALSE_ALARMS = 0.01
"""Largest share of mature cells in imitated laboratories that may be answered as a further type. Imitated laboratories are
easier than real ones, where several times as many are."""
STEP, MOST = 0.1, 10.0
"""Steps of what all further types are held back by beyond that, in natural log odds, and its largest value."""
FEWEST = 20
"""Fewest right answers on held-out images for a type to be held back."""


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


def held_back(
    logits: Floats, targets: NDArray[np.int64], classes: Sequence[str], *, mature_elsewhere: Floats | None = None
) -> NDArray[np.float64]:
    """What to subtract from the logits of each class (k,): 0 for a mature type.

    A further type that the training laboratories tell apart with ease, as a red cell, can be asked for more certainty: of
    its right answers on held-out images, by logits (n, k) and classes (n,), `HELD_BACK` become wrong. All further types
    are then held back alike until at most `FALSE_ALARMS` of the mature cells of other laboratories, by their logits
    `mature_elsewhere` (m, k), are answered as one.
    """
    found = np.zeros(len(classes))
    wide = np.asarray(logits, np.float64)
    further = np.array([not is_mature(label) for label in classes])
    for c in np.flatnonzero(further):
        others = np.delete(wide, c, axis=1).max(axis=1, initial=-np.inf)
        ahead = np.sort((wide[:, c] - others)[(targets == c) & (wide[:, c] > others)])
        if len(ahead) >= FEWEST:
            found[c] = ahead[int(HELD_BACK * len(ahead))] * (1 - 1e-6)
    if mature_elsewhere is None or not len(mature_elsewhere):
        return found
    elsewhere = np.asarray(mature_elsewhere, np.float64) - found
    ahead = np.sort(elsewhere[:, further].max(axis=1) - elsewhere[:, ~further].max(axis=1))[::-1]
    # the lead of the first cell beyond the share that may be answered so
    lead = ahead[int(FALSE_ALARMS * len(ahead))]
    return found + further * float(np.clip(np.ceil(lead / STEP) * STEP, 0, MOST))
