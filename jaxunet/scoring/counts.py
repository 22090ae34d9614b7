"""Integer pixel counts per image, on the device: what every metric is computed from."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

THRESHOLDS = tuple(k / 20 for k in range(1, 20))  # edges of the bins of `histogram`
PROBABILITY_UNIT = 2**-14  # in which `histogram` adds up probabilities


def positive(logits: Array, threshold: float) -> Array:
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
    bins = sum(positive(logits, threshold).astype(jnp.int32) for threshold in THRESHOLDS)

    def count(bins: Array, truth: Array, scaled: Array) -> Array:
        n = len(THRESHOLDS) + 1
        pixels = jnp.zeros(2 * n, jnp.int32).at[bins + n * truth.astype(jnp.int32)].add(1)
        return jnp.stack([pixels[:n], pixels[n:], jnp.zeros(n, jnp.int32).at[bins].add(scaled)])

    return jax.vmap(jax.vmap(count))(bins, truth, scaled)


def batch_dice(logits: Array, mask: Array) -> Array:
    """float32 [2]: Dice of the first class at threshold 0.5, summed over the images, and how many these are; to watch
    training by. Shapes as `pixel_counts`."""
    dice = _dice_of_first(logits, mask)
    return jnp.stack([jnp.sum(dice), jnp.float32(len(dice))])


def batch_dice_covid19(logits: Array, target: Array) -> Array:
    """As `batch_dice`, over the images that the last plane of `target` calls COVID-19."""
    covid = target[:, 0, 0, -1]
    return jnp.stack([jnp.sum(_dice_of_first(logits, target) * covid), jnp.sum(covid)])


def _dice_of_first(logits: Array, mask: Array) -> Array:
    tp, fp, fn, _ = jnp.moveaxis(pixel_counts(logits[..., :1], mask[..., :1], 0.5)[:, 0], -1, 0)
    return (2 * tp + 1e-6) / (2 * tp + fp + fn + 1e-6)
