"""A laboratory's rules of counting: how many cells, what enters the hundred, flags and reference intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from hemalens.config import StrictConfig
from hemalens.errors import near_matches
from hemalens.taxonomy import LISTED, cell_types

Smudge = Literal["per 100", "counted", "as lymphocytes"]
NUCLEATED_RED_CELL, SMUDGE_CELL, LYMPHOCYTE, LEUKOCYTE = "erythroblast", "smudge_cell", "lymphocyte", "leukocyte"
GENERAL_ADULT = "general adult interval of a manual differential, ARUP Laboratories"


class Interval(StrictConfig):
    """A reference interval in per cent of leukocytes."""

    low: float = Field(ge=0, le=100)
    high: float = Field(ge=0, le=100)

    @model_validator(mode="after")
    def _ascends(self) -> Interval:
        if self.low > self.high:
            raise ValueError(f"a reference interval from {self.low:g} to {self.high:g} descends")
        return self


class Flag(StrictConfig):
    """A finding to look at: as many `cells` of the `types` together, so many `percent`, or more than `above` per cent.

    Nucleated red cells and smudge cells are in cells per 100 leukocytes. A type includes its subtypes, as blast includes
    myeloblast.
    """

    types: list[str] = Field(min_length=1)
    cells: int | None = Field(default=None, ge=1)
    percent: float | None = Field(default=None, gt=0, le=100)
    above: float | None = Field(default=None, ge=0, le=100)

    @model_validator(mode="after")
    def _one_threshold(self) -> Flag:
        if sum(each is not None for each in (self.cells, self.percent, self.above)) != 1:
            raise ValueError("a flag has one threshold: cells, percent or above")
        return self

    def threshold(self, unit: str = "%") -> str:
        """The threshold in words, as in "1 cell or more"."""
        if self.cells is not None:
            return f"{self.cells} {'cell' if self.cells == 1 else 'cells'} or more"
        return f"{self.percent:g} {unit} or more" if self.percent is not None else f"more than {self.above:g} {unit}"

    def reached(self, n_cells: int, percent: float) -> bool:
        """Whether so many cells, which are so many per cent, reach the threshold."""
        if self.cells is not None:
            return n_cells >= self.cells
        return percent >= self.percent if self.percent is not None else percent > (self.above or 0.0)


def _default_flags() -> dict[str, Flag]:
    return {
        "blasts": Flag(types=["blast"], cells=1),
        "promyelocytes and myelocytes": Flag(types=["promyelocyte", "myelocyte"], percent=1),
        "metamyelocytes": Flag(types=["metamyelocyte"], above=2),
        "immature granulocytes": Flag(types=["immature_granulocyte"], above=2),
        "left shift": Flag(types=["band_neutrophil"], above=5),
        "reactive or atypical lymphocytes": Flag(types=["variant_lymphocyte"], above=5),
        "plasma cells": Flag(types=["plasma_cell"], percent=1),
        "nucleated red cells": Flag(types=[NUCLEATED_RED_CELL], percent=1),
    }


def _general_adult() -> dict[str, Interval]:
    return {
        "neutrophil": Interval(low=45, high=79),
        "band_neutrophil": Interval(low=0, high=5),
        "lymphocyte": Interval(low=16, high=47),
        "monocyte": Interval(low=0, high=9),
        "eosinophil": Interval(low=0, high=6),
        "basophil": Interval(low=0, high=2),
    }


class CountRules(StrictConfig):
    """A laboratory's rules of counting.

    `target`: count the first so many white cells, as 100, 200 or 400; None counts all. `least_cells`: a count of fewer is
    called too small. `width`: points between the limits, for which the cells still needed are given. `tolerance`: the
    difference in points that matters when two counts are compared. `nucleated_red_cells_from`: number per 100 leukocytes
    from which on the white count is corrected. `platelets_per_field`: platelets per microlitre that one platelet an oil
    field stands for. `own_types`: names of one's own that count as white cells. `flags` and `reference`, given in a file,
    replace all defaults; `reference_source` names where the intervals are from.
    """

    target: int | None = Field(default=None, ge=1)
    least_cells: int = Field(default=100, ge=1)
    width: float = Field(default=10.0, gt=0, lt=100)
    tolerance: float = Field(default=10.0, gt=0, lt=100)
    nucleated_red_cells_from: float = Field(default=5.0, ge=0)
    smudge_cells: Smudge = "per 100"
    platelets_per_field: float = Field(default=15_000.0, gt=0)
    own_types: list[str] = Field(default_factory=list)
    flags: dict[str, Flag] = Field(default_factory=_default_flags)
    reference: dict[str, Interval] = Field(default_factory=_general_adult)
    reference_source: str = GENERAL_ADULT

    @field_validator("own_types")
    @classmethod
    def _named_once(cls, names: list[str]) -> list[str]:
        taken = sorted({name for name in names if name in cell_types()})
        if taken:
            raise ValueError(f"own_types: {taken[0]!r} is a cell type of hemalens")
        return names

    @model_validator(mode="before")
    @classmethod
    def _source_of_own_intervals(cls, values: object) -> object:
        if isinstance(values, Mapping) and "reference" in values and "reference_source" not in values:
            return {**values, "reference_source": "the laboratory's own"}
        return values

    @model_validator(mode="after")
    def _known_types(self) -> CountRules:
        known = [*cell_types(), *self.own_types]
        named = [(f"flags.{flag}", code) for flag, each in self.flags.items() for code in each.types]
        for place, code in [*named, *(("reference", code) for code in self.reference)]:
            if code not in known:
                raise ValueError(f"{place}: unknown cell type {code!r}. {near_matches(code, known, listed=LISTED)}")
        return self

    def is_white_cell(self, code: str) -> bool:
        """Whether a type counts as a leukocyte: those of the taxonomy, `own_types`, and smudge cells where so set."""
        if code == SMUDGE_CELL:
            return self.smudge_cells != "per 100"
        return is_leukocyte(code)


def load_rules(file: Path | None = None) -> CountRules:
    """The rules of a TOML file over the defaults; raises `ConfigError` for unknown keys, with the nearest."""
    return CountRules.load(file)


def lineage(code: str) -> tuple[str, ...]:
    """The codes from a type up to its root; a type of one's own is its own root."""
    known = cell_types()
    return known[code].lineage() if code in known else (code,)


def is_leukocyte(code: str) -> bool:
    """Whether a cell type of the taxonomy is a leukocyte; a type of one's own counts as one."""
    return code not in cell_types() or lineage(code)[-1] == LEUKOCYTE
