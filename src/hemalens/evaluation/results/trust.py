"""The label-free reliability reports of a model on test images, against its true accuracy."""

from __future__ import annotations

from hemalens.evaluation.results.base import Estimate, Part


class AccuracyEstimate(Part):
    """An accuracy in [0, 1] estimated without labels, and the assumption of the estimate."""

    name: str
    value: float
    assumes: str


class TrustCheck(Part):
    """The domain-shift and reliability report of a bundle on test images, against their labels.

    `verdict` on the domain shift with its `score` in [0, 1] and `p_value`, from `n_compared` test images and `n_home`
    held-out reference images. `atypical`: share of images with a typicality below 0.05. `strangeness`: AUC of test against
    reference images by their out-of-distribution score. `accuracy` is the true one, `home_accuracy` that on the reference
    images, None where the bundle has none. `coverage` in [0, 1] is the share of prediction sets that hold the true label,
    against `coverage_stated`, with exact binomial limits; `set_size` their mean number of labels. `sets_rest_on`
    says which coverage they have and on what it rests, empty without sets and in older reports.
    """

    verdict: str
    score: float | None
    p_value: float | None
    n_compared: int
    n_home: int
    atypical: float | None
    strangeness: float | None
    accuracy: float
    home_accuracy: float | None
    estimates: tuple[AccuracyEstimate, ...] = ()
    coverage_stated: float
    coverage: Estimate
    set_size: float | None
    sets_rest_on: str = ""
