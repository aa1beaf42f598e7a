"""Reproductions of published studies, with the published numbers.

Begin with `STUDIES`, the table, and `base.Study`. One module or folder a study; roles, citation and published numbers are
TOML in `published/`; `catalogue` lists the data that each study needs, and finds them in a folder.
Imports `benchmark`, `runs` and the rooms below.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from hemalens.errors import InputError, near_matches
from hemalens.studies.base import Description, Study, describe

__all__ = ["STUDIES", "Description", "Study", "describe_study", "find_study"]

STUDIES: Mapping[str, str] = {
    "bc-sam": "hemalens.studies.bc_sam.run",
    "bloodshot": "hemalens.studies.bloodshot.run",
    "mobilevit": "hemalens.studies.mobilevit",
    "wbc-augmentation": "hemalens.studies.wbc.augmentation",
    "wbc-combined": "hemalens.studies.wbc.combined",
}
"""Module of each study; loaded on use."""


def describe_study(name: str) -> Description:
    """The description of a study, without loading it; raises `InputError` with near matches for an unknown one."""
    _module(name)
    return describe(name.replace("-", "_"))


def find_study(name: str) -> Study:
    """A study by name; raises `InputError` with near matches for an unknown one."""
    study: Study = import_module(_module(name)).STUDY
    return study


def _module(name: str) -> str:
    if name not in STUDIES:
        raise InputError(f"unknown study {name!r}", remedy=near_matches(name, STUDIES))
    return STUDIES[name]
