"""Published studies, run again: one file each, the published numbers (data in TOML) beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from hemalens.errors import InputError, near_matches
from hemalens.studies.base import Study

__all__ = ["STUDIES", "Study", "find_study"]

STUDIES: Mapping[str, str] = {
    "bc-sam": "hemalens.studies.bc_sam",
    "bloodshot": "hemalens.studies.bloodshot",
    "mobilevit": "hemalens.studies.mobilevit",
    "wbc-augmentation": "hemalens.studies.wbc_augmentation",
    "wbc-combined": "hemalens.studies.wbc_combined",
}
"""Module of each study; loaded on use."""


def find_study(name: str) -> Study:
    """A study by name; raises `InputError` with near matches for an unknown one."""
    if name not in STUDIES:
        raise InputError(f"unknown study {name!r}", remedy=near_matches(name, STUDIES))
    study: Study = import_module(STUDIES[name]).STUDY
    return study
