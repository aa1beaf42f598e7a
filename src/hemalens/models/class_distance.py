"""How far embeddings lie from the training cells of each class, as a module that an exported graph holds."""

from __future__ import annotations

from typing import Any, Self

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

N_COMPONENTS = 128
"""Largest number of principal components; the spread in all other directions counts as one."""
LEAST_VARIANCE, SMALLEST = 1e-6, 1e-12
"""Least variance in any direction, as a share of the largest, and of one."""

Floats = NDArray[np.floating[Any]]


class ClassDistance(nn.Module):
    """Mahalanobis distance of embeddings (n, d) to the mean of each of k classes, (n, k), in a unit of its own.

    The classes share one covariance, a probabilistic PCA of the spread about their means: `components` orthonormal
    directions (d, m) have variances of their own, all other directions the same one (Tipping and Bishop, 1999).
    `precisions` (m,) are the inverse variances along the components, `rest` that of all others, in squared units.
    """

    def __init__(self, means: Tensor, components: Tensor, precisions: Tensor, rest: Tensor) -> None:
        super().__init__()
        self.means: Tensor
        self.components: Tensor
        self.precisions: Tensor
        self.rest: Tensor
        self.register_buffer("means", means.float())
        self.register_buffer("components", components.float())
        self.register_buffer("precisions", precisions.float())
        self.register_buffer("rest", rest.float())

    @classmethod
    def of(cls, embeddings: Floats, classes: NDArray[np.int64], held: Floats, held_classes: NDArray[np.int64]) -> Self:
        """Fitted to embeddings (n, d) of training images of the classes (n,), 0 to k - 1, each of which occurs.

        A unit is the median distance of the embeddings of held-out images (m, d) to their own classes (m,): training images
        lie nearer to their means than others of the same laboratory.
        """
        wide = np.asarray(embeddings, np.float64)
        means = np.stack([wide[classes == c].mean(axis=0) for c in range(int(classes.max()) + 1)])
        _, singular, directions = np.linalg.svd(wide - means[classes], full_matrices=False)
        n_free = max(1, len(wide) - len(means))
        variances = singular**2 / n_free
        m = max(1, min(N_COMPONENTS, n_free - 1, wide.shape[1] - 1))
        other = max(variances[m:].sum() / (wide.shape[1] - m), LEAST_VARIANCE * variances[0], SMALLEST)
        fitted = torch.from_numpy(means), torch.from_numpy(directions[:m].T.copy())
        precisions, rest = torch.from_numpy(1 / np.maximum(variances[:m], other)), torch.tensor(1 / other)
        apart = cls(*fitted, precisions, rest)(torch.from_numpy(np.asarray(held, np.float32))).numpy()
        # a squared unit keeps them within 16 bits
        squared = float(np.median(apart[np.arange(len(held)), held_classes])) ** 2 or 1.0
        return cls(*fitted, precisions / squared, rest / squared)

    def forward(self, embedding: Tensor) -> Tensor:
        """Embedding (n, d) -> distances (n, k)."""
        apart = embedding[:, None] - self.means
        along = apart @ self.components
        # the difference of two squared lengths would not survive 16 bits
        # an exported transpose would be stored as a second tensor
        beside = apart - torch.einsum("nkm,dm->nkd", along, self.components)
        return (along**2 @ self.precisions + self.rest * (beside**2).sum(dim=2)).sqrt()
