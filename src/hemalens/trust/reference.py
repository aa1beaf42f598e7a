"""Reference statistics of the training data, stored in the bundle: held-out predictions and class means of the embedding.

Scores, probabilities and true classes come from validation images, which the weights have not learned from. Class means and
covariances come from training images. Predictions on imitated laboratories are of validation images too. Pure NumPy, no
pickle, no torch.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemalens.errors import BundleError

REFERENCE_FILE = "home.npz"
"""The file in a bundle that holds them."""
MOST_AXES = 32
MOST_AXIS_VALUES = 40_000
"""Largest product of axes and features: the file stays at about 150 KB with the widest embeddings."""
MOST_HELD = 512
"""Validation images kept, evenly spaced."""
MOST_BYTES = 16_000_000
MOST_IMITATED = 4096
"""Largest number of images of imitated laboratories in the file."""
VERSION = 2
"""Written. Version 1, without imitated laboratories, is read as well."""
PRIOR_CELLS = 50
"""Weight of the source covariance, in cells, when the statistics are adapted to a few cells of the target."""

Floats = NDArray[np.floating[Any]]
_GEOMETRY = ("axes", "centre", "scale", "class_means", "covariance", "background_mean", "background_covariance")
_HELD = ("points", "scores")
_ANSWERS = ("probabilities", "targets")
_IMITATED = ("imitated_probabilities", "imitated_targets", "imitated_laboratories")


@dataclass(frozen=True, eq=False)
class Geometry:
    """Class means and covariances in at most 33 dimensions of the embedding.

    `axes` (p, d) are principal axes, `centre` (d,) and `scale` (p,) mean and standard deviation of training images on them.
    A point (q,) has the p coordinates and, where d > p, the logarithm of the length of what they leave out (the residual
    of Wang et al. 2022, ViM). `class_means` (k, q) and one `covariance` (q, q) within classes; `background_mean` (q,) and
    `background_covariance` (q, q) of all classes together.
    """

    axes: Floats
    centre: Floats
    scale: Floats
    class_means: Floats
    covariance: Floats
    background_mean: Floats
    background_covariance: Floats

    @classmethod
    def fit(cls, embeddings: Floats, targets: NDArray[np.int64], n_classes: int) -> Geometry | None:
        """Fit to embeddings (n, d) of training images and their classes (n,).

        None where a class has no image, where nothing varies, or above 20,000 features, of which two axes exceed the file.
        """
        wide = np.asarray(embeddings, np.float64)
        n, d = wide.shape
        if n < 2 or d > MOST_AXIS_VALUES // 2 or len(np.unique(targets)) < n_classes:
            return None
        centre = wide.mean(axis=0).astype(np.float32)
        _, sizes, axes = np.linalg.svd(wide - centre, full_matrices=False)
        p = int(min(MOST_AXES, max(2, MOST_AXIS_VALUES // d), max(2, n // 8), (sizes > 1e-3 * max(sizes[0], 1e-9)).sum()))
        if p == 0:
            return None
        kept = axes[:p].astype(np.float16)
        scale = np.maximum(sizes[:p] / np.sqrt(n), 1e-12).astype(np.float32)
        points = _points(wide, kept, centre, scale)
        means = np.stack([points[targets == c].mean(axis=0) for c in range(n_classes)])
        return cls(
            kept, centre, scale, means, shrunk(points - means[targets]), points.mean(axis=0),
            shrunk(points - points.mean(axis=0)),
        )  # fmt: skip

    def project(self, embeddings: Floats) -> NDArray[np.float64]:
        """Points (n, q) of embeddings (n, d)."""
        return _points(np.asarray(embeddings, np.float64), self.axes, self.centre, self.scale)

    def scores(self, points: Floats) -> NDArray[np.float64]:
        """Out-of-distribution scores (n,) of points (n, q): higher is less typical; may be negative.

        The mean of two published scores: the squared Mahalanobis distance to the nearest class mean (Lee et al. 2018), and
        the relative one, which subtracts the distance to the mean of all classes (Ren et al. 2021). The first detects
        another camera with frozen embeddings, the second with trained ones, and their mean with both.
        """
        background = _distances(points, self.background_mean[None], self.background_covariance)[:, 0]
        to_class = _distances(points, self.class_means, self.covariance)
        return np.asarray(to_class.min(axis=1) - background / 2)

    def whitened(self, points: Floats) -> NDArray[np.float64]:
        """Points (n, q) rotated and scaled to unit covariance within classes."""
        factor = np.linalg.cholesky(np.asarray(self.covariance, np.float64))
        return np.asarray(np.linalg.solve(factor, np.asarray(points, np.float64).T).T)

    def adapted(self, points: Floats, targets: NDArray[np.int64], n_classes: int) -> Geometry:
        """The same axes with class means of labelled target cells: points (n, q), classes (n,).

        The source covariances count as `PRIOR_CELLS` cells. A class without a cell keeps its source mean; source classes
        keep their order, and new ones follow them.
        """
        seen = set(targets.tolist())
        means = np.stack(
            [points[targets == c].mean(axis=0) if c in seen else self.class_means[c] for c in range(n_classes)]
        )
        centre = points.mean(axis=0)
        within, total = points - means[targets], points - centre
        weight = PRIOR_CELLS + len(points)
        return Geometry(
            self.axes, self.centre, self.scale, means, (PRIOR_CELLS * self.covariance + within.T @ within) / weight, centre,
            (PRIOR_CELLS * self.background_covariance + total.T @ total) / weight,
        )  # fmt: skip


def shrunk(residuals: Floats) -> NDArray[np.float64]:
    """Covariance (q, q) of centred points (n, q), shrunk towards its diagonal by q / (n + q), so that it is invertible."""
    n, q = residuals.shape
    found = residuals.T @ residuals / n
    share = q / (n + q)
    diagonal = np.maximum(np.diag(found), 1e-6 * max(float(np.diag(found).max()), 1e-12))
    return np.asarray((1 - share) * found + share * np.diag(diagonal))


def _points(embeddings: NDArray[np.float64], axes: Floats, centre: Floats, scale: Floats) -> NDArray[np.float64]:
    wide = axes.astype(np.float64)
    centred = embeddings - centre
    along = centred @ wide.T
    points = along / scale
    if axes.shape[1] <= axes.shape[0]:
        return points
    left = np.linalg.norm(centred - along @ wide, axis=1)
    return np.column_stack([points, np.log(np.maximum(left, 1e-3 * float(scale[0])))])


def _distances(points: Floats, means: Floats, covariance: Floats) -> NDArray[np.float64]:
    factor = np.linalg.cholesky(np.asarray(covariance, np.float64))
    difference = np.asarray(points, np.float64)[:, None] - means
    solved = np.linalg.solve(factor, difference.reshape(-1, difference.shape[2]).T)
    return np.asarray((solved**2).sum(axis=0).reshape(difference.shape[:2]))


@dataclass(frozen=True, eq=False)
class ImitatedImages:
    """Held-out images as imitated laboratories show them: `probabilities` (m, k), `targets` (m,), `laboratories` (m,)."""

    probabilities: Floats
    targets: NDArray[np.int64]
    laboratories: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ReferenceStatistics:
    """Held-out images of the training data: predicted `probabilities` (m, k) and true `targets` (m,).

    With a `geometry` there are also their `points` (m, q) and out-of-distribution `scores` (m,). `imitated` are held-out
    images as imitated laboratories show them. A bundle adapted without labels has no held-out images (m = 0), and the
    imitated ones of its base.
    """

    probabilities: Floats
    targets: NDArray[np.int64]
    geometry: Geometry | None = None
    points: Floats | None = None
    scores: Floats | None = None
    imitated: ImitatedImages | None = None

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The predicted class of each held-out image, (m,)."""
        return np.asarray(self.probabilities.argmax(axis=1), np.int64)

    @property
    def accuracy(self) -> float:
        """Fraction of held-out images predicted correctly."""
        return float((self.predicted == self.targets).mean())

    def typicality(self, scores: Floats) -> NDArray[np.float64]:
        """Conformal p-values (n,) in (0, 1] of scores (n,): (1 + held-out images with at least that score) / (m + 1).

        Without a shift at most a fraction p of images has a value of p or less (Vovk et al. 2005).
        """
        held = np.sort(np.asarray(self.scores, np.float64))
        as_high = len(held) - np.searchsorted(held, scores, side="left")
        return np.asarray((1 + as_high) / (len(held) + 1))


