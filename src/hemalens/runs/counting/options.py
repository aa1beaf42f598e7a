"""Settings of a count, and the checks of counts from an analyser."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from hemalens.differential.rules import CountRules
from hemalens.errors import InputError
from hemalens.files import PathLike
from hemalens.graphs.runtimes import RuntimeChoice

MOST_WHITE, MOST_RED = 1000.0, 20.0
"""Largest counts in 10^3 and 10^6 per microlitre. Larger ones are in another unit: beyond the highest leukocytoses."""


@dataclass(frozen=True, slots=True)
class CountOptions:
    """How to count.

    `white_count` in 10^3 and `red_count` in 10^6 per microlitre are an analyser's, for one slide; a table may give them for
    each. `target`: count the first so many white cells, as 100, 200 or 400; None counts all. `settings` are
    KEY=VALUE of `CountRules`, `rules_file` a TOML file of them. `confusion`: the report of the test by which shares are
    corrected for the bundle's known errors. `review` cells of each slide are drawn at random with `seed` for a reviewer.
    `crops` and `overlays` are written unless they are off. The
    report shows at most `most_overlays`. `parquet` adds cells.parquet. `n_workers` fields are read at once, one a core by
    default. `runtime` classifies the cells, as in `Predictor`.
    """

    white_count: float | None = None
    red_count: float | None = None
    target: int | None = None
    settings: tuple[str, ...] = ()
    rules_file: PathLike | None = None
    confusion: PathLike | None = None
    review: int | None = None
    seed: int = 0
    crops: bool = True
    overlays: bool = True
    most_overlays: int = 12
    parquet: bool = False
    n_workers: int | None = None
    runtime: RuntimeChoice = "onnxruntime"


DEFAULTS = CountOptions()


def check_white_count(value: float, what: str = "white_count") -> float:
    """The white count in 10^3 per microlitre; raises `InputError`, naming `what`, unless in (0, 1000]."""
    return _checked(value, what, MOST_WHITE, "10^3 per microlitre (10^9/L)", 1000)


def check_red_count(value: float, what: str = "red_count") -> float:
    """The red count in 10^6 per microlitre; raises `InputError`, naming `what`, unless in (0, 20]."""
    return _checked(value, what, MOST_RED, "10^6 per microlitre (10^12/L)", 1_000_000)


def _checked(value: float, what: str, most: float, unit: str, factor: int) -> float:
    if math.isfinite(value) and 0 < value <= most:
        return value
    remedy = None
    if math.isfinite(value) and value > most and value / factor <= most:
        remedy = f"{value:g} per microlitre is {value / factor:g} in this unit."
    raise InputError(
        f"{what} cannot be a count of the blood",
        expected=f"a number in {unit}, above 0 and at most {most:g}",
        got=f"{value:g}",
        remedy=remedy,
    )


def rules_of(options: CountOptions) -> CountRules:
    """The rules of counting: the defaults, the file, the settings and the target, the last one winning."""
    file = None if options.rules_file is None else Path(options.rules_file)
    target = [] if options.target is None else [f"target={options.target}"]
    return CountRules.load(file, [*options.settings, *target])
