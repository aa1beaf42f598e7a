"""Copies of a field and fields that overlap: each cell of a slide counts once.

Two fields overlap where three things agree: the shift that a cell or the spectrum of the pictures proposes, the correlation
of their details in the part that both show, and the places of the cells in it. Without all of them nothing is merged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from hemalens.datasets.near_copies import join_near_copies
from hemalens.datasets.relatives import UPRIGHT, Relatives
from hemalens.runs.counting.decide import COUNTED_IN, IN_COPY_OF
from hemalens.runs.counting.find import FoundCell, FoundField

COPY_CORRELATION, LEAST_CORRELATION = 0.9, 0.7
"""Correlation of the details of two copies, and of the part that two fields share."""
LEAST_SHARED = 0.06
"""Share of a field that two fields must have in common."""
COPY_SHARED = 0.97
"""Share in common from which on one field is a copy of the other."""
LIKE_PORTRAIT = 0.8
"""Correlation of the portraits of two cells that may be one."""
LEAST_AGREEMENT = 0.6
"""Share of the cells in the common part that must be found in both fields."""
MOST_PAIRS, NEXT_FIELDS = 3000, 3
"""Pairs of fields whose pictures are compared as a whole, whatever cells they hold: the nearest in the order of the slide,
and of each field at least so many that follow it. Up to 77 fields are all compared with each other."""
HIGH_PEAK = 5.0
"""Standard deviations of a correlation surface that a peak must reach; the highest of pure noise has about four."""
REFINED_PX, WORTH_REFINING = 4, 0.2
"""How far, in pixels of the small copies, a proposed shift is refined, and the correlation from which on it is."""
LEAST_CELLS = 4
"""Cells in the common part without a white cell that must agree."""
LEAST_DETAIL = 2.0
"""Gray levels by which a common part must vary: a bare background agrees with every other."""

Shift = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two fields, i before j, that share a part: a place (x, y) of i is at (x, y) + `shift` in j, in pixels."""

    i: int
    j: int
    shift: Shift
    correlation: float
    shared: float


def same_content(fields: Sequence[FoundField]) -> dict[int, int]:
    """The fields whose file has the bytes of an earlier one, with that one."""
    first: dict[str, int] = {}
    copies = {}
    for i, found in enumerate(fields):
        if not found.error:
            original = first.setdefault(found.content, i)
            if original != i:
                copies[i] = original
    return copies


def near_copies(fields: Sequence[FoundField], chosen: Sequence[int]) -> dict[int, int]:
    """Fields among `chosen` that show what an earlier one shows, such as a file saved anew, with that one."""
    seen = [(i, look) for i in chosen if (look := fields[i].look) is not None]
    chosen, looks = [i for i, _ in seen], [look for _, look in seen]
    copies: dict[int, int] = {}
    for a, b, orientation, _ in join_near_copies(looks, Relatives(len(looks))):
        i, j = chosen[a], chosen[b]
        if orientation == UPRIGHT and _whole_correlation(fields[i], fields[j]) >= COPY_CORRELATION:
            copies[j] = copies.get(i, i)
    return copies


def _whole_correlation(first: FoundField, second: FoundField) -> float:
    if first.gray is None or second.gray is None or first.gray.shape != second.gray.shape:
        return 0.0
    return _correlation(first.gray, second.gray)


def find_overlaps(fields: Sequence[FoundField], chosen: Sequence[int]) -> list[Overlap]:
    """The overlaps of the fields `chosen`, each pair once."""
    found: dict[tuple[int, int], Overlap] = {}
    for i, j, shift in (*_by_portraits(fields, chosen), *_by_spectra(fields, chosen)):
        if (i, j) not in found and fields[i].shape == fields[j].shape:
            overlap = verified(fields, i, j, shift)
            if overlap is not None:
                found[i, j] = overlap
    return [found[pair] for pair in sorted(found)]


def _by_portraits(fields: Sequence[FoundField], chosen: Sequence[int]) -> Iterator[tuple[int, int, Shift]]:
    """Shifts proposed by cells of two fields that look like one."""
    owners = [(i, number) for i in chosen for number in sorted(fields[i].portraits)]
    if len(owners) < 2:
        return
    looks = np.stack([fields[i].portraits[number] for i, number in owners])
    place = np.array([i for i, _ in owners])
    for row in range(len(owners) - 1):
        alike = looks[row + 1 :] @ looks[row]
        others = np.flatnonzero((alike >= LIKE_PORTRAIT) & (place[row + 1 :] != place[row])) + row + 1
        for other in others[np.argsort(-alike[others - row - 1], kind="stable")]:
            (i, a), (j, b) = owners[row], owners[int(other)]
            (x, y), (u, v) = _centre(fields[i].cells[a]), _centre(fields[j].cells[b])
            yield i, j, (u - x, v - y)


