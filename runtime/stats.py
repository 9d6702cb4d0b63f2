"""Statistics of evaluations: means with intervals, pass@k, paired comparisons.

In come plain lists of numbers, out come plain numbers. No numpy, no torch, no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import atan, comb, cos, inf, pi, sin, sqrt
from statistics import NormalDist, fmean, stdev
from typing import Literal

Verdict = Literal["higher", "lower", "inconclusive"]


def mean_ci95(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and the ends of its 95 % confidence interval, as (mean, low, high).

    Values that are all 0 or 1 get the interval of Wilson (1927); others Student's t, and with a
    single value of that kind the interval is infinite. Raises ValueError without values.
    """
    if not values:
        raise ValueError("an empty list has no mean")
    mean = fmean(values)
    if all(value in (0, 1) for value in values):
        return mean, *wilson(mean, len(values))
    if len(values) == 1:
        return mean, -inf, inf
    half = _student(0.95, len(values) - 1) * stdev(values) / sqrt(len(values))
    return mean, mean - half, mean + half


def wilson(share: float, count: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share of `count`, which need not be whole."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    scale = 1 + z * z / count
    centre = (share + z * z / (2 * count)) / scale
    half = z / scale * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (
        0.0 if share == 0 else max(0.0, centre - half),  # exactly, not up to rounding
        1.0 if share == 1 else min(1.0, centre + half),
    )


def pass_at(k: int, right: int, samples: int) -> float:
    """The unbiased estimate of pass@k of one item (Chen et al., 2021): the probability that at
    least one of `k` completions drawn from `samples`, of which `right` are right, is right.

    Raises ValueError unless 1 ≤ k ≤ samples and 0 ≤ right ≤ samples.
    """
    if not 1 <= k <= samples or not 0 <= right <= samples:
        raise ValueError(f"pass@{k} cannot be told from {right} right of {samples} completions")
    return 1.0 - comb(samples - right, k) / comb(samples, k)


def paired_difference(
    a: Sequence[float], b: Sequence[float], confidence: float
) -> tuple[float, float, float, Verdict]:
    """Mean of `a - b` over the same items and the ends of its two-sided interval, as
    (difference, low, high, verdict): `higher` when the whole interval lies above 0, `lower` when
    it lies below, else `inconclusive`.

    Student's t on the differences. Fewer than two items, or equal differences on all items, leave
    no spread to judge by: the former is inconclusive, the latter counts as an exact difference
    only from eight items on. Raises ValueError for unequal lengths or no items.
    """
    if len(a) != len(b) or not a:
        raise ValueError("a paired comparison needs the same items on both sides")
    differences = [x - y for x, y in zip(a, b, strict=True)]
    mean = fmean(differences)
    if len(differences) < 2:
        return mean, -inf, inf, "inconclusive"
    spread = stdev(differences)
    if spread == 0 and len(differences) < 8:
        return mean, -inf, inf, "inconclusive"
    half = _student(confidence, len(differences) - 1) * spread / sqrt(len(differences))
    low, high = mean - half, mean + half
    if low > 0:
        return mean, low, high, "higher"
    return mean, low, high, "lower" if high < 0 else "inconclusive"


def _student(confidence: float, freedom: int) -> float:
    """Quantile of Student's t that a two-sided interval needs, by bisection of the tail."""
    target = (1 + confidence) / 2
    low, high = 0.0, 2.0
    while _student_cdf(high, freedom) < target:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, freedom) < target else (low, middle)
    return (low + high) / 2


def _student_cdf(t: float, freedom: int) -> float:
    """P(T ≤ t) for t ≥ 0 and whole degrees of freedom: the finite series of Abramowitz and
    Stegun 26.7.3 and 26.7.4."""
    if freedom > 2000:
        return NormalDist().cdf(t)
    angle = atan(t / sqrt(freedom))
    square = cos(angle) ** 2
    if freedom % 2:
        term = cos(angle)
        total = term if freedom > 1 else 0.0
        for k in range(3, freedom - 1, 2):
            term *= square * (k - 1) / k
            total += term
        return 0.5 + (angle + sin(angle) * total) / pi
    term = total = 1.0
    for k in range(2, freedom - 1, 2):
        term *= square * (k - 1) / k
        total += term
    return 0.5 + sin(angle) * total / 2
