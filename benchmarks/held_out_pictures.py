"""Draws 28 pictures that are no frontal chest X-ray and were not used to make the check; see not_chest_xrays.py."""

from collections.abc import Callable

import numpy as np
from PIL import ImageFont
from scipy import ndimage

from benchmarks.not_chest_xrays import Array, Draw, canvas, ellipse, fan, fractal, grain, grid, soft, text

HELD_OUT: dict[str, Draw] = {}


def held_out(name: str) -> Callable[[Draw], Draw]:
    """Puts the decorated drawing into `HELD_OUT`."""
    return lambda draw: HELD_OUT.setdefault(name, draw)


@held_out("half black, half white")
def _(rng: np.random.Generator) -> Array:
    return 255.0 * (grid()[1] > 0)


@held_out("vignette")
def _(rng: np.random.Generator) -> Array:
    return 40 + 180 * np.clip(np.hypot(*grid(200, 300)), 0, 1) ** 2


@held_out("horizontal noise")
def _(rng: np.random.Generator) -> Array:
    return soft(np.tile(rng.integers(0, 256, (256, 1)), (1, 256)), 2)


@held_out("television snow")
def _(rng: np.random.Generator) -> Array:
    return soft(rng.integers(0, 2, (240, 320)) * 255, (0, 1.5))


@held_out("triangles")
def _(rng: np.random.Generator) -> Array:
    picture, draw = canvas(300, 300, 128)
    for _ in range(25):
        draw.polygon([tuple(point) for point in rng.integers(0, 300, (3, 2))], int(rng.integers(0, 256)))
    return np.asarray(picture)


