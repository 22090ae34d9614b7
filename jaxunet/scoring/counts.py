"""Integer pixel counts per image, on the device: what every metric is computed from."""

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
    """bool, of the shape of `logits`: where the probability exceeds `threshold`, in (0, 1)."""
    # Compared as logits: sigmoid is monotonic, and this needs no transcendental per pixel.
    return logits > np.float32(np.log(threshold / (1 - threshold)))


def pixel_counts(logits: Array, mask: Array, threshold: float) -> Array:
    """Confusion counts of each image and class.

    Args:
      logits: float32 [B, H, W, C].
      mask: {0, 1} [B, H, W, C], any dtype.
      threshold: a pixel is positive where its probability exceeds this, in (0, 1).

    Returns:
      int32 [B, C, 4]: true positives, false positives, false negatives, true negatives.
    """
    predicted, truth = positive(logits, threshold), mask > 0
    counts = [predicted & truth, predicted & ~truth, ~predicted & truth, ~predicted & ~truth]
    return jnp.stack([c.sum(axis=(1, 2), dtype=jnp.int32) for c in counts], axis=-1)


def histogram(logits: Array, mask: Array) -> Array:
    """What thresholds and calibration need to know of each image and class: pixels by probability and truth.

    The probability of a pixel of bin b exceeds b / 20 and not (b + 1) / 20, by the comparison of `pixel_counts`, so
    counts at the thresholds `THRESHOLDS` follow exactly. Arguments as of `pixel_counts`.

    Returns:
      int32 [B, C, 3, 20]: of each bin, pixels outside the true mask, pixels inside, and the sum of all their
      probabilities, each rounded to 2^-14, as a multiple of that. Sums fit for images of up to 2^17 pixels.
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
    """Dice of the first mask at threshold 0.5, to watch training by: float32 [2], its sum and the number of images.

    Where an answer for the whole image is learnt, only COVID-19 images count. Arguments as of `losses.LossFn`.
    """
    counts = pixel_counts(outputs["masks"][..., :1], target["masks"][..., :1], 0.5)[:, 0]
    tp, fp, fn, _ = jnp.moveaxis(counts, -1, 0)
    dice = (2 * tp + 1e-6) / (2 * tp + fp + fn + 1e-6)
    if COVID19 not in target:
        return jnp.stack([jnp.sum(dice), jnp.float32(len(dice))])
    return jnp.stack([jnp.sum(dice * target[COVID19]), jnp.sum(target[COVID19])])
