"""Shares as the terminal shows them: per cent, and their limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hemalens.evaluation.results import Estimate


def percent(share: Estimate) -> str:
    """A share in per cent, as 8.0."""
    return "n/a" if share.value is None else f"{100 * share.value:.1f}"


def limits(share: Estimate) -> str:
    """The limits of a share in per cent, as 5.2 to 11.7; empty where there are none."""
    return "" if share.low is None or share.high is None else f"{100 * share.low:.1f} to {100 * share.high:.1f}"