@held_out("bricks")
def _(rng: np.random.Generator) -> Array:
    y, x = np.mgrid[:320, :320]
    mortar = (y % 32 < 4) | ((x + 32 * (y // 32 % 2)) % 64 < 4)
    return grain(rng, np.where(mortar, 200, 110), 12)


@held_out("cells under a microscope")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(300, 300)
    picture = np.full(y.shape, 210.0)
    for _ in range(60):
        cy, cx = rng.uniform(-1, 1, 2)
        picture[ellipse(y, x, cy, cx, 0.1, 0.1)] = 170
        picture[ellipse(y, x, cy, cx, 0.04, 0.04)] = 70
    return grain(rng, soft(picture, 1.5))


@held_out("handwriting")
def _(rng: np.random.Generator) -> Array:
    picture, draw = canvas(400, 500, 235)
    for top in range(40, 380, 45):
        xs = np.arange(30, 470, 3)
        ys = top + 10 * np.sin(xs / 5 + rng.normal()) * np.sin(xs / 37) + np.cumsum(rng.normal(0, 0.5, len(xs)))
        draw.line(list(zip(xs.tolist(), ys.tolist(), strict=True)), 30, 2)
    return np.asarray(picture)


@held_out("letter X")
def _(rng: np.random.Generator) -> Array:
    picture, draw = canvas(200, 200, 0)
    draw.text((40, 0), "X", 255, ImageFont.load_default(170))
    return np.asarray(picture)


@held_out("form")
def _(rng: np.random.Generator) -> Array:
    picture, draw = canvas(700, 500, 255)
    draw.rectangle((30, 30, 470, 90), 200, 0)
    for top in range(120, 660, 60):
        text(draw, rng, 12, 60, (40, top, 150, top + 15))
        draw.rectangle((180, top, 460, top + 35), 245, 100)
    return np.asarray(picture)


@held_out("histogram, dark")
def _(rng: np.random.Generator) -> Array:
    picture, draw = canvas(300, 420, 20)
    for i, height in enumerate(np.histogram(rng.normal(size=3000), 30)[0]):
        draw.rectangle((20 + 13 * i, 280 - int(0.8 * height), 31 + 13 * i, 280), 200)
    return np.asarray(picture)


@held_out("world map")
def _(rng: np.random.Generator) -> Array:
    land = soft(rng.normal(size=(240, 480)), 18)
    return np.where(land > 0.01, 90, 215)


@held_out("car")
def _(rng: np.random.Generator) -> Array:
    picture, draw = canvas(260, 400, 185)
    draw.rectangle((0, 200, 400, 260), 90)
    draw.rounded_rectangle((40, 120, 360, 200), 25, 50)
    draw.polygon([(110, 125), (150, 70), (270, 70), (310, 125)], 60)
    draw.polygon([(130, 120), (158, 80), (205, 80), (205, 120)], 200)
    for left in (80, 260):
        draw.ellipse((left, 170, left + 60, 230), 15)
        draw.ellipse((left + 18, 188, left + 42, 212), 160)
    return grain(rng, soft(np.asarray(picture), 1))


@held_out("window with curtains")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(320, 280)
    picture = 170 + 0.1 * fractal(rng, 1, 320, 280)
    picture[(abs(x) < 0.75) & (abs(y) < 0.8)] = 40
    picture[(abs(x) < 0.06) | (abs(y) < 0.04)] = 200
    curtain = (abs(x) > 0.55 - 0.2 * y) & (abs(y) < 0.9)
    picture[curtain] = (150 + 40 * np.sin(40 * x))[curtain]
    return grain(rng, soft(picture, 1))


@held_out("two people")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(300, 400)
    picture = 210 + 0.1 * fractal(rng, 1.5, 300, 400)
    for cx, level in ((-0.4, 60), (0.4, 110)):
        picture[ellipse(y, x, 0.9, cx, 0.9, 0.33)] = level
        picture[ellipse(y, x, -0.25, cx, 0.27, 0.16)] = 170
        picture[ellipse(y, x, -0.42, cx, 0.14, 0.17)] = 30
    return grain(rng, soft(picture, 2))


@held_out("shirt")
def _(rng: np.random.Generator) -> Array:
    picture, draw = canvas(300, 300, 240)
    draw.polygon([(90, 40), (210, 40), (280, 100), (245, 140), (220, 120), (220, 270), (80, 270), (80, 120),
                  (55, 140), (20, 100)], 100)  # fmt: skip
    draw.pieslice((120, 15, 180, 70), 0, 180, 240)
    return grain(rng, soft(np.asarray(picture), 1.5))


@held_out("butterfly")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(280, 320)
    picture = np.full(y.shape, 200.0)
    for side in (-1, 1):
        picture[ellipse(y, x, -0.3, 0.45 * side, 0.5, 0.35, 25 * side)] = 60
        picture[ellipse(y, x, 0.4, 0.35 * side, 0.35, 0.25, -20 * side)] = 90
        picture[ellipse(y, x, -0.35, 0.5 * side, 0.15, 0.12)] = 210
    picture[ellipse(y, x, 0, 0, 0.6, 0.05)] = 20
    return grain(rng, soft(picture, 2))


@held_out("icon: gear")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(72, 72)
    radius, turn = np.hypot(y, x), np.arctan2(y, x)
    return np.where((radius < 0.65 + 0.15 * (np.sin(8 * turn) > 0)) & (radius > 0.3), 60, 250)


@held_out("icon: person")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(128, 128)
    return np.where(ellipse(y, x, -0.4, 0, 0.32, 0.3) | (ellipse(y, x, 0.9, 0, 0.75, 0.65) & (y < 0.85)), 255, 20)


@held_out("CT, chest, bone window")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(512, 512)
    picture = 60.0 * ellipse(y, x, 0, 0, 0.62, 0.88)
    for side in (-1, 1):
        picture[ellipse(y, x, -0.05, 0.42 * side, 0.4, 0.28, 5 * side)] = 8
        picture[ellipse(y, x, 0.3, 0.6 * side, 0.2, 0.03, 40 * side)] = 220
    picture[ellipse(y, x, 0.4, 0, 0.13, 0.13)] = 230
    picture[ellipse(y, x, 0.42, 0, 0.05, 0.05)] = 80
    picture[ellipse(y, x, -0.55, 0, 0.03, 0.12)] = 220
    for angle in np.linspace(0.4, 2 * np.pi - 0.4, 17):
        picture[ellipse(y, x, 0.53 * np.cos(angle), 0.78 * np.sin(angle), 0.025, 0.07, np.degrees(angle))] = 215
    return grain(rng, soft(picture, 1), 5)


@held_out("CT, chest, cropped to the body")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(360, 480)
    picture = 125.0 * ellipse(y, x, 0, 0, 0.98, 0.98)
    for side, ry in ((-1, 0.7), (1, 0.62)):
        lung = ellipse(y, x, 0, 0.47 * side, ry, 0.36)
        picture[lung] = (15 + 60 * (fractal(rng, 1.1, 360, 480) > 215))[lung]
    picture[ellipse(y, x, -0.25, 0.1, 0.38, 0.25)] = 165
    picture[ellipse(y, x, 0.65, 0, 0.17, 0.11)] = 235
    return grain(rng, soft(picture, 1.5), 9)


@held_out("CT, lungs filled")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(400, 500)
    picture = 110.0 * ellipse(y, x, 0, 0, 0.75, 0.9) + 20
    for side in (-1, 1):
        lung = ellipse(y, x, 0, 0.42 * side, 0.52, 0.33)
        picture[lung] = (30 + 0.35 * fractal(rng, 1.6, 400, 500))[lung]
    return grain(rng, soft(picture, 2), 7)


@held_out("MR, brain, coronal")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(300, 260)
    picture = 190.0 * ellipse(y, x, -0.15, 0, 0.75, 0.75) + 90 * (ellipse(y, x, 0.7, 0, 0.5, 0.5) & (y > 0.3))
    inside = ellipse(y, x, -0.15, 0, 0.66, 0.66)
    picture[inside] = (80 + 0.4 * fractal(rng, 1.3, 300, 260))[inside]
    picture[(abs(x) < 0.015) & (y < -0.2) & inside] = 10
    for side in (-1, 1):
        picture[ellipse(y, x, -0.15, 0.12 * side, 0.06, 0.12, 30 * side)] = 10
    return grain(rng, soft(picture, 1.5), 7)


@held_out("PET, whole body")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(500, 220)
    picture = 235 - 60.0 * ellipse(y, x, 0.1, 0, 0.8, 0.55)
    picture[ellipse(y, x, -0.85, 0, 0.12, 0.25)] = 40
    picture[ellipse(y, x, -0.25, 0.1, 0.08, 0.16)] = 60
    picture[ellipse(y, x, 0.5, 0, 0.08, 0.15)] = 20
    return grain(rng, soft(picture, 5), 6)


@held_out("ultrasound, lung with B-lines")
def _(rng: np.random.Generator) -> Array:
    inside, depth, speckle = fan(rng, 400, 400, 30)
    y, x = grid(400, 400)
    lines = np.exp(-((np.arctan2(x, y + 1.2) * 8 % 1 - 0.5) ** 2) * 60)
    return np.where(inside, speckle * (0.4 + 1.5 * lines) + 120 * (abs(depth - 110) < 5), 0)


@held_out("knees")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(320, 400)
    picture = np.full(y.shape, 12.0)
    for side in (-0.5, 0.5):
        u = abs(x - side)
        picture[u < 0.33 + 0.03 * np.cos(4 * y)] = 85
        picture[(u < 0.12 + 0.12 * np.exp(-((y + 0.1) ** 2) * 25)) & (abs(y - 0.02) > 0.03)] = 195
    return grain(rng, soft(picture, 3))


@held_out("neck from the front")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(360, 260)
    picture = 15 + 100.0 * (abs(x) < 0.42 + 0.5 * np.clip(y, 0, 1) ** 2)
    picture[(abs(x) < 0.17) & (np.sin(26 * y) > -0.75)] += 70
    picture[(abs(x) < 0.06) & (y > -0.2)] -= 45
    picture[ellipse(y, x, -0.95, 0, 0.35, 0.55)] = 190
    return grain(rng, soft(picture, 4))


@held_out("lateral chest, arms up")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(420, 340)
    body = abs(x + 0.08 * np.sin(2.2 * y)) < 0.72 + 0.12 * y
    picture = np.where(body, 165.0, 12.0)
    lungs = ellipse(y, x, -0.1, 0.05, 0.72, 0.5, -8) & (y < 0.55 - 0.25 * x)
    picture[lungs] = 75 + 25 * (x[lungs] > 0.3)
    picture[lungs & ellipse(y, x, 0.25, -0.25, 0.33, 0.25, 20)] = 180
    picture[(abs(x - 0.48 - 0.08 * np.sin(3 * y)) < 0.09) & body] += 35
    for i in range(6):
        picture[abs(y + 0.5 - 0.18 * i + 0.3 * (x + 0.1) ** 2) < 0.02] += 20
    picture = np.where(abs(x + 0.2) < 0.2 - 0.3 * (y + 1), np.maximum(picture, 130), picture)
    return grain(rng, ndimage.gaussian_filter(picture, 4), 5)
