"""Draws synthetic chest X-rays with lungs, ribs, heart and COVID-19 opacities. `synthetic.py` makes a dataset of them.

A picture is drawn in four stages: geometry -> anatomy -> findings -> film. White is dense, black is air.

The task is learnable but not trivial. Mean Dice on 200 COVID-19 images: the whole image 0.23, the best intensity
threshold 0.31, the best intensity band 0.33, the whole true lung 0.57, the best threshold within it 0.69. A U-Net of
0.4 M parameters reaches 0.83 in 200 steps of 16 images. The infected share of the pixels follows COVID-QU-Ex: mean
14 %, 5th, 50th and 95th percentile 2, 12 and 31 %.
"""

import functools

import numpy as np

VERSION = "1.0.0"  # of the prepared datasets: to be raised whenever the drawing changes, so no stale files are read
SIZE = 256
SPLITS = ("train", "val", "test")
CLASSES = ("COVID-19", "Non-COVID", "Normal")
MASKS = ("lung", "infection")  # in the order of `draw_chest_xray`
# Rows of 5 bits: with a font file, the pixels would depend on the Pillow release.
_GLYPHS = {"L": (16, 16, 16, 16, 16, 16, 31), "R": (30, 17, 17, 30, 20, 18, 17)}

Array = np.ndarray


def draw_chest_xray(seed: int, index: int, split: str, label: str) -> tuple[Array, Array, Array]:
    """Draws one chest X-ray. The arguments alone determine every pixel.

    Args:
      seed: of the dataset, in [0, 2**63).
      index: of the image within its split and class, at least 0.
      split: "train", "val" or "test".
      label: one of CLASSES. All COVID-19 images have infection, and no others do.

    Returns:
      image uint8 [256, 256] in [0, 255]; lung_mask and infection_mask uint8 {0, 1} [256, 256]. Infection lies within
      the lung.
    """
    # NumPy keeps Philox's bits and `Generator.random` stable; its normal and integer samplers have changed.
    stream = (index * len(SPLITS) + SPLITS.index(split)) * len(CLASSES) + CLASSES.index(label)
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, stream], np.uint64)))

    x, y = _patient_coordinates(rng)
    lung, depth, side = _lungs(rng, x, y)
    inside = lung > 0
    infection = np.zeros_like(inside)
    opacity: Array | float = 0.0
    if label == "COVID-19":
        infection, opacity = _infection(rng, inside, depth, side, np.abs(x))
    elif label == "Non-COVID":
        opacity = _other_disease(rng, x, y, lung, depth, side)
    # Masks are computed in float64. The picture has only 256 levels: float32 takes half the time.
    x, y, lung, depth = (value.astype(np.float32) for value in (x, y, lung, depth))
    air = _step(lung, 0.012)
    density = _anatomy(rng, x, y, lung, depth, air)
    density += air * opacity
    image = _film(rng, density, x, y, inside)
    return image, inside.astype(np.uint8), infection.astype(np.uint8)


# ---- geometry: in units of half the picture, x to the right, y down --------------------------------------------------


def _patient_coordinates(rng: np.random.Generator) -> tuple[Array, Array]:
    """x, y float64 [256, 256]: position of each pixel on the patient, who is shifted, turned, scaled and warped."""
    y, x = np.meshgrid(*2 * [(np.arange(SIZE) + 0.5) * 2 / SIZE - 1], indexing="ij")
    angle, zoom = _uniform(rng, -0.1, 0.1), _uniform(rng, 0.82, 1.08)
    x, y = x - _uniform(rng, -0.07, 0.07), y - _uniform(rng, -0.08, 0.08)
    x, y = (np.cos(angle) * x + np.sin(angle) * y) / zoom, (np.cos(angle) * y - np.sin(angle) * x) / zoom
    return x + 0.03 * _noise(rng, 4), y + 0.03 * _noise(rng, 4)


