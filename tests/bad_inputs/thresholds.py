"""Manifests whose thresholds of a review are edited, out of range or of another kind: all are refused in one line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bad_input_cases import Case, Place

GOOD = {
    "urgent": 0.2, "distance": 7.5, "near_tie": 0.1, "n_cells": 40, "false_alarms": 0.05, "near_ties": 0.05,
}  # fmt: skip
DAMAGED = ("the manifest of", "is damaged")
MISFIT = ("does not fit its graph", "review")


def _case(name: str, review: Any, says: Sequence[str], *, verb: str = "predict") -> Case:
    def make(place: Place) -> Sequence[object]:
        bundle: Path = place.bundle()
        manifest = json.loads((bundle / "manifest.json").read_text())
        (bundle / "manifest.json").write_text(json.dumps({**manifest, "review": review}))
        if verb == "count":
            place.image("fields/a.png")
            return ("count", place.folder / "fields", "--bundle", bundle, "--out", place.out)
        return ("predict", bundle, place.image(), "--out", place.folder / "out.csv")

    return Case(f"{name}, {verb}", make, says)


def _changed(name: str, value: Any, *, verb: str = "predict") -> Case:
    says = (*DAMAGED, f"review.{name}")
    return _case(f"thresholds with {name} of {value!r}", {**GOOD, name: value}, says, verb=verb)


CASES = (
    _changed("urgent", 1.5),
    _changed("urgent", -0.1),
    _changed("urgent", -0.1, verb="count"),
    _changed("urgent", "0.2"),
    _changed("urgent", True),
    _changed("near_tie", 2),
    _changed("near_tie", -0.5),
    _changed("near_tie", None),
    _changed("distance", "far"),
    _changed("distance", [7.5]),
    _changed("n_cells", 3),
    _changed("n_cells", 40.5),
    _changed("n_cells", -40),
    _changed("false_alarms", 5),
    _changed("near_ties", -0.05),
    _changed("more", 1),
    _case("thresholds without a part", {"urgent": 0.2}, (*DAMAGED, "review.")),
    _case("thresholds as a list", [0.2, 0.3], (*DAMAGED, "review")),
    _case("thresholds as a number", 0.05, (*DAMAGED, "review")),
    _case("thresholds that are not a number", {**GOOD, "distance": float("nan")}, DAMAGED),
    _case("thresholds that were not there", GOOD, MISFIT),
    _case("thresholds that were not there", GOOD, MISFIT, verb="count"),
)
