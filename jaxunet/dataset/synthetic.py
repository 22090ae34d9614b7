"""Synthetic chest X-rays with COVID-19 opacities: a TFDS dataset with the features of the real one, drawn from a seed.

Numbers (seed, counts) come in, array_record files come out; demo and tests read them as they read the real data.
One picture is one chain: geometry -> anatomy -> findings -> film. Heights are attenuation: white is dense, air is black.

How easy the task is, on 200 COVID-19 images of seed 0 (mean Dice per image):
  the best single intensity threshold TODO, the best intensity band TODO, the whole lung TODO, every pixel TODO.
"""

import dataclasses
import functools
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jaxunet.errors import UserError

SIZE = 256
LABELS = ("COVID-19", "Non-COVID", "Normal")
SPLITS = ("train", "val", "test")
_FILE_PREFIX = {"COVID-19": "covid", "Non-COVID": "non_covid", "Normal": "normal"}
# Rows of 5 bits: a font file would tie the pixels to a Pillow release.
_GLYPHS = {"L": (16, 16, 16, 16, 16, 16, 31), "R": (30, 17, 17, 30, 20, 18, 17)}

Array = np.ndarray
Pair = tuple[Array, Array]


def draw_chest_xray(seed: int, index: int, split: str, label: str) -> tuple[Array, Array, Array]:
    """Draws one chest X-ray; the arguments alone decide every pixel.

    Args:
      seed: of the dataset, at least 0.
      index: of the image within its split and class, at least 0.
      split: "train", "val" or "test".
      label: one of LABELS. Only COVID-19 images have infection, and all of them do.

    Returns:
      image uint8 [256, 256] in [0, 255]; lung_mask and infection_mask uint8 {0, 1} [256, 256], the second a part of
      the first.
    """
    if label not in LABELS or split not in SPLITS:
        raise UserError(f"{label!r} in {split!r} cannot be drawn: the label is one of {LABELS}, the split of {SPLITS}.")
    if min(seed, index) < 0:
        raise UserError(f"seed={seed} and index={index} must not be negative.")
    # Philox's bits and `Generator.random` are what numpy keeps stable; its normal and integer samplers have changed.
    stream = (index * len(SPLITS) + SPLITS.index(split)) * len(LABELS) + LABELS.index(label)
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, stream], np.uint64)))

    x, y = _patient_coordinates(rng)
    lung, depth, side = _lungs(rng, x, y)
    inside = lung > 0
    air = _step(lung, 0.012)
    density = _anatomy(rng, x, y, lung, depth, side, air)
    infection = np.zeros_like(inside)
    if label == "COVID-19":
        infection, opacity = _infection(rng, inside, depth, side, np.abs(x))
        density += air * opacity
    elif label == "Non-COVID":
        density += air * _other_disease(rng, x, y, lung, depth, side)
    image = _film(rng, density, x, y)
    return image, inside.astype(np.uint8), infection.astype(np.uint8)


# ---- geometry: units of half the picture, x to the right, y down ------------------------------------------------------


def _patient_coordinates(rng: np.random.Generator) -> Pair:
    """x, y float64 [256, 256]: where each pixel lies on a patient who stands a little crooked, warped by body shape."""
    y, x = np.meshgrid(*2 * [(np.arange(SIZE) + 0.5) * 2 / SIZE - 1], indexing="ij")
    angle, zoom = _uniform(rng, -0.1, 0.1), _uniform(rng, 0.84, 1.12)
    x, y = x - _uniform(rng, -0.07, 0.07), y - _uniform(rng, -0.08, 0.08)
    x, y = (np.cos(angle) * x + np.sin(angle) * y) / zoom, (np.cos(angle) * y - np.sin(angle) * x) / zoom
    return x + 0.03 * _noise(rng, 4), y + 0.03 * _noise(rng, 4)


