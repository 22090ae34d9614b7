"""Draws 70 pictures that are no frontal chest X-ray, by which the check was made; held_out_pictures.py has others.

Every picture is uint8 [H, W] and follows from its name alone. `benchmarks/frontal.py` counts which are refused.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

Array = np.ndarray
Draw = Callable[[np.random.Generator], Array]


def pictures(group: dict[str, Draw]) -> Iterator[tuple[str, Array]]:
    """Name and picture of each; they do not change from call to call."""
    for name, draw in group.items():
        picture = draw(np.random.default_rng(zlib.crc32(name.encode())))
        yield name, np.clip(np.rint(picture), 0, 255).astype(np.uint8)


# ---- what the drawings are made of -----------------------------------------------------------------------------------


def grid(height: int = 256, width: int = 256) -> tuple[Array, Array]:
    """y, x float [H, W], each from -1 to 1."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return y, x


def ellipse(y: Array, x: Array, cy: float, cx: float, ry: float, rx: float, turn: float = 0) -> Array:
    """bool [H, W]; `turn` in degrees."""
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    v, u = (y - cy) * c - (x - cx) * s, (y - cy) * s + (x - cx) * c
    return (v / ry) ** 2 + (u / rx) ** 2 < 1


def scene(size: tuple[int, int], base: Any, *marks: Any) -> Array:
    """`base`, a number, an array or a function of y and x, with marks (where, level) or (where, "+", level).

    `where`: arguments of `ellipse`, or a function of y and x.
    """
    y, x = grid(*size)
    picture = np.zeros(size) + (base(y, x) if callable(base) else base)
    for where, *how in marks:
        at = where(y, x) if callable(where) else ellipse(y, x, *where)
        level = np.broadcast_to(how[-1], size)[at]
        picture[at] = picture[at] + level if len(how) == 2 else level
    return picture


def canvas(height: int = 256, width: int = 256, level: int = 0) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("L", (width, height), level)
    return picture, ImageDraw.Draw(picture)


def sketch(size: tuple[int, int], level: int, *steps: Any) -> Array:
    """Steps are (method of ImageDraw, its arguments), or functions that draw."""
    picture, draw = canvas(*size, level)
    for step in steps:
        step(draw) if callable(step) else getattr(draw, step[0])(*step[1:])
    return np.asarray(picture)


def soft(picture: Array, sigma: float) -> Array:
    return ndimage.gaussian_filter(np.asarray(picture, float), sigma)


def grain(rng: np.random.Generator, picture: Array, sigma: float = 6) -> Array:
    return picture + rng.normal(0, sigma, picture.shape)


def fractal(rng: np.random.Generator, slope: float, height: int = 256, width: int = 256) -> Array:
    """Noise whose amplitude falls with the frequency to the power of `slope`, from 0 to 255."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = 1
    waves = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(height, width))) / frequency**slope, (height, width))
    low, high = np.percentile(waves, (1, 99))
    return np.clip((waves - low) / (high - low), 0, 1) * 255


def text(draw: ImageDraw.ImageDraw, rng: np.random.Generator, size: int, level: int, box: tuple[int, int, int, int]):
    font, letters = ImageFont.load_default(size), list("etaoinshrdlucm    ")
    for top in range(box[1], box[3], int(1.5 * size)):
        draw.text((box[0], top), "".join(rng.choice(letters, 2 * (box[2] - box[0]) // size)), level, font)


def fan(rng: np.random.Generator, height: int, width: int, angle: float) -> tuple[Array, Array, Array]:
    """The field of an ultrasound probe bool [H, W], depth and speckle float [H, W]."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    x = x - width / 2
    depth, turn = np.hypot(y + 20, x), np.degrees(np.arctan2(x, y + 20))
    inside = (abs(turn) < angle) & (depth > 40) & (depth < 0.95 * height)
    return inside, depth, 60 * soft(rng.rayleigh(1, (height, width)), 1)


