"""Exact maps of the evidence of a model with a linear head on pooled features, by ONNX Runtime.

The linear outputs of a feature map's mean are the mean of a value at each place, plus a constant: `Activation.parts` holds
these values. Flipped and turned views of an image are turned back.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from hemalens.errors import BundleError
from hemalens.graphs.linear_part import LOGITS, OTHER_WAY, LinearPart, find_linear_part
from hemalens.graphs.runtime import session_of

N_VIEWS = (1, 2, 4, 8)
TOLERANCE = 1e-4
"""Largest difference of a map's mean from its linear output, as a share of the largest output, or of 1."""
STEP = 0.01
"""Change of a linear output in each direction, for the slope of the log odds."""
_AT_ONCE = 256
"""Features whose weights are found at once."""

Floats = NDArray[np.float32]


class Symmetry(NamedTuple):
    """A symmetry of the square: transposed or not, then read downwards and across, 1, or backwards, -1."""

    transposed: bool
    down: int
    across: int


SYMMETRIES = tuple(Symmetry(*each) for each in product((False, True), (1, -1), (1, -1)))


@dataclass(frozen=True, slots=True)
class Activation:
    """The maps of one image.

    `parts` are the maps (m, h, w) of the m linear outputs, one for each feature map; the means over their places, added up,
    and the `constant` (m,) give the `outputs` (m,). `probabilities` (k,) are the model's. `slope` (m,) is how the log odds
    of the likeliest class rise with each output: 1 for its own and minus the shares of the others, for a softmax.
    """

    parts: tuple[NDArray[np.float64], ...]
    constant: NDArray[np.float64]
    outputs: NDArray[np.float64]
    probabilities: Floats
    slope: NDArray[np.float64]

    @property
    def best(self) -> int:
        """Index of the likeliest class."""
        return int(self.probabilities.argmax())

    def evidence(self) -> tuple[NDArray[np.float64], ...]:
        """Log odds for the likeliest class at each place (h, w) of each feature map.

        Their means, added up, are the evidence of the whole image.
        """
        return tuple(np.tensordot(self.slope, part, axes=1) for part in self.parts)

    def map(self, height: int, width: int) -> NDArray[np.float64]:
        """The evidence of all feature maps, bilinear between the centres of the places, (height, width)."""
        whole = np.zeros((height, width))
        for part in self.evidence():
            whole += _resized(part, height, width)
        return whole


class ActivationMaps:
    """Runs a bundle's graph on images, and gives the maps of each.

    Raises `BundleError` for a graph whose logits do not follow from linear outputs of pooled feature maps.
    """

    def __init__(self, graph: onnx.ModelProto) -> None:
        self.linear: LinearPart = find_linear_part(graph)
        model = onnx.ModelProto()
        model.CopyFrom(self.linear.graph)
        maps = [name for pool in self.linear.pools for name in (pool.feature_map, pool.pooled)]
        needed = (*self.linear.outputs, *self.linear.beside, *self.linear.lengths, LOGITS, "probabilities")
        self._names = list(dict.fromkeys([*maps, *needed]))
        given = {value.name for value in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._names if name not in given)
        self._session = _opened(model)
        self._linear = _opened(self.linear.linear_graph())
        self._weights: tuple[list[NDArray[np.float64]], NDArray[np.float64]] | None = None
        self._symmetries: dict[int, tuple[Symmetry, ...]] = {}
        tail = self.linear.tail_graph()
        self._tail = None if tail is None else _opened(tail)
        self._tail_takes = [] if self._tail is None else [value.name for value in self._tail.get_inputs()]

    @property
    def more_than_places(self) -> bool:
        """Whether the logits also follow from something that no map shows, such as a distance of the embedding."""
        return bool(self.linear.beside)

    def __call__(self, image: NDArray[np.uint8]) -> Activation:
        """The maps of an image uint8 (h, w, 3), as the graph receives it; raises `BundleError` where they do not add up."""
        try:
            values = self._session.run(self._names, {"image": image[None]})
        except Exception as error:
            # ONNX Runtime has its own class for each kind of failure
            raise BundleError("the graph of the maps cannot be run", got=str(error)[:120]) from error
        found = dict(zip(self._names, (np.asarray(value) for value in values), strict=True))
        weights, constant = self._weights or self._found_weights(found)
        parts = []
        for pool, weight in zip(self.linear.pools, weights, strict=True):
            feature_map = found[pool.feature_map]
            if feature_map.ndim != 4:
                raise _unusable(f"a feature map of shape {feature_map.shape}")
            places = np.moveaxis(feature_map, 3, 1) if pool.axes == (1, 2) else feature_map
            each = np.einsum("cm,vchw->vmhw", weight, places.astype(np.float64))
            parts.append(upright(each, self._views(len(each), image)).mean(axis=0))
        outputs = _joined(found, self.linear.outputs)
        whole = sum((part.mean(axis=(1, 2)) for part in parts), start=constant)
        if not np.abs(whole - outputs).max() <= TOLERANCE * max(1.0, float(np.abs(outputs).max())):
            raise _unusable(f"a map that is off by {np.abs(whole - outputs).max():.2g}")
        probabilities = found["probabilities"][0].astype(np.float32)
        slope = self._slope(found, int(probabilities.argmax()))
        return Activation(tuple(parts), constant, outputs, probabilities, slope)

    def _views(self, n_views: int, image: NDArray[np.uint8]) -> tuple[Symmetry, ...]:
        """How the graph changes each of its views of an image, found once, on noise of the image's size."""
        if n_views == 1:
            return (SYMMETRIES[0],)
        if n_views not in self._symmetries:
            model = onnx.ModelProto()
            model.CopyFrom(self.linear.graph)
            names = [node.output[0] for node in model.graph.node if node.op_type == "Concat" and _axis(node) == 0]
            model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
            noise = np.random.default_rng(0).integers(0, 256, image.shape, dtype=np.uint8)
            values = _opened(model).run(names, {"image": noise[None]}) if names else []
            views = [value for value in values if value.ndim == 4 and len(value) == n_views]
            if not views:
                raise _unusable(f"{n_views} views that are not found")
            self._symmetries[n_views] = symmetries_of(views[0])
        return self._symmetries[n_views]

    def _found_weights(self, found: dict[str, NDArray[Any]]) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
        """The weights (c, m) of each pool, and the constant (m,), from the outputs of single features.

        They are kept, unless they depend on the length of an image's vector. Each pool has its own number of views, which
        all have the same weights; the maps of an image where they differ do not add up.
        """
        n_views = {pool.pooled: len(found[pool.pooled]) for pool in self.linear.pools}
        if not set(n_views.values()) <= set(N_VIEWS):
            raise _unusable(f"{sorted(n_views.values())} views")
        names = list(self.linear.outputs)
        lengths = {name: found[name] for name in self.linear.lengths}

        def outputs_of(rows: dict[str, Floats]) -> NDArray[np.float64]:
            # the views of all images lie one after the other
            given = {name: np.concatenate([row] * n_views[name]) for name, row in rows.items()}
            values = self._linear.run(names, given | lengths)
            return np.concatenate([np.asarray(value, np.float64) for value in values], axis=1)

        nothing = {pool.pooled: np.zeros((1, *found[pool.pooled].shape[1:]), np.float32) for pool in self.linear.pools}
        (constant,) = outputs_of(nothing)
        weights = []
        for name, zero in nothing.items():
            parts = []
            for start in range(0, zero.size, _AT_ONCE):
                some = np.eye(zero.size, dtype=np.float32)[start : start + _AT_ONCE].reshape(-1, *zero.shape[1:])
                rows = {other: np.repeat(value, len(some), axis=0) for other, value in nothing.items()}
                parts.append(outputs_of(rows | {name: some}) - constant)
            weights.append(np.concatenate(parts))
        if not lengths:
            self._weights = weights, constant
        return weights, constant

    def _slope(self, found: dict[str, NDArray[Any]], best: int) -> NDArray[np.float64]:
        """Derivatives of the log odds of class `best` by the linear outputs (m,), by central differences."""
        given = {name: found[name] for name in self._tail_takes}
        slopes = []
        for name in self.linear.outputs:
            for j in range(found[name].shape[1]):
                sides = []
                for step in (STEP, -STEP):
                    moved = found[name].copy()
                    moved[0, j] += step
                    logits = moved if self._tail is None else self._tail.run([LOGITS], {**given, name: moved})[0]
                    sides.append(_log_odds(np.asarray(logits[0], np.float64), best))
                slopes.append((sides[0] - sides[1]) / (2 * STEP))
        return np.array(slopes)