def _lungs(rng: np.random.Generator, x: Array, y: Array) -> tuple[Array, Array, Array]:
    """The two lungs.

    Returns:
      lung: float64 [256, 256], roughly the distance to the nearest border, positive inside.
      depth: 0 at the apex, 1 at the diaphragm.
      side: int 0 left of the picture, 1 right of it.
    """
    side, a = (x > 0).astype(int), np.abs(x)

    def per_side(low: float, high: float, spread: float) -> Array:
        middle = _uniform(rng, low, high)
        return np.array([middle + _uniform(rng, -spread, spread) for _ in range(2)])[side]

    apex, base = per_side(-0.88, -0.72, 0.02), per_side(0.5, 0.85, 0.05)
    width, tip = per_side(0.7, 0.86, 0.04), per_side(0.3, 0.36, 0.02)
    dome, root = per_side(0.1, 0.28, 0.04), per_side(0.09, 0.13, 0.01)
    heart = np.array([_uniform(rng, 0.02, 0.1), _uniform(rng, 0.16, 0.36)])[side]
    depth = (y - apex) / (base - apex)
    outer = tip + (width - tip) * _quarter_circle(depth / 0.6)
    inner = tip - (tip - root) * _quarter_circle(depth / 0.3)
    inner = inner + heart * np.exp(-(((depth - 0.9) / 0.3) ** 2)) + 0.03 * np.exp(-(((depth - 0.35) / 0.08) ** 2))
    floor = base - dome * np.clip(1 - ((a - 0.45 * width) / (0.55 * width)) ** 2, 0, 1)
    return np.minimum(np.minimum(outer - a, a - inner), np.minimum(floor - y, y - apex)), depth, side


def _quarter_circle(t: Array) -> Array:
    return np.sqrt(1 - np.clip(1 - t, 0, 1) ** 2)


# ---- anatomy ---------------------------------------------------------------------------------------------------------


def _anatomy(rng: np.random.Generator, x: Array, y: Array, lung: Array, depth: Array, side: Array, air: Array) -> Array:
    """Density float64 [256, 256] of a healthy chest: about 0 for air around the body, 0.3 in the lung, 1 at the spine."""
    a = np.abs(x)
    # Body: neck, shoulders, trunk; thin at its outline.
    shoulder = -0.78 - 1.0 * np.exp(-((a / 0.3) ** 2)) + 0.22 * a**2
    waist = _step(y + 0.25, 0.12) * _uniform(rng, 0.1, 0.3)
    outline = np.minimum(y - shoulder, _uniform(rng, 1.05, 1.25) - waist - a)
    outline = np.maximum(outline, lung + 0.12)
    body = np.sqrt(np.clip(outline / 0.35, 0, 1)) * 0.72
    if rng.random() < 0.6:
        arm = np.minimum(0.15 - np.abs(a - 1.1 - _uniform(rng, 0.0, 0.3) * (y + 0.5)), y - shoulder)
        body = np.maximum(body, np.sqrt(np.clip(arm / 0.2, 0, 1)) * 0.6)
    density = body + _uniform(rng, 0.1, 0.35) * _step(depth - 0.95, 0.06) * body
    density -= _uniform(rng, 0.36, 0.5) * air
    # Mediastinum, spine with its vertebrae, windpipe.
    bulk = _uniform(rng, 0.1, 0.28)
    density += bulk * np.exp(-((x / _uniform(rng, 0.16, 0.26)) ** 2)) * _step(y + 0.6, 0.1)
    spine = 1 + 0.3 * np.cos(2 * np.pi * (y * _uniform(rng, 6, 8)))
    density += _uniform(rng, 0.05, 0.13) * spine * np.exp(-((x / 0.1) ** 4))
    density -= _uniform(rng, 0.05, 0.14) * np.exp(-(((x - 0.01) / 0.05) ** 2)) * _step(-0.28 - y, 0.06)
    # Ribs: behind, nearly level and falling outwards; in front, faint and falling inwards.
    cage = _step(lung + 0.07, 0.02) + 0.35 * _step(a - 0.1, 0.04) * _step(0.95 - a, 0.05) * _step(0.4 - y, 0.1)
    cage = np.minimum(cage, 1) * _step(y + 0.86, 0.05)
    pitch = _uniform(rng, 0.135, 0.19)
    behind = (y - _uniform(rng, 0.5, 0.8) * (a - 0.28) ** 2) / pitch
    in_front = (y + _uniform(rng, 0.45, 0.7) * a) / (1.25 * pitch)
    strength = _uniform(rng, 0.04, 0.15)
    for course, share in ((behind, 1.0), (in_front, _uniform(rng, 0.2, 0.6))):
        wave = np.cos(2 * np.pi * (course + rng.random() + 0.05 * side))
        density += strength * share * cage * (_step(wave - 0.3, 0.12) + 0.5 * np.exp(-(((wave - 0.35) / 0.3) ** 2)))
    collar = y - (_uniform(rng, -0.6, -0.48) - _uniform(rng, 0.15, 0.3) * a + 0.03 * np.sin(7 * a))
    collar = np.exp(-((collar / 0.035) ** 4)) * _step(a - 0.07, 0.02) * _step(0.9 - a, 0.03)
    density += _uniform(rng, 0.08, 0.18) * collar
    # Vessels: they branch out from the root of each lung and thin out.
    dx, dy = a - 0.16, y + _uniform(rng, 0.0, 0.15)
    reach = np.hypot(dx, dy)
    fan = 9 * np.arctan2(dy, dx) + 1.2 * _noise(rng, 6) + 1.2 * _noise(rng, 14)
    vessels = np.clip(np.cos(fan + 3 * side), 0, 1) ** 3 * np.exp(-((reach / 0.35) ** 2))
    density += air * (_uniform(rng, 0.04, 0.16) * vessels + 0.02 * _noise(rng, 40) + 0.025 * _noise(rng, 7))
    if rng.random() < 0.4:  # breasts, which brighten the lower lungs as infection does
        disc = _uniform(rng, 0.32, 0.42) - np.hypot(a - _uniform(rng, 0.42, 0.55), y - _uniform(rng, 0.2, 0.5))
        density += _uniform(rng, 0.04, 0.12) * _step(disc, 0.02) * body
    if rng.random() < 0.35:  # air in the stomach
        bubble = 1 - np.hypot((x - _uniform(rng, 0.3, 0.5)) / _uniform(rng, 0.1, 0.25), (depth - 1.02) / 0.08)
        density -= _uniform(rng, 0.05, 0.25) * _step(bubble + 0.3 * _noise(rng, 10), 0.15) * (lung < -0.02)
    return density


