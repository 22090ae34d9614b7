"""Surface metrics against a computation that looks at every pair of outline pixels."""

import math
import time

import numpy as np
import pytest

from jaxunet.scoring import outlines

TOLERANCES = (0.0, 1.0, 2.5)


def blobs(seed: int, size: int, share: float) -> np.ndarray:
    """bool [size, size]: smooth random shapes that may touch the border."""
    waves = np.random.default_rng(seed).normal(size=(4, 4))
    at = np.arange(size)[:, None] / size * np.pi * np.arange(4)
    field = np.cos(at) @ waves @ np.cos(at).T
    return field > np.quantile(field, 1 - share)


def outline_pixels(mask: np.ndarray) -> list[tuple[int, int]]:
    """By asking every pixel for its neighbours."""
    h, w = mask.shape

    def inside(y: int, x: int) -> bool:
        return 0 <= y < h and 0 <= x < w and bool(mask[y, x])

    steps = ((0, 1), (0, -1), (1, 0), (-1, 0))
    return [
        (y, x)
        for y in range(h)
        for x in range(w)
        if inside(y, x) and not all(inside(y + dy, x + dx) for dy, dx in steps)
    ]


def brute_force(truth: np.ndarray, predicted: np.ndarray) -> list[float]:
    a, b = outline_pixels(truth), outline_pixels(predicted)
    there = sorted(min(math.dist(p, q) for q in b) for p in a)
    back = sorted(min(math.dist(p, q) for q in a) for p in b)

    def percentile(values: list[float]) -> float:
        position = 0.95 * (len(values) - 1)
        low = int(position)
        high = min(low + 1, len(values) - 1)
        return values[low] + (position - low) * (values[high] - values[low])

    near = [sum(d <= t for d in there + back) / (len(a) + len(b)) for t in TOLERANCES]
    return [max(percentile(there), percentile(back)), *near]


@pytest.mark.parametrize("seed", range(8))
def test_equals_brute_force(seed):
    truth, predicted = blobs(seed, 40, 0.1 + 0.04 * seed), blobs(seed + 100, 40, 0.2)
    values = outlines.surface_metrics(truth, predicted, TOLERANCES)
    np.testing.assert_allclose(values, brute_force(truth, predicted), rtol=0, atol=1e-9)


def test_known_shapes():
    """A square and the same, three pixels to the right; two single pixels."""
    truth, predicted = np.zeros((2, 32, 32), bool)
    truth[8:16, 8:16] = True
    predicted[8:16, 11:19] = True
    hd95, *dice = outlines.surface_metrics(truth, predicted, (0.0, 3.0))
    assert hd95 == 3.0
    # 28 outline pixels each, of which 2 x 5 in the upper and lower sides coincide.
    assert dice == [10 / 28, 1.0]
    truth[:], predicted[:] = False, False
    truth[0, 0], predicted[3, 4] = True, True
    assert list(outlines.surface_metrics(truth, predicted, (4.9, 5.0))) == [5.0, 0.0, 1.0]
    assert list(outlines.surface_metrics(truth, predicted, (12.9, 13.0), (4.0, 1.25))) == [13.0, 0.0, 1.0]
    assert list(outlines.surface_metrics(truth, truth & predicted, (), (0.75, 1.0))) == [40.0]  # the diagonal


def test_identical_and_symmetric():
    truth, predicted = blobs(0, 64, 0.2), blobs(1, 64, 0.3)
    assert list(outlines.surface_metrics(truth, truth, TOLERANCES)) == [0.0, 1.0, 1.0, 1.0]
    forward = outlines.surface_metrics(truth, predicted, TOLERANCES)
    np.testing.assert_array_equal(forward, outlines.surface_metrics(predicted, truth, TOLERANCES))


def test_empty_rule():
    empty, some = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
    some[3, 4] = True
    assert list(outlines.surface_metrics(empty, empty, (2.0,))) == [0.0, 1.0]
    assert list(outlines.surface_metrics(empty, some, (2.0,))) == [50.0, 0.0]
    assert list(outlines.surface_metrics(some, empty, (2.0,))) == [50.0, 0.0]


def test_images_keep_their_order_and_are_fast():
    truth = np.stack([blobs(i, 256, 0.05 + 0.01 * i) for i in range(24)])
    predicted = np.stack([blobs(i + 50, 256, 0.15) for i in range(24)])
    packed = [np.packbits(masks, axis=2) for masks in (truth, predicted)]
    start = time.perf_counter()
    values = outlines.of_images(*packed, TOLERANCES, threads=4)
    seconds = (time.perf_counter() - start) / 24
    for i in range(24):
        np.testing.assert_array_equal(values[i], outlines.surface_metrics(truth[i], predicted[i], TOLERANCES))
    assert seconds < 0.05  # measured: 0.002; a machine that does other work as well is slower
