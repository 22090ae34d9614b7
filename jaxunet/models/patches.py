"""Convolutions on images whose patches are channels: the same values, in shapes that suit accelerators.

An image [B, H, W, C] "in patches of p" is `space_to_depth(image, p)`, [B, H/p, W/p, p*p*C]. Accelerators compute on
tiles of 128 channels. A map of 16 channels at 256x256 therefore takes eight times its size. In patches of 4, it has 256
channels at 64x64 and takes its own size. A convolution of images in patches is again a convolution: its kernel holds
copies of the original kernel among zeros. The parameters stay the original ones. Nearest upsampling before it only adds
up entries of that kernel: the upsampled image is never made.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxunet.models.convolution import conv, conv3x3
from jaxunet.models.layers import he_normal
from jaxunet.models.resampling import window


@functools.cache
def _taps(size: int, stride: int, patch: int, repeat: int) -> np.ndarray:
    """float32 [size, 3, patch * stride / repeat, patch]: 1 where tap d of output pixel a reads input pixel s.

    This is one axis of a centred convolution of `size` taps, after repeating every input pixel `repeat` times. The axis
    of 3 is: the patch before, the patch itself, the patch after.
    """
    whole = patch * stride
    taps = np.zeros((size, 3, whole // repeat, patch), np.float32)
    for d in range(size):
        for a in range(patch):
            block, inside = divmod(a * stride + d - size // 2, whole)
            taps[d, block + 1, inside // repeat, a] = 1
    return taps


def patch_kernel(kernel: Array, *, stride: int, patch: int, repeat: int = 1) -> Array:
    """Kernel for images in patches: [k, k, C, F] -> [3, 3, p*p*C, patch*patch*F], p = patch * stride / repeat.

    `kernel` is of a convolution with odd k, padding k // 2 and `stride`; the result has stride 1. `patch` is that of
    the output. `repeat`: factor of nearest upsampling before the convolution, 1 or 2.
    """
    taps = _taps(kernel.shape[0], stride, patch, repeat)
    full = jnp.einsum("ujsa,vltb,uvio->jlstiabo", taps, taps, kernel)
    return full.reshape(*full.shape[:2], -1, patch * patch * kernel.shape[-1])


class PatchConv(nn.Module):
    """`Conv` with the same parameters; the output is in patches of `patch`, the input of `patch * stride`."""

    features: int
    kernel_size: int = 3
    stride: int = 1
    patch: int = 2
    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, (patch * stride)**2 * C]` -> `[B, H, W, patch**2 * features]`."""
        c = x.shape[-1] // (self.patch * self.stride) ** 2
        k = self.kernel_size
        kernel = self.param("kernel", he_normal, (k, k, c, self.features), jnp.float32)
        y = conv(x.astype(self.dtype), patch_kernel(kernel, stride=self.stride, patch=self.patch).astype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = y + jnp.tile(bias, self.patch**2).astype(self.dtype).reshape(1, 1, 1, -1)
        return y


class UpsampleConcatConv(nn.Module):
    """First convolution of a decoder stage: 3x3, on `x` upsampled by repeating, concatenated with `skip`.

    It makes neither the upsampled nor the concatenated array. The parameter is [3, 3, C + S, features], as if it did.
    `x` is in patches of patch / 2 (plain if `patch` is 1), `skip` and the output in patches of `patch`.
    """

    features: int
    patch: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, skip: Array | None) -> Array:
        """`[B, H, W, .]` -> `[B, H, W, patch**2 * features]`, or for `patch` 1 `[B, 2H, 2W, features]`."""
        p = self.patch
        c = x.shape[-1] // max(p // 2, 1) ** 2
        s = 0 if skip is None else skip.shape[-1] // p**2
        kernel = self.param("kernel", he_normal, (3, 3, c + s, self.features), jnp.float32)
        if p == 1:
            y = _upsampled_conv(x.astype(self.dtype), kernel[:, :, :c], self.dtype)
        else:
            up = patch_kernel(kernel[:, :, :c], stride=1, patch=p, repeat=2)
            y = conv(x.astype(self.dtype), up.astype(self.dtype))
        if skip is not None:
            beside = patch_kernel(kernel[:, :, c:], stride=1, patch=p) if p > 1 else kernel[:, :, c:]
            y = y + conv3x3(skip.astype(self.dtype), beside.astype(self.dtype))
        return y


def _upsampled_conv(x: Array, kernel: Array, dtype: jnp.dtype) -> Array:
    """3x3 convolution of `x` [B, H, W, C] upsampled by repeating: [B, 2H, 2W, F], with 4/9 of the arithmetic.

    Each of the four output phases reads 2x2 pixels of `x`. One 2x2 convolution computes all four.
    """
    h, w = x.shape[1:3]
    f = kernel.shape[-1]
    corners = _fold(_fold(kernel, 0), 2)  # [column phase, row phase, 2, 2, C, F]
    corners = corners.transpose(2, 3, 4, 1, 0, 5).reshape(2, 2, kernel.shape[2], 4 * f).astype(dtype)
    # Padded before: on CPU, XLA's kernel gradient takes 7 to 36 times as long if the convolution pads.
    y = conv(jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]), corners, (0, 0))  # [B, H + 1, W + 1, 4 F]
    phases = [jax.lax.slice_in_dim(y, k * f, (k + 1) * f, axis=3) for k in range(4)]
    rows = [jnp.stack([window(phases[2 * a + b], (a, b), (h, w)) for b in (0, 1)], axis=3) for a in (0, 1)]
    return jnp.stack(rows, axis=2).reshape(x.shape[0], 2 * h, 2 * w, f)


def _fold(kernel: Array, axis: int) -> Array:
    """Three taps along `axis` -> [2, ...]: for each output phase, two taps on the two pixels that it reads."""
    k0, k1, k2 = (jax.lax.index_in_dim(kernel, i, axis, keepdims=False) for i in range(3))
    # Phase 0 has taps (k0 | k1 + k2) on pixels (i - 1, i), phase 1 has (k0 + k1 | k2) on (i, i + 1).
    return jnp.stack([jnp.stack([k0, k1 + k2], axis), jnp.stack([k0 + k1, k2], axis)])


def max_pool_3x3_stride2_of_patches(x: Array, channels: int) -> Array:
    """`max_pool_3x3_stride2` of an image [B, 2H, 2W, C] in patches of 2: `[B, H, W, 4 C]` -> `[B, H, W, C]`.

    Along each axis, the window of output i holds phase 1 of patch i - 1 and both phases of patch i.
    """
    c = channels
    phase = [[x[..., (2 * a + b) * c : (2 * a + b + 1) * c] for b in (0, 1)] for a in (0, 1)]

    def before(y: Array, axis: int) -> Array:
        pad = [(1, 0) if i == axis else (0, 0) for i in range(4)]
        return jax.lax.slice_in_dim(jnp.pad(y, pad, constant_values=-jnp.inf), 0, y.shape[axis], axis=axis)

    columns = [jnp.maximum(jnp.maximum(row[0], row[1]), before(row[1], 2)) for row in phase]
    return jnp.maximum(jnp.maximum(columns[0], columns[1]), before(columns[1], 1))
