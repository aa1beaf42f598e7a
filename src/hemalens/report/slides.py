"""Differential counts of slides: an overview, and for each slide its types with limits, flags and further counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from hemalens.evaluation import formatting
from hemalens.evaluation.results import CountedType, Estimate, SlideResult
from hemalens.report.figures import PALETTE, Drawing, Figures, Key, Legend, Panel, axes_px
from hemalens.report.tables import Block, Cell, Column, Facts, Fold, Items, Section, Table, Text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ANCHOR, HEADING = "slides", "Differential counts"
N_OPEN = 3
"""With more slides, each is folded."""
MOST_BARS = 40
"""At most so many slides have a bar in the overview's figure."""
BAR_PX, WIDTH_PX, NAME_PX, TOTAL_PX, AXIS_PX = 26.0, 860.0, 150.0, 60.0, 24.0
BESIDE = {"erythroblast": "nucleated red cells", "smudge_cell": "smudge cells"}
NOTE = (
    "Limits: exact binomial (Clopper-Pearson, as in R\N{LATIN SMALL LETTER U WITH DIAERESIS}mke's tables), 95 %, for the "
    "number of cells counted. They hold for the sampling of cells alone, not for errors of the program."
)
REFERENCE_NOTE = (
    "Reference: {source}. High or low: the limits of the count lie outside the interval as a whole. Laboratories differ; "
    "a file of rules sets the intervals."
)
ADJUSTED_NOTE = (
    "Adjusted: corrected for the confusion of the model on {source}. It assumes that the model errs on this slide as it "
    "does there, which another laboratory may not meet. The count itself is the column of per cent."
)
REVIEWED_NOTE = (
    "Reviewed: the program's share plus the mean correction of {n}, drawn at random (prediction-powered inference, "
    "Angelopoulos et al. 2023)."
)


def section(slides: Sequence[SlideResult]) -> Section:
    """The section of all slides; without blocks where there are none."""
    if not slides:
        return Section(ANCHOR, HEADING, ())
    several: tuple[Block, ...] = (overview(slides),) if len(slides) > 1 else ()
    told = tuple(
        Fold(formatting.visible(slide.name), tuple(_slide(slide)), is_open=len(slides) <= N_OPEN, titled=True, kind="whole")
        for slide in slides
    )
    return Section(ANCHOR, HEADING, (*several, _bars(slides), *told, Text(formatting.RESEARCH_USE)))


def summarise_slides(slides: Sequence[SlideResult]) -> list[str]:
    """A sentence for each of a few slides; of many, how many have a flag or are too small."""
    if len(slides) <= N_OPEN:
        return [_sentence(slide) for slide in slides]
    flagged = sum(bool(slide.flags) for slide in slides)
    total = sum(slide.total for slide in slides)
    return [
        f"{formatting.count(total)} white cells counted on {formatting.counted(len(slides), 'slide')}; "
        f"{formatting.counted(flagged, 'slide')} with a flag."
    ]


def _sentence(slide: SlideResult) -> str:
    most = [f"{formatting.label(each.code)} {_percent(each.share)}" for each in _own(slide)[:3] if each.count]
    found = f": {formatting.listed(most)}" if most else ""
    counted = formatting.counted(slide.total, "white cell")
    return f"{formatting.visible(slide.name)}: {counted} counted{found}. {slide.decision}"


def overview(slides: Sequence[SlideResult]) -> Table:
    """One row a slide: white cells, the most frequent types with their limits, and the flags."""
    counts: dict[str, int] = {}
    for each in (each for slide in slides for each in _own(slide)):
        counts[each.code] = counts.get(each.code, 0) + each.count
    shown = sorted(counts, key=lambda code: -counts[code])[:5]
    columns = (
        Column("Slide", numeric=False, heads=True),
        Column("White cells"),
        *(Column(f"{formatting.label(code)}, %") for code in shown),
        Column("Flags", numeric=False),
    )
    rows = tuple(
        (
            Cell(formatting.visible(slide.name)),
            Cell(formatting.count(slide.total)),
            *(_share_cell(next((each.share for each in _own(slide) if each.code == code), None)) for code in shown),
            Cell(_flag_names(slide) or "none"),
        )
        for slide in slides
    )
    return Table("The five most frequent types of each slide", columns, rows, note=NOTE, stacked=True)


def _flag_names(slide: SlideResult) -> str:
    return ", ".join(formatting.visible(flag.partition(":")[0]) for flag in slide.flags)