def _lungs(rng: np.random.Generator, x: Array, y: Array) -> tuple[Array, Array, Array]:
    """The two lungs.

    Returns:
      lung: float64 [256, 256], roughly the distance to the nearest border, positive inside.
      depth: 0 at the apex, 1 at the diaphragm.
      side: bool, True in the right half of the picture.
    """
    side, a = x > 0, np.abs(x)

    def per_side(low: float, high: float, spread: float) -> Array:
        middle = _uniform(rng, low, high)
        return np.where(side, middle + _uniform(rng, -spread, spread), middle + _uniform(rng, -spread, spread))

    apex, base = per_side(-0.88, -0.72, 0.02), per_side(0.5, 0.85, 0.05)
    width, tip = per_side(0.66, 0.84, 0.04), per_side(0.3, 0.36, 0.02)
    dome, root = per_side(0.1, 0.28, 0.04), per_side(0.09, 0.13, 0.01)
    heart = np.where(side, _uniform(rng, 0.16, 0.36), _uniform(rng, 0.02, 0.1))
    depth = (y - apex) / (base - apex)
    outer = tip + (width - tip) * _quarter_circle(depth / 0.6)
    inner = tip - (tip - root) * _quarter_circle(depth / 0.3)
    inner = inner + heart * np.exp(-(((depth - 0.9) / 0.3) ** 2)) + 0.03 * np.exp(-(((depth - 0.35) / 0.08) ** 2))
    floor = base - dome * np.clip(1 - ((a - 0.45 * width) / (0.55 * width)) ** 2, 0, 1)
    return np.minimum(np.minimum(outer - a, a - inner), np.minimum(floor - y, y - apex)), depth, side


def _quarter_circle(t: Array) -> Array:
    return np.sqrt(1 - np.clip(1 - t, 0, 1) ** 2)


# ---- anatomy ---------------------------------------------------------------------------------------------------------


def _anatomy(rng: np.random.Generator, x: Array, y: Array, lung: Array, depth: Array, air: Array) -> Array:
    """Density float32 [256, 256] of a healthy chest: 0 in the air around it, about 0.3 in the lung, 1 at the spine."""
    a, right = np.abs(x), (x > 0).astype(np.float32)
    # Body: neck, shoulders, trunk; it thins towards its outline.
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
    density += _uniform(rng, 0.1, 0.28) * np.exp(-((x / _uniform(rng, 0.16, 0.26)) ** 2)) * _step(y + 0.6, 0.1)
    spine = 1 + 0.3 * np.cos(2 * np.pi * (y * _uniform(rng, 6, 8)))
    density += _uniform(rng, 0.05, 0.13) * spine * np.exp(-(((x / 0.1) ** 2) ** 2))
    density -= _uniform(rng, 0.05, 0.14) * np.exp(-(((x - 0.01) / 0.05) ** 2)) * _step(-0.28 - y, 0.06)
    # Ribs: those behind are nearly level and fall outwards; those in front are faint and fall inwards.
    cage = _step(lung + 0.07, 0.02) + 0.35 * _step(a - 0.1, 0.04) * _step(0.95 - a, 0.05) * _step(0.4 - y, 0.1)
    cage = np.minimum(cage, 1) * _step(y + 0.86, 0.05)
    pitch = _uniform(rng, 0.135, 0.19)
    behind = (y - _uniform(rng, 0.5, 0.8) * (a - 0.28) ** 2) / pitch
    in_front = (y + _uniform(rng, 0.45, 0.7) * a) / (1.25 * pitch)
    strength = _uniform(rng, 0.04, 0.13)
    for course, share in ((behind, 1.0), (in_front, _uniform(rng, 0.2, 0.6))):
        wave = np.cos(2 * np.pi * (course + rng.random() + 0.05 * right))
        density += strength * share * cage * (_step(wave - 0.3, 0.12) + 0.5 * np.exp(-(((wave - 0.35) / 0.3) ** 2)))
    collar = y - (_uniform(rng, -0.6, -0.48) - _uniform(rng, 0.15, 0.3) * a + 0.03 * np.sin(7 * a))
    collar = np.exp(-(((collar / 0.035) ** 2) ** 2)) * _step(a - 0.07, 0.02) * _step(0.9 - a, 0.03)
    density += _uniform(rng, 0.08, 0.18) * collar
    # Vessels: they branch out from the root of each lung and get thinner.
    dx, dy = a - 0.16, y + _uniform(rng, 0.0, 0.15)
    reach = np.hypot(dx, dy)
    fan = 9 * np.arctan2(dy, dx) + 1.2 * _noise(rng, 6) + 1.2 * _noise(rng, 14)
    vessels = np.clip(np.cos(fan + 3 * right), 0, 1) ** 2 * np.exp(-((reach / 0.35) ** 2))
    density += air * (_uniform(rng, 0.04, 0.16) * vessels + 0.02 * _noise(rng, 40) + 0.025 * _noise(rng, 7))
    if rng.random() < 0.4:  # breasts: they brighten the lower lungs as infection does
        disc = _uniform(rng, 0.32, 0.42) - np.hypot(a - _uniform(rng, 0.42, 0.55), y - _uniform(rng, 0.2, 0.5))
        density += _uniform(rng, 0.04, 0.12) * _step(disc, 0.02) * body
    if rng.random() < 0.35:  # air in the stomach
        bubble = 1 - np.hypot((x - _uniform(rng, 0.3, 0.5)) / _uniform(rng, 0.1, 0.25), (depth - 1.02) / 0.08)
        density -= _uniform(rng, 0.04, 0.16) * _step(bubble + 0.4 * _noise(rng, 10), 0.2) * (lung < -0.02)
    return density


