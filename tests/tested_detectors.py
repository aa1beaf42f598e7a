"""What a test of a detector writes, as far as the detector's card reads it."""

from __future__ import annotations

from dataclasses import dataclass

from hemalens.evaluation.results import Estimate

NONE = Estimate(value=None)
AP50, RECALL = Estimate(value=0.91, low=0.9, high=0.92), Estimate(value=0.971, low=0.96, high=0.98)


@dataclass(frozen=True)
class Kind:
    """Scores of one kind."""

    kind: str
    classifier: str = ""
    n_complete: int = 40
    n_boxes: int = 1_234
    operating_score: float = 0.1
    ap50: Estimate = AP50
    recall_centre: Estimate = RECALL
    precision_centre: Estimate = NONE


@dataclass(frozen=True)
class Outcome:
    """A test on one laboratory."""

    laboratory: str
    target: str = "txl"
    detector: str = "detector"
    source: str = "txl"
    together: bool = False
    n_fields: int = 40
    seen: str = "none"
    kinds: tuple[Kind, ...] = (Kind("white cell"), Kind("red cell", n_boxes=77, operating_score=0.2))
