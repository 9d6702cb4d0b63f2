"""Intervals, pass@k and paired differences against published values."""

from __future__ import annotations

from math import inf

import pytest

from grape.runtime.stats import mean_ci95, paired_difference, pass_at


def test_a_share_gets_wilsons_interval() -> None:
    mean, low, high = mean_ci95([1.0] * 10 + [0.0] * 10)
    assert mean == 0.5
    assert (low, high) == pytest.approx((0.299298, 0.700702), abs=1e-6)
    assert mean_ci95([0.0] * 10)[2] == pytest.approx(0.277533, abs=1e-6)


def test_other_numbers_get_students_interval() -> None:
    mean, low, high = mean_ci95([1.0, 2.0, 3.0, 4.0])
    half = 3.182446305 * 1.290994449 / 2
    assert (mean, low, high) == pytest.approx((2.5, 2.5 - half, 2.5 + half), abs=1e-6)
    assert mean_ci95([0.3]) == (0.3, -inf, inf)
    with pytest.raises(ValueError, match="empty"):
        mean_ci95([])


def test_pass_at_k_counts_subsets() -> None:
    assert pass_at(1, 1, 4) == 0.25
    assert pass_at(2, 1, 4) == 0.5
    assert pass_at(3, 2, 4) == 1.0
    with pytest.raises(ValueError, match="pass@5"):
        pass_at(5, 1, 4)


def test_paired_differences() -> None:
    a, b = [1.0, 1, 1, 1, 0, 1, 1, 1, 1, 1], [0.0, 0, 1, 0, 0, 0, 0, 1, 0, 0]
    assert paired_difference(a, b, 0.95)[3] == "higher"
    assert paired_difference(b, a, 0.95)[3] == "lower"
    assert paired_difference(a, a, 0.95)[3] == "inconclusive"
    assert paired_difference([1.0], [0.0], 0.95)[3] == "inconclusive"
    with pytest.raises(ValueError, match="same items"):
        paired_difference([1.0], [], 0.95)