def _by_spectra(fields: Sequence[FoundField], chosen: Sequence[int]) -> Iterator[tuple[int, int, Shift]]:
    """Shifts proposed by the phase correlation of each field with the few after it."""
    reach = max(NEXT_FIELDS, 2 * MOST_PAIRS // max(len(chosen), 1))
    spectra: dict[int, Spectrum] = {}
    for at, i in enumerate(chosen):
        # those of fields that none of the next is compared with are let go
        near = {j: gray for j in chosen[at : at + 1 + reach] if (gray := fields[j].gray) is not None}
        spectra = {j: spectra[j] if j in spectra else _spectrum(gray) for j, gray in near.items()}
        for j in chosen[at + 1 : at + 1 + reach]:
            if fields[i].shape == fields[j].shape and i in spectra and j in spectra:
                shape = fields[i].shape
                for x, y in phase_shifts(spectra[i], spectra[j]):
                    yield i, j, (x * shape[1] / spectra[i].size[0], y * shape[0] / spectra[i].size[1])


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The Fourier coefficients of a small picture of a `size` (width, height), each of amplitude 1."""

    values: NDArray[np.complex64]
    size: tuple[int, int]


def _spectrum(gray: NDArray[np.int8]) -> Spectrum:
    """The spectrum of a gray picture at half its size."""
    height, width = (side // 2 for side in gray.shape)
    half = gray[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean(axis=(1, 3), dtype=np.float32)
    values = fft.rfft2(half)
    return Spectrum((values / np.maximum(np.abs(values), 1e-6)).astype(np.complex64), (width, height))


def phase_shifts(first: Spectrum, second: Spectrum) -> list[tuple[int, int]]:
    """Shifts (x, y) in pixels that the phase correlation of two pictures of one size proposes, the likeliest first.

    The spectrum is cyclic, so each of the two highest peaks stands for up to four shifts. Peaks that noise may have are
    left out.
    """
    width, height = first.size
    surface = fft.irfft2(np.conj(first.values) * second.values, (height, width))
    least = HIGH_PEAK * float(surface.std())
    found: list[tuple[int, int]] = []
    for _ in range(2):
        peak = int(surface.argmax())
        if surface.flat[peak] < least:
            break
        y, x = divmod(peak, width)
        surface.flat[peak] = -np.inf
        found += [(u, v) for u in (x, x - width) for v in (y, y - height) if abs(u) < width and abs(v) < height]
    return found


def verified(fields: Sequence[FoundField], i: int, j: int, shift: Shift) -> Overlap | None:
    """The overlap of two fields under a proposed shift, refined; None where pictures or cells do not agree."""
    first, second = fields[i], fields[j]
    if first.gray is None or second.gray is None:
        return None
    scale = max(first.shape) / max(first.gray.shape)
    correlation, best = _refined(first.gray, second.gray, (round(shift[0] / scale), round(shift[1] / scale)))
    if correlation < LEAST_CORRELATION:
        return None
    x, y = best
    height, width = first.gray.shape
    shared = (1 - abs(x) / width) * (1 - abs(y) / height)
    overlap = Overlap(i, j, (x * scale, y * scale), correlation, shared)
    return overlap if _cells_agree(first, second, overlap) else None


def _refined(first: NDArray[np.int8], second: NDArray[np.int8], near: tuple[int, int]) -> tuple[float, tuple[int, int]]:
    """The best correlation in steps of a pixel from a proposed shift, and its shift."""
    best = _shared_correlation(first, second, near), near
    for _ in range(REFINED_PX if best[0] >= WORTH_REFINING else 0):
        x, y = best[1]
        tries = [(x + u, y + v) for u in (-1, 0, 1) for v in (-1, 0, 1) if u or v]
        step = max((_shared_correlation(first, second, each), each) for each in tries)
        if step[0] <= best[0]:
            break
        best = step
    return best


def _shared_correlation(first: NDArray[np.int8], second: NDArray[np.int8], shift: tuple[int, int]) -> float:
    """The correlation of the part of two pictures that both show under a shift (x, y); 0 where it is too small."""
    (x, y), (height, width) = shift, first.shape
    if (width - abs(x)) * (height - abs(y)) < LEAST_SHARED * width * height or abs(x) >= width or abs(y) >= height:
        return 0.0
    a = first[max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)]
    b = second[max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)]
    return _correlation(a, b)


def _correlation(first: NDArray[np.int8], second: NDArray[np.int8]) -> float:
    """Pearson's correlation of two pictures; 0 where one of them has no detail."""
    a, b = (each.astype(np.float32).ravel() for each in (first, second))
    a -= a.mean()
    b -= b.mean()
    squares = float(a @ a), float(b @ b)
    return float(a @ b) / math.sqrt(squares[0] * squares[1]) if min(squares) >= LEAST_DETAIL**2 * a.size else 0.0


def _cells_agree(first: FoundField, second: FoundField, overlap: Overlap) -> bool:
    """Whether the cells that both fields must show are found in both: the white cells, or without any the others."""
    pairs = matched(first, second, overlap.shift)
    x, y = overlap.shift
    there = _inside(first, (x, y))
    back = _inside(second, (-x, -y))
    white = [c for c in there if first.cells[c].is_white], [c for c in back if second.cells[c].is_white]
    if any(white):
        n_matched = sum(first.cells[a].is_white for a, _ in pairs)
        # a cell may be cut, and so be missed, in one of them
        return n_matched > 0 and n_matched >= LEAST_AGREEMENT * max(map(len, white))
    return len(pairs) >= LEAST_CELLS and len(pairs) >= LEAST_AGREEMENT * max(len(there), len(back))


def _inside(found: FoundField, shift: Shift) -> list[int]:
    """The cells that do not count as doubtful, and lie wholly in the part that the other field shows."""
    height, width = found.shape
    kept = []
    for cell in found.cells:
        left, top, right, bottom = cell.corners
        whole = left + shift[0] >= 0 and right + shift[0] <= width and top + shift[1] >= 0 and bottom + shift[1] <= height
        if whole and not cell.cut and not cell.reason:
            kept.append(cell.number)
    return kept


def matched(first: FoundField, second: FoundField, shift: Shift) -> list[tuple[int, int]]:
    """Pairs of cells of one kind at the same place under a shift, each cell once, the nearest first."""
    a, b = (np.array([cell.corners for cell in found.cells]).reshape(-1, 4) for found in (first, second))
    if not len(a) or not len(b):
        return []
    moved = a + np.tile(shift, 2)
    # distance of the centres in mean sides; a cut cell's centre is where its whole box would not be
    centres = (moved[:, None, :2] + moved[:, None, 2:] - b[None, :, :2] - b[None, :, 2:]) / 2
    sides = (a[:, 2:] - a[:, :2]).max(axis=1)[:, None], (b[:, 2:] - b[:, :2]).max(axis=1)[None]
    distance = np.hypot(centres[..., 0], centres[..., 1]) / np.maximum((sides[0] + sides[1]) / 2, 1.0)
    distance = np.where(_contained(moved, b) >= 0.6, np.minimum(distance, 0.45), distance)
    kinds = [np.array([cell.kind for cell in found.cells]) for found in (first, second)]
    distance = np.where(kinds[0][:, None] == kinds[1][None], distance, np.inf)
    found, used = [], (set[int](), set[int]())
    for place in np.argsort(distance, axis=None, kind="stable"):
        i, j = divmod(int(place), len(b))
        if distance[i, j] > 0.5:
            break
        if i not in used[0] and j not in used[1]:
            found.append((i, j))
            used[0].add(i)
            used[1].add(j)
    return found


def _contained(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """The common area of boxes (n, 4) and (m, 4) as a share of the smaller one (n, m)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clip(0).prod(axis=2)
    areas = [(each[:, 2:] - each[:, :2]).clip(1e-9).prod(axis=1) for each in (first, second)]
    found: NDArray[np.float64] = shared / np.minimum(areas[0][:, None], areas[1][None])
    return found


def count_once(fields: Sequence[FoundField]) -> None:
    """Give every cell that is counted in another field, or lies in a copy of one, its reason."""
    readable = [i for i, found in enumerate(fields) if not found.error]
    copies = same_content(fields)
    copies |= near_copies(fields, [i for i in readable if i not in copies])
    overlaps = find_overlaps(fields, [i for i in readable if i not in copies])
    copies |= {each.j: each.i for each in overlaps if each.shared >= COPY_SHARED and each.i not in copies}
    for j, i in copies.items():
        fields[j].copy_of = fields[i].field.name
        for cell in fields[j].cells:
            cell.elsewhere(f"{IN_COPY_OF}{fields[i].field.name}")
    _merge(fields, [each for each in overlaps if each.i not in copies and each.j not in copies])


def _merge(fields: Sequence[FoundField], overlaps: Sequence[Overlap]) -> None:
    """Of the cells that are one, only that with the best view counts."""
    groups: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for each in overlaps:
        first, second = fields[each.i], fields[each.j]
        first.overlaps = (*first.overlaps, second.field.name)
        second.overlaps = (*second.overlaps, first.field.name)
        for a, b in matched(first, second, each.shift):
            joined = groups.get((each.i, a), {(each.i, a)}) | groups.get((each.j, b), {(each.j, b)})
            groups |= dict.fromkeys(joined, joined)
    for members in {id(group): group for group in groups.values()}.values():
        views = sorted(members, key=lambda one: _view(fields, one))
        best = fields[views[0][0]].cells[views[0][1]]
        for i, number in views[1:] if not best.reason else ():
            cell = fields[i].cells[number]
            cell.elsewhere(cell.reason or f"{COUNTED_IN}{fields[views[0][0]].field.name}")


def _view(fields: Sequence[FoundField], member: tuple[int, int]) -> tuple[bool, bool, float, int, int]:
    """Sorts the views of a cell: counted, whole, with a high score."""
    i, number = member
    cell = fields[i].cells[number]
    return bool(cell.reason), cell.cut, -cell.score, i, number


def _centre(cell: FoundCell) -> tuple[float, float]:
    left, top, right, bottom = cell.corners
    return (left + right) / 2, (top + bottom) / 2
