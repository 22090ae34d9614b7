"""Integer pixel counts per image, on the device. Every metric is computed from them."""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxunet.data.targets import COVID19

THRESHOLDS = tuple(k / 20 for k in range(1, 20))  # edges of the bins of `histogram`
Logits = TypeVar("Logits", Array, np.ndarray)
PROBABILITY_UNIT = 2**-14  # in which `histogram` adds up probabilities


def positive(logits: Logits, threshold: float) -> Logits:
    """bool, of the shape of `logits`: whether the probability exceeds `threshold`, in (0, 1)."""
    # Sigmoid is monotonic, so logits are compared: no transcendental function per pixel.
    return logits > np.float32(np.log(threshold / (1 - threshold)))


def sigmoid(logits: np.ndarray, *, of: int = 1) -> np.ndarray:
    """Logits float [...] -> probabilities times `of`, of the same dtype, on the host. Never overflows."""
    return of / (1 + np.exp(-np.clip(logits, -80, 80)))


def pixel_counts(logits: Array, mask: Array, threshold: float) -> Array:
    """Confusion counts of each image and class: int32 [B, C, 4], true positives, false positives, false negatives, true
    negatives. `logits` float32 [B, H, W, C]; `mask` {0, 1} of that shape and any dtype; a pixel is positive where its
    probability exceeds `threshold`, in (0, 1)."""
    kinds = _kinds(positive(logits, threshold), mask > 0)
    return jnp.stack([kind.sum(axis=(1, 2), dtype=jnp.int32) for kind in kinds], axis=-1)


def confusion(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """`pixel_counts` on the host: bool [..., H, W], both, -> int64 [..., 4]."""
    return np.stack([kind.sum(axis=(-2, -1)) for kind in _kinds(predicted, truth)], axis=-1)


def _kinds(predicted: Logits, truth: Logits) -> list[Logits]:
    return [predicted & truth, predicted & ~truth, ~predicted & truth, ~predicted & ~truth]


def histogram(logits: Array, mask: Array) -> Array:
    """Pixels of each image and class by probability and truth, for the choice of thresholds and calibration.

    The probability of a pixel in bin b is in (b / 20, (b + 1) / 20], compared as in `pixel_counts`, so the counts at
    each of `THRESHOLDS` follow exactly. Returns int32 [B, C, 3, 20], per bin: number of pixels outside the true mask,
    number inside, and the sum of their probabilities in units of 2^-14, each rounded; exact for images of up to 2^17
    pixels.
    """
    logits, truth = (jnp.moveaxis(x, -1, 1).reshape(x.shape[0], x.shape[3], -1) for x in (logits, mask > 0))
    scaled = jnp.rint(jax.nn.sigmoid(logits) / PROBABILITY_UNIT).astype(jnp.int32)
    bins = jnp.asarray(sum(positive(logits, threshold).astype(jnp.int32) for threshold in THRESHOLDS))

    def count(bins: Array, truth: Array, scaled: Array) -> Array:
        n = len(THRESHOLDS) + 1
        pixels = jnp.zeros(2 * n, jnp.int32).at[bins + n * truth.astype(jnp.int32)].add(1)
        return jnp.stack([pixels[:n], pixels[n:], jnp.zeros(n, jnp.int32).at[bins].add(scaled)])

    return jax.vmap(jax.vmap(count))(bins, truth, scaled)


def batch_dice(outputs: dict[str, Array], target: dict[str, Array]) -> Array:
    """Dice of the first mask at threshold 0.5, for the training log: float32 [2], sum over images and number of images.

    With the target "covid19" only COVID-19 images count. Arguments as in `losses.LossFn`.
    """
    counts = pixel_counts(outputs["masks"][..., :1], target["masks"][..., :1], 0.5)[:, 0]
    tp, fp, fn, _ = jnp.moveaxis(counts, -1, 0)
    # Smoothed, to watch training only: 1 for two empty masks, almost 0 for one, as `protocols.EMPTY_MASK_RULE` says.
    dice = (2 * tp + 1e-6) / (2 * tp + fp + fn + 1e-6)
    if COVID19 not in target:
        return jnp.stack([jnp.sum(dice), jnp.float32(len(dice))])
    return jnp.stack([jnp.sum(dice * target[COVID19]), jnp.sum(target[COVID19])])
