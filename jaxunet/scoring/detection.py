"""COVID-19 or not: what the decision for a whole image does to counts."""

import numpy as np


def detection_rates(counts: np.ndarray) -> dict[str, float]:
    """`sensitivity` and `specificity` over images, at the threshold that was counted with, where there are such images.

    Args:
      counts: int [N, 4] of the target "covid19", whose pixels all say the same.
    """
    tp, fp, fn, tn = (np.asarray(counts) > 0).sum(axis=0)
    rates = {"sensitivity": (tp, tp + fn), "specificity": (tn, tn + fp)}
    return {name: float(right / n) for name, (right, n) in rates.items() if n}


def gate(counts: np.ndarray, called: np.ndarray) -> np.ndarray:
    """`counts` int [N, 4] as if nothing had been predicted in the images that are not `called` bool [N]."""
    tp, fp, fn, tn = np.moveaxis(counts, -1, 0)
    none = np.zeros_like(tp)
    return np.where(called[:, None], counts, np.stack([none, none, tp + fn, fp + tn], axis=1))