def symmetries_of(views: NDArray[Any]) -> tuple[Symmetry, ...]:
    """How each of the views (v, c, h, w) of an image follows from the first; raises `BundleError` for one that does not."""
    found = []
    for view in views:
        same = [change for change in SYMMETRIES if np.array_equal(_changed(views[0], change), view)]
        if not same:
            raise _unusable("a view that is no flip or turn of the image")
        found.append(same[0])
    return tuple(found)


def upright(views: NDArray[np.float64], changes: tuple[Symmetry, ...]) -> NDArray[np.float64]:
    """Maps of views (v, m, h, w) as those of the image itself: its changes undone."""
    return np.stack([_undone(view, change) for view, change in zip(views, changes, strict=True)])


def _changed(image: NDArray[Any], change: Symmetry) -> NDArray[Any]:
    turned = image.swapaxes(-1, -2) if change.transposed else image
    return turned[..., :: change.down, :: change.across]


def _undone(image: NDArray[np.float64], change: Symmetry) -> NDArray[np.float64]:
    flipped = image[..., :: change.down, :: change.across]
    return flipped.swapaxes(-1, -2) if change.transposed else flipped


def _resized(places: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Values of places (h, w) at the pixels of an image, linear between their centres, the same beyond the outermost."""
    rows, columns = (_weights(n, size) for n, size in zip(places.shape, (height, width), strict=True))
    whole: NDArray[np.float64] = rows @ places @ columns.T
    return whole


def _weights(n: int, size: int) -> NDArray[np.float64]:
    """Weight of each of `n` equal places at each of `size` pixels, (size, n)."""
    centres = (np.arange(n) + 0.5) * size / n - 0.5
    return np.stack([np.interp(np.arange(size), centres, unit) for unit in np.eye(n)], axis=1)


def _axis(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)


def _log_odds(logits: NDArray[np.float64], best: int) -> float:
    """log p / (1 - p) of one class, from logits (k,)."""
    return float(logits[best] - np.logaddexp.reduce(np.delete(logits, best)))


def _joined(found: dict[str, NDArray[Any]], names: tuple[str, ...]) -> NDArray[np.float64]:
    """The linear outputs of one image, one after the other, (m,)."""
    return np.concatenate([np.asarray(found[name][0], np.float64) for name in names])


def _opened(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    try:
        return session_of(model.SerializeToString())
    except Exception as error:
        # ONNX Runtime has one error class for each kind of invalid graph
        raise _unusable(str(error)[:120]) from error


def _unusable(got: str) -> BundleError:
    return BundleError("the exact map of this model cannot be used", got=got, remedy=OTHER_WAY)
