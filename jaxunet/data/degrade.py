"""Makes training images look like those of other sources: other exposure, frames, low resolution, blur, noise, JPEG.

`config.augment.degrade` is the share of images that are changed; each change then happens with probability 1/2, at a
random strength. Pure functions of (key, image), run on the device inside the step.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

MOST_GAMMA = 2.2  # exponents from 1 / MOST_GAMMA on
MOST_MARGIN = 0.12  # of the image's side, at each edge
MOST_BLUR = 2.0  # standard deviation in pixels
MOST_NOISE = 16 / 255  # standard deviation, intensities being in [0, 1]
JPEG_QUALITY = (8, 60)  # as in the Independent JPEG Group's scale of 1 to 100

# Quantisation of brightness at quality 50: ITU-T T.81, table K.1.
_STEPS = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)


def degrade(key: Array, image: Array, mask: Array, share: float) -> tuple[Array, Array]:
    """`image` float32 [H, W, 1] in [0, 1] and `mask` [H, W, C] -> the same; masks are blank under a margin.

    H and W are multiples of 8.
    """
    keys = jax.random.split(key, 7)
    apply = jax.random.bernoulli(keys[0], share) & jax.random.bernoulli(keys[1], 0.5, (6,))
    strength = jax.random.uniform(keys[2], (4,))
    image = jnp.where(apply[0], image ** jnp.exp((2 * strength[0] - 1) * jnp.log(MOST_GAMMA)), image)
    margin = apply[1] & in_margin(keys[3], image.shape[:2])[..., None]
    colour = jax.random.choice(keys[4], jnp.array([0.0, 1.0, 0.5]))
    image, mask = jnp.where(margin, colour, image), jnp.where(margin, 0, mask)
    image = jnp.where(apply[2], half_resolution(image), image)
    image = jnp.where(apply[3], blur(image, MOST_BLUR * strength[1]), image)
    noise = MOST_NOISE * strength[2] * jax.random.normal(keys[5], image.shape)
    image = jnp.clip(jnp.where(apply[4], image + noise, image), 0.0, 1.0)
    low, high = JPEG_QUALITY
    return jnp.where(apply[5], jpeg(image, low + (high - low) * strength[3]), image), mask


def in_margin(key: Array, size: tuple[int, ...]) -> Array:
    """bool [H, W]: whether a pixel is in the margin, whose width is drawn for each edge of the image."""
    top, bottom, left, right = jax.random.uniform(key, (4,), maxval=MOST_MARGIN)
    y, x = ((jnp.arange(n, dtype=jnp.float32) + 0.5) / n for n in size)
    return ((y < top) | (y > 1 - bottom))[:, None] | ((x < left) | (x > 1 - right))[None]


def half_resolution(image: Array) -> Array:
    """Means of 2x2 pixels, enlarged again."""
    h, w, c = image.shape
    small = image.reshape(h // 2, 2, w // 2, 2, c).mean(axis=(1, 3))
    return jax.image.resize(small, image.shape, "bilinear")


def blur(image: Array, sigma: Array) -> Array:
    """Gaussian of standard deviation `sigma` up to `MOST_BLUR`; edges repeated."""
    reach = int(3 * MOST_BLUR)
    weight = jnp.exp(-0.5 * (jnp.arange(-reach, reach + 1, dtype=jnp.float32) / jnp.maximum(sigma, 0.1)) ** 2)
    weight = weight / weight.sum()
    for axis in (0, 1):
        padded = jnp.pad(image, [(reach, reach) if a == axis else (0, 0) for a in range(3)], mode="edge")
        taps = (jax.lax.slice_in_dim(padded, i, i + image.shape[axis], axis=axis) for i in range(2 * reach + 1))
        image = sum((w * tap for w, tap in zip(weight, taps, strict=True)), jnp.zeros_like(image))
    return image


def jpeg(image: Array, quality: Array) -> Array:
    """What JPEG at `quality` leaves of a gray image: its 8x8 cosine coefficients, rounded to multiples of a step."""
    h, w, _ = image.shape
    k = np.arange(8)
    waves = np.cos(np.pi * (2 * k + 1) * k[:, None] / 16) * np.where(k == 0, np.sqrt(1 / 8), 0.5)[:, None]
    factor = jnp.where(quality < 50, 50 / quality, 2 - quality / 50)
    step = jnp.clip(jnp.floor(_STEPS * factor + 0.5), 1.0, 255.0).reshape(1, 8, 1, 8)
    blocks = (255 * image - 128).reshape(h // 8, 8, w // 8, 8)
    cosine = jnp.asarray(waves, jnp.float32)
    # Else accelerators multiply less exactly, and a coefficient near the middle of a step is rounded the other way.
    exact = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    coefficients = exact("uy,aybx,vx->aubv", cosine, blocks, cosine)
    blocks = exact("uy,aubv,vx->aybx", cosine, jnp.round(coefficients / step) * step, cosine)
    return jnp.clip((blocks.reshape(image.shape) + 128) / 255, 0.0, 1.0)
