"""JAX's release must compute what the networks use. JAX 0.10.2 on CPU gives wrong last rows of some fused products
(jax-ml/jax #39103); these are the sizes at which it does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunet.models.layers import BatchNorm, Conv, Numerics
from jaxunet.scoring.counts import pixel_counts


@pytest.mark.parametrize("pixels", [32_768, 32_769, 65_537])
def test_last_pixels_of_products_and_sums_are_right(pixels):
    """1x1 convolution, batch normalisation and counts against NumPy in float64, every pixel."""
    rng = np.random.default_rng(pixels)
    x = rng.standard_normal((1, pixels, 1, 3)).astype(np.float32)
    kernel = rng.standard_normal((1, 1, 3, 3)).astype(np.float32)
    conv, norm = Conv(3, kernel_size=1, use_bias=False), BatchNorm(Numerics(), train=True)
    affine = {"scale": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)}

    @jax.jit
    def run(x):
        y = conv.apply({"params": {"kernel": kernel}}, x)
        z, _ = norm.apply({"params": affine, "batch_stats": {"mean": y[0, 0, 0], "var": y[0, 0, 0]}}, y, mutable=True)
        return z, jnp.square(z).sum(), pixel_counts(z, x > 0, 0.5)

    z, energy, counts = run(x)
    y = x.astype(np.float64) @ kernel[0, 0].astype(np.float64)
    expected = (y - y.mean((0, 1, 2))) / np.sqrt(y.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(z, expected, atol=2e-5)
    assert float(energy) == pytest.approx(np.square(expected).sum(), rel=1e-5)
    hits = (np.asarray(z) > 0) & (x > 0)
    np.testing.assert_array_equal(counts[0, :, 0], hits.sum((0, 1, 2)))
    np.testing.assert_array_equal(counts.sum(-1), np.full((1, 3), pixels))