def fit_reference(
    geometry: Geometry | None, embeddings: Floats, probabilities: Floats, targets: NDArray[np.int64]
) -> ReferenceStatistics:
    """Reference statistics of held-out images by embeddings (m, d), probabilities (m, k) and true classes (m,)."""
    if geometry is None:
        return ReferenceStatistics(probabilities, targets)
    points = geometry.project(embeddings)
    return ReferenceStatistics(probabilities, targets, geometry, points, geometry.scores(points))


def adapt_reference(
    base: Geometry | None,
    embeddings: Floats,
    probabilities: Floats,
    targets: NDArray[np.int64],
    kept: NDArray[np.bool_],
) -> ReferenceStatistics:
    """Reference statistics of a bundle adapted by labelled cells (n, d), of which those `kept` (n,) enter.

    `probabilities` (n, k) are leave-one-out predictions. The score of a cell uses the mean of the other cells of its
    class; of a class with one cell, the mean in `base`. Without `base` there is no geometry.
    """
    if base is None or not kept.any():
        return ReferenceStatistics(probabilities[kept], targets[kept])
    points = base.project(embeddings)
    geometry = base.adapted(points, targets, probabilities.shape[1])
    counts = np.bincount(targets, minlength=probabilities.shape[1])
    scores = []
    for i in np.flatnonzero(kept):
        means = geometry.class_means.copy()
        c = targets[i]
        if counts[c] > 1:
            means[c] = (counts[c] * means[c] - points[i]) / (counts[c] - 1)
        elif c < len(base.class_means):
            means[c] = base.class_means[c]
        else:
            means = np.delete(means, c, axis=0)
        without = replace(geometry, class_means=means)
        scores.append(without.scores(points[i][None])[0])
    return ReferenceStatistics(probabilities[kept], targets[kept], geometry, points[kept], np.array(scores))


