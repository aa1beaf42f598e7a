"""Numbers and names as text, the same in HTML, Markdown and figures."""

from __future__ import annotations

import math

from hemalens import errors
from hemalens.evaluation.results import Estimate, Report

visible = errors.visible
MISSING = "n/a"
EN_DASH = "\N{EN DASH}"
ARROW = "\N{RIGHTWARDS ARROW}"
SYNTHETIC_NOTICE = "These images are synthetic: drawn by the program, not photographed."
RESEARCH_USE = "Research use: a morphologist confirms every result."
TRANSDUCTIVE = "transductive"
EPOCH_CHOSEN = "epoch chosen on the tested images"
FINGERPRINT_DIGITS = 12


def score(value: float | None) -> str:
    """A score with three decimals, zero without a sign, or "n/a"."""
    return MISSING if value is None else f"{value:z.3f}"


def interval(estimate: Estimate) -> str:
    """The limits of an estimate with an en dash between them, or an empty text where there are none."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{score(estimate.low)}{EN_DASH}{score(estimate.high)}"


def spread(estimate: Estimate) -> str:
    """The standard deviation over folds as "SD 0.012", or an empty text where there is none."""
    return "" if estimate.std is None else f"SD {score(estimate.std)}"


def probability(value: float) -> str:
    """A probability with two decimals; one that would round to certainty is printed as ">0.99"."""
    text = f"{value:.2f}"
    return ">0.99" if text == "1.00" and value < 1.0 else text


def share(value: float) -> str:
    """A fraction in [0, 1] as a percentage without decimals."""
    return f"{100 * value:.0f} %"


def percent(fraction: float) -> str:
    """A fraction of the labels as a percentage with as many decimals as it needs: "100 %", "0.5 %"."""
    return f"{100 * fraction:.4g} %"


def count(n: int) -> str:
    """A count with commas between the thousands."""
    return f"{n:,}"


def amount(value: float | None) -> str:
    """A counted amount with three decimals, three significant digits where it is small, or "n/a"."""
    if value is None:
        return MISSING
    return f"{value:,.3f}" if value >= 0.1 else f"{value:.3g}"


def measured(value: float | None) -> str:
    """A measured value with three significant digits, commas between the thousands, or "n/a"."""
    if value is None:
        return MISSING
    # 99.96 is 100, not 100.0
    digits = float(f"{value:.3g}")
    return f"{value:,.{max(0, 2 - int(math.log10(digits)))}f}" if digits >= 1 else f"{value:.3g}"


def synthetic_notice(report: Report) -> str:
    """The notice of synthetic images in a report, with their datasets where others are photographs; empty without any."""
    if not report.synthetic:
        return ""
    drawn = [f"{visible(card.name)} ({visible(card.role)})" for card in report.data if card.synthetic]
    if len(drawn) in (0, len(report.data)):
        return SYNTHETIC_NOTICE
    return f"Some of these images are synthetic, drawn by the program, not photographed: {listed(drawn)}."


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun: "1 fold", "5 folds"."""
    return f"{count(n)} {noun if n == 1 else plural or noun + 's'}"


def label(code: str) -> str:
    """A cell type's code as words: `segmented_neutrophil` becomes "segmented neutrophil"."""
    return visible(code).replace("_", " ")


def shortened(text: str, n_characters: int) -> str:
    """A text of at most `n_characters`; an ellipsis stands for what was cut."""
    return text if len(text) <= n_characters else text[: n_characters - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def fingerprint(digest: str) -> str:
    """The first digits of a dataset's fingerprint; `report.json` holds all of them."""
    return visible(digest)[:FINGERPRINT_DIGITS]


def listed(names: list[str]) -> str:
    """Names as a list in a sentence: "a, b and c"."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
