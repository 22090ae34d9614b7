"""Whether a picture is usable as a frontal chest X-ray: upright, not inverted, and no other kind of picture.

One linear function decides, from the directions of edges and the gray levels of a thumbnail. `benchmarks/frontal.py`
learns its weights from the training images of COVID-QU-Ex, and counts how often it is right; docs/reliability.md has
the rates.
"""

import functools
import pathlib

import numpy as np
from PIL import Image

WEIGHTS = pathlib.Path(__file__).parents[1] / "weights" / "frontal.npy"  # float32 [F + 2]: see `scores`
SIDE = 64  # pixels, of the thumbnail
_CELL, _DIRECTIONS = 8, 8  # pixels per side of a cell; directions of edges that are told apart in it
_GRAY = 16  # the thumbnail's gray levels count at so many pixels per side
_EVEN = 8  # gray levels: rows and columns at the edge that vary by less are a margin
_TURNS = ("", "turned by 90 degrees", "upside down", "turned by 90 degrees")


def refusal(image: np.ndarray) -> str:
    """Why a picture is not usable as a frontal chest X-ray, in words; "" if it is.

    Args:
      image: uint8 [H, W].
    """
    upright = thumbnail(image)
    views = [np.rot90(light, turns) for light in (upright, 255 - upright) for turns in range(4)]
    found = scores(np.stack(views))
    if found[0] > 0:
        return ""
    best = int(found.argmax())
    if found[best] <= 0:
        return "no frontal chest X-ray"
    return " and ".join(filter(None, ("inverted" if best >= len(_TURNS) else "", _TURNS[best % len(_TURNS)])))


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
    return features(thumbnails) @ _weights()[:-1] - _weights()[-1]


def features(thumbnails: np.ndarray) -> np.ndarray:
    """float32 [N, SIDE, SIDE] -> float32 [N, F]: edges by direction in each cell (Dalal and Triggs 2005, directions
    from dark to light over the full circle), gray levels, and a 1. Brightness and contrast do not count.
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
    around = sum(total[:, i : i + cells, j : j + cells] for i in range(3) for j in range(3)) / 9
    edges = np.sqrt(edges / (around[..., None] + 0.02))
    gray = centred.reshape(n, _GRAY, SIDE // _GRAY, _GRAY, SIDE // _GRAY).mean((2, 4))
    return np.concatenate([edges.reshape(n, -1), gray.reshape(n, -1), np.ones((n, 1), np.float32)], 1)


@functools.cache
def _weights() -> np.ndarray:
    return np.load(WEIGHTS, allow_pickle=False)
