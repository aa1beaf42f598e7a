"""A summary of fields with boxes as lines for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hemalens.cli.lines import listed, section, wrapped

if TYPE_CHECKING:
    from hemalens.datasets.audit import Audit
    from hemalens.datasets.fields.summary import FieldSummary, KindSummary

COLUMN = 16
N_REASONS = 10


def summary_lines(summary: FieldSummary) -> list[str]:
    """One set: its counts as a table with a row a laboratory, then types, sizes and what was left out."""
    slides = f" of {summary.n_slides} slide(s)" if summary.n_slides else ""
    plural = "" if summary.n_fields == 1 else "s"
    lines = [f"{summary.name}: {summary.n_fields} field{plural}{slides}, {summary.n_empty} without a cell"]
    lines += wrapped(f"licence {summary.licence}; cite {summary.citation}")
    for note in summary.notes:
        lines += wrapped(f"note: {note}")
    for reason, n in list(summary.dropped.items())[:N_REASONS]:
        lines += wrapped(f"left out: {n} box(es), {reason}")
    if len(summary.dropped) > N_REASONS:
        lines.append(f"left out: boxes for {len(summary.dropped) - N_REASONS} more reasons (--json lists them)")
    kinds = list(next(iter(summary.domains.values())))
    width = max(len("laboratory"), *map(len, summary.domains)) + 2
    lines.append("".join(["laboratory".ljust(width), "fields".rjust(6), *(f"{kind}s".rjust(COLUMN) for kind in kinds)]))
    incomplete = False
    for domain, found in summary.domains.items():
        cells = [_cell(found[kind], summary.n_in_domain[domain]) for kind in kinds]
        incomplete = incomplete or any(cell.endswith("*") for cell in cells)
        lines.append("".join([domain.ljust(width), f"{summary.n_in_domain[domain]:6}", *(c.rjust(COLUMN) for c in cells)]))
    lines += wrapped("In brackets: the median longer side of the boxes.")
    if incomplete:
        lines += wrapped("* not boxed completely: places without a box are not taken as background")
    lines += listed("cell types", [f"{name} {n}" for name, n in summary.types.items()])
    sizes = [f"{size} ({n})" for size, n in summary.sizes.items()]
    return lines + listed("sizes (px)", sizes[:5] + ([f"{len(sizes) - 5} more"] if len(sizes) > 5 else []))


def _cell(kind: KindSummary, n_fields: int) -> str:
    side = f" ({kind.median_px:.0f} px)" if kind.median_px is not None else ""
    return f"{kind.n}{side}{'' if kind.n_complete == n_fields else ' *'}"


def copy_lines(copies: Sequence[list[str]], found: Audit | None) -> list[str]:
    """The copies, and what a comparison of the images found."""
    lines = section("byte-identical images", list(copies))
    if found is None:
        return [*lines, "Near-duplicates and turned copies: --compare"]
    near = [[a, f"{b} (differ by {d:g} gray levels)"] for a, b, d in found.near_duplicates]
    lines += section("near-duplicates", near, "~")
    turned = [[m[0][0], *(f"{name} ({how})" for name, how in m[1:])] for m in found.turned_copies]
    return (
        lines
        + section("turned, mirrored or shifted copies", turned, "~")
        + section("unreadable", [[reason] for reason in found.unreadable.values()])
    )
