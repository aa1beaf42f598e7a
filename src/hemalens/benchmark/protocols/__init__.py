"""Protocols: how a source and its targets are split, and what is scored.

`PROTOCOLS` is the table, one module a protocol. `base` is their contract, `data` opens the datasets, `laboratory` is the
base of the protocols on a new laboratory, `scoring` averages scores over models. `left_out` uses `left_out_laboratories`
(training sets), `adapted_forms` (predictions) and `imitations`. To add one: a `ProtocolConfig` in a module
of its own, a line in `PROTOCOLS`, and a field of its name in `BenchmarkConfig` where it has settings.
"""

from __future__ import annotations

from hemalens.benchmark.protocols.base import ProtocolConfig
from hemalens.benchmark.protocols.finetuning import FinetuningProtocol
from hemalens.benchmark.protocols.folds import CrossDomainProtocol, KFoldProtocol
from hemalens.benchmark.protocols.fractions import FractionsProtocol
from hemalens.benchmark.protocols.k_shot import KShotProtocol
from hemalens.benchmark.protocols.labelling import LabellingProtocol
from hemalens.benchmark.protocols.left_out import LeaveOneOutProtocol
from hemalens.benchmark.protocols.unlabelled import UnlabelledProtocol

__all__ = ["PROTOCOLS", "ProtocolConfig"]

PROTOCOLS: dict[str, type[ProtocolConfig]] = {
    "k-fold": KFoldProtocol,
    "cross-domain": CrossDomainProtocol,
    "k-shot": KShotProtocol,
    "finetuning": FinetuningProtocol,
    "labelling": LabellingProtocol,
    "unlabelled": UnlabelledProtocol,
    "fractions": FractionsProtocol,
    "leave-one-laboratory-out": LeaveOneOutProtocol,
}
"""The protocols that train, by name."""
