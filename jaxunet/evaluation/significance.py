"""Paired tests between systems on the same images, with Holm's correction. Called by compare.py.

The permutation test is of the mean difference: it changes the sign of each image's difference at random, 10,000 times.
Wilcoxon's signed-rank test is of the ranks of the differences; a difference of 0 counts half on each side.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

PERMUTATIONS = 10_000
TESTS = ("permutation", "Wilcoxon")


def paired_tests(values: Mapping[str, np.ndarray]) -> dict[tuple[str, str], dict[str, float]]:
    """(system, system) -> test -> corrected p-value in [0, 1]. `values`: system -> float [N], such as the Dice of each
    image; the same images in the same order."""
    pairs = list(itertools.combinations(values, 2))
    found = {name: holm([test(values[a] - values[b]) for a, b in pairs]) for name, test in _TESTS.items()}
    return {pair: {name: found[name][i] for name in TESTS} for i, pair in enumerate(pairs)}


def _permutation(difference: np.ndarray) -> float:
    def statistic(x: np.ndarray, axis: int) -> np.ndarray:
        return x.mean(axis=axis)

    test = stats.permutation_test(
        (difference,), statistic, permutation_type="samples", n_resamples=PERMUTATIONS, batch=500, rng=0
    )
    return float(test.pvalue)


def _wilcoxon(difference: np.ndarray) -> float:
    if not difference.any():
        return 1.0
    return float(stats.wilcoxon(difference, zero_method="zsplit").pvalue)


_TESTS = {"permutation": _permutation, "Wilcoxon": _wilcoxon}


def holm(p: Sequence[float]) -> list[float]:
    """Corrected p-values (Holm 1979): the smallest of m is multiplied by m, the next by m - 1, and so on; at most 1."""
    order = np.argsort(p, kind="stable")
    scaled = np.asarray(p, float)[order] * np.arange(len(p), 0, -1)
    result = np.empty(len(p))
    result[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return result.tolist()
