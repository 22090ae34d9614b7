"""Batch normalisation as a function, with a gradient that reads each array as seldom as possible."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array

_PARTS = 16  # GPU compilers compute a sum of fewer than 32 numbers inside the kernel that uses it


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def batch_normalise(
    x: Array, scale: Array, bias: Array, epsilon: float, axis_name: str | None, phases: int
) -> tuple[Array, Array, Array]:
    """`x` [B, H, W, phases * C], float32 or bfloat16, normalised by its own statistics, which the phases of a channel
    share.

    All arithmetic is float32; scale and bias are float32 [C]. With `axis_name`, statistics are averaged over that
    mapped axis, in one exchange each way. Returns the normalised array, like `x`; mean and variance, float32 [C], which
    have no gradient.
    """
    return _forward(x, scale, bias, epsilon, axis_name, phases)[0]


def _forward(x: Array, scale: Array, bias: Array, epsilon: float, axis_name: str | None, phases: int) -> tuple:
    wide = x.astype(jnp.float32)
    mean, square = _means(wide, jnp.square(wide), axis_name, phases)
    var = jnp.maximum(square - jnp.square(mean), 0.0)
    factor = scale * jax.lax.rsqrt(var + epsilon)
    y = affine(x, factor, bias - mean * factor, phases)
    return (y, mean, var), (x, scale, mean, var)


def _backward(epsilon: float, axis_name: str | None, phases: int, saved: tuple, cotangents: tuple) -> tuple:
    (x, scale, mean, var), g = saved, cotangents[0].astype(jnp.float32)
    wide = x.astype(jnp.float32)
    rest = x.size // mean.size
    local = _means(g, g * wide, None, phases)
    g_mean, gx_mean = _mean_over(axis_name, local) if axis_name else local
    inverse = jax.lax.rsqrt(var + epsilon)
    factor = scale * inverse
    slope = -factor * jnp.square(inverse) * (gx_mean - mean * g_mean)
    of_g, of_x, offset = (_per_pixel(v, phases) for v in (factor, slope, -factor * g_mean - slope * mean))
    dx = (g * of_g + wide * of_x + offset).astype(x.dtype)
    return dx, rest * (local[1] - mean * local[0]) * inverse, rest * local[0]


batch_normalise.defvjp(_forward, _backward)


def affine(x: Array, factor: Array, offset: Array, phases: int) -> Array:
    """`x` [B, H, W, phases * C] times `factor` [C] plus `offset` [C], computed in float32, in the dtype of `x`."""
    return (x.astype(jnp.float32) * _per_pixel(factor, phases) + _per_pixel(offset, phases)).astype(x.dtype)


def _per_pixel(v: Array, phases: int) -> Array:
    return jnp.tile(v, phases).reshape(1, 1, 1, -1)


def _means(a: Array, b: Array, axis_name: str | None, phases: int) -> tuple[Array, Array]:
    """Means of `a` and `b` [B, H, W, phases * C] over pixels and phases (and devices): two of float32 [C]."""
    totals = jax.lax.platform_dependent(a, b, cuda=sums_in_parts, rocm=sums_in_parts, default=sums)
    n = a.size // a.shape[-1]
    means = tuple((total / n).reshape(phases, -1).mean(axis=0) for total in totals)
    return _mean_over(axis_name, means) if axis_name else means


def _mean_over(axis_name: str, pair: tuple[Array, Array]) -> tuple[Array, Array]:
    first, second = jax.lax.pmean(jnp.stack(pair), axis_name)  # stacked: one exchange
    return first, second


def sums(a: Array, b: Array) -> tuple[Array, Array]:
    """Sums of `a` and `b` [B, H, W, C] over pixels: two of [C]."""
    return a.sum(axis=(0, 1, 2)), b.sum(axis=(0, 1, 2))


def sums_in_parts(a: Array, b: Array) -> tuple[Array, Array]:
    """`sums` for GPUs: one kernel reads both arrays and leaves parts, which the next kernel adds up.

    Two plain sums are four to five kernels there, and read `a` twice.
    """
    c = a.shape[-1]
    parts = math.gcd(_PARTS, a.size // c)
    a, b = (v.reshape(parts, -1, c) for v in (a, b))
    zero = jnp.zeros((), a.dtype)
    a, b = jax.lax.reduce((a, b), (zero, zero), lambda x, y: (x[0] + y[0], x[1] + y[1]), (1,))
    return a.sum(axis=0), b.sum(axis=0)
