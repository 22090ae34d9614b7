"""Measures from masks (areas, shares, sides), and warnings about the quality of an X-ray or its lung mask.

Pure functions of NumPy arrays. Not for clinical use.
"""

from typing import Any

import numpy as np
from scipy import ndimage

# Bounds of the warnings. Real X-rays rarely cross them: docs/predict.md has the rates.
SMALLEST_SIDE = 128  # pixels
LARGEST_ASPECT = 2.0
LOWEST_CONTRAST = 80  # gray levels between the 1st and 99th percentile
DARKEST, BRIGHTEST = 50, 205  # mean gray level
LEAST_LUNG = 0.05  # of the image
CUT_LUNG = 0.15  # of one edge of the image
_NEIGHBOURS = np.ones((3, 3))  # pixels of a region share an edge or a corner
_LUNG_SHARE = 0.1  # of all lung pixels: the smallest region that counts as a lung

SEVERITY = ("severity_percent", "severity_right_percent", "severity_left_percent", "sides")
MEASURES = (
    *("infected_pixels", "infected_cm2", "infected_share_percent", "lung_pixels", "lung_cm2", *SEVERITY, "regions"),
    *("largest_region_pixels", "largest_region_cm2"),
)


def measure(
    infection: np.ndarray | None,
    lung: np.ndarray | None,
    *,
    spacing_mm: tuple[float, float] | None = None,
    mirrored: bool = False,
) -> dict[str, Any]:
    """Areas and shares. A value is None if its mask or the pixel size is unknown, or the lung mask is empty.

    Args:
      infection, lung: bool [H, W]; None if the network does not predict it.
      spacing_mm: height and width of a pixel; None if unknown.
      mirrored: whether the patient's left is at the left of the image.

    Returns:
      `lung_pixels`, `lung_cm2`, `infected_pixels`, `infected_cm2`, `infected_share_percent` (of the image),
      `severity_percent` (of the lung, counting infection within it), `severity_right_percent`, `severity_left_percent`
      (of the patient's lungs), `sides` ("components" or "midline", see `split_sides`), `largest_region_pixels`,
      `largest_region_cm2`, `regions`.
    """
    result: dict[str, Any] = dict.fromkeys(MEASURES)
    if lung is not None:
        result["lung_pixels"] = int(lung.sum())
    if infection is not None:
        sizes = np.bincount(ndimage.label(infection, _NEIGHBOURS)[0].ravel())[1:]  # pixels of each region
        result["infected_pixels"] = int(infection.sum())
        result["infected_share_percent"] = 100 * result["infected_pixels"] / infection.size
        result["regions"] = len(sizes)
        result["largest_region_pixels"] = int(max(sizes, default=0))
    if spacing_mm is not None:
        cm2 = spacing_mm[0] * spacing_mm[1] / 100
        for name in ("lung", "infected", "largest_region"):
            if result[f"{name}_pixels"] is not None:
                result[f"{name}_cm2"] = result[f"{name}_pixels"] * cm2
    if infection is not None and lung is not None and lung.any():
        at_image_left, result["sides"] = split_sides(lung)
        result["severity_percent"] = _percent(infection, lung)
        left, right = ("severity_left_percent", "severity_right_percent")
        result[left if mirrored else right] = _percent(infection, lung & at_image_left)
        result[right if mirrored else left] = _percent(infection, lung & ~at_image_left)
    return result


def _percent(infection: np.ndarray, lung: np.ndarray) -> float | None:
    area = int(lung.sum())
    return 100 * int((infection & lung).sum()) / area if area else None


def split_sides(lung: np.ndarray) -> tuple[np.ndarray, str]:
    """Splits the image into its left side, usually with the patient's right lung, and its right side.

    "components": the two largest regions lie side by side and each has at least a tenth of the lung pixels. The border
    is halfway between their centres. "midline": otherwise, for example if the lungs touch; the border is the middle of
    the image.

    `lung`: bool [H, W], not empty. Returns bool [H, W], True on the left side, and "components" or "midline".
    """
    height, width = lung.shape
    labels, n = ndimage.label(lung, _NEIGHBOURS)
    sizes = np.bincount(labels.ravel(), minlength=n + 1)
    sizes[0] = 0
    first, second = (np.argsort(-sizes, kind="stable")[:2]) if n > 1 else (0, 0)
    if sizes[second] >= _LUNG_SHARE * sizes.sum() > 0:
        ones, twos = labels == first, labels == second
        centres = [np.flatnonzero(m.any(axis=0))[[0, -1]].mean() + 0.5 for m in (ones, twos)]
        if abs(centres[0] - centres[1]) > width / 8:
            left_one = centres[0] < centres[1]
            sides = np.broadcast_to(np.arange(width) + 0.5 < np.mean(centres), lung.shape).copy()
            sides[ones], sides[twos] = left_one, not left_one  # a lung stays whole if it crosses the border
            return sides, "components"
    return np.broadcast_to(np.arange(width) + 0.5 < width / 2, lung.shape), "midline"


def quality_warnings(image: np.ndarray, lung: np.ndarray | None) -> list[str]:
    """Reasons why the prediction may be wrong; none for an ordinary frontal chest X-ray.

    `image`: uint8 [H, W]. `lung`: bool [H, W], predicted; None if the network does not predict it.
    """
    height, width = image.shape
    found = []
    if min(height, width) < SMALLEST_SIDE:
        found.append(f"small: {height} x {width} pixels")
    if max(height, width) > LARGEST_ASPECT * min(height, width):
        found.append("shape unlike a chest X-ray")
    low, high = np.percentile(_thinned(image), (1, 99))
    mean = float(_thinned(image).mean())
    if high - low < LOWEST_CONTRAST:
        found.append("low contrast")
    if mean < DARKEST:
        found.append("very dark")
    if mean > BRIGHTEST:
        found.append("very bright")
    if lung is not None:
        if lung.mean() < LEAST_LUNG:
            found.append("hardly any lung found")
        elif max(edge.mean() for edge in (lung[0], lung[-1], lung[:, 0], lung[:, -1])) > CUT_LUNG:
            found.append("lung cut off by the edge of the image")
    return found


def _thinned(image: np.ndarray) -> np.ndarray:
    """Every n-th pixel, at least 256 per side of a large image: enough for statistics."""
    return image[:: 1 + image.shape[0] // 512, :: 1 + image.shape[1] // 512]
