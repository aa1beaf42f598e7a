"""The result of a slide, as the report shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hemalens.differential.count import (
    Differential,
    check_amount,
    check_number,
    checked_counts,
    differential,
    first_cells,
    platelets_by_field,
    platelets_by_ratio,
    to_see_one,
)
from hemalens.differential.limits import MOST_CELLS, Share, cells_for_width
from hemalens.differential.rules import CountRules, lineage
from hemalens.errors import InputError, public
from hemalens.evaluation import formatting
from hemalens.evaluation.results import Estimate
from hemalens.evaluation.results.slides import (
    CellsNeeded,
    CountedBeside,
    CountedType,
    ReferenceInterval,
    SlideResult,
)

CUSTOMARY = (100, 200, 400)
"""Numbers of white cells that laboratories count."""
DEFAULT_RULES = CountRules()


@dataclass(frozen=True, slots=True, kw_only=True)
class InFields:
    """What the fields of a slide hold beside white cells."""

    n_fields: int = 0
    red_cells: int = 0
    platelets: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Analyser:
    """Counts of the analyser: white cells in 10^3, red cells in 10^6 per microlitre."""

    white_count: float | None = None
    red_count: float | None = None


@public
def slide_result(
    name: str,
    cells: Sequence[str],
    rules: CountRules = DEFAULT_RULES,
    *,
    fields: InFields = InFields(),
    analyser: Analyser = Analyser(),
    classes: Sequence[str] = (),
    not_counted: Mapping[str, int] | None = None,
) -> SlideResult:
    """The differential of a slide from the type of each cell, in the order in which they are counted.

    With a target the first white cells up to it are counted, and nucleated red cells and smudge cells found until then.
    `classes` are the types that could have been found: those without a cell are shown with their limits, too.
    `not_counted` are further cells by the reason why they are not counted, as "cut by the border". Raises `InputError`.

    >>> made = slide_result("slide 7", ["neutrophil"] * 115 + ["lymphocyte"] * 85 + ["erythroblast"] * 16,
    ...     fields=InFields(n_fields=40, red_cells=8000, platelets=400), analyser=Analyser(white_count=17.4, red_count=4.5))
    >>> made.types[0].share.low, made.corrected_white_count, made.platelets_by_ratio
    (0.503..., 16.11..., 225.0)
    """
    if isinstance(cells, str | Mapping):
        raise InputError("the cells are no list", expected="the type of each cell in the order of counting")
    _check(fields, analyser)
    counted, n_beyond = first_cells(cells, rules)
    made = differential({**dict.fromkeys(classes, 0), **counted}, rules, white_count=analyser.white_count)
    flags, flagged = _flags(made, rules)
    rest = dict(made.not_counted)
    rest |= {reason: n for reason, n in checked_counts(not_counted or {}).items() if n}
    ratio = None
    if analyser.red_count is not None:
        ratio = platelets_by_ratio(fields.platelets, fields.red_cells, analyser.red_count)
    return SlideResult(
        name=name,
        n_fields=fields.n_fields,
        total=made.total,
        target=rules.target,
        n_beyond=n_beyond,
        types=tuple(_types(made, rules, flagged)),
        beside=tuple(CountedBeside(code=code, count=n, per_100=made.per_100.get(code)) for code, n in made.beside.items()),
        white_count=made.white_count,
        corrected_white_count=made.corrected_white_count,
        n_red_cells=fields.red_cells,
        n_platelets=fields.platelets,
        platelets_by_ratio=ratio,
        platelets_by_field=platelets_by_field(fields.platelets, fields.n_fields, rules),
        flags=flags,
        decision=_decision(made, rules, flags),
        smallest_share=made.smallest_share,
        to_see_one={f"{percent:g}": n for percent, n in to_see_one().items()},
        needed=tuple(_needed(made, rules)),
        not_counted=rest,
        reference_source=rules.reference_source if rules.reference else "",
    )


def _check(fields: InFields, analyser: Analyser) -> None:
    for n, what in ((fields.n_fields, "fields"), (fields.red_cells, "red cells"), (fields.platelets, "platelets")):
        check_number(n, f"the number of {what}")
    check_amount(analyser.red_count, "the red count")


def _types(made: Differential, rules: CountRules, flagged: set[str]) -> Iterator[CountedType]:
    """Every type with its share, the most frequent first; sums of subtypes that have a reference interval after them."""
    for code, each in sorted(made.shares.items(), key=lambda item: -item[1].count):
        yield _counted(code, each, made, rules, flagged=code in flagged)
    for parent in rules.reference:
        parts = tuple(code for code in made.shares if parent in lineage(code))
        if parts and parts != (parent,):
            yield _counted(parent, made.together([parent]), made, rules, total_of=parts)


def _counted(
    code: str,
    each: Share,
    made: Differential,
    rules: CountRules,
    *,
    flagged: bool = False,
    total_of: tuple[str, ...] = (),
) -> CountedType:
    count = made.white_count if made.corrected_white_count is None else made.corrected_white_count
    absolute = None
    if count is not None and each.value is not None:
        absolute = Estimate(value=count * each.value, low=count * each.low, high=count * each.high)
    has_sum = not total_of and any(other != code and code in lineage(other) for other in made.shares)
    return CountedType(
        code=code,
        count=int(each.count),
        share=Estimate(value=each.value, low=each.low, high=each.high),
        absolute=absolute,
        # an interval of all neutrophils is none of the segmented ones alone
        reference=None if has_sum else _reference(code, each, rules),
        flagged=flagged,
        total_of=total_of,
    )


def _reference(code: str, each: Share, rules: CountRules) -> ReferenceInterval | None:
    interval = rules.reference.get(code)
    if interval is None or each.value is None:
        return None
    low, high = 100 * each.low > interval.high, 100 * each.high < interval.low
    return ReferenceInterval(low=interval.low, high=interval.high, found="high" if low else "low" if high else "within")


def _flags(made: Differential, rules: CountRules) -> tuple[tuple[str, ...], set[str]]:
    """Sentences on the flags of a count and the types they are about."""
    sentences, about = [], set()
    for name, flag in rules.flags.items():
        types = {code for code in (*made.shares, *made.beside) if set(flag.types) & set(lineage(code))}
        within = made.together(flag.types)
        n = int(within.count) + sum(made.beside[code] for code in types & set(made.beside))
        percent = 100 * n / made.total if made.total else 0.0
        if n and flag.reached(n, percent):
            beside = types & set(made.beside)
            amount = f"{percent:.1f} per 100 white cells" if beside else within.percent
            threshold = flag.threshold("per 100" if beside else "%")
            sentences.append(f"{name}: {formatting.counted(n, 'cell')}, {amount}; flagged at {threshold}")
            about |= types
    for code in rules.reference:
        if not any(code in lineage(found) for found in made.shares):
            continue
        each = made.together([code])
        interval = _reference(code, each, rules)
        if interval is not None and interval.found != "within":
            limits = f"reference {interval.low:g} to {interval.high:g} %"
            sentences.append(f"{formatting.label(code)} {interval.found}: {each.percent}, {limits}")
    return tuple(sentences), about


def _needed(made: Differential, rules: CountRules) -> Iterator[CellsNeeded]:
    """White cells still needed for the customary numbers, and for the limits of the most frequent type."""
    for number in sorted({*CUSTOMARY, *([rules.target] if rules.target else [])}):
        yield CellsNeeded(goal=f"{number} white cells", cells=max(0, number - made.total))
    if made.total:
        code, most = max(made.shares.items(), key=lambda item: item[1].count)
        value = most.value or 0.0
        try:
            cells = cells_for_width(value, rules.width / 100)
        except InputError:
            cells = MOST_CELLS
        yield CellsNeeded(
            goal=f"limits of {formatting.label(code)} {rules.width:g} points apart", cells=max(0, cells - made.total)
        )


def _decision(made: Differential, rules: CountRules, flags: Sequence[str]) -> str:
    """What is to be done with a count, as a sentence."""
    if not made.total:
        return "No white cell is counted: there is no differential."
    wanted = rules.target or rules.least_cells
    short = f"Only {formatting.counted(made.total, 'white cell')} of {wanted} counted: " if made.total < wanted else ""
    if short:
        return f"{short}count more cells before you use the percentages." + (" Look at the flags." if flags else "")
    if flags:
        return f"{formatting.counted(len(flags), 'flag')}: a morphologist looks at the slide."
    return "No flag. A morphologist confirms the count."