def evenly(n: int, most: int) -> NDArray[np.int64]:
    """At most `most` places of n, evenly spaced."""
    return np.linspace(0, n - 1, min(n, most)).astype(np.int64)


# ------------------------------------------------------------------------------------------------------------- the file


def reference_bytes(reference: ReferenceStatistics) -> bytes:
    """The content of `REFERENCE_FILE`: an uncompressed .npz of plain arrays."""
    arrays: dict[str, NDArray[Any]] = {
        "version": np.array(VERSION),
        "probabilities": np.asarray(reference.probabilities, np.float32),
        "targets": np.asarray(reference.targets, np.int32),
    }
    if reference.geometry is not None:
        arrays |= {name: np.asarray(getattr(reference.geometry, name), np.float32) for name in _GEOMETRY}
        arrays["axes"] = np.asarray(reference.geometry.axes, np.float16)
        arrays |= {
            "points": np.clip(np.asarray(reference.points), -6e4, 6e4).astype(np.float16),
            "scores": np.asarray(reference.scores, np.float32),
        }
    if reference.imitated is not None:
        arrays |= {
            "imitated_probabilities": np.asarray(reference.imitated.probabilities, np.float32),
            "imitated_targets": np.asarray(reference.imitated.targets, np.int32),
            "imitated_laboratories": np.asarray(reference.imitated.laboratories, np.int32),
        }
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def read_reference(content: bytes, *, n_features: int, n_classes: int) -> ReferenceStatistics:
    """Read the content of `REFERENCE_FILE`; raises `BundleError` where it does not fit the bundle."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MOST_BYTES:
                raise ValueError(f"more than {MOST_BYTES:,} bytes of arrays")
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return _checked(arrays, n_features, n_classes)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, np.linalg.LinAlgError) as error:
        raise BundleError(
            f"{REFERENCE_FILE} cannot be read",
            expected=f"arrays of a bundle of {n_features} features and {n_classes} classes",
            got=(str(error).splitlines() or [type(error).__name__])[0][:120],
            remedy="Train or adapt the bundle again.",
        ) from error


def _checked(arrays: dict[str, NDArray[Any]], d: int, k: int) -> ReferenceStatistics:
    """The statistics in the arrays; raises `ValueError` for an impossible shape or value."""
    version = int(arrays.pop("version"))
    if version not in (1, VERSION):
        raise ValueError(f"version {version}, which this version of hemalens does not know")
    imitated = None
    if version == VERSION and set(_IMITATED) & set(arrays):
        imitated = _checked_imitated({name: arrays.pop(name) for name in _IMITATED}, k)
    whole = {*_ANSWERS, *_GEOMETRY, *_HELD}
    if set(arrays) not in (whole, set(_ANSWERS)):
        raise ValueError(f"arrays {', '.join(sorted(arrays))}"[:100])
    m = len(arrays["targets"])
    shapes: dict[str, tuple[int, ...]] = {"probabilities": (m, k), "targets": (m,)}
    if "axes" in arrays:
        p = len(arrays["axes"])
        q = p + (d > p)
        shapes |= {"axes": (p, d), "centre": (d,), "scale": (p,), "class_means": (k, q), "covariance": (q, q)}
        shapes |= {"background_mean": (q,), "background_covariance": (q, q), "points": (m, q), "scores": (m,)}
    _check_arrays(arrays, shapes)
    targets = _class_indices(arrays["targets"], k)
    wide = {name: arrays[name].astype(np.float64) for name in arrays if name not in ("targets", "axes")}
    if "axes" not in arrays:
        return ReferenceStatistics(wide["probabilities"], targets, imitated=imitated)
    geometry = Geometry(arrays["axes"], **{name: wide[name] for name in _GEOMETRY[1:]})
    geometry.scores(wide["points"][:1])  # raises for a matrix that is not a covariance
    return ReferenceStatistics(wide["probabilities"], targets, geometry, wide["points"], wide["scores"], imitated)


def _checked_imitated(arrays: dict[str, NDArray[Any]], k: int) -> ImitatedImages:
    """The images of imitated laboratories in the arrays; raises `ValueError` for an impossible shape or value."""
    probabilities, targets, laboratories = (arrays[name] for name in _IMITATED)
    n = len(targets)
    if not 0 < n <= MOST_IMITATED:
        raise ValueError(f"{n:,} images of imitated laboratories, not 1 to {MOST_IMITATED:,}")
    _check_arrays(arrays, dict(zip(_IMITATED, ((n, k), (n,), (n,)), strict=True)))
    if probabilities.min() < 0 or probabilities.max() > 1 + 1e-3:
        raise ValueError("imitated_probabilities outside [0, 1]")
    return ImitatedImages(probabilities.astype(np.float64), _class_indices(targets, k), laboratories.astype(np.int64))


def _check_arrays(arrays: dict[str, NDArray[Any]], shapes: dict[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        if arrays[name].shape != shape or arrays[name].dtype.kind not in "fi":
            raise ValueError(f"{name} of shape {arrays[name].shape}, not {shape}")
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} holds NaN or infinity")


def _class_indices(values: NDArray[Any], k: int) -> NDArray[np.int64]:
    targets = values.astype(np.int64)
    if len(targets) and not (targets.min() >= 0 and targets.max() < k):
        raise ValueError("class index out of range")
    return targets
