"""Draws 70 pictures that are no frontal chest X-ray, by which the check was made; held_out_pictures.py has others.

Every picture is uint8 [H, W] and follows from its name alone. `benchmarks/frontal.py` counts which are refused.
"""

import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

Array = np.ndarray
Draw = Callable[[np.random.Generator], Array]
SEEN: dict[str, Draw] = {}


def pictures(group: dict[str, Draw]) -> Iterator[tuple[str, Array]]:
    """Name and picture of each; they do not change from call to call."""
    for name, draw in group.items():
        picture = draw(np.random.default_rng(zlib.crc32(name.encode())))
        yield name, np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def adder(group: dict[str, Draw]) -> Callable[[str], Callable[[Draw], Draw]]:
    """A decorator that puts a drawing into `group` under a name."""

    def named(name: str) -> Callable[[Draw], Draw]:
        def add(draw: Draw) -> Draw:
            group[name] = draw
            return draw

        return add

    return named


seen = adder(SEEN)


# ---- what several drawings are made of -------------------------------------------------------------------------------


def grid(height: int = 256, width: int = 256) -> tuple[Array, Array]:
    """y, x float [H, W], each from -1 to 1."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return y, x


def ellipse(y: Array, x: Array, cy: float, cx: float, ry: float, rx: float, turn: float = 0) -> Array:
    """bool [H, W]; `turn` in degrees."""
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    v, u = (y - cy) * c - (x - cx) * s, (y - cy) * s + (x - cx) * c
    return (v / ry) ** 2 + (u / rx) ** 2 < 1


def canvas(height: int = 256, width: int = 256, level: int = 0) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("L", (width, height), level)
    return picture, ImageDraw.Draw(picture)


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


# ---- 70 by which the check was made ----------------------------------------------------------------------------------


@seen("black")
def _(rng: np.random.Generator) -> Array:
    return np.zeros((256, 256))


@seen("gray")
def _(rng: np.random.Generator) -> Array:
    return np.full((512, 400), 128)


@seen("white noise")
def _(rng: np.random.Generator) -> Array:
    return rng.integers(0, 256, (256, 256))


@seen("noise of fine grain")
def _(rng: np.random.Generator) -> Array:
    return fractal(rng, 0.6)


@seen("clouds")
def _(rng: np.random.Generator) -> Array:
    return fractal(rng, 1.5)


@seen("smooth clouds")
def _(rng: np.random.Generator) -> Array:
    return fractal(rng, 2.2)


@seen("salt and pepper")
def _(rng: np.random.Generator) -> Array:
    return 128 + 127 * rng.choice([-1, 0, 1], (256, 256), p=[0.05, 0.9, 0.05])


@seen("gradient from left to right")
def _(rng: np.random.Generator) -> Array:
    return 127.5 * (1 + grid()[1])


@seen("gradient from top to bottom")
def _(rng: np.random.Generator) -> Array:
    return 127.5 * (1 + grid()[0])


@seen("round gradient")
def _(rng: np.random.Generator) -> Array:
    return 255 - 180 * np.hypot(*grid())


@seen("checkerboard")
def _(rng: np.random.Generator) -> Array:
    y, x = np.mgrid[:256, :256]
    return 255 * ((y // 32 + x // 32) % 2)


@seen("stripes")
def _(rng: np.random.Generator) -> Array:
    return 127.5 * (1 + np.sin(20 * grid()[1]))


@seen("two dark bars")
def _(rng: np.random.Generator) -> Array:
    y, x = grid()
    return 200 - 150 * ((abs(abs(x) - 0.45) < 0.2) & (abs(y) < 0.7))


@seen("text page")
def _(rng: np.random.Generator) -> Array:
    picture, draw = canvas(800, 600, 255)
    text(draw, rng, 14, 0, (60, 60, 540, 740))
    return np.asarray(picture)


@seen("text, white on black")
def _(rng: np.random.Generator) -> Array:
    picture, draw = canvas(480, 640, 0)
    text(draw, rng, 20, 255, (10, 10, 630, 470))
    return np.asarray(picture)


@seen("bar chart")
def _(rng: np.random.Generator) -> Array:
    picture, draw = canvas(400, 500, 255)
    for i in range(8):
        draw.rectangle((60 + 50 * i, int(rng.integers(60, 330)), 95 + 50 * i, 350), 90)
    draw.line((50, 20, 50, 350, 480, 350), 0, 3)
    return np.asarray(picture)


@seen("line chart")
def _(rng: np.random.Generator) -> Array:
    picture, draw = canvas(400, 600, 255)
    for level in (0, 120):
        heights = 200 + np.cumsum(rng.normal(0, 10, 110))
        draw.line([(40 + 5 * i, h) for i, h in enumerate(heights)], level, 3)
    draw.line((40, 10, 40, 380, 590, 380), 0, 2)
    return np.asarray(picture)


@seen("QR-like code")
def _(rng: np.random.Generator) -> Array:
    return np.pad(np.kron(rng.integers(0, 2, (29, 29)) * 255, np.ones((8, 8))), 24, constant_values=255)


@seen("landscape")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(300, 400)
    hills = 0.3 * soft(rng.normal(size=400), 25) / 0.1 * 0.3
    return np.where(y < hills, 210 - 40 * y, 60 + 0.4 * fractal(rng, 1.2, 300, 400))


@seen("portrait")
def _(rng: np.random.Generator) -> Array:
    y, x = grid()
    picture = np.full(y.shape, 190.0)
    picture[ellipse(y, x, 1.1, 0, 0.6, 0.9)] = 70
    picture[ellipse(y, x, -0.1, 0, 0.55, 0.4)] = 165
    picture[ellipse(y, x, -0.5, 0, 0.3, 0.45)] = 30
    for side in (-0.15, 0.15):
        picture[ellipse(y, x, -0.15, side, 0.04, 0.07)] = 40
    picture[ellipse(y, x, 0.2, 0, 0.04, 0.15)] = 90
    return grain(rng, soft(picture, 2))


@seen("cat")
def _(rng: np.random.Generator) -> Array:
    picture, draw = canvas(256, 256, 120)
    draw.polygon([(60, 120), (70, 30), (115, 80)], 220)
    draw.polygon([(196, 120), (186, 30), (141, 80)], 220)
    draw.ellipse((55, 70, 201, 220), 220)
    for left in (90, 140):
        draw.ellipse((left, 115, left + 25, 145), 20)
    draw.polygon([(118, 160), (138, 160), (128, 172)], 60)
    return grain(rng, soft(np.asarray(picture), 1.5), 10)


@seen("house front")
def _(rng: np.random.Generator) -> Array:
    picture, draw = canvas(300, 300, 220)
    draw.rectangle((40, 100, 260, 290), 130)
    draw.polygon([(20, 100), (150, 20), (280, 100)], 70)
    for left in (65, 190):
        for top in (125, 200):
            draw.rectangle((left, top, left + 45, top + 45), 30)
    draw.rectangle((130, 210, 170, 290), 50)
    return grain(rng, np.asarray(picture))


@seen("icon: ring")
def _(rng: np.random.Generator) -> Array:
    radius = np.hypot(*grid(64, 64))
    return 255 * ~((radius > 0.5) & (radius < 0.8))


@seen("icon: cross")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(128, 128)
    return 255 * ((abs(x) < 0.2) | (abs(y) < 0.2))


@seen("screenshot")
def _(rng: np.random.Generator) -> Array:
    picture, draw = canvas(600, 900, 240)
    draw.rectangle((0, 0, 900, 40), 60)
    draw.rectangle((0, 40, 180, 600), 200)
    draw.rectangle((220, 80, 860, 330), 255, 150)
    text(draw, rng, 16, 30, (20, 60, 160, 560))
    text(draw, rng, 14, 80, (230, 360, 850, 580))
    return np.asarray(picture)


def _ct_body(rng: np.random.Generator, *, lung: float, ry: float = 0.6, rx: float = 0.85) -> Array:
    y, x = grid(512, 512)
    picture = np.zeros(y.shape)
    picture[ellipse(y, x, 0, 0, ry, rx)] = 90  # fat
    picture[ellipse(y, x, 0, 0, ry - 0.07, rx - 0.07)] = 140
    if lung:
        for side in (-1, 1):
            picture[ellipse(y, x, -0.02, 0.4 * side, 0.42 * lung, 0.3 * lung, 8 * side)] = 20
        picture[ellipse(y, x, -0.1, 0.08, 0.22, 0.2)] = 160
    picture[ellipse(y, x, ry - 0.22, 0, 0.09, 0.1)] = 240
    picture[ellipse(y, x, ry - 0.16, 0, 0.03, 0.04)] = 130
    for angle in np.linspace(0, 2 * np.pi, 15)[1:-1]:
        picture[ellipse(y, x, (ry - 0.1) * np.cos(angle), (rx - 0.1) * np.sin(angle), 0.03, 0.04)] = 235
    return picture


@seen("CT, chest, lung window")
def _(rng: np.random.Generator) -> Array:
    picture = _ct_body(rng, lung=1.0)
    y, x = grid(512, 512)
    for _ in range(60):
        cy, cx = rng.uniform(-0.35, 0.35), rng.choice([-0.4, 0.4]) + rng.uniform(-0.2, 0.2)
        picture[ellipse(y, x, cy, cx, 0.012, 0.012)] += 90
    picture[abs(y - 0.78) < 0.015] = 110  # the table
    return grain(rng, soft(picture, 1.5), 8)


@seen("CT, chest, small lungs")
def _(rng: np.random.Generator) -> Array:
    return grain(rng, soft(_ct_body(rng, lung=0.7, ry=0.75, rx=0.9), 2), 8)


@seen("CT, abdomen")
def _(rng: np.random.Generator) -> Array:
    picture = _ct_body(rng, lung=0)
    y, x = grid(512, 512)
    picture[ellipse(y, x, -0.05, -0.4, 0.35, 0.3)] = 175
    for cx in (-0.35, 0.35):
        picture[ellipse(y, x, 0.25, cx, 0.15, 0.1)] = 200
    for _ in range(8):
        picture[ellipse(y, x, rng.uniform(-0.35, 0.1), rng.uniform(0, 0.5), 0.07, 0.08)] = rng.choice([40, 120, 180])
    return grain(rng, soft(picture, 2), 8)


@seen("CT, head")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(512, 512)
    picture = 20.0 * ellipse(y, x, 0, 0, 0.85, 0.68)
    picture[ellipse(y, x, 0, 0, 0.82, 0.65)] = 255
    inner = ellipse(y, x, 0, 0, 0.74, 0.57)
    picture[inner] = (110 + 0.15 * fractal(rng, 1.2, 512, 512))[inner]
    for side in (-1, 1):
        picture[ellipse(y, x, 0, 0.1 * side, 0.25, 0.06, 12 * side)] = 60
    return grain(rng, soft(picture, 1.5))


@seen("MR, head, from above")
def _(rng: np.random.Generator) -> Array:
    y, x = grid()
    picture = 200.0 * ellipse(y, x, 0, 0, 0.85, 0.7)
    picture[ellipse(y, x, 0, 0, 0.79, 0.64)] = 15
    brain = ellipse(y, x, 0, 0, 0.74, 0.59)
    picture[brain] = (90 + 60 * (np.sin(fractal(rng, 1.6) / 8) > 0))[brain]
    for side in (-1, 1):
        picture[ellipse(y, x, 0, 0.1 * side, 0.25, 0.07, 15 * side)] = 20
    return grain(rng, soft(picture, 1.2))


@seen("MR, head, from the side")
def _(rng: np.random.Generator) -> Array:
    y, x = grid()
    picture = 150.0 * (ellipse(y, x, -0.15, 0.05, 0.7, 0.75) | ellipse(y, x, 0.5, -0.2, 0.5, 0.4))
    picture[ellipse(y, x, -0.15, 0.07, 0.6, 0.65)] = 40
    brain = ellipse(y, x, -0.2, 0.07, 0.5, 0.58)
    picture[brain] = (80 + 70 * (np.sin(fractal(rng, 1.6) / 8) > 0))[brain]
    picture[ellipse(y, x, 0.25, 0.35, 0.15, 0.2)] = 130
    picture[(abs(x - 0.25 - 0.1 * y) < 0.06) & (y > 0.2)] = 120
    return grain(rng, soft(picture, 1.5))


@seen("MR, knee")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(320, 320)
    picture = 120.0 * (abs(x) < 0.55 + 0.1 * y**2)
    picture[(abs(x + 0.02) < 0.32) & (y < -0.1)] = 200
    picture[ellipse(y, x, -0.15, 0, 0.25, 0.45)] = 205
    picture[(abs(x) < 0.4 - 0.1 * y) & (y > 0.18)] = 195
    picture[(abs(y - 0.12) < 0.04) & (abs(x) < 0.45)] = 30
    return grain(rng, soft(picture, 3), 8)


def fan(rng: np.random.Generator, height: int, width: int, angle: float) -> tuple[Array, Array, Array]:
    y, x = np.mgrid[0:height, 0:width].astype(float)
    x = x - width / 2
    depth, turn = np.hypot(y + 20, x), np.degrees(np.arctan2(x, y + 20))
    inside = (abs(turn) < angle) & (depth > 40) & (depth < 0.95 * height)
    speckle = rng.rayleigh(1, (height, width))
    return inside, depth, 60 * soft(speckle, 1)


@seen("ultrasound fan")
def _(rng: np.random.Generator) -> Array:
    inside, depth, speckle = fan(rng, 400, 520, 40)
    return np.where(inside, speckle * (0.6 + fractal(rng, 1.8, 400, 520) / 200), 0)


@seen("ultrasound, heart")
def _(rng: np.random.Generator) -> Array:
    inside, depth, speckle = fan(rng, 480, 480, 45)
    y, x = grid(480, 480)
    chambers = ellipse(y, x, -0.1, -0.15, 0.35, 0.13, 10) | ellipse(y, x, -0.1, 0.2, 0.3, 0.12, -10)
    return np.where(inside, speckle * np.where(chambers, 0.15, 1.5), 0)


@seen("ultrasound, linear probe")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(400, 400)
    picture = (
        70 * soft(rng.rayleigh(1, (400, 400)), (1, 2)) * (1.2 + 0.6 * np.sin(14 * y + fractal(rng, 2, 400, 400) / 90))
    )
    return np.where(abs(x) < 0.85, picture, 0)


@seen("hand")
def _(rng: np.random.Generator) -> Array:
    picture, draw = canvas(400, 320, 10)
    draw.ellipse((90, 200, 230, 360), 110)
    for x0, x1, top in ((80, 60, 130), (120, 110, 60), (160, 165, 40), (200, 220, 70), (230, 290, 200)):
        draw.line((x0 + 20, 260, x1, top), 110, 34)
        draw.line((x0 + 20, 250, x1, top + 10), 210, 13)
    draw.rectangle((120, 340, 200, 400), 110)
    for left in (130, 170):
        draw.rectangle((left, 350, left + 20, 400), 220)
    return grain(rng, soft(np.asarray(picture), 2))


@seen("long bone")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(500, 250)
    picture = 15 + 90.0 * (abs(x) < 0.6)
    bone = abs(x - 0.05 * y) < 0.2 + 0.15 * abs(y) ** 4
    picture[bone] = 220
    picture[abs(x - 0.05 * y) < 0.1] = 170
    return grain(rng, soft(picture, 3))


@seen("pelvis")
def _(rng: np.random.Generator) -> Array:
    y, x = grid()
    picture = 90 - 60 * abs(x)
    for side in (-1, 1):
        picture[ellipse(y, x, -0.25, 0.5 * side, 0.45, 0.3, 30 * side)] += 70
        picture[ellipse(y, x, 0.25, 0.6 * side, 0.15, 0.15)] += 80
        picture[(abs(x - 0.7 * side) < 0.12) & (y > 0.3)] += 90
        picture[ellipse(y, x, 0.45, 0.2 * side, 0.17, 0.13)] -= 40
    picture[(abs(x) < 0.13) & (y < 0)] += 80
    return grain(rng, soft(picture, 4))


@seen("lateral chest")
def _(rng: np.random.Generator) -> Array:
    y, x = grid()
    picture = 170 * (abs(x) < 0.8 + 0.1 * y) + 10.0
    picture[ellipse(y, x, -0.05, 0.15, 0.75, 0.4, -12)] = 60  # both lungs, one over the other
    picture[ellipse(y, x, 0.15, -0.2, 0.3, 0.25, 25)] = 175  # heart, in front
    spine = abs(x - 0.5 - 0.12 * np.cos(2 * y)) < 0.1
    picture[spine] = 150 + 50 * (np.sin(25 * y[spine]) > 0)
    picture[y > 0.75 - 0.3 * x] = 200
    return grain(rng, soft(picture, 5))


@seen("teeth")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(300, 600)
    arch = y - 0.3 * x**2
    picture = 110 - 60 * abs(y)
    picture += 90 * ((abs(arch) < 0.35) & (np.sin(28 * x) > -0.7) & (abs(arch) > 0.03))
    picture += 60 * (abs(arch - 0.65) < 0.08)
    return grain(rng, soft(picture, 3))


@seen("white")
def _(rng: np.random.Generator) -> Array:
    return np.full((300, 300), 255)


@seen("Poisson noise")
def _(rng: np.random.Generator) -> Array:
    return 12 * rng.poisson(8, (300, 240))


@seen("noise in blocks")
def _(rng: np.random.Generator) -> Array:
    return np.kron(rng.integers(0, 256, (12, 12)), np.ones((20, 20)))


@seen("plasma")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(320, 320)
    return 128 + 60 * np.sin(5 * x + 2 * np.sin(3 * y)) + 60 * np.cos(4 * y - 3 * x * y)


@seen("rings")
def _(rng: np.random.Generator) -> Array:
    return 127.5 * (1 + np.sin(25 * np.hypot(*grid())))


@seen("grid of lines")
def _(rng: np.random.Generator) -> Array:
    y, x = np.mgrid[:300, :300]
    return np.where((y % 30 < 3) | (x % 30 < 3), 0, 255)


@seen("diagonal gradient")
def _(rng: np.random.Generator) -> Array:
    y, x = grid()
    return 127 + 60 * (x + y)


@seen("two dark ellipses")
def _(rng: np.random.Generator) -> Array:
    y, x = grid()
    return 190 - 140 * (ellipse(y, x, 0, -0.45, 0.6, 0.25) | ellipse(y, x, 0, 0.45, 0.6, 0.25))


@seen("two columns of text")
def _(rng: np.random.Generator) -> Array:
    picture, draw = canvas(700, 540, 250)
    text(draw, rng, 26, 20, (40, 30, 500, 70))
    for left in (40, 285):
        text(draw, rng, 9, 30, (left, 110, left + 215, 660))
    return np.asarray(picture)


@seen("table")
def _(rng: np.random.Generator) -> Array:
    picture, draw = canvas(400, 600, 255)
    for top in range(20, 380, 30):
        draw.line((20, top, 580, top), 120)
        for left in range(30, 560, 140):
            draw.text((left, top + 6), str(rng.integers(1000, 99999)), 0, ImageFont.load_default(16))
    return np.asarray(picture)


@seen("pie chart")
def _(rng: np.random.Generator) -> Array:
    picture, draw = canvas(300, 300, 255)
    start = 0
    for share, level in ((130, 60), (90, 130), (80, 190), (60, 20)):
        draw.pieslice((40, 40, 260, 260), start, start + share, level)
        start += share
    return np.asarray(picture)


@seen("scatter plot")
def _(rng: np.random.Generator) -> Array:
    picture, draw = canvas(400, 400, 255)
    for x, y in rng.normal(200, 60, (200, 2)):
        draw.ellipse((x, y, x + 6, y + 6), 60)
    draw.line((30, 10, 30, 370, 390, 370), 0, 2)
    return np.asarray(picture)


@seen("electrocardiogram")
def _(rng: np.random.Generator) -> Array:
    picture, draw = canvas(300, 600, 240)
    for i in range(0, 600, 20):
        draw.line((i, 0, i, 300), 205)
        draw.line((0, i, 600, i), 205)
    for base in (70, 160, 250):
        points = []
        for left in range(0, 600, 75):
            beat = ((0, 0), (15, -6), (25, 0), (31, 8), (35, -50), (39, 15), (45, 0), (58, -12), (70, 0))
            points += [(left + dx, base + dy) for dx, dy in beat]
        draw.line(points, 20, 2)
    return np.asarray(picture)


@seen("bar code")
def _(rng: np.random.Generator) -> Array:
    code = np.repeat(rng.integers(0, 2, 90) * 255, 4)
    return np.pad(np.tile(code, (200, 1)), 30, constant_values=255)


@seen("icon: arrow")
def _(rng: np.random.Generator) -> Array:
    picture, draw = canvas(96, 96, 255)
    draw.polygon([(48, 10), (85, 50), (62, 50), (62, 86), (34, 86), (34, 50), (11, 50)], 40)
    return np.asarray(picture)


@seen("icon: lungs")
def _(rng: np.random.Generator) -> Array:
    picture, draw = canvas(128, 128, 255)
    draw.rectangle((60, 15, 68, 60), 40)
    draw.pieslice((15, 35, 95, 165), 180, 270, 40)
    draw.pieslice((33, 35, 113, 165), 270, 360, 40)
    return np.asarray(picture)


@seen("dialog window")
def _(rng: np.random.Generator) -> Array:
    picture, draw = canvas(480, 640, 90)
    draw.rectangle((140, 130, 500, 350), 235)
    draw.rectangle((140, 130, 500, 160), 40)
    text(draw, rng, 15, 20, (160, 180, 480, 260))
    for left in (250, 380):
        draw.rectangle((left, 300, left + 100, 330), 190, 100)
    return np.asarray(picture)


@seen("street")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(360, 480)
    picture = np.where(y < -0.1, 200 + 30 * y, 110.0)
    picture[(y > -0.1) & (abs(x) < 0.1 + 0.8 * (y + 0.1))] = 70
    picture[(y > -0.1) & (abs(x) < 0.03) & (np.sin(20 * y) > 0)] = 240
    for side in (-1, 1):
        for i in range(4):
            centre = side * (0.9 - 0.18 * i)
            picture[(abs(x - centre) < 0.09) & (y < 0.1 - 0.06 * i) & (y > -0.9 + 0.15 * i)] = 60 + 35 * i
    return grain(rng, picture, 8)


@seen("tree")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(300, 300)
    picture = 220 - 20 * y
    picture[(abs(x) < 0.08) & (y > 0)] = 60
    crown = ellipse(y, x, -0.3, 0, 0.5, 0.55)
    picture[crown] = (30 + 0.4 * fractal(rng, 0.8, 300, 300))[crown]
    picture[y > 0.85] = 110
    return grain(rng, picture)


@seen("coins")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(300, 380)
    picture = 60 + 0.1 * fractal(rng, 1, 300, 380)
    for cy in (-0.65, 0, 0.65):
        for cx in (-0.75, -0.25, 0.25, 0.75):
            picture[ellipse(y, x, cy, cx, 0.22, 0.17)] = rng.uniform(130, 220)
    return grain(rng, soft(picture, 1.5))


@seen("face, close")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(300, 240)
    picture = 60 + 130.0 * ellipse(y, x, 0.05, 0, 0.85, 0.7)
    for side in (-0.3, 0.3):
        picture[ellipse(y, x, -0.2, side, 0.07, 0.16)] = 230
        picture[ellipse(y, x, -0.2, side, 0.06, 0.07)] = 20
        picture[ellipse(y, x, -0.38, side, 0.03, 0.2)] = 50
    picture[ellipse(y, x, 0.5, 0, 0.07, 0.25)] = 110
    picture[ellipse(y, x, 0.12, 0.05, 0.18, 0.08)] -= 25
    return grain(rng, soft(picture, 4))


@seen("CT, chest, soft tissue, oval")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(400, 400)
    picture = 70.0 * ellipse(y, x, 0.05, 0, 0.68, 0.92)
    picture[ellipse(y, x, 0.05, 0, 0.6, 0.84)] = 120
    for side, size in ((-1, 1), (1, 0.85)):
        picture[ellipse(y, x, 0.05, 0.45 * side, 0.48 * size, 0.3 * size, -12 * side)] = 0
    picture[ellipse(y, x, -0.1, 0.15, 0.3, 0.28, 30)] = 180
    picture[ellipse(y, x, 0.25, 0.1, 0.07, 0.06)] = 190
    picture[ellipse(y, x, 0.45, 0, 0.1, 0.11)] = 255
    picture[ellipse(y, x, 0.9, 0, 0.06, 0.8)] = 60
    return grain(rng, soft(picture, 1.5), 10)


@seen("CT, coronal")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(500, 400)
    picture = 110.0 * (abs(x) < 0.75)
    for side in (-1, 1):
        picture[ellipse(y, x, -0.3, 0.4 * side, 0.45, 0.25)] = 10
        picture[ellipse(y, x, 0.5, 0.3 * side, 0.15, 0.1)] = 170
    picture[ellipse(y, x, 0.3, -0.35, 0.25, 0.35)] = 150
    picture[ellipse(y, x, 0.35, 0.4, 0.15, 0.2)] = 160
    picture[(abs(x) < 0.08) & (np.sin(30 * y) > -0.6)] = 210
    return grain(rng, soft(picture, 2), 12)


@seen("MR, spine from the side")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(400, 300)
    middle = 0.15 * np.sin(2.5 * y)
    picture = 70.0 + 90 * (x > 0.65)
    picture[(abs(x - middle) < 0.18) & (np.sin(22 * y) > -0.7)] = 150
    picture[(abs(x - middle - 0.3) < 0.08)] = 215
    picture[(abs(x - middle - 0.3) < 0.035)] = 110
    return grain(rng, soft(picture, 2.5), 8)


@seen("MR, heart")
def _(rng: np.random.Generator) -> Array:
    y, x = grid()
    picture = 100.0 * ellipse(y, x, 0, 0, 0.7, 0.95)
    picture[ellipse(y, x, 0, -0.55, 0.5, 0.28)] = 15
    picture[ellipse(y, x, 0.1, 0.6, 0.45, 0.22)] = 15
    picture[ellipse(y, x, 0, 0.15, 0.3, 0.35, 40)] = 90
    picture[ellipse(y, x, 0, 0.25, 0.16, 0.18)] = 230
    picture[ellipse(y, x, -0.05, -0.1, 0.2, 0.13)] = 220
    return grain(rng, soft(picture, 2.5), 9)


@seen("ultrasound, fetus")
def _(rng: np.random.Generator) -> Array:
    inside, _, speckle = fan(rng, 420, 560, 55)
    y, x = grid(420, 560)
    fluid = ellipse(y, x, 0.1, 0, 0.55, 0.5)
    head = ellipse(y, x, 0.15, -0.2, 0.2, 0.17) & ~ellipse(y, x, 0.15, -0.2, 0.16, 0.14)
    body = ellipse(y, x, 0.25, 0.15, 0.17, 0.22)
    return np.where(inside, speckle * (1.3 - 1.2 * fluid + 2 * head + 1.2 * body), 0)


@seen("skull from the front")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(320, 280)
    picture = 10 + 150.0 * ellipse(y, x, -0.2, 0, 0.7, 0.75) + 50 * ellipse(y, x, 0.45, 0, 0.45, 0.45)
    picture[ellipse(y, x, -0.2, 0, 0.62, 0.66)] -= 30
    for side in (-1, 1):
        picture[ellipse(y, x, 0, 0.3 * side, 0.14, 0.17)] -= 60
    picture[ellipse(y, x, 0.22, 0, 0.13, 0.08)] -= 60
    picture[(abs(y - 0.55) < 0.08) & (abs(x) < 0.3)] = 220
    return grain(rng, soft(picture, 4))


@seen("foot from the side")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(300, 400)
    picture = 8 + 80.0 * ((abs(x + 0.5) < 0.28) & (y < 0.4) | ellipse(y, x, 0.5, 0, 0.3, 0.8, 8))
    picture[(abs(x + 0.52) < 0.13) & (y < 0.2)] = 200
    picture[ellipse(y, x, 0.35, -0.4, 0.15, 0.22)] = 210
    picture[ellipse(y, x, 0.5, -0.65, 0.18, 0.13)] = 190
    for i in range(4):
        picture[ellipse(y, x, 0.45 + 0.06 * i, 0.2 + 0.05 * i, 0.04, 0.4, 10)] = 180
    return grain(rng, soft(picture, 3))


@seen("abdomen X-ray")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(400, 330)
    picture = 150 - 70 * abs(x) ** 2 + 0.2 * fractal(rng, 1.8, 400, 330)
    picture[(abs(x) < 0.12) & (np.sin(24 * y) > -0.8)] += 60
    for side in (-1, 1):
        picture[ellipse(y, x, 0.85, 0.55 * side, 0.35, 0.35, 25 * side)] += 50
    for _ in range(7):
        picture[ellipse(y, x, rng.uniform(-0.5, 0.5), rng.uniform(-0.7, 0.7), 0.12, 0.15)] -= 50
    return grain(rng, soft(picture, 4))


@seen("lateral chest, facing right")
def _(rng: np.random.Generator) -> Array:
    y, x = grid(380, 320)
    picture = 20 + 130.0 * (abs(x - 0.05 * np.cos(3 * y)) < 0.85)
    lungs = ellipse(y, x, -0.15, -0.05, 0.65, 0.55, 14) & (y < 0.5 + 0.35 * x)
    picture[lungs] = 70
    picture[lungs & ellipse(y, x, 0.2, 0.25, 0.32, 0.27, -30)] = 160
    picture[ellipse(y, x, -0.6, 0.1, 0.35, 0.05)] = 45  # trachea
    picture[(abs(x + 0.5 - 0.1 * y) < 0.1) & (np.sin(20 * y) > -0.5)] += 55
    for i in range(7):
        picture[abs(y + 0.6 - 0.17 * i - 0.35 * (x - 0.2) ** 2) < 0.015] += 25
    return grain(rng, soft(picture, 4))
