"""Distances between the outlines of two masks: HD95 and surface Dice. per_image.py and full_size.py call this.

The outline of a mask is its pixels with a 4-neighbour outside of it. Pixels beyond the image are outside. Distances are
Euclidean, from a pixel centre to the nearest outline pixel of the other mask.

HD95 is the larger of two 95th percentiles (linear interpolation) of the distances: from truth to prediction, and back.
Metrics Reloaded (Maier-Hein et al. 2024) and MONAI do the same; pooling both directions gives a smaller number.
Surface Dice at a tolerance, also called normalised surface distance (Nikolov et al. 2021), is the share of the pixels
of both outlines within the tolerance of the other outline. DeepMind's code weights pieces of a marching-squares outline
by length; MONAI and this file count pixels.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.spatial import KDTree

EMPTY_RULE = (
    "truth and prediction both empty: HD95 0, surface Dice 1; one of them empty: the worst possible value, HD95 = the "
    "image's diagonal, surface Dice 0"
)


def outline(mask: np.ndarray) -> np.ndarray:
    """bool [H, W] -> bool [H, W]: the pixels of `mask` with a 4-neighbour that is not in it."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def surface_metrics(
    truth: np.ndarray, predicted: np.ndarray, tolerances: Sequence[float], spacing: tuple[float, float] = (1, 1)
) -> np.ndarray:
    """HD95 and surface Dice of one image.

    Args:
      truth, predicted: bool [H, W].
      tolerances: distances, each at least 0.
      spacing: height and width of a pixel, in the unit of all distances. (1, 1): distances are in pixels.

    Returns:
      float64 [1 + T]: HD95, then the surface Dice at each tolerance, in [0, 1]; see `EMPTY_RULE`.
    """
    if not truth.any() or not predicted.any():
        same = truth.any() == predicted.any()
        diagonal = np.hypot(*np.multiply(truth.shape, spacing))
        return np.array([0.0 if same else diagonal] + [float(same)] * len(tolerances))
    a, b = (np.argwhere(outline(mask)) * spacing for mask in (truth, predicted))
    there, back = (KDTree(y, balanced_tree=False, compact_nodes=False).query(x)[0] for x, y in ((a, b), (b, a)))
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    distances = np.concatenate([there, back])
    return np.array([hd95] + [np.mean(distances <= t) for t in tolerances])


def of_images(truth: np.ndarray, predicted: np.ndarray, tolerances: Sequence[float], *, threads: int) -> np.ndarray:
    """`surface_metrics` of N images, in parallel.

    Args:
      truth, predicted: packed bits uint8 [N, H, W / 8].
      tolerances: as above.
      threads: number of threads. They run in parallel: SciPy releases Python's lock.

    Returns:
      float64 [N, 1 + T].
    """

    def one(i: int) -> np.ndarray:
        a, b = (np.unpackbits(packed[i], axis=1).astype(bool) for packed in (truth, predicted))
        return surface_metrics(a, b, tolerances)

    with ThreadPoolExecutor(threads) as pool:
        return np.stack(list(pool.map(one, range(len(truth)))))
