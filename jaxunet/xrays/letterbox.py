"""An image of any size in the square that a network takes, and what the network says back at the image's own size."""

import dataclasses

import numpy as np
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where an image of height x width pixels lies in the square: rows `top` to `top + rows`, and so for columns."""

    height: int
    width: int
    top: int
    left: int
    rows: int
    columns: int


def fit(image: np.ndarray, size: int, aspect: float = 1.0) -> tuple[np.ndarray, Placement]:
    """Scales an image uint8 [H, W], its aspect kept, to a square uint8 [S, S] with black margins, S being `size`.

    Where the scale is 1/k, every k x k pixels become their mean, as in training (`config.dataset.image_size`); else
    Pillow's bilinear filter is used. It widens with the scale, so that nothing aliases. Where H = W = S, the pixels are
    the very same. Also returns where the image lies in the square.

    `aspect`: height of a pixel over its width; in the square, it is 1.
    """
    height, width = image.shape
    scale = size / max(height * aspect, width)
    rows, columns = (min(size, max(1, round(n * scale))) for n in (height * aspect, width))
    top, left = (size - rows) // 2, (size - columns) // 2
    if (rows, columns) != (height, width):
        whole = height % rows == 0 and width % columns == 0
        method = Image.Resampling.BOX if whole else Image.Resampling.BILINEAR
        scaled = _resize(image.astype(np.float32), rows, columns, method)
        image = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    square = np.zeros((size, size), np.uint8)
    square[top : top + rows, left : left + columns] = image
    return square, Placement(height, width, top, left, rows, columns)


def fit_mask(mask: np.ndarray, at: Placement, size: int) -> np.ndarray:
    """A mask bool [H, W] in the square [S, S] of its image, which lies `at`, S being `size`.

    A pixel is marked if at least half of its area is; the very same pixels where H = W = S; False in the margins.
    """
    square = np.zeros((size, size), bool)
    share = _resize(mask.astype(np.float32), at.rows, at.columns, Image.Resampling.BOX)
    square[at.top : at.top + at.rows, at.left : at.left + at.columns] = share >= 0.5
    return square


def restore(logits: np.ndarray, at: Placement) -> np.ndarray:
    """float32 [S, S, C] -> float32 [H, W, C]: the margins cut off, the rest bilinearly back at the image's own size."""
    inside = logits[at.top : at.top + at.rows, at.left : at.left + at.columns]
    if (at.rows, at.columns) == (at.height, at.width):
        return inside
    channels = np.moveaxis(inside, -1, 0)
    return np.stack([_resize(c, at.height, at.width, Image.Resampling.BILINEAR) for c in channels], axis=-1)


def _resize(x: np.ndarray, height: int, width: int, method: Image.Resampling) -> np.ndarray:
    """float32 [H, W] -> float32 [height, width]."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(x)).resize((width, height), method))
