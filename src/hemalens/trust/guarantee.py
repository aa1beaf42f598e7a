"""Which coverage prediction sets have, and which images that rests on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hemalens.trust.domain_shift import DETECTED, NOT_DETECTED, Verdict

Basis = Literal["held-out images", "labelled images", "imitated laboratories", "imitated laboratories of the base"]
"""What the thresholds were calibrated on: held-out images of the training laboratory, labelled images that the bundle was
adapted to, or held-out images as imitated laboratories show them, predicted by the bundle or by the one it was adapted
from."""
HOME: tuple[Basis, ...] = ("held-out images", "labelled images")
"""Bases that hold for one laboratory, the bundle's own."""


@dataclass(frozen=True, slots=True)
class SetGuarantee:
    """The nominal `coverage` of prediction sets, and what it rests on.

    `basis` names the calibration images, `n_images` of them; `n_laboratories` counts the imitated laboratories, 0 of a
    basis at home. `shift` is the verdict on the domain shift of the images predicted. `of_mature`: of cells of mature types
    alone.
    """

    coverage: float
    basis: Basis
    n_images: int
    n_laboratories: int
    shift: Verdict
    of_mature: bool = False

    @property
    def at_home(self) -> bool:
        """Whether it holds for the bundle's own laboratory alone."""
        return self.basis in HOME

    @property
    def text(self) -> str:
        """The guarantee in a line."""
        return f"prediction sets: {100 * self.coverage:g} % {self._where}; {self._why}"

    @property
    def _where(self) -> str:
        if not self.at_home:
            cells = "of cells of mature types " if self.of_mature else ""
            return f"{cells}in laboratories like the {self.n_laboratories} imitated ones"
        return f"in the bundle's own laboratory alone, by {self.n_images} {self.basis}"

    @property
    def _why(self) -> str:
        if self.shift == DETECTED:
            found = "a domain shift is detected"
        elif self.shift == NOT_DETECTED:
            found = "no domain shift is detected"
        else:
            found = "whether there is a domain shift is unknown"
        if self.at_home and self.shift != NOT_DETECTED:
            return f"{found}, and the bundle has no imitated laboratories"
        if self.basis == "imitated laboratories of the base":
            return f"{found}, and they were seen before the bundle was adapted"
        return found