def ct(lung: float, ry: float = 0.6, rx: float = 0.85, *more: Any) -> Array:
    """A CT slice: fat, soft tissue, lungs and heart, spine, ribs."""
    marks = [((0, 0, ry, rx), 90), ((0, 0, ry - 0.07, rx - 0.07), 140)]
    if lung:
        marks += [((-0.02, 0.4 * side, 0.42 * lung, 0.3 * lung, 8 * side), 20) for side in (-1, 1)]
        marks += [((-0.1, 0.08, 0.22, 0.2), 160)]
    marks += [((ry - 0.22, 0, 0.09, 0.1), 240), ((ry - 0.16, 0, 0.03, 0.04), 130)]
    ribs = [((ry - 0.1) * np.cos(a), (rx - 0.1) * np.sin(a), 0.03, 0.04) for a in np.linspace(0, 2 * np.pi, 15)[1:-1]]
    return scene((512, 512), 0, *marks, *((rib, 235) for rib in ribs), *more)


def ultrasound(rng: np.random.Generator, size: tuple[int, int], angle: float, tissue: Callable[[], Any]) -> Array:
    inside, _, speckle = fan(rng, *size, angle)
    return np.where(inside, speckle * tissue(), 0)


def heartbeats(base: int) -> list[tuple[int, int]]:
    beat = ((0, 0), (15, -6), (25, 0), (31, 8), (35, -50), (39, 15), (45, 0), (58, -12), (70, 0))
    return [(left + dx, base + dy) for left in range(0, 600, 75) for dx, dy in beat]


def landscape(rng: np.random.Generator, hills: Array) -> Array:
    y, _ = grid(300, 400)
    return np.where(y < hills, 210 - 40 * y, 60 + 0.4 * fractal(rng, 1.2, 300, 400))


def shape(size: tuple[int, int], *arguments: float) -> Array:
    return ellipse(*grid(*size), *arguments)


SQUARE, SIDES = (256, 256), (-1, 1)

# ---- 70 by which the check was made ----------------------------------------------------------------------------------

