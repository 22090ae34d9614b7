"""Scores on images that are changed as files from elsewhere are: blurred, compressed, noisy, too bright, turned.

The host changes the 8-bit image as a file would hold it; then it goes the way of any image. Images larger than 256
pixels, and than the network takes, are first reduced to that size, so that a change is as strong for every dataset.
Called by evaluate.py with `config.eval.corruptions`.
"""

import io
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from jaxunet.data.originals import Originals
from jaxunet.data.targets import COVID19
from jaxunet.prediction.predictor import Predictor
from jaxunet.scoring import protocols
from jaxunet.scoring.bootstrap import in_words, mean
from jaxunet.scoring.counts import confusion, positive, sigmoid
from jaxunet.scoring.detection import Rule
from jaxunet.xrays import letterbox
from jaxunet.xrays.pixels import Xray

_SIDE = 256  # pixels of the longer side that the strengths below are for


def _blur(x: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(x).filter(ImageFilter.GaussianBlur(2 * max(x.shape) / _SIDE)))


def _jpeg(x: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(x).save(file, format="JPEG", quality=10)
    return np.asarray(Image.open(file))


def _margin(x: np.ndarray, level: int) -> np.ndarray:
    """A margin on each side, 10 % of the new longer side."""
    return np.pad(x, max(x.shape) // 8, constant_values=level)


# uint8 [h, w], and noise float [h, w] of variance 1 -> numbers [h, w], to be rounded and clipped
CHANGES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "none": lambda x, _: x,
    f"blur, sigma 2 px of {_SIDE}": lambda x, _: _blur(x),
    "JPEG, quality 10": lambda x, _: _jpeg(x),
    "noise, sigma 13 of 255": lambda x, noise: x + 13 * noise,
    "contrast x 0.5": lambda x, _: x.mean() + 0.5 * (x - x.mean()),
    "brightness + 40 of 255": lambda x, _: x + 40.0,
    "gamma 2": lambda x, _: 255 * (x / 255) ** 2,
    "gamma 0.5": lambda x, _: 255 * (x / 255) ** 0.5,
    "black margin of 10 %": lambda x, _: _margin(x, 0),
    "white margin of 10 %": lambda x, _: _margin(x, 255),
    "rotated by 90 degrees": lambda x, _: np.rot90(x),
    "inverted": lambda x, _: 255 - x,
}
_MOVED = {"black margin of 10 %", "white margin of 10 %", "rotated by 90 degrees"}  # the true mask moves likewise


def corrupt(name: str, image: np.ndarray, mask: np.ndarray, *, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """An image uint8 [h, w] and its mask bool [h, w], changed. `seed` determines the noise."""
    noise = np.random.default_rng(seed).standard_normal(image.shape) if "noise" in name else image
    changed = np.clip(np.rint(CHANGES[name](image, noise)), 0, 255).astype(np.uint8)
    if name not in _MOVED:
        return changed, mask
    return changed, np.rot90(mask) if "rotated" in name else _margin(mask, 0)


def score(predictor: Predictor, originals: Originals, rule: Rule | None) -> list[dict[str, Any]]:
    """`[{"change", "dice" (mean over P1), "sensitivity", "specificity"}]`, with intervals, for each change of the
    images and of the mask of the first target. `rule` decides by the network's answer for the whole image; None if it
    has none."""
    size, config = predictor.image_size, predictor.config
    counts: dict[str, list[np.ndarray]] = {name: [] for name in CHANGES}
    called: dict[str, list[np.ndarray]] = {name: [] for name in CHANGES}
    for start in range(0, len(originals.ids), config.eval.batch_size):
        part = range(start, min(start + config.eval.batch_size, len(originals.ids)))
        read = [_reduced(*originals.read(i), max(size, _SIDE)) for i in part]
        for name in CHANGES:
            squares, truths = [], []
            for i, (image, mask) in zip(part, read, strict=True):
                seed = config.seed, zlib.crc32(originals.ids[i].encode())
                image, mask = corrupt(name, image, mask, seed=seed)
                square, place = letterbox.fit(np.ascontiguousarray(image), size)
                squares.append(square)
                truths.append(letterbox.fit_mask(mask, place, size))
            found = predictor.outputs(np.stack(squares))
            counts[name].append(confusion(positive(found["masks"][..., 0], predictor.threshold), np.stack(truths)))
            if rule:
                called[name].append(rule.calls(sigmoid(found[COVID19].astype(np.float64))))
    covid, rows = originals.positive, []
    for name in CHANGES:
        row: dict[str, Any] = {"change": name}
        numbers = {"dice": protocols.ratios(np.concatenate(counts[name]))["dice"][covid]}
        if rule:
            answers = np.concatenate(called[name]).astype(float)
            numbers |= {"sensitivity": answers[covid], "specificity": 1 - answers[~covid]}
        rows.append(row | {key: mean(values) for key, values in numbers.items() if len(values)})
    return rows


def _reduced(xray: Xray, masks: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixels and the first mask, with a longer side of at most `side` pixels."""
    image, mask = xray.pixels, masks[..., 0]
    if max(image.shape) <= side and xray.aspect == 1:
        return image, mask
    square, at = letterbox.fit(image, side, xray.aspect)
    inside = slice(at.top, at.top + at.rows), slice(at.left, at.left + at.columns)
    return square[inside], letterbox.fit_mask(mask, at, side)[inside]


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """A printed table."""
    names = [name for name in ("dice", "sensitivity", "specificity") if name in rows[0]]
    heads = {"dice": "Dice P1"}
    text = [f"{'changed images':26s}" + "".join(f"{heads.get(name, name):>24s}" for name in names)]
    for row in rows:
        text.append(f"{row['change']:26s}" + "".join(f"{in_words(row[name], '.3f'):>24s}" for name in names))
    return text
