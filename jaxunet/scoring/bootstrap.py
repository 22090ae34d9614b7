"""Statistics over images with 95 % intervals: percentiles over bootstrap samples of the images (Efron 1979).

All statistics of the same images use the same samples, those of `times_drawn`. An undefined statistic, such as the
correlation of constants, is None. Samples in which it is undefined are left out.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

RESAMPLES = 10_000
_CHUNK = 500  # samples at a time: a statistic may need several arrays of [samples, images]


def mean(values: np.ndarray) -> dict[str, Any]:
    """`{"mean", "median", "ci95": [low, high] of the mean, "n"}` of `values` float [N]."""
    drawn = times_drawn(len(values), RESAMPLES)
    ci95 = interval(drawn @ values / len(values))
    return {"mean": float(np.mean(values)), "median": float(np.median(values)), "ci95": ci95, "n": len(values)}


def value(statistic: Callable[[np.ndarray], np.ndarray], n: int) -> dict[str, Any]:
    """`{"value", "ci95", "n"}` of any statistic of `n` images: `statistic` takes float64 [R, n], how often each image
    is drawn, and returns float [R], its value in each sample; nan if undefined."""
    drawn = times_drawn(n, RESAMPLES)
    parts = [statistic(drawn[start : start + _CHUNK]) for start in range(0, RESAMPLES, _CHUNK)]
    resampled = np.concatenate(parts)
    known = resampled[np.isfinite(resampled)]
    number = float(statistic(np.ones((1, n)))[0])
    return {"value": number if np.isfinite(number) else None, "ci95": interval(known) if len(known) else None, "n": n}


def pearson(x: np.ndarray, y: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Correlation in each of R samples, [R]: x, y float [N] or [R, N]; times [R, N], how often each image is drawn."""
    n = times.sum(axis=1, keepdims=True)
    dx, dy = (v - (times * v).sum(axis=1, keepdims=True) / n for v in (x, y))
    xy, xx, yy = ((times * a * b).sum(axis=1) for a, b in ((dx, dy), (dx, dx), (dy, dy)))
    constant = (xx <= 1e-24 * n[:, 0]) | (yy <= 1e-24 * n[:, 0])
    return np.where(constant, np.nan, xy / np.sqrt(np.where(constant, 1, xx * yy)))


def spearman(x: np.ndarray, y: np.ndarray, times: np.ndarray) -> np.ndarray:
    """As `pearson`, for ranks within each sample. Equal values share their mean rank."""
    return pearson(_ranks(x, times), _ranks(y, times), times)


def _ranks(x: np.ndarray, times: np.ndarray) -> np.ndarray:
    """[R, N]: rank of each value [N] in samples that hold it `times` [R, N] times."""
    values, group = np.unique(x, return_inverse=True)
    order = np.argsort(group, kind="stable")
    size = np.add.reduceat(times[:, order], np.searchsorted(group[order], np.arange(len(values))), axis=1)
    return (np.cumsum(size, axis=1) - (size - 1) / 2)[:, group]


def auc(score: np.ndarray, positive: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Area under the ROC curve in each of R samples: the chance that a positive scores above a negative; a tie is half.

    score float [N]; positive bool [N]; times [R, N], how often each image is drawn. Returns float64 [R]; nan for
    samples without positives or without negatives.
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
    """float64 [resamples, n]: how often each sample draws each of `n` images. The arguments determine it."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def interval(values: np.ndarray) -> list[float]:
    """[low, high]: the 2.5 and 97.5 percentiles."""
    return [float(x) for x in np.percentile(values, (2.5, 97.5))]


def estimate(number: dict[str, Any]) -> float | None:
    """The mean or the value of a number from here or from `protocols.summarize`, without its interval."""
    return number.get("mean", number.get("value"))


def in_words(number: dict[str, Any], spec: str = ".4f") -> str:
    """Such as "0.7900 [0.7738, 0.8055]": a number with its interval, if it has one, each formatted by `spec`."""
    point, ends = estimate(number), number.get("ci95")
    if point is None:
        return "undefined"
    return f"{point:{spec}}" + (f" [{ends[0]:{spec}}, {ends[1]:{spec}}]" if ends else "")
