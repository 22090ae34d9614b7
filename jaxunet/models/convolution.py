"""Convolutions whose gradients suit the device: 3x3, and depthwise k x k."""

import functools
import itertools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jax import Array

from jaxunet.models.resampling import window

_STRIP_PIXELS = 4096
_MOST_STRIPS = 32  # each strip is one more operation to compile


@jax.custom_vjp
def conv3x3(x: Array, kernel: Array) -> Array:
    """`[B, H, W, C]`, `[3, 3, C, F]` -> `[B, H, W, F]`: stride 1, padding 1.

    On CPU the kernel's gradient is summed over strips of the images that fit the caches. For maps of 64x64 to 256x256
    this is 1.6 to 4 times as fast as XLA's gradient, which reads all images for each of its sums.
    """
    return conv(x, kernel)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return conv3x3(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    dk = jax.lax.platform_dependent(x, g, kernel, cpu=kernel_gradient_in_strips, default=kernel_gradient)
    return jax.vjp(lambda x: conv(x, kernel), x)[1](g)[0], dk


conv3x3.defvjp(_forward, _backward)


def kernel_gradient(x: Array, g: Array, kernel: Array, padding: tuple[int, int] = (1, 1)) -> Array:
    """Gradient `[3, 3, C, F]` with respect to `kernel`; `g` `[B, H, W, F]` is that with respect to the output."""
    return jax.vjp(lambda kernel: conv(x, kernel, padding), kernel)[1](g)[0]


def kernel_gradient_in_strips(x: Array, g: Array, kernel: Array) -> Array:
    """`kernel_gradient`, summed in float32 over groups of images; large images are cut into strips of rows."""
    b, h, w = x.shape[:3]
    pixels = max(_STRIP_PIXELS, b * h * w // _MOST_STRIPS)
    images, rows = max(1, pixels // (h * w)), max(1, min(h, pixels // w))
    padded = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    parts = [
        kernel_gradient(padded[i : i + images, r : r + rows + 2], g[i : i + images, r : r + rows], kernel, (0, 0))
        for i in range(0, b, images)
        for r in range(0, h, rows)
    ]
    return sum((part.astype(jnp.float32) for part in parts), jnp.float32(0)).astype(kernel.dtype)


def conv(x: Array, kernel: Array, padding: tuple[int, int] = (1, 1), stride: int = 1) -> Array:
    """`[B, H, W, C]`, `[k, k, C, F]` -> `[B, H', W', F]`; `padding` before and behind, along both axes."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), [padding] * 2, dimension_numbers=numbers)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(x: Array, kernel: Array, stride: int) -> Array:
    """`[B, H, W, C]`, `[k, k, 1, C]` -> `[B, H / stride, W / stride, C]`: each channel by itself, TensorFlow's padding.

    A sum of shifted products: XLA has no fast gradient of grouped convolutions (jax-ml/jax #13800).
    """
    k, (h, w) = kernel.shape[0], x.shape[1:3]
    padded = jnp.pad(x, same_padding(k, stride))
    taps = [(i, j) for i in range(k) for j in range(k)]
    return _sum(_every(padded, tap, (h // stride, w // stride), stride) * _at(kernel, *tap) for tap in taps)


def _depthwise_forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return depthwise(x, kernel, stride), (x, kernel)


def _depthwise_backward(stride: int, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    # Else the compiler computes g once per tap, and keeps the shifted images of the forward pass instead of x.
    x, g = jax.lax.optimization_barrier((x, g))
    k, (h, w) = kernel.shape[0], g.shape[1:3]
    padding = same_padding(k, stride)
    padded = jnp.pad(x, padding)
    rows = [[(_every(padded, (i, j), (h, w), stride) * g).sum((0, 1, 2)) for j in range(k)] for i in range(k)]
    dk = jnp.stack([jnp.stack(row) for row in rows]).reshape(kernel.shape)
    # Pixel stride * m + a of x is read by output m + o with tap i, where stride * o = a + padding - i.
    shifts = [[(i, a + padding[1][0] - i) for i in range(k)] for a in range(stride)]
    taps = [[(i, shift // stride) for i, shift in phase if shift % stride == 0] for phase in shifts]
    most = k // 2
    g = jnp.pad(g, [(0, 0), (most, most), (most, most), (0, 0)])

    def phase(row: list[tuple[int, int]], column: list[tuple[int, int]]) -> Array:
        pairs = itertools.product(row, column)
        return _sum(window(g, (most + y, most + x), (h, w)) * _at(kernel, i, j) for (i, y), (j, x) in pairs)

    phases = [[phase(row, column) for column in taps] for row in taps]
    dx = jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2) if stride > 1 else phases[0][0]
    return dx.reshape(x.shape), dk


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def same_padding(kernel_size: int, stride: int) -> list[tuple[int, int]]:
    """TensorFlow's 'SAME' padding of [B, H, W, C] whose H and W are multiples of `stride`."""
    total = kernel_size - stride
    return [(0, 0), (total // 2, -(-total // 2)), (total // 2, -(-total // 2)), (0, 0)]


def _every(x: Array, start: tuple[int, int], size: tuple[int, int], stride: int) -> Array:
    """`size` pixels of `x` from `start` on, every `stride`-th."""
    return window(x, start, (stride * (size[0] - 1) + 1, stride * (size[1] - 1) + 1), stride=stride)


def _at(kernel: Array, i: int, j: int) -> Array:
    return kernel[i, j].reshape(1, 1, 1, -1)


def _sum(terms: Iterable[Array]) -> Array:
    return functools.reduce(jnp.add, terms)