# ---- findings --------------------------------------------------------------------------------------------------------


def _infection(rng: np.random.Generator, inside: Array, depth: Array, side: Array, a: Array) -> tuple[Array, Array]:
    """Ground glass and consolidation: mask bool [256, 256] within `inside`, and the density that they add."""
    lean = np.where(side, _uniform(rng, -0.5, 0.5), _uniform(rng, -0.5, 0.5))
    field = 0.8 * _noise(rng, 4) + 0.8 * _noise(rng, 8) + 0.3 * _noise(rng, 17) + 0.1 * _noise(rng, 35)
    field += 1.8 * depth + 1.2 * a + lean
    # Share of the lung, distributed as in the real data up to 97 %: full lungs would reward the answer "all lung".
    share = np.interp(rng.random(), [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1], [0.04, 0.07, 0.2, 0.4, 0.64, 0.92, 0.97])
    excess = field - np.quantile(field[inside], 1 - share)
    soft = _step(excess, _uniform(rng, 0.05, 0.16))
    texture = 1 + _uniform(rng, 0.05, 0.25) * _noise(rng, 50) + 0.2 * _noise(rng, 12)
    return inside & (excess > 0), _uniform(rng, 0.22, 0.42) * soft * np.clip(texture, 0.4, 1.7)


def _other_disease(rng: np.random.Generator, x: Array, y: Array, lung: Array, depth: Array, side: Array) -> Array:
    """Density of findings other than infection: streaks in one lung, a fluid level, or nodules."""
    one = side == (rng.random() < 0.5)
    kind = rng.random()
    if kind < 0.4:  # streaks
        streaks = np.abs(_noise(rng, 22)) + 0.5 * np.abs(_noise(rng, 45))
        return one * _uniform(rng, 0.15, 0.3) * np.clip(1.2 - streaks, 0, 1) * _step(0.8 + _noise(rng, 3), 0.5)
    if kind < 0.7:  # fluid, whose level rises along the chest wall
        level = _uniform(rng, 0.55, 0.85) - 0.25 * np.exp(-np.clip(lung, 0, 1) / 0.06)
        return one * _uniform(rng, 0.25, 0.4) * _step(depth - level, 0.015)
    nodules = np.zeros_like(x)
    for _ in range(1 + int(4 * rng.random())):
        far = np.hypot(np.abs(x) - _uniform(rng, 0.25, 0.65), y - _uniform(rng, -0.5, 0.4))
        nodules = np.maximum(nodules, (side == (rng.random() < 0.5)) * _step(_uniform(rng, 0.03, 0.09) - far, 0.008))
    return _uniform(rng, 0.12, 0.3) * nodules


