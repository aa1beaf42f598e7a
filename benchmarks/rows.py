"""What every benchmark gives: rows of ours beside a peer, measured in alternation in one run."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """Medians of ours and of the peer in `unit`, and the ratio of each round, above 1 where ours is better."""

    name: str
    unit: str
    ours: float
    peer_name: str
    peer: float
    ratios: tuple[float, ...]

    @classmethod
    def of(
        cls,
        name: str,
        unit: str,
        ours: Sequence[float],
        peer: Sequence[float],
        peer_name: str,
        *,
        more_is_better: bool | None = None,
    ) -> Row:
        """A row of rounds; by default more is better of a rate, whose unit ends in "/s", and less of all else."""
        more = unit.endswith("/s") if more_is_better is None else more_is_better
        ratios = [a / b if more else b / a for a, b in zip(ours, peer, strict=True)]
        return cls(name, unit, statistics.median(ours), peer_name, statistics.median(peer), tuple(ratios))

    @property
    def ratio(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> str:
        """The ratio of the worst and of the best round."""
        return f"{min(self.ratios):.2f} to {max(self.ratios):.2f}"

    def to_dict(self) -> dict[str, Any]:
        """All of it, and the ratio."""
        return {**asdict(self), "ratio": self.ratio}


HEADER = f"{'what':<44} {'unit':<9} {'ours':>8} {'peer':>8}  {'ratio':>6}  {'rounds':<14} beside"


def table(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    lines = [
        f"{row.name:<44} {row.unit:<9} {row.ours:>8.4g} {row.peer:>8.4g}"
        f"  {row.ratio:>6.2f}  {row.spread:<14} {row.peer_name}"
        for row in rows
    ]
    return "\n".join([HEADER, *lines])


def dumped(rows: Sequence[Row]) -> str:
    """The rows as JSON, for another process."""
    return json.dumps([asdict(row) for row in rows])


def loaded(text: str) -> list[Row]:
    """The rows that `dumped` has written."""
    return [Row(**{**row, "ratios": tuple(row["ratios"])}) for row in json.loads(text)]
