"""Whether a picture is usable as a frontal chest X-ray: upright, not inverted, and no other kind of picture.

A linear function decides, from the directions of edges and the gray levels of a thumbnail, and then the shape of the
lungs, where the network predicts them. benchmarks/fit_frontal.py learns the weights from the training images of
COVID-QU-Ex; benchmarks/frontal.py counts how often the decision is right, and docs/reliability.md has the rates.
"""

import functools
import pathlib

import numpy as np
from PIL import Image

from jaxunet.prediction.measures import split_sides

WEIGHTS = pathlib.Path(__file__).parents[1] / "weights" / "frontal.npz"
SIDE = 64  # pixels, of the thumbnail
_CELL, _DIRECTIONS = 8, 8  # pixels per side of a cell; directions of edges that are told apart in it
_GRAY = 16  # the thumbnail's gray levels count at so many pixels per side
_FAR = 9  # squared spreads: what is farther from an ordinary X-ray counts as this far
_EVEN = 8  # gray levels: rows and columns at the edge that vary by less are a margin
_LEAST_LUNG, _MOST_LUNG = 0.04, 0.65  # of the picture
_SMALLER_LUNG = 0.2  # of the larger one
_BESIDE = 0.4  # of the height of both lungs together: the rows that have both
_TURNS = ("", "turned by 90 degrees", "upside down", "turned by 90 degrees")


def refusal(image: np.ndarray, lung: np.ndarray | None) -> str:
    """Why a picture uint8 [H, W] is not usable as a frontal chest X-ray, in words; "" if it is.

    `lung`: bool [H, W], predicted, if the network does.
    """
    upright = thumbnail(image)
    views = [np.rot90(light, turns) for light in (upright, 255 - upright) for turns in range(4)]
    found = scores(np.stack(views))
    if found[0] > 0:
        return "" if lung is None or two_lungs(lung) else "no two lungs side by side"
    best = int(found.argmax())
    if found[best] <= 0:
        return "no frontal chest X-ray"
    return " and ".join(filter(None, ("inverted" if best >= len(_TURNS) else "", _TURNS[best % len(_TURNS)])))


def two_lungs(lung: np.ndarray) -> bool:
    """Whether the mask bool [H, W] has two lungs as on a frontal X-ray: side by side, apart, none of them tiny."""
    if not _LEAST_LUNG < lung.mean() < _MOST_LUNG:
        return False
    at_left, told_by = split_sides(lung)
    both = [lung & at_left, lung & ~at_left]
    areas = sorted(int(one.sum()) for one in both)
    if told_by != "components" or areas[0] < _SMALLER_LUNG * areas[1]:
        return False
    (top, bottom), (other_top, other_bottom) = (np.flatnonzero(one.any(axis=1))[[0, -1]] for one in both)
    together = max(bottom, other_bottom) - min(top, other_top)
    return bool(min(bottom, other_bottom) - max(top, other_top) >= _BESIDE * together)


def thumbnail(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W] -> float32 [SIDE, SIDE], without even margins, its aspect not kept."""
    for axis in (1, 0):
        varied = np.flatnonzero(np.ptp(image, axis=axis) >= _EVEN)
        if not varied.size:
            return np.zeros((SIDE, SIDE), np.float32)
        image = np.take(image, range(varied[0], varied[-1] + 1), axis=1 - axis)
    small = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.float32)


def scores(thumbnails: np.ndarray) -> np.ndarray:
    """float32 [N, SIDE, SIDE] -> float32 [N]: above 0 for what is usable."""
    known = _weights()
    return standard(features(thumbnails), known["mean"], known["spread"]) @ known["weights"] - known["threshold"]


def standard(found: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """What the weights are for: how far each feature of [N, F] is from that of an ordinary X-ray, with its sign and
    squared; float32 [N, 2 * F]."""
    away = (found - mean) / spread
    return np.concatenate([away, np.minimum(away**2, _FAR)], 1)


def features(thumbnails: np.ndarray) -> np.ndarray:
    """float32 [N, SIDE, SIDE] -> float32 [N, F]: edges by direction in each cell (Dalal and Triggs 2005, directions
    from dark to light over the full circle), and gray levels. Brightness and contrast do not count.
    """
    n, cells = len(thumbnails), SIDE // _CELL
    centred = thumbnails - thumbnails.mean((1, 2), keepdims=True)
    centred /= np.maximum(centred.std((1, 2), keepdims=True), 2)
    down, right = np.gradient(centred, axis=(1, 2))
    strength, direction = np.hypot(down, right), np.arctan2(down, right) / (2 * np.pi) * _DIRECTIONS
    edges = np.zeros((n, SIDE, SIDE, _DIRECTIONS), np.float32)
    for i in range(_DIRECTIONS):  # an edge between two directions counts for both
        away = np.abs((direction - i + _DIRECTIONS / 2) % _DIRECTIONS - _DIRECTIONS / 2)
        edges[..., i] = strength * np.maximum(1 - away, 0)
    edges = edges.reshape(n, cells, _CELL, cells, _CELL, _DIRECTIONS).mean((2, 4))
    total = np.pad(edges.sum(-1), ((0, 0), (1, 1), (1, 1)), mode="edge")
    around = np.sum([total[:, i : i + cells, j : j + cells] for i in range(3) for j in range(3)], axis=0) / 9
    edges = np.sqrt(edges / (around[..., None] + 0.02))
    gray = centred.reshape(n, _GRAY, SIDE // _GRAY, _GRAY, SIDE // _GRAY).mean((2, 4))
    return np.concatenate([edges.reshape(n, -1), gray.reshape(n, -1)], 1)


@functools.cache
def _weights() -> dict[str, np.ndarray]:
    """float32: mean [F], spread [F], weights [2 * F], threshold []."""
    with np.load(WEIGHTS, allow_pickle=False) as file:
        return dict(file)