# ---- findings --------------------------------------------------------------------------------------------------------


def _infection(rng: np.random.Generator, inside: Array, depth: Array, side: Array, a: Array) -> tuple[Array, Array]:
    """Ground glass and consolidation: mask bool [256, 256] within `inside`, and the density that it adds there."""
    lean = np.array([_uniform(rng, -0.5, 0.5), _uniform(rng, -0.5, 0.5)])[side]
    field = 0.8 * _noise(rng, 4) + 0.8 * _noise(rng, 8) + 0.35 * _noise(rng, 17) + 0.15 * _noise(rng, 35)
    field += 1.8 * depth + 1.2 * a + lean
    # Share of the lung, spread as in the real data but for the far end: a full lung would reward "all lung" too much.
    share = np.interp(rng.random(), [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1], [0.03, 0.07, 0.2, 0.4, 0.63, 0.92, 0.97])
    excess = field - np.quantile(field[inside], 1 - share)
    soft = _step(excess, _uniform(rng, 0.04, 0.14))
    texture = 1 + _uniform(rng, 0.05, 0.25) * _noise(rng, 50) + 0.2 * _noise(rng, 12)
    return inside & (excess > 0), _uniform(rng, 0.14, 0.36) * soft * np.clip(texture, 0.3, 1.7)