def _slide(slide: SlideResult) -> Iterator[Block]:
    yield Text(slide.decision, "notice" if slide.flags or not slide.total else "")
    if slide.flags:
        yield Items(tuple(map(formatting.visible, slide.flags)), heading="Flags")
    if slide.types:
        yield _types(slide)
    yield Facts(tuple(_facts(slide)))


def _types(slide: SlideResult) -> Table:
    """The table of types; columns without any value are left out."""
    has = {
        "absolute": any(each.absolute for each in slide.types),
        "reference": any(each.reference for each in slide.types),
        "adjusted": any(each.adjusted for each in slide.types),
        "reviewed": any(each.reviewed for each in slide.types),
    }
    titles = {
        "absolute": "10\N{SUPERSCRIPT THREE} per \N{MICRO SIGN}L",
        "reference": "Reference, %",
        "adjusted": "Adjusted, %",
        "reviewed": "Reviewed, %",
    }
    columns = (
        Column("Cell type", numeric=False, heads=True),
        Column("Cells"),
        Column("Per cent"),
        *(Column(titles[name]) for name, given in has.items() if given),
    )
    rows = []
    for each in slide.types:
        further = {
            "absolute": _absolute_cell(each.absolute),
            "reference": _reference_cell(each),
            "adjusted": _share_cell(each.adjusted),
            "reviewed": _share_cell(each.reviewed),
        }
        name = f"{formatting.label(each.code)}, all" if each.total_of else formatting.label(each.code)
        row = (Cell(name, tag="flag" if each.flagged else ""), Cell(formatting.count(each.count)))
        rows.append((*row, _share_cell(each.share, drawn=True), *(further[key] for key, given in has.items() if given)))
    notes = [NOTE]
    notes += [REFERENCE_NOTE.format(source=formatting.visible(slide.reference_source))] if has["reference"] else []
    notes += [ADJUSTED_NOTE.format(source=formatting.visible(slide.adjusted_by))] if has["adjusted"] else []
    notes += [REVIEWED_NOTE.format(n=formatting.counted(slide.n_reviewed, "cell"))] if has["reviewed"] else []
    return Table(
        f"Differential of {formatting.counted(slide.total, 'white cell')}",
        columns,
        tuple(rows),
        note=" ".join(notes),
        where=formatting.visible(slide.name),
    )