# fmt: off
SEEN: dict[str, Draw] = {
    "black": lambda rng: np.zeros(SQUARE),
    "gray": lambda rng: np.full((512, 400), 128),
    "white noise": lambda rng: rng.integers(0, 256, SQUARE),
    "noise of fine grain": lambda rng: fractal(rng, 0.6),
    "clouds": lambda rng: fractal(rng, 1.5),
    "smooth clouds": lambda rng: fractal(rng, 2.2),
    "salt and pepper": lambda rng: 128 + 127 * rng.choice([-1, 0, 1], SQUARE, p=[0.05, 0.9, 0.05]),
    "gradient from left to right": lambda rng: 127.5 * (1 + grid()[1]),
    "gradient from top to bottom": lambda rng: 127.5 * (1 + grid()[0]),
    "round gradient": lambda rng: 255 - 180 * np.hypot(*grid()),
    "checkerboard": lambda rng: 255 * (np.add(*np.mgrid[:256, :256] // 32) % 2),
    "stripes": lambda rng: 127.5 * (1 + np.sin(20 * grid()[1])),
    "two dark bars": lambda rng: scene(SQUARE, 200, (lambda y, x: (abs(abs(x) - 0.45) < 0.2) & (abs(y) < 0.7), 50)),
    "text page": lambda rng: sketch((800, 600), 255, lambda draw: text(draw, rng, 14, 0, (60, 60, 540, 740))),
    "text, white on black": lambda rng: sketch(
        (480, 640), 0, lambda draw: text(draw, rng, 20, 255, (10, 10, 630, 470))),
    "bar chart": lambda rng: sketch(
        (400, 500), 255,
        *(("rectangle", (60 + 50 * i, int(rng.integers(60, 330)), 95 + 50 * i, 350), 90) for i in range(8)),
        ("line", (50, 20, 50, 350, 480, 350), 0, 3)),
    "line chart": lambda rng: sketch(
        (400, 600), 255,
        *(("line", [(40 + 5 * i, h) for i, h in enumerate(200 + np.cumsum(rng.normal(0, 10, 110)))], level, 3)
          for level in (0, 120)),
        ("line", (40, 10, 40, 380, 590, 380), 0, 2)),
    "QR-like code": lambda rng: np.pad(
        np.kron(rng.integers(0, 2, (29, 29)) * 255, np.ones((8, 8))), 24, constant_values=255),
    "landscape": lambda rng: landscape(rng, 0.3 * soft(rng.normal(size=400), 25) / 0.1 * 0.3),
    "portrait": lambda rng: grain(rng, soft(scene(
        SQUARE, 190, ((1.1, 0, 0.6, 0.9), 70), ((-0.1, 0, 0.55, 0.4), 165), ((-0.5, 0, 0.3, 0.45), 30),
        *(((-0.15, cx, 0.04, 0.07), 40) for cx in (-0.15, 0.15)), ((0.2, 0, 0.04, 0.15), 90)), 2)),
    "cat": lambda rng: grain(rng, soft(sketch(
        SQUARE, 120, ("polygon", [(60, 120), (70, 30), (115, 80)], 220),
        ("polygon", [(196, 120), (186, 30), (141, 80)], 220), ("ellipse", (55, 70, 201, 220), 220),
        *(("ellipse", (left, 115, left + 25, 145), 20) for left in (90, 140)),
        ("polygon", [(118, 160), (138, 160), (128, 172)], 60)), 1.5), 10),
    "house front": lambda rng: grain(rng, sketch(
        (300, 300), 220, ("rectangle", (40, 100, 260, 290), 130), ("polygon", [(20, 100), (150, 20), (280, 100)], 70),
        *(("rectangle", (left, top, left + 45, top + 45), 30) for left in (65, 190) for top in (125, 200)),
        ("rectangle", (130, 210, 170, 290), 50))),
    "icon: ring": lambda rng: 255 * (abs(np.hypot(*grid(64, 64)) - 0.65) >= 0.15),
    "icon: cross": lambda rng: scene((128, 128), 0, (lambda y, x: (abs(x) < 0.2) | (abs(y) < 0.2), 255)),
    "screenshot": lambda rng: sketch(
        (600, 900), 240, ("rectangle", (0, 0, 900, 40), 60), ("rectangle", (0, 40, 180, 600), 200),
        ("rectangle", (220, 80, 860, 330), 255, 150), lambda draw: text(draw, rng, 16, 30, (20, 60, 160, 560)),
        lambda draw: text(draw, rng, 14, 80, (230, 360, 850, 580))),
    "CT, chest, lung window": lambda rng: grain(rng, soft(ct(
        1.0, 0.6, 0.85,
        *(((rng.uniform(-0.35, 0.35), rng.choice([-0.4, 0.4]) + rng.uniform(-0.2, 0.2), 0.012, 0.012), "+", 90)
          for _ in range(60)),
        (lambda y, x: abs(y - 0.78) < 0.015, 110)), 1.5), 8),  # the last is the table
    "CT, chest, small lungs": lambda rng: grain(rng, soft(ct(0.7, 0.75, 0.9), 2), 8),
    "CT, abdomen": lambda rng: grain(rng, soft(ct(
        0, 0.6, 0.85, ((-0.05, -0.4, 0.35, 0.3), 175), *(((0.25, cx, 0.15, 0.1), 200) for cx in (-0.35, 0.35)),
        *(((rng.uniform(-0.35, 0.1), rng.uniform(0, 0.5), 0.07, 0.08), level)
          for level in (rng.choice([40, 120, 180]) for _ in range(8)))), 2), 8),
    "CT, head": lambda rng: grain(rng, soft(scene(
        (512, 512), 0, ((0, 0, 0.85, 0.68), 20), ((0, 0, 0.82, 0.65), 255),
        ((0, 0, 0.74, 0.57), 110 + 0.15 * fractal(rng, 1.2, 512, 512)),
        *(((0, 0.1 * s, 0.25, 0.06, 12 * s), 60) for s in SIDES)), 1.5)),
    "MR, head, from above": lambda rng: grain(rng, soft(scene(
        SQUARE, 0, ((0, 0, 0.85, 0.7), 200), ((0, 0, 0.79, 0.64), 15),
        ((0, 0, 0.74, 0.59), 90 + 60 * (np.sin(fractal(rng, 1.6) / 8) > 0)),
        *(((0, 0.1 * s, 0.25, 0.07, 15 * s), 20) for s in SIDES)), 1.2)),
    "MR, head, from the side": lambda rng: grain(rng, soft(scene(
        SQUARE, 0, ((-0.15, 0.05, 0.7, 0.75), 150), ((0.5, -0.2, 0.5, 0.4), 150), ((-0.15, 0.07, 0.6, 0.65), 40),
        ((-0.2, 0.07, 0.5, 0.58), 80 + 70 * (np.sin(fractal(rng, 1.6) / 8) > 0)), ((0.25, 0.35, 0.15, 0.2), 130),
        (lambda y, x: (abs(x - 0.25 - 0.1 * y) < 0.06) & (y > 0.2), 120)), 1.5)),
    "MR, knee": lambda rng: grain(rng, soft(scene(
        (320, 320), 0, (lambda y, x: abs(x) < 0.55 + 0.1 * y**2, 120),
        (lambda y, x: (abs(x + 0.02) < 0.32) & (y < -0.1), 200), ((-0.15, 0, 0.25, 0.45), 205),
        (lambda y, x: (abs(x) < 0.4 - 0.1 * y) & (y > 0.18), 195),
        (lambda y, x: (abs(y - 0.12) < 0.04) & (abs(x) < 0.45), 30)), 3), 8),
    "ultrasound fan": lambda rng: ultrasound(
        rng, (400, 520), 40, lambda: 0.6 + fractal(rng, 1.8, 400, 520) / 200),
    "ultrasound, heart": lambda rng: ultrasound(rng, (480, 480), 45, lambda: scene(
        (480, 480), 1.5, ((-0.1, -0.15, 0.35, 0.13, 10), 0.15), ((-0.1, 0.2, 0.3, 0.12, -10), 0.15))),
    "ultrasound, linear probe": lambda rng: scene(
        (400, 400), 70 * soft(rng.rayleigh(1, (400, 400)), (1, 2)) * (
            1.2 + 0.6 * np.sin(14 * grid(400, 400)[0] + fractal(rng, 2, 400, 400) / 90)),
        (lambda y, x: abs(x) >= 0.85, 0)),
    "hand": lambda rng: grain(rng, soft(sketch(
        (400, 320), 10, ("ellipse", (90, 200, 230, 360), 110),
        *(bone for x0, x1, top in ((80, 60, 130), (120, 110, 60), (160, 165, 40), (200, 220, 70), (230, 290, 200))
          for bone in (("line", (x0 + 20, 260, x1, top), 110, 34), ("line", (x0 + 20, 250, x1, top + 10), 210, 13))),
        ("rectangle", (120, 340, 200, 400), 110),
        *(("rectangle", (left, 350, left + 20, 400), 220) for left in (130, 170))), 2)),
    "long bone": lambda rng: grain(rng, soft(scene(
        (500, 250), 15, (lambda y, x: abs(x) < 0.6, 105),
        (lambda y, x: abs(x - 0.05 * y) < 0.2 + 0.15 * abs(y) ** 4, 220), (lambda y, x: abs(x - 0.05 * y) < 0.1, 170)),
        3)),
    "pelvis": lambda rng: grain(rng, soft(scene(
        SQUARE, lambda y, x: 90 - 60 * abs(x),
        *(part for s in SIDES for part in (
            ((-0.25, 0.5 * s, 0.45, 0.3, 30 * s), "+", 70), ((0.25, 0.6 * s, 0.15, 0.15), "+", 80),
            (lambda y, x, s=s: (abs(x - 0.7 * s) < 0.12) & (y > 0.3), "+", 90),
            ((0.45, 0.2 * s, 0.17, 0.13), "+", -40))),
        (lambda y, x: (abs(x) < 0.13) & (y < 0), "+", 80)), 4)),
    "lateral chest": lambda rng: grain(rng, soft(scene(  # both lungs, one over the other; the heart in front
        SQUARE, 10, (lambda y, x: abs(x) < 0.8 + 0.1 * y, 180), ((-0.05, 0.15, 0.75, 0.4, -12), 60),
        ((0.15, -0.2, 0.3, 0.25, 25), 175),
        (lambda y, x: abs(x - 0.5 - 0.12 * np.cos(2 * y)) < 0.1, 150 + 50 * (np.sin(25 * grid()[0]) > 0)),
        (lambda y, x: y > 0.75 - 0.3 * x, 200)), 5)),
    "teeth": lambda rng: grain(rng, soft(scene(
        (300, 600), lambda y, x: 110 - 60 * abs(y),
        (lambda y, x: (abs(y - 0.3 * x**2) < 0.35) & (np.sin(28 * x) > -0.7) & (abs(y - 0.3 * x**2) > 0.03), "+", 90),
        (lambda y, x: abs(y - 0.3 * x**2 - 0.65) < 0.08, "+", 60)), 3)),
    "white": lambda rng: np.full((300, 300), 255),
    "Poisson noise": lambda rng: 12 * rng.poisson(8, (300, 240)),
    "noise in blocks": lambda rng: np.kron(rng.integers(0, 256, (12, 12)), np.ones((20, 20))),
    "plasma": lambda rng: scene(
        (320, 320), lambda y, x: 128 + 60 * np.sin(5 * x + 2 * np.sin(3 * y)) + 60 * np.cos(4 * y - 3 * x * y)),
    "rings": lambda rng: 127.5 * (1 + np.sin(25 * np.hypot(*grid()))),
    "grid of lines": lambda rng: 255 * (np.minimum(*np.mgrid[:300, :300] % 30) >= 3),
    "diagonal gradient": lambda rng: scene(SQUARE, lambda y, x: 127 + 60 * (x + y)),
    "two dark ellipses": lambda rng: scene(SQUARE, 190, *(((0, 0.45 * s, 0.6, 0.25), 50) for s in SIDES)),
    "two columns of text": lambda rng: sketch(
        (700, 540), 250, lambda draw: text(draw, rng, 26, 20, (40, 30, 500, 70)),
        *(lambda draw, left=left: text(draw, rng, 9, 30, (left, 110, left + 215, 660)) for left in (40, 285))),
    "table": lambda rng: sketch(
        (400, 600), 255,
        *(step for top in range(20, 380, 30) for step in (
            ("line", (20, top, 580, top), 120),
            *(("text", (left, top + 6), str(rng.integers(1000, 99999)), 0, ImageFont.load_default(16))
              for left in range(30, 560, 140))))),
    "pie chart": lambda rng: sketch(
        (300, 300), 255, *(("pieslice", (40, 40, 260, 260), *ends) for ends in (
            (0, 130, 60), (130, 220, 130), (220, 300, 190), (300, 360, 20)))),
    "scatter plot": lambda rng: sketch(
        (400, 400), 255, *(("ellipse", (x, y, x + 6, y + 6), 60) for x, y in rng.normal(200, 60, (200, 2))),
        ("line", (30, 10, 30, 370, 390, 370), 0, 2)),
    "electrocardiogram": lambda rng: sketch(
        (300, 600), 240,
        *(("line", ends, 205) for i in range(0, 600, 20) for ends in ((i, 0, i, 300), (0, i, 600, i))),
        *(("line", heartbeats(base), 20, 2) for base in (70, 160, 250))),
    "bar code": lambda rng: np.pad(
        np.tile(np.repeat(rng.integers(0, 2, 90) * 255, 4), (200, 1)), 30, constant_values=255),
    "icon: arrow": lambda rng: sketch(
        (96, 96), 255, ("polygon", [(48, 10), (85, 50), (62, 50), (62, 86), (34, 86), (34, 50), (11, 50)], 40)),
    "icon: lungs": lambda rng: sketch(
        (128, 128), 255, ("rectangle", (60, 15, 68, 60), 40), ("pieslice", (15, 35, 95, 165), 180, 270, 40),
        ("pieslice", (33, 35, 113, 165), 270, 360, 40)),
    "dialog window": lambda rng: sketch(
        (480, 640), 90, ("rectangle", (140, 130, 500, 350), 235), ("rectangle", (140, 130, 500, 160), 40),
        lambda draw: text(draw, rng, 15, 20, (160, 180, 480, 260)),
        *(("rectangle", (left, 300, left + 100, 330), 190, 100) for left in (250, 380))),
    "street": lambda rng: grain(rng, scene(
        (360, 480), lambda y, x: np.where(y < -0.1, 200 + 30 * y, 110.0),
        (lambda y, x: (y > -0.1) & (abs(x) < 0.1 + 0.8 * (y + 0.1)), 70),
        (lambda y, x: (y > -0.1) & (abs(x) < 0.03) & (np.sin(20 * y) > 0), 240),
        *((lambda y, x, c=side * (0.9 - 0.18 * i), i=i: (
            (abs(x - c) < 0.09) & (y < 0.1 - 0.06 * i) & (y > -0.9 + 0.15 * i)), 60 + 35 * i)
          for side in SIDES for i in range(4))), 8),
    "tree": lambda rng: grain(rng, scene(
        (300, 300), lambda y, x: 220 - 20 * y, (lambda y, x: (abs(x) < 0.08) & (y > 0), 60),
        ((-0.3, 0, 0.5, 0.55), 30 + 0.4 * fractal(rng, 0.8, 300, 300)), (lambda y, x: y > 0.85, 110))),
    "coins": lambda rng: grain(rng, soft(scene(
        (300, 380), 60 + 0.1 * fractal(rng, 1, 300, 380),
        *(((cy, cx, 0.22, 0.17), rng.uniform(130, 220))
          for cy in (-0.65, 0, 0.65) for cx in (-0.75, -0.25, 0.25, 0.75))), 1.5)),
    "face, close": lambda rng: grain(rng, soft(scene(
        (300, 240), 60, ((0.05, 0, 0.85, 0.7), 190),
        *(eye for cx in (-0.3, 0.3) for eye in (
            ((-0.2, cx, 0.07, 0.16), 230), ((-0.2, cx, 0.06, 0.07), 20), ((-0.38, cx, 0.03, 0.2), 50))),
        ((0.5, 0, 0.07, 0.25), 110), ((0.12, 0.05, 0.18, 0.08), "+", -25)), 4)),
    "CT, chest, soft tissue, oval": lambda rng: grain(rng, soft(scene(
        (400, 400), 0, ((0.05, 0, 0.68, 0.92), 70), ((0.05, 0, 0.6, 0.84), 120),
        *(((0.05, 0.45 * s, 0.48 * size, 0.3 * size, -12 * s), 0) for s, size in ((-1, 1), (1, 0.85))),
        ((-0.1, 0.15, 0.3, 0.28, 30), 180), ((0.25, 0.1, 0.07, 0.06), 190), ((0.45, 0, 0.1, 0.11), 255),
        ((0.9, 0, 0.06, 0.8), 60)), 1.5), 10),
    "CT, coronal": lambda rng: grain(rng, soft(scene(
        (500, 400), 0, (lambda y, x: abs(x) < 0.75, 110),
        *(part for s in SIDES for part in (((-0.3, 0.4 * s, 0.45, 0.25), 10), ((0.5, 0.3 * s, 0.15, 0.1), 170))),
        ((0.3, -0.35, 0.25, 0.35), 150), ((0.35, 0.4, 0.15, 0.2), 160),
        (lambda y, x: (abs(x) < 0.08) & (np.sin(30 * y) > -0.6), 210)), 2), 12),
    "MR, spine from the side": lambda rng: grain(rng, soft(scene(
        (400, 300), 70, (lambda y, x: x > 0.65, "+", 90),
        (lambda y, x: (abs(x - 0.15 * np.sin(2.5 * y)) < 0.18) & (np.sin(22 * y) > -0.7), 150),
        (lambda y, x: abs(x - 0.15 * np.sin(2.5 * y) - 0.3) < 0.08, 215),
        (lambda y, x: abs(x - 0.15 * np.sin(2.5 * y) - 0.3) < 0.035, 110)), 2.5), 8),
    "MR, heart": lambda rng: grain(rng, soft(scene(
        SQUARE, 0, ((0, 0, 0.7, 0.95), 100), ((0, -0.55, 0.5, 0.28), 15), ((0.1, 0.6, 0.45, 0.22), 15),
        ((0, 0.15, 0.3, 0.35, 40), 90), ((0, 0.25, 0.16, 0.18), 230), ((-0.05, -0.1, 0.2, 0.13), 220)), 2.5), 9),
    "ultrasound, fetus": lambda rng: ultrasound(rng, (420, 560), 55, lambda: (
        1.3 - 1.2 * shape((420, 560), 0.1, 0, 0.55, 0.5)
        + 2 * (shape((420, 560), 0.15, -0.2, 0.2, 0.17) & ~shape((420, 560), 0.15, -0.2, 0.16, 0.14))
        + 1.2 * shape((420, 560), 0.25, 0.15, 0.17, 0.22))),
    "skull from the front": lambda rng: grain(rng, soft(scene(
        (320, 280), 10, ((-0.2, 0, 0.7, 0.75), "+", 150), ((0.45, 0, 0.45, 0.45), "+", 50),
        ((-0.2, 0, 0.62, 0.66), "+", -30), *(((0, 0.3 * s, 0.14, 0.17), "+", -60) for s in SIDES),
        ((0.22, 0, 0.13, 0.08), "+", -60), (lambda y, x: (abs(y - 0.55) < 0.08) & (abs(x) < 0.3), 220)), 4)),
    "foot from the side": lambda rng: grain(rng, soft(scene(
        (300, 400), 8, (lambda y, x: (abs(x + 0.5) < 0.28) & (y < 0.4), 88), ((0.5, 0, 0.3, 0.8, 8), 88),
        (lambda y, x: (abs(x + 0.52) < 0.13) & (y < 0.2), 200), ((0.35, -0.4, 0.15, 0.22), 210),
        ((0.5, -0.65, 0.18, 0.13), 190), *(((0.45 + 0.06 * i, 0.2 + 0.05 * i, 0.04, 0.4, 10), 180) for i in range(4))),
        3)),
    "abdomen X-ray": lambda rng: grain(rng, soft(scene(
        (400, 330), 150 - 70 * abs(grid(400, 330)[1]) ** 2 + 0.2 * fractal(rng, 1.8, 400, 330),
        (lambda y, x: (abs(x) < 0.12) & (np.sin(24 * y) > -0.8), "+", 60),
        *(((0.85, 0.55 * s, 0.35, 0.35, 25 * s), "+", 50) for s in SIDES),
        *(((rng.uniform(-0.5, 0.5), rng.uniform(-0.7, 0.7), 0.12, 0.15), "+", -50) for _ in range(7))), 4)),
    "lateral chest, facing right": lambda rng: grain(rng, soft(scene(  # the lungs, the heart in them, the trachea
        (380, 320), 20, (lambda y, x: abs(x - 0.05 * np.cos(3 * y)) < 0.85, 150),
        (lambda y, x: ellipse(y, x, -0.15, -0.05, 0.65, 0.55, 14) & (y < 0.5 + 0.35 * x), 70),
        (lambda y, x: ellipse(y, x, -0.15, -0.05, 0.65, 0.55, 14) & (y < 0.5 + 0.35 * x)
         & ellipse(y, x, 0.2, 0.25, 0.32, 0.27, -30), 160),
        ((-0.6, 0.1, 0.35, 0.05), 45),
        (lambda y, x: (abs(x + 0.5 - 0.1 * y) < 0.1) & (np.sin(20 * y) > -0.5), "+", 55),
        *((lambda y, x, i=i: abs(y + 0.6 - 0.17 * i - 0.35 * (x - 0.2) ** 2) < 0.015, "+", 25) for i in range(7))), 4)),
}
# fmt: on
