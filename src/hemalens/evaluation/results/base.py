"""The base class of all parts of a report."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A part of a report: plain data that goes to `report.json` and back; unknown keys fail."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(Part):
    """A value with its 95 % interval; None without images. `std` is over folds or repeats, n - 1."""

    value: float | None
    low: float | None = None
    high: float | None = None
    std: float | None = None
