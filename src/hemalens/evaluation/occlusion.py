"""Occlusion maps: how a prediction changes when part after part of the image is covered.

Occlusion sensitivity (Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014). ONNX only.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from hemalens.bundle.bundle import Bundle
from hemalens.datasets.base import CellDataset
from hemalens.errors import BundleError, InputError, one_line
from hemalens.evaluation import formatting
from hemalens.evaluation.chosen_cells import chosen_cells, verdict
from hemalens.evaluation.evaluate import DatasetPredictions, predict_dataset
from hemalens.evaluation.results import Picture, PictureTable
from hemalens.evaluation.thumbnails import WHITE, outlined, thumbnail
from hemalens.graphs.cost import count_graph
from hemalens.graphs.runtime import n_cores, require_probabilities, session_of
from hemalens.imaging.evidence import overlay
from hemalens.imaging.reading import rim_colour
from hemalens.progress import track

PATCH_SHARE = 1 / 5
"""Side of the patch as a share of the image's side: about a nuclear lobe, or a red cell beside the white one."""
N_SHOWN = 4
"""Cells with a map: a map takes as long as about eighty predictions."""
MAX_FLOPS = 5e12
"""The most work for one table; cells are left out beyond it. Two minutes of one core at 40 GFLOPS a second."""
COLUMNS = ("image", "occlusion map")
TOO_LARGE = "No occlusion maps: the network is too large, or its operations cannot be counted."

_PIXELS_AT_ONCE = 2_000_000
_SHOWN_PX = 160
_MIN_SCALE = 0.1
"""The smallest change of a probability that has full colour, so that noise stays pale."""
_MIN_BOXED = 0.05
"""The smallest drop of a probability whose place gets a box."""


@dataclass(frozen=True, slots=True)
class Occlusion:
    """Probabilities of a bundle for one image, whole and with a patch over each place in turn.

    `tops` (r,) and `lefts` (c,) are the patch's places and `patch` its (height, width), in px of an image of `size`
    (height, width); `whole` (k,) and `covered` (r, c, k) are probabilities.
    """

    size: tuple[int, int]
    patch: tuple[int, int]
    tops: NDArray[np.int64]
    lefts: NDArray[np.int64]
    whole: NDArray[np.float32]
    covered: NDArray[np.float32]

    def drops(self, k: int) -> NDArray[np.float32]:
        """By how much covering each place lowers the probability of class `k`, (r, c) in [-1, 1]."""
        drops: NDArray[np.float32] = self.whole[k] - self.covered[:, :, k]
        return drops

    def map(self, k: int) -> NDArray[np.float64]:
        """The drops at the centres of the patches, bilinear in between, (height, width) of the image, in [-1, 1].

        From the outermost centres to the border the value stays the same.
        """
        height, width = self.size
        rows = _weights(self.tops + (self.patch[0] - 1) / 2, height)
        columns = _weights(self.lefts + (self.patch[1] - 1) / 2, width)
        whole: NDArray[np.float64] = rows @ self.drops(k) @ columns.T
        return whole

    def strongest(self, k: int) -> tuple[int, int]:
        """(row, column) of the place that lowers the probability of class `k` most; of equal ones the first."""
        row, column = np.unravel_index(int(self.drops(k).argmax()), self.covered.shape[:2])
        return int(row), int(column)

    def box(self, place: tuple[int, int]) -> NDArray[np.bool_]:
        """The patch at (row, column) as a mask, (height, width) of the image."""
        mask = np.zeros(self.size, bool)
        top, left = self.tops[place[0]], self.lefts[place[1]]
        mask[top : top + self.patch[0], left : left + self.patch[1]] = True
        return mask


def _weights(centres: NDArray[np.floating], n: int) -> NDArray[np.float64]:
    """Weight of each centre at each of `n` pixels, linear in between, (n, number of centres)."""
    return np.stack([np.interp(np.arange(n), centres, unit) for unit in np.eye(len(centres))], axis=1)