def _facts(slide: SlideResult) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What is known of a slide beside its types, as terms with lines."""
    found: dict[str, list[str]] = {
        "Fields": [formatting.count(slide.n_fields)] if slide.n_fields else [],
        "Beyond the target": [formatting.counted(slide.n_beyond, "white cell")] if slide.n_beyond else [],
        "Beside the hundred": [
            f"{BESIDE.get(each.code, formatting.label(each.code))}: {formatting.count(each.count)}"
            + ("" if each.per_100 is None else f", {each.per_100:.1f} per 100 white cells")
            for each in slide.beside
        ],
        "White count": _white_count(slide),
        "Red cells": [formatting.count(slide.n_red_cells)] if slide.n_red_cells else [],
        "Platelets": _platelets(slide),
        "Rare types": _rare(slide),
        "Still needed": [f"{formatting.count(each.cells)} for {each.goal}" for each in slide.needed if each.cells],
        "Not counted": [f"{formatting.visible(why)}: {formatting.count(n)}" for why, n in slide.not_counted.items()],
    }
    return ((term, tuple(lines)) for term, lines in found.items() if lines)


def _white_count(slide: SlideResult) -> list[str]:
    if slide.white_count is None:
        return []
    lines = [f"{slide.white_count:.2f} \N{MULTIPLICATION SIGN} 10\N{SUPERSCRIPT THREE} per \N{MICRO SIGN}L"]
    if slide.corrected_white_count is not None:
        lines.append(f"{slide.corrected_white_count:.2f} corrected for nucleated red cells")
    return lines


def _platelets(slide: SlideResult) -> list[str]:
    lines = [f"{formatting.count(slide.n_platelets)} counted"] if slide.n_platelets else []
    estimates = {
        "by the ratio to red cells": slide.platelets_by_ratio,
        "by their mean in a field": slide.platelets_by_field if slide.n_platelets else None,
    }
    unit = "\N{MULTIPLICATION SIGN} 10\N{SUPERSCRIPT THREE} per \N{MICRO SIGN}L"
    lines += [f"about {value:.0f} {unit} {how}" for how, value in estimates.items() if value is not None]
    return lines


def _rare(slide: SlideResult) -> list[str]:
    lines = []
    if slide.smallest_share is not None:
        lines.append(
            f"this count shows a type of {100 * slide.smallest_share:.1f} % or more with 95 % probability, by one cell"
        )
    needed = [f"{formatting.count(n)} at {percent} %" for percent, n in slide.to_see_one.items()]
    lines += [f"white cells to count to see one, as a blast: {formatting.listed(needed)}"] if needed else []
    return lines


def _own(slide: SlideResult) -> list[CountedType]:
    """The types without the sums."""
    return [each for each in slide.types if not each.total_of]


def _percent(share: Estimate) -> str:
    if share.value is None:
        return formatting.MISSING
    limits = _limits(share)
    return f"{100 * share.value:.1f} %" + (f" ({limits})" if limits else "")


def _limits(share: Estimate, factor: float = 100, digits: int = 1) -> str:
    if share.low is None or share.high is None:
        return ""
    return f"{factor * share.low:.{digits}f}{formatting.EN_DASH}{factor * share.high:.{digits}f}"


def _share_cell(share: Estimate | None, *, drawn: bool = False) -> Cell:
    """A share in per cent with its limits; `drawn` adds them as a figure."""
    if share is None or share.value is None:
        return Cell(formatting.MISSING)
    limits = _limits(share)
    drawing = None
    if drawn and share.low is not None and share.high is not None:
        drawing = (share.low, share.value, share.high)
    return Cell(f"{100 * share.value:.1f}", (limits,) if limits else (), limits=drawing)


def _absolute_cell(amount: Estimate | None) -> Cell:
    if amount is None or amount.value is None:
        return Cell(formatting.MISSING)
    limits = _limits(amount, 1, 2)
    return Cell(f"{amount.value:.2f}", (limits,) if limits else ())


def _reference_cell(each: CountedType) -> Cell:
    interval = each.reference
    if interval is None:
        return Cell("")
    tag = "" if interval.found == "within" else interval.found
    return Cell(f"{interval.low:g}{formatting.EN_DASH}{interval.high:g}", tag=tag)


# ---------------------------------------------------------------------------------------------------------- the figure


def _bars(slides: Sequence[SlideResult]) -> Figures:
    """A stacked bar for each of the first slides, its types in the same colours and order."""
    shown = [slide for slide in slides if slide.total][:MOST_BARS]
    counts: dict[str, float] = {}
    for each in (each for slide in shown for each in _own(slide)):
        counts[each.code] = counts.get(each.code, 0.0) + (each.share.value or 0.0)
    codes = [code for code in sorted(counts, key=lambda code: -counts[code]) if counts[code]]
    colours = {code: PALETTE[i % len(PALETTE)] for i, code in enumerate(codes)}
    size = (WIDTH_PX, BAR_PX * max(1, len(shown)) + AXIS_PX + 6)
    alt = f"Shares of the cell types of {formatting.counted(len(shown), 'slide')}, as stacked bars"
    drawing = Drawing(partial(_draw_bars, slides=shown, colours=colours), size, "slides", alt)
    keys = tuple(Key(formatting.label(code), colours[code], marker="s") for code in codes)
    beyond = len(slides) - len(shown)
    caption = "Per cent of the counted white cells; right: their number."
    if beyond:
        caption += f" {formatting.counted(beyond, 'further slide')} not drawn."
    return Figures(
        (Panel(drawing, region=alt),), caption, legends=(Legend("Cell types", keys),), kind="maps", width_px=int(WIDTH_PX)
    )


def _draw_bars(figure: Figure, *, slides: Sequence[SlideResult], colours: dict[str, str]) -> None:
    axes = axes_px(figure, NAME_PX, 4, TOTAL_PX, AXIS_PX)
    axes.set(xlim=(0, 100), ylim=(max(1, len(slides)) - 0.5, -0.5))
    axes.set_yticks(range(len(slides)), [formatting.shortened(formatting.visible(s.name), 20) for s in slides])
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    for row, slide in enumerate(slides):
        shares = {each.code: 100 * (each.share.value or 0.0) for each in _own(slide)}
        left = 0.0
        for code, colour in colours.items():
            if share := shares.get(code, 0.0):
                axes.barh(row, share, left=left, height=0.66, color=colour)
                left += share
        axes.text(101, row, formatting.count(slide.total), va="center", ha="left")
