"""Batch normalisation with its own gradient, against the formula and JAX's gradient of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from jaxunet.models import normalisation

pytestmark = pytest.mark.usefixtures("strict_dtypes")
DEVICES = 2


def formula(x: Array, scale: Array, bias: Array, phases: int) -> tuple[Array, Array, Array]:
    pixels = x.reshape(-1, phases, scale.size)
    mean, var = pixels.mean(axis=(0, 1)), pixels.var(axis=(0, 1))
    y = (pixels - mean[None, None]) / jnp.sqrt(var + 1e-5)[None, None] * scale[None, None] + bias[None, None]
    return y.reshape(x.shape), mean, var


@pytest.fixture(params=[1, 4])
def arrays(request):
    x, scale, bias, g = (jax.random.normal(jax.random.key(i), (1024,)) for i in range(4))
    c = 8 // request.param
    return (3 * x.reshape(4, 4, 8, 8) + 1, scale[:c], bias[:c]), g.reshape(4, 4, 8, 8), request.param


def assert_close(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("sums", [normalisation.sums, normalisation.sums_in_parts])
def test_values_and_gradients_are_those_of_the_formula(arrays, sums, monkeypatch: pytest.MonkeyPatch):
    """With the sums of every platform."""
    monkeypatch.setattr(normalisation, "sums", sums)
    inputs, g, phases = arrays
    (y, mean, var), gradient = jax.vjp(
        lambda *a: normalisation.batch_normalise(*a, 1e-5, None, phases), *inputs
    )  # fmt: skip
    expected, expected_gradient = jax.vjp(lambda *a: formula(*a, phases)[0], *inputs)
    assert_close((y, mean, var), (expected, *formula(*inputs, phases)[1:]))
    assert_close(gradient((g, jnp.zeros_like(mean), jnp.zeros_like(var))), expected_gradient(g))


def test_devices_share_statistics_and_their_gradient(arrays):
    """Two devices with half of the batch each give what one gives with all of it."""
    (x, scale, bias), g, phases = arrays

    def gradients(x, g, axis_name):
        y, pull = jax.vjp(lambda *a: normalisation.batch_normalise(*a, 1e-5, axis_name, phases)[0], x, scale, bias)
        return y, *pull(g)

    halves = (v.reshape(DEVICES, -1, *v.shape[1:]) for v in (x, g))
    y, dx, dscale, dbias = jax.vmap(lambda x, g: gradients(x, g, "batch"), axis_name="batch")(*halves)
    found = (y.reshape(x.shape), dx.reshape(x.shape), dscale.sum(axis=0), dbias.sum(axis=0))
    assert_close(found, gradients(x, g, None))


def test_sums_in_parts_of_any_number_of_pixels():
    a, b = (jax.random.normal(jax.random.key(i), (1, 3, 5, 2)) for i in range(2))
    assert_close(normalisation.sums_in_parts(a, b), normalisation.sums(a, b))


def test_a_variance_that_rounding_makes_negative_is_zero():
    x = jnp.full((1, 7, 9, 3), 1000.1)
    square, mean = normalisation.sums(x * x, x)
    assert (square / 63 < jnp.square(mean / 63) - 1e-5).any()
    y, _, var = normalisation.batch_normalise(x, jnp.ones(3), jnp.zeros(3), 1e-5, None, 1)
    assert jnp.isfinite(y).all()
    assert (var >= 0).all()


def test_the_gradient_of_bfloat16_is_summed_in_float32(arrays):
    (x, scale, bias), g, phases = arrays
    x, g = x.astype(jnp.bfloat16), g.astype(jnp.bfloat16)

    def gradient(x, g):
        return jax.vjp(lambda *a: normalisation.batch_normalise(*a, 1e-5, None, phases)[0], x, scale, bias)[1](g)

    found, expected = gradient(x, g), gradient(x.astype(jnp.float32), g.astype(jnp.float32))
    assert found[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(found[0].astype(jnp.float32), expected[0], atol=0.02)
    assert_close(found[1:], expected[1:])