# ---- film ------------------------------------------------------------------------------------------------------------


def _film(rng: np.random.Generator, density: Array, x: Array, y: Array, inside: Array) -> Array:
    """Density -> uint8 [256, 256]: the exposed, developed and labelled film."""
    density = density + _uniform(rng, -0.08, 0.08) * x + _uniform(rng, -0.08, 0.08) * y
    if rng.random() < 0.3:  # a cable with two electrodes
        sag = 0.2 * np.sin(_uniform(rng, 2, 5) * x + 6 * rng.random())
        run = y - _uniform(rng, -0.6, 0.4) - _uniform(rng, -0.8, 0.8) * x - sag
        density += 0.25 * np.exp(-((run / 0.012) ** 2)) * (density > 0.15)
        for _ in range(2):
            density += 0.3 * _step(0.04 - np.hypot(x - _uniform(rng, -0.7, 0.7), y - _uniform(rng, -0.6, 0.4)), 0.005)
    low, high = np.quantile(density[::4, ::4], [0.01, 0.99])
    light = np.clip((density - low) / (high - low), 0, 1.2) * _uniform(rng, 0.9, 1.1)
    light = light ** _uniform(rng, 0.7, 1.5) * (1 - _uniform(rng, 0, 0.15) * (x**2 + y**2))
    light = _uniform(rng, 0, 0.08) + light * _uniform(rng, 0.75, 0.95)
    grain = rng.random(light.shape).astype(np.float32) - 0.5
    light += _uniform(rng, 0.03, 0.09) * (grain + np.roll(grain, 1, 0) + np.roll(grain, 1, 1)) / 3
    if rng.random() < 0.25:  # collimator: black bars outside the lungs
        for part in (light, light.T):
            lines = np.flatnonzero(inside.any(axis=1) if part is light else inside.any(axis=0))
            part[: int(rng.random() * lines[0])] = 0
            part[SIZE - int(rng.random() * (SIZE - lines[-1])) :] = 0
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
    """Smooth step from 0 to 1 around x = 0, over 4 * `width`. It is a polynomial: all machines round it alike."""
    t = x / (4 * width)
    t += 0.5
    np.clip(t, 0, 1, out=t)
    return t * t * (3 - 2 * t)


def _noise(rng: np.random.Generator, cells: int) -> Array:
    """Smooth noise float64 [256, 256] of mean 0 and variance about 1, with `cells` bumps across."""
    first, weights = _cubic_spline(cells)
    grid = rng.random((cells + 3, cells + 3)) - 0.5
    # Four taps per axis instead of a matrix product: every machine adds in the same order, and BLAS starts no threads.
    for _ in range(2):
        grid = grid.T.copy()
        grid = sum(weight[:, None] * grid[first + tap] for tap, weight in enumerate(weights))
    return grid * np.sqrt(12) / np.mean(np.sum(weights**2, axis=0))


@functools.cache
def _cubic_spline(cells: int) -> tuple[Array, Array]:
    """B-spline interpolation of `cells` + 3 nodes to 256 points: first node int [256], weights float64 [4, 256]."""
    first, t = np.divmod((np.arange(SIZE) + 0.5) / SIZE * cells, 1)
    u = 1 - t
    weights = [u * u * u, 4 - 3 * t * t * (1 + u), 4 - 3 * u * u * (1 + t), t * t * t]
    return first.astype(int), np.stack(weights) / 6
