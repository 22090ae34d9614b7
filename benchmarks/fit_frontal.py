"""Learns the weights of jaxunet/prediction/frontal.py from the training X-rays of COVID-QU-Ex, in a minute on one core.

python benchmarks/fit_frontal.py --source=covidqu.zip

Ridge regression on +1 and -1. +1: each X-ray, also mirrored, and also changed as X-rays differ (`changed`). -1: X-rays
turned and inverted, cut into tiles and shuffled, clouds of noise, and the drawings of not_chest_xrays.py. The threshold
is the `_REFUSED` quantile of the X-rays. The same source gives the same weights.
"""

import io
import pathlib
import sys
import zipfile
from collections.abc import Iterator

import numpy as np
from absl import app, flags
from PIL import Image
from scipy import ndimage

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import not_chest_xrays
from jaxunet.prediction.frontal import SIDE, WEIGHTS, features, standard, thumbnail

SOURCE = flags.DEFINE_string("source", None, "the zip of COVID-QU-Ex", required=True)
_OUTPUT = flags.DEFINE_string("output", str(WEIGHTS), "file to write")
_REFUSED = 0.002  # of the training X-rays, changed ones among them
_RIDGE = 0.1
_WEIGHT = {"turned": 0.5, "shuffled": 0.2, "clouds": 0.1, "drawings": 0.3}  # of each kind that is none; +1 has 1
_PER_DRAWING = 25


def xrays(source: str, split: str) -> Iterator[np.ndarray]:
    """The X-rays of "Train", "Val" or "Test", uint8 [256, 256]."""
    with zipfile.ZipFile(source) as archive:
        for name in archive.namelist():
            parts = name.split("/")
            if parts[0].startswith("Infection") and parts[-2] == "images" and parts[-4] == split and parts[-1]:
                yield np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("L"))


def changed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An X-ray as another scanner, program or hand would have made it; uint8 [H, W]."""
    pixels, cut = image.astype(np.float32), rng.integers(0, len(image) // 8, 4)
    match rng.integers(8):
        case 0:
            pixels = ndimage.gaussian_filter(pixels, rng.uniform(0.5, 3))
        case 1:
            pixels += rng.normal(0, rng.uniform(5, 25), pixels.shape)
        case 2:
            pixels = 255 * (pixels / 255) ** rng.choice([0.5, 0.7, 1.5, 2])
        case 3:
            pixels = 128 + (pixels - 128) * rng.uniform(0.3, 1) + rng.uniform(-50, 50)
        case 4:
            pixels = ndimage.rotate(pixels, rng.uniform(-12, 12), reshape=False, order=1)
        case 5:
            pixels = pixels[cut[0] : len(pixels) - cut[1], cut[2] : pixels.shape[1] - cut[3]]
        case 6:
            pixels = np.pad(pixels, cut.reshape(2, 2), constant_values=rng.choice([0, 255]))
        case 7:
            Image.fromarray(image).save(data := io.BytesIO(), "jpeg", quality=int(rng.integers(5, 30)))
            pixels = np.asarray(Image.open(data), np.float32)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def turned(thumbnails: np.ndarray) -> np.ndarray:
    """Each in its seven other views: turned by 90, 180 and 270 degrees, inverted, inverted and turned."""
    views = [np.rot90(x, turns, (1, 2)) for x in (thumbnails, 255 - thumbnails) for turns in range(4)]
    return np.concatenate(views[1:])


def shuffled(thumbnail: np.ndarray, tiles: int, rng: np.random.Generator) -> np.ndarray:
    """`tiles` x `tiles` parts of an X-ray in another order."""
    side = SIDE // tiles
    parts = thumbnail.reshape(tiles, side, tiles, side).swapaxes(1, 2).reshape(-1, side, side)
    mixed = parts[rng.permutation(len(parts))].reshape(tiles, tiles, side, side)
    return mixed.swapaxes(1, 2).reshape(SIDE, SIDE)


def redrawn(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A drawing cropped, and maybe mirrored or inverted."""
    height, width = picture.shape
    top, bottom, left, right = (int(rng.uniform(0, 0.12) * n) for n in (height, height, width, width))
    picture = picture[top : height - bottom, left : width - right]
    picture = picture[:, ::-1] if rng.random() < 0.5 else picture
    return 255 - picture if rng.random() < 0.3 else picture


def main(_: list[str]) -> None:
    rng = np.random.default_rng(0)
    images = list(xrays(SOURCE.value, "Train"))
    plain = np.stack([thumbnail(x) for x in images])
    other = np.stack([thumbnail(changed(x, rng)) for x in images])
    usable = np.concatenate([plain, other])
    drawings = [picture for _, picture in not_chest_xrays.pictures(not_chest_xrays.SEEN)]
    clouds = [not_chest_xrays.fractal(rng, rng.uniform(0, 3)) for _ in range(1500)]
    kinds = {
        "turned": turned(other),
        "shuffled": np.stack([shuffled(x, (2, 4, 8)[i % 3], rng) for i, x in enumerate(plain)]),
        "clouds": np.stack([thumbnail(np.uint8(x)) for x in clouds]),
        "drawings": np.stack([thumbnail(redrawn(x, rng)) for x in drawings for _ in range(_PER_DRAWING)]),
    }
    found = _features(np.concatenate([usable, usable[:, :, ::-1]]))
    mean, spread = found.mean(0), found.std(0)
    rows = _with_1(standard(found, mean, spread))
    square, sums = _moments(rows)
    for kind, weight in _WEIGHT.items():
        theirs, below = _moments(_with_1(standard(_features(kinds[kind]), mean, spread)))
        square, sums = square + weight * theirs, sums - weight * below
    weights = np.linalg.solve(square + _RIDGE * np.eye(len(square)), sums)[:-1]
    threshold = np.quantile(rows[:, :-1] @ weights, _REFUSED)
    known = {"mean": mean, "spread": spread, "weights": weights, "threshold": threshold}
    np.savez(_OUTPUT.value, **{name: np.asarray(x, np.float32) for name, x in known.items()})
    print(f"{len(plain)} X-rays; threshold {threshold:.3f}; written to {_OUTPUT.value}")


def _with_1(rows: np.ndarray) -> np.ndarray:
    return np.pad(rows, ((0, 0), (0, 1)), constant_values=1)


def _features(thumbnails: np.ndarray) -> np.ndarray:
    parts = [features(np.ascontiguousarray(thumbnails[i : i + 512])) for i in range(0, len(thumbnails), 512)]
    return np.concatenate(parts)


def _moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows.T.astype(np.float64) @ rows / len(rows), rows.mean(0, dtype=np.float64)


if __name__ == "__main__":
    app.run(main)
