"""Paired augmentation of image and mask: pure functions of (key, image, mask), run on the device inside the step.

Each example has its own key: its augmentation depends on the seed and its position in the run, not on the device count.
Geometric transforms move image and masks together, and masks stay binary. Intensity transforms change only the image.
All ranges come from `config.augment`. A range of zero switches a transform off at compile time.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from jaxunet.data.degrade import degrade


def augment_batch(keys: Array, image: Array, mask: Array, augment: ConfigDict) -> tuple[Array, Array]:
    """Augments `image` float32 [B, H, W, 1] in [0, 1] and `mask` float32 {0, 1} [B, H, W, C] as `config.augment` says.

    Each example has its own of `keys` [B]. Shapes, dtypes and ranges stay.
    """
    return jax.vmap(lambda k, x, y: augment_example(k, x, y, augment))(keys, image, mask)


def augment_example(key: Array, image: Array, mask: Array, augment: ConfigDict) -> tuple[Array, Array]:
    """One example: image [H, W, 1], mask [H, W, C]; see `augment_batch`."""
    flip_key, turn_key, affine_key, intensity_key, noise_key = jax.random.split(key, 5)
    stack = jnp.concatenate([image, mask], axis=-1)
    stack = _flip(flip_key, stack, augment)
    if augment.quarter_turns:
        turns = jax.random.randint(turn_key, (), 0, 4)
        stack = jax.lax.switch(turns, [lambda x, k=k: jnp.rot90(x, k) for k in range(4)], stack)
    if augment.rotate_degrees or augment.scale or augment.translate_pixels:
        stack = _affine(affine_key, stack, augment)
    image, mask = stack[..., :1], (stack[..., 1:] > 0.5).astype(mask.dtype)
    image = _intensity(intensity_key, image, augment)
    if augment.noise_std:
        image = image + augment.noise_std * jax.random.normal(noise_key, image.shape)
    image = jnp.clip(image, 0.0, 1.0)
    return degrade(jax.random.fold_in(key, 5), image, mask, augment.degrade) if augment.degrade else (image, mask)


def _flip(key: Array, stack: Array, augment: ConfigDict) -> Array:
    horizontal, vertical = jax.random.bernoulli(key, 0.5, (2,))
    if augment.flip_horizontal:
        stack = jnp.where(horizontal, stack[:, ::-1], stack)
    if augment.flip_vertical:
        stack = jnp.where(vertical, stack[::-1], stack)
    return stack


def _affine(key: Array, stack: Array, augment: ConfigDict) -> Array:
    """Random rotation, isotropic scaling and translation about the centre; black outside the frame.

    Two passes of linear interpolation (Catmull and Smith 1980): along each source row to the output's columns, then
    along each column to the output's rows. One two-dimensional pass would gather single pixels: on a TPU, a thousand
    times the memory traffic.
    """
    h, w, _ = stack.shape
    draws = jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0)
    angle = draws[0] * jnp.deg2rad(jnp.float32(augment.rotate_degrees))
    zoom = 1.0 + draws[1] * augment.scale
    shift_y, shift_x = draws[2] * augment.translate_pixels, draws[3] * augment.translate_pixels
    rows = (jnp.arange(h, dtype=jnp.float32) - (h - 1) / 2).reshape(h, 1)
    columns = (jnp.arange(w, dtype=jnp.float32) - (w - 1) / 2).reshape(1, w)
    y, x = rows - shift_y, columns - shift_x
    # From the centre, output (y, x) shows the source at row v = (cos y - sin x) / zoom and column
    # u = (sin y + cos x) / zoom. In source row v, u = tan v + x / (cos zoom).
    cos, sin, tan = jnp.cos(angle), jnp.sin(angle), jnp.tan(angle)
    u, v = tan * rows + x / (cos * zoom), (cos * y - sin * x) / zoom
    stack = _resample(stack, u + (w - 1) / 2, axis=1)
    return _resample(stack, v + (h - 1) / 2, axis=0)


def _resample(stack: Array, position: Array, *, axis: int) -> Array:
    """Linear interpolation of `stack` [H, W, C] along rows (axis 1) or columns (axis 0); 0 outside.

    Output (y, x) is the value at column `position[y, x]` of row y, or at row `position[y, x]` of column x, in pixels.
    """
    gather, matmul = (functools.partial(f, axis=axis) for f in (_resample_by_gather, _resample_by_matmul))
    return jax.lax.platform_dependent(stack, position, tpu=matmul, default=gather)


def _resample_by_gather(stack: Array, position: Array, *, axis: int) -> Array:
    h, w, c = stack.shape
    n, pixels = stack.shape[axis], stack.reshape(h * w, c)
    lower = jnp.floor(position)
    share = position - lower
    here = jax.lax.broadcasted_iota(jnp.int32, (h, w), 1 - axis)
    result = jnp.zeros_like(stack)
    for tap, weight in ((lower, 1 - share), (lower + 1, share)):
        along = jnp.clip(tap, 0, n - 1).astype(jnp.int32)
        index = here * w + along if axis == 1 else along * w + here
        weight = jnp.where((tap >= 0) & (tap < n), weight, 0.0)
        result = result + weight[..., None] * pixels[index]
    return result


def _resample_by_matmul(stack: Array, position: Array, *, axis: int) -> Array:
    """The same with one sparse matrix per line. TPU compilers fuse it into the product; others store it."""
    if axis == 0:
        return _resample_by_matmul(stack.swapaxes(0, 1), position.T, axis=1).swapaxes(0, 1)
    pixels = jnp.arange(stack.shape[1], dtype=jnp.float32).reshape(1, 1, -1)
    weight = jnp.maximum(0.0, 1.0 - jnp.abs(position[..., None] - pixels))
    return jnp.einsum("yxn,ync->yxc", weight, stack, precision=jax.lax.Precision.HIGHEST)


def _intensity(key: Array, image: Array, augment: ConfigDict) -> Array:
    """Gamma, then contrast about the mean, then brightness."""
    gamma, contrast, brightness = jax.random.uniform(key, (3,), minval=-1.0, maxval=1.0)
    if augment.gamma:
        image = image ** jnp.exp(gamma * jnp.log1p(jnp.float32(augment.gamma)))
    if augment.contrast:
        mean = image.mean()
        image = (image - mean) * (1.0 + contrast * augment.contrast) + mean
    if augment.brightness:
        image = image + brightness * augment.brightness
    return jnp.clip(image, 0.0, 1.0)
