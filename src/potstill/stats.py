"""What several seeds say: mean and spread, and whether a difference is more than luck. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean and standard deviation (with n - 1; None for one value) of one value a seed.

    Returns:
        ``{"mean", "std", "n", "values"}``, plain numbers.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    v = _finite(values)
    return {
        "mean": float(v.mean()),
        "std": float(v.std(ddof=1)) if len(v) > 1 else None,
        "n": len(v),
        "values": v.tolist(),
    }


def paired(a: Sequence[float], b: Sequence[float]) -> dict[str, Any]:
    r"""The mean difference ``a - b`` with its 95 % t interval, paired by seed.

    .. math:: \bar d \pm t_{0.975,\,n-1} \, s_d / \sqrt n, \quad d_i = a_i - b_i

    The interval holds for differences that are near normal; with few seeds it is wide, as it should be.

    Returns:
        ``{"mean", "low", "high", "significant", "n", "how"}``; significant when the interval does not cover 0. One seed gives no
        interval (None) and is never significant.

    Raises:
        ValueError: not as many of each, no values, or one that is not finite.
    """
    if len(a) != len(b):
        raise ValueError(f"differences are paired by seed: got {len(a)} and {len(b)} values")
    d = _finite(a) - _finite(b)
    n, mean = len(d), float(d.mean())
    if n == 1:
        how = "one seed: no interval can be given; run more seeds"
        return {"mean": mean, "low": None, "high": None, "significant": False, "n": n, "how": how}
    from scipy.special import stdtrit  # the quantile of scipy.stats.t, at a tenth of the import

    half = float(stdtrit(n - 1, 0.975) * d.std(ddof=1) / np.sqrt(n))
    low, high = mean - half, mean + half
    how = f"95 % t interval of the differences paired by seed, {n} seeds"
    return {"mean": mean, "low": low, "high": high, "significant": low > 0 or high < 0, "n": n, "how": how}


def _finite(values: Sequence[float]) -> np.ndarray:
    v = np.asarray(values, dtype=np.float64)
    if v.ndim != 1 or not len(v) or not np.isfinite(v).all():
        raise ValueError(f"expected one finite value a seed, got {values!r}")
    return v
