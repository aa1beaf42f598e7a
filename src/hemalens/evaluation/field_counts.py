"""How the number of cells found in a field agrees with the number annotated: bias and limits of agreement."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hemalens.evaluation.resampling import Resampled, Statistic, divided
from hemalens.evaluation.results import CountAgreement

NORMAL_95 = 1.96


def count_agreement(
    annotated: NDArray[np.int64], found: NDArray[np.int64], unit: NDArray[np.int64], resampled: Resampled
) -> CountAgreement | None:
    """The agreement of two counts of each field, (n,) each, `unit` being its slide or itself; None without a field.

    Source: Bland and Altman, Statistical methods for assessing agreement, Lancet 1986. With one field there are no limits.
    """
    if not len(annotated):
        return None

    def summed(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(unit, values, resampled.n_units).astype(float)

    difference = (found - annotated).astype(float)
    counted = annotated > 0
    share = np.divide(np.abs(difference), annotated, out=np.zeros(len(annotated)), where=counted)
    n, total, squares = summed(np.ones(len(difference))), summed(difference), summed(difference**2)

    def limit(sign: int) -> Statistic:
        return lambda weights: _limit(weights @ n, weights @ total, weights @ squares, sign)

    cells = summed(annotated.astype(float))
    return CountAgreement(
        n_fields=len(annotated),
        n_percent=int(counted.sum()),
        bias=resampled.ratio(total, n),
        lower=resampled.estimate(limit(-1)),
        upper=resampled.estimate(limit(1)),
        absolute_error=resampled.ratio(summed(np.abs(difference)), n),
        absolute_error_percent=resampled.ratio(summed(share), summed(counted.astype(float)), factor=100),
        total_error_percent=resampled.ratio(total, cells, factor=100),
        fields=tuple(zip(annotated.tolist(), found.tolist(), strict=True)),
    )


def _limit(
    n: NDArray[np.float64], total: NDArray[np.float64], squares: NDArray[np.float64], sign: int
) -> NDArray[np.float64]:
    """A limit of agreement of each row of sums: the mean with 1.96 standard deviations (n - 1), (r,)."""
    mean = divided(total, n)
    variance = divided((squares - n * mean**2).clip(0), n - 1)
    return mean + sign * NORMAL_95 * np.sqrt(variance)