def _other_disease(rng: np.random.Generator, x: Array, y: Array, lung: Array, depth: Array, side: Array) -> Array:
    """Density of findings that are no infection: streaks in one lung, a fluid level, or nodules."""
    one = side == int(rng.random() < 0.5)
    kind = rng.random()
    if kind < 0.4:  # streaks
        streaks = np.abs(_noise(rng, 22)) + 0.5 * np.abs(_noise(rng, 45))
        return one * _uniform(rng, 0.08, 0.2) * np.clip(1.3 - streaks, 0, 1) * _step(0.35 - np.abs(_noise(rng, 2)), 0.4)
    if kind < 0.7:  # fluid, with the level that creeps up the chest wall
        level = _uniform(rng, 0.55, 0.85) - 0.25 * np.exp(-np.clip(lung, 0, 1) / 0.06)
        return one * _uniform(rng, 0.25, 0.4) * _step(depth - level, 0.015)
    nodules = np.zeros_like(x)
    for _ in range(1 + int(4 * rng.random())):
        far = np.hypot(np.abs(x) - _uniform(rng, 0.25, 0.65), y - _uniform(rng, -0.5, 0.4))
        nodules = np.maximum(nodules, (side == int(rng.random() < 0.5)) * _step(_uniform(rng, 0.03, 0.09) - far, 0.008))
    return _uniform(rng, 0.12, 0.3) * nodules


# ---- film ------------------------------------------------------------------------------------------------------------


def _film(rng: np.random.Generator, density: Array, x: Array, y: Array) -> Array:
    """uint8 [256, 256]: the density as exposed, developed and labelled."""
    density = density + _uniform(rng, -0.08, 0.08) * x + _uniform(rng, -0.08, 0.08) * y
    if rng.random() < 0.3:  # a cable with two electrodes
        run = (
            y
            - _uniform(rng, -0.6, 0.4)
            - _uniform(rng, -0.8, 0.8) * x
            - 0.2 * np.sin(_uniform(rng, 2, 5) * x + 6 * rng.random())
        )
        density += 0.25 * np.exp(-((run / 0.012) ** 2)) * (density > 0.15)
        for _ in range(2):
            density += 0.3 * _step(0.04 - np.hypot(x - _uniform(rng, -0.7, 0.7), y - _uniform(rng, -0.6, 0.4)), 0.005)
    low, high = np.quantile(density[::4, ::4], [0.01, 0.99])
    light = np.clip((density - low) / (high - low), 0, 1.2) * _uniform(rng, 0.9, 1.1)
    light = light ** _uniform(rng, 0.7, 1.5) * (1 - _uniform(rng, 0, 0.15) * (x**2 + y**2))
    light = _uniform(rng, 0, 0.12) + light * _uniform(rng, 0.75, 0.95)
    grain = rng.random(light.shape) - 0.5
    light += _uniform(rng, 0.03, 0.09) * (grain + np.roll(grain, 1, 0) + np.roll(grain, 1, 1)) / 3
    if rng.random() < 0.2:  # collimator
        top, left, bottom, right = (int(_uniform(rng, 0, 26)) for _ in range(4))
        frame = np.zeros_like(light)
        frame[top : SIZE - bottom, left : SIZE - right] = 1
        light = light * frame
    if rng.random() < 0.5:
        letter = "LR"[right_side := int(rng.random() < 0.5)]
        glyph = np.array([[row >> bit & 1 for bit in range(4, -1, -1)] for row in _GLYPHS[letter]], bool)
        glyph = np.kron(glyph, np.ones((2, 2), bool))
        row, column = 6 + int(_uniform(rng, 0, 30)), (6 if right_side else SIZE - 16)
        light[row : row + 14, column : column + 10][glyph] = 0.95
    return np.round(np.clip(light, 0, 1) * 255).astype(np.uint8)


# ---- numbers ---------------------------------------------------------------------------------------------------------


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _step(x: Array, width: float) -> Array:
    """Smooth step from 0 to 1 around x = 0, over four times `width`; a polynomial, for speed."""
    t = np.clip(x / (4 * width) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _noise(rng: np.random.Generator, cells: int) -> Array:
    """Smooth noise float64 [256, 256] of mean 0 and variance about 1, with `cells` bumps across."""
    basis, scale = _spline_basis(cells)
    return scale * (basis @ (rng.random((cells + 3, cells + 3)) - 0.5) @ basis.T)


@functools.cache
def _spline_basis(cells: int) -> tuple[Array, float]:
    """Cubic B-splines float64 [256, cells + 3], and the factor that gives uniform noise unit variance under them."""
    t = np.abs(((np.arange(SIZE) + 0.5) / SIZE * cells)[:, None] - np.arange(-1, cells + 2))
    basis = np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6)
    return basis, np.sqrt(12) / np.mean(np.sum(basis**2, axis=1))
