"""Paired augmentation of image and mask: pure functions of (key, image, mask), run on the device inside the step.

Every transform is drawn from the example's own key, so what an example looks like depends on the seed and on its
position in the run, not on the device count. Geometry moves image and masks together and masks stay binary;
intensity touches the image alone. All ranges come from `config.augment`; a range of zero switches a transform off
and costs nothing, since the settings are static.
"""

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict


def augment_batch(keys: Array, image: Array, mask: Array, augment: ConfigDict) -> tuple[Array, Array]:
    """Augments each example of a batch with its own key.

    Args:
      keys: [B] PRNG keys.
      image: float32 [B, H, W, 1] in [0, 1].
      mask: float32 {0, 1} [B, H, W, C].
      augment: the `augment` section of the config.

    Returns:
      Image and mask of the same shapes, dtypes and ranges.
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
    return jnp.clip(image, 0.0, 1.0), mask


def _flip(key: Array, stack: Array, augment: ConfigDict) -> Array:
    horizontal, vertical = jax.random.bernoulli(key, 0.5, (2,))
    if augment.flip_horizontal:
        stack = jnp.where(horizontal, stack[:, ::-1], stack)
    if augment.flip_vertical:
        stack = jnp.where(vertical, stack[::-1], stack)
    return stack


def _affine(key: Array, stack: Array, augment: ConfigDict) -> Array:
    """Random rotation, isotropic scaling and translation about the centre, bilinear, black outside the frame."""
    h, w, _ = stack.shape
    draws = jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0)
    angle = draws[0] * jnp.deg2rad(jnp.float32(augment.rotate_degrees))
    zoom = 1.0 + draws[1] * augment.scale
    shift_y, shift_x = draws[2] * augment.translate_pixels, draws[3] * augment.translate_pixels
    y = (jnp.arange(h, dtype=jnp.float32) - (h - 1) / 2 - shift_y).reshape(h, 1)
    x = (jnp.arange(w, dtype=jnp.float32) - (w - 1) / 2 - shift_x).reshape(1, w)
    cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
    return _bilinear(stack, cos * y - sin * x + (h - 1) / 2, sin * y + cos * x + (w - 1) / 2)


def _bilinear(stack: Array, y: Array, x: Array) -> Array:
    """Samples `stack` [H, W, C] at fractional pixel coordinates `y`, `x` [H, W]; 0 outside."""
    h, w, c = stack.shape
    pixels = stack.reshape(h * w, c)
    y0, x0 = jnp.floor(y), jnp.floor(x)
    result = jnp.zeros_like(stack)
    for dy in (0, 1):
        for dx in (0, 1):
            yi, xi = y0 + dy, x0 + dx
            inside = (yi >= 0) & (yi < h) & (xi >= 0) & (xi < w)
            weight = jnp.where(inside, (1 - jnp.abs(y - yi)) * (1 - jnp.abs(x - xi)), 0.0)
            index = jnp.clip(yi, 0, h - 1).astype(jnp.int32) * w + jnp.clip(xi, 0, w - 1).astype(jnp.int32)
            result = result + weight[..., None] * pixels[index]
    return result


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