class Occluder:
    """Covers parts of images and runs a bundle on them, `n_workers` batches at once.

    The patch has `share` of each side of the image, so that it is square where the graph sees a square, and moves by half
    of itself. Raises `BundleError` for a graph that cannot be run, `InputError` for a share outside (0, 1].
    """

    def __init__(self, bundle: Bundle, *, share: float = PATCH_SHARE, n_workers: int | None = None) -> None:
        if not 0 < share <= 1:
            raise InputError("the share of the patch is out of range", expected="above 0, at most 1", got=str(share))
        self.share = share
        self.n_workers = n_workers or n_cores()
        self._n_classes = len(bundle.manifest.labels)
        self._name = one_line(bundle.path)
        try:
            self._session = session_of(bundle.graph_bytes)
        except Exception as error:
            # ONNX Runtime has one error class for each kind of invalid graph
            raise BundleError(f"the graph in {self._name} cannot be run", got=str(error)[:120]) from error

    def __call__(self, image: NDArray[np.uint8]) -> Occlusion:
        """The probabilities for an image uint8 (H, W, 3) as the graph receives it, after the bundle's stages."""
        height, width = image.shape[:2]
        patch = (max(1, round(height * self.share)), max(1, round(width * self.share)))
        tops, lefts = (_places(side, own, self.share) for side, own in zip((height, width), patch, strict=True))
        places = list(product(tops.tolist(), lefts.tolist()))
        size = max(1, _PIXELS_AT_ONCE // (height * width))
        colour = rim_colour(image)

        def run_places(start: int) -> NDArray[np.float32]:
            here = places[start : start + size]
            batch = np.repeat(image[None], len(here), axis=0)
            for covered, (top, left) in zip(batch, here, strict=True):
                covered[top : top + patch[0], left : left + patch[1]] = colour
            return self._run(batch)

        with ThreadPoolExecutor(self.n_workers) as pool:
            whole = pool.submit(self._run, image[None])
            found = np.concatenate(list(pool.map(run_places, range(0, len(places), size))))
        return Occlusion(
            size=(height, width),
            patch=patch,
            tops=tops,
            lefts=lefts,
            whole=whole.result()[0],
            covered=found.reshape(len(tops), len(lefts), self._n_classes),
        )

    def _run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (n, k) of a batch (n, H, W, 3)."""
        try:
            (found,) = self._session.run(["probabilities"], {"image": batch})
        except Exception as error:
            raise BundleError(f"the graph in {self._name} cannot be run", got=str(error)[:120]) from error
        probabilities = np.asarray(found, np.float32)
        require_probabilities(probabilities, self._n_classes, self._name)
        return probabilities


def _places(side: int, patch: int, share: float) -> NDArray[np.int64]:
    """First pixels of a patch that moves by half of itself, from border to border, each once."""
    return np.unique(np.round(np.linspace(0, side - patch, _n_places(share))).astype(np.int64))


def _n_places(share: float) -> int:
    """Number of places of the patch from border to border."""
    return int(np.ceil((1 - share) / (share / 2) - 1e-9)) + 1


def affordable(bundle: Bundle, n: int = N_SHOWN) -> int:
    """How many of `n` cells `MAX_FLOPS` allow, by the graph's multiply-adds; none where these cannot be counted."""
    n_runs = 1 + _n_places(PATCH_SHARE) ** 2
    try:
        flops = count_graph(bundle.graph, bundle.manifest.preprocessing.size_px).flops * n_runs
    except BundleError:
        return 0
    return n if flops * n <= MAX_FLOPS else int(MAX_FLOPS // flops)


def occlusion_table(
    bundle: Bundle, dataset: CellDataset, predictions: DatasetPredictions | None = None, *, n: int = N_SHOWN
) -> PictureTable:
    """Occlusion maps of at most `n` cells of a dataset, each beside the image as the graph receives it.

    The cells are those of `chosen_cells`, fewer where the network is large (`affordable`). `predictions` are the
    bundle's on the dataset, where they are known. Raises `BundleError` for a graph that is none of a bundle.
    """
    occluder = Occluder(bundle)
    room = affordable(bundle, n)
    known = predictions or predict_dataset(bundle, dataset)
    chosen = chosen_cells(known, bundle.manifest.labels, room)
    rows = []
    with track("covering parts of cells", len(chosen)) as progress:
        for i in chosen:
            record = replace(known.records[i], before=bundle.stages)
            image = record.read()
            rows.append(_row(record.file_name, str(record.label), image, occluder(image), bundle.manifest.labels))
            progress(1)
    return PictureTable(
        title=f"{bundle.manifest.method} on {dataset.name}: occlusion maps",
        columns=COLUMNS,
        rows=tuple(rows),
        note=_note(n, shortened=room < n, cut_out=bool(bundle.stages)),
        reason="" if room else TOO_LARGE,
    )


def _row(name: str, label: str, image: NDArray[np.uint8], found: Occlusion, labels: Sequence[str]) -> Picture:
    k = int(found.whole.argmax())
    change = found.map(k)
    scale = max(_MIN_SCALE, float(np.abs(found.drops(k)).max()))
    place = found.strongest(k)
    boxed = float(found.drops(k)[place]) >= _MIN_BOXED
    boxes = [found.box(place)] if boxed else []
    drawn = outlined(overlay(image, change, scale), *boxes, colours=[WHITE])
    caption = [verdict(label, labels[k], float(found.whole[k]))]
    if boxed:
        covered = found.covered[place]
        other = int(covered.argmax())
        what = "still " if other == k else ""
        caption.append(
            f"with the boxed part covered: {what}{formatting.label(labels[other])}, "
            f"{formatting.probability(float(covered[other]))}"
        )
    else:
        caption.append(f"covering any one part lowers it by less than {_MIN_BOXED}")
    caption.append(f"colour scale: ±{scale:.2f}")
    return Picture(
        name=name, caption="; ".join(caption), pictures=(thumbnail(image, _SHOWN_PX), thumbnail(drawn, _SHOWN_PX))
    )


def _note(n: int, *, shortened: bool, cut_out: bool) -> str:
    sentences = [
        "A plain patch covers each part of the image in turn, and the model predicts again "
        "(occlusion sensitivity, Zeiler and Fergus 2014).",
        "Orange: covering this part lowers the probability of the predicted class; blue: covering it raises that "
        "probability; plain gray: no difference.",
        "The text under each picture gives the colour scale, the change of probability in full colour. The box is the "
        "patch whose covering lowers the probability most.",
        "A sound prediction depends on the white cell, not on red cells or background.",
        f"The patch has {formatting.share(PATCH_SHARE)} of the image's side and the median colour of its rim, and moves by "
        "half of itself. A part that another one replaces shows no colour.",
        f"The table shows at most {n} cells: the most confident correct prediction of each class, then the most confident "
        "wrong one of each pair of classes.",
    ]
    if cut_out:
        sentences.insert(1, "Images are shown as the network receives them, with the cell cut out.")
    if shortened:
        sentences.append("Fewer cells are shown, since this network is slow.")
    return " ".join(sentences)
