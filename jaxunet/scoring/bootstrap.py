"""Statistics of images with 95 % intervals: percentiles over bootstrap samples of the images (Efron 1979).

The samples are those of `times_drawn`, so all that is scored on the same images is resampled alike. A number
that does not exist, such as the correlation of constants, is None; samples in which it does not exist are left out.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

RESAMPLES = 10_000
_CHUNK = 500  # samples at a time, where each needs several numbers per image


def mean(values: np.ndarray) -> dict[str, Any]:
    """`{"mean", "median", "ci95": [low, high] of the mean, "n"}` of `values` [N]."""
    drawn = times_drawn(len(values), RESAMPLES)
    ci95 = interval(drawn @ values / len(values))
    return {"mean": float(np.mean(values)), "median": float(np.median(values)), "ci95": ci95, "n": len(values)}


def value(statistic: Callable[[np.ndarray], np.ndarray], n: int) -> dict[str, Any]:
    """`{"value", "ci95", "n"}` of any number that `n` images give.

    Args:
      statistic: how often each image counts, float64 [R, n] -> the number in each of R samples, [R], nan for none.
      n: images.
    """
    drawn = times_drawn(n, RESAMPLES)
    parts = [statistic(drawn[start : start + _CHUNK]) for start in range(0, RESAMPLES, _CHUNK)]
    resampled = np.concatenate(parts)
    known = resampled[np.isfinite(resampled)]
    number = float(statistic(np.ones((1, n)))[0])
    return {
        "value": number if np.isfinite(number) else None,
        "ci95": interval(known) if len(known) else None,
        "n": n,
    }


def pearson(x: np.ndarray, y: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Correlation in each of R samples: x, y float [N] or [R, N]; times [R, N], how often each is drawn -> [R]."""
    n = times.sum(axis=1, keepdims=True)
    dx, dy = (v - (times * v).sum(axis=1, keepdims=True) / n for v in (x, y))
    xy, xx, yy = ((times * a * b).sum(axis=1) for a, b in ((dx, dy), (dx, dx), (dy, dy)))
    constant = (xx <= 1e-24 * n[:, 0]) | (yy <= 1e-24 * n[:, 0])
    return np.where(constant, np.nan, xy / np.sqrt(np.where(constant, 1, xx * yy)))


def spearman(x: np.ndarray, y: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Rank correlation in each of R samples, ranked anew; equal values share their mean rank. As `pearson`."""
    return pearson(_ranks(x, times), _ranks(y, times), times)


def _ranks(x: np.ndarray, times: np.ndarray) -> np.ndarray:
    """[R, N]: rank of each value [N] in samples in which it occurs `times` [R, N]."""
    values, group = np.unique(x, return_inverse=True)
    order = np.argsort(group, kind="stable")
    size = np.add.reduceat(times[:, order], np.searchsorted(group[order], np.arange(len(values))), axis=1)
    return (np.cumsum(size, axis=1) - (size - 1) / 2)[:, group]


def auc(score: np.ndarray, positive: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Area under the ROC curve in each of R samples: chance that a positive scores above a negative, ties half.

    Args:
      score: float [N].
      positive: bool [N].
      times: [R, N], how often each image is drawn.

    Returns:
      float64 [R]; nan for samples without positives or without negatives.
    """
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    times = times[:, order]
    yes, no = (np.add.reduceat(times * chosen[order], starts, axis=1) for chosen in (positive, ~positive))
    wins = (yes * (np.cumsum(no, axis=1) - no / 2)).sum(axis=1)
    pairs = yes.sum(axis=1) * no.sum(axis=1)
    return np.where(pairs > 0, wins / np.maximum(pairs, 1), np.nan)


@functools.lru_cache(maxsize=4)
def times_drawn(n: int, resamples: int) -> np.ndarray:
    """float64 [resamples, n]: how often each of `n` images is in each sample; the same for the same arguments."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def interval(values: np.ndarray) -> list[float]:
    """[low, high]: the 2.5 and 97.5 percentiles."""
    return [float(x) for x in np.percentile(values, (2.5, 97.5))]
