"""Methods: one file a method, a strict config with published defaults and `fit(...) -> Bundle`.

Begin with `METHODS`, the table, and `base.Method`, the protocol. `bc_sam_segmenter` learns from masks and
gives a segmenter, `detector` learns from fields with boxes and gives a detector; `few_shot_finetune` trains a bundle's
network on with a few labelled cells, for `adaptation.finetune`.
Imports `training`, `models` and the rooms below.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from hemalens.errors import InputError, near_matches
from hemalens.methods.base import Method

__all__ = ["DETECTORS", "METHODS", "SEGMENTERS", "Method", "find_method"]

METHODS: Mapping[str, str] = {
    "bc_sam": "hemalens.methods.bc_sam",
    "bloodshot": "hemalens.methods.bloodshot",
    "combined_network": "hemalens.methods.combined_network",
    "finetune": "hemalens.methods.finetune",
    "linear_probe": "hemalens.methods.linear_probe",
    "mask_augmentation": "hemalens.methods.mask_augmentation",
    "mobilevit": "hemalens.methods.mobilevit",
    "robust": "hemalens.methods.robust",
}
"""Module of each method; loaded on use, since each brings its own libraries."""

SEGMENTERS: Mapping[str, str] = {"bc_sam_segmenter": "hemalens.methods.bc_sam_segmenter"}
"""Module of each method that learns from masks and gives a segmenter, not a bundle."""

DETECTORS: Mapping[str, str] = {"detector": "hemalens.methods.detector"}
"""Module of each method that learns from fields with boxes and gives a detector, not a bundle."""


def find_method(name: str) -> Method:
    """A method by name; raises `InputError` with near matches for an unknown one."""
    if name not in METHODS:
        raise InputError(
            f"unknown method {name!r}",
            remedy=near_matches(name, [*METHODS, *SEGMENTERS, *DETECTORS], listed="hemalens train --help"),
        )
    method: Method = import_module(METHODS[name]).METHOD
    return method
