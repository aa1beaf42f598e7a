"""What prediction sets hold for, in a line."""

from __future__ import annotations

import pytest

from hemalens.trust.domain_shift import DETECTED, NO_REFERENCE, NOT_DETECTED, TOO_FEW, Verdict
from hemalens.trust.guarantee import Basis, SetGuarantee

ELSEWHERE = "prediction sets: 90 % in laboratories like the 12 imitated ones"
HOME = "prediction sets: 90 % in the bundle's own laboratory alone"


@pytest.mark.parametrize(
    ("basis", "n_laboratories", "shift", "text"),
    [
        ("held-out images", 0, NOT_DETECTED, f"{HOME}, by 300 held-out images; no domain shift is detected"),
        (
            "held-out images", 0, DETECTED,
            f"{HOME}, by 300 held-out images; a domain shift is detected, and the bundle has no imitated laboratories",
        ),
        (
            "labelled images", 0, NO_REFERENCE,
            f"{HOME}, by 300 labelled images; whether there is a domain shift is unknown, "
            "and the bundle has no imitated laboratories",
        ),
        ("imitated laboratories", 12, DETECTED, f"{ELSEWHERE}; a domain shift is detected"),
        ("imitated laboratories", 12, TOO_FEW, f"{ELSEWHERE}; whether there is a domain shift is unknown"),
        (
            "imitated laboratories of the base", 12, NO_REFERENCE,
            f"{ELSEWHERE}; whether there is a domain shift is unknown, and they were seen before the bundle was adapted",
        ),
    ],
)  # fmt: skip
def test_the_line_says_where_it_holds_and_why(basis: Basis, n_laboratories: int, shift: Verdict, text: str) -> None:
    found = SetGuarantee(0.9, basis, 300, n_laboratories, shift)
    assert found.text == text
    assert found.at_home == (n_laboratories == 0)
    assert "97.5 %" in SetGuarantee(0.975, basis, 300, n_laboratories, shift).text
