"""Building blocks shared by every network: convolution, normalisation, the answer for the whole image.

All arrays are channels-last `[B, H, W, C]`. Parameters and batch statistics are float32; activations have
`Numerics.dtype`. A network gets one `Numerics` and passes it down: precision and normalisation are decided once.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxunet.core.errors import UserError
from jaxunet.models.convolution import conv3x3, depthwise, same_padding
from jaxunet.models.normalisation import affine, batch_normalise
from jaxunet.models.resampling import window

he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


@dataclasses.dataclass(frozen=True)
class Numerics:
    """Precision and normalisation of a network.

    Attributes:
      dtype: of activations, `float32` or `bfloat16`.
      axis_name: mapped axis over which batch statistics are averaged; None keeps them per replica.
      bn_momentum: share of the old running statistics kept at each step (PyTorch's 0.1 is 0.9 here).
      bn_epsilon: added to the variance.
      patches: whether fine stages are computed on images in patches, see `patches.py`.
      input_mean, input_std: the first convolution gets (image - input_mean) / input_std, for images in [0, 1].
    """

    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    patches: bool = False
    input_mean: float = 0.0
    input_std: float = 1.0

    def normalise(self, image: Array) -> Array:
        """`image` float [B, H, W, C] in [0, 1] -> the network's normalised input, in `dtype`."""
        return ((image - self.input_mean) / self.input_std).astype(self.dtype)


class Conv(nn.Module):
    """Convolution with explicit symmetric padding: sizes and values match PyTorch's at stride 2. `same`: TensorFlow's.

    A 1x1 convolution is computed as a matrix product of the same parameter. On CPU, XLA then trains the ResNet101 U-Net
    1.56x faster; accelerators show no difference.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    groups: int = 1
    use_bias: bool = True
    same: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, C_in]` -> `[B, ceil(H / stride), ceil(W / stride), features]`."""
        k, s = self.kernel_size, self.stride
        shape = (k, k, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", he_normal, shape, jnp.float32).astype(self.dtype)
        x = x.astype(self.dtype)
        if k == 1 and self.groups == 1:
            y = jnp.dot(window(x, stride=s), kernel[0, 0])
        elif (k, s, self.groups) == (3, 1, 1):
            y = conv3x3(x, kernel)
        else:
            y = jax.lax.conv_general_dilated(
                x,
                kernel,
                window_strides=(s, s),
                padding=same_padding(k, s)[1:3] if self.same else [(k // 2, k // 2)] * 2,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=self.groups,
            )
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
        return y


class DepthwiseConv(nn.Module):
    """k x k convolution of each channel by itself, no bias: `[B, H, W, C]` -> `[B, H / stride, W / stride, C]`.

    Padding is TensorFlow's 'SAME': k // 2 at stride 1, and one pixel less before the image than behind it at stride 2.
    """

    kernel_size: int = 3
    stride: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel_size, self.kernel_size, 1, x.shape[-1])
        kernel = self.param("kernel", he_normal, shape, jnp.float32).astype(self.dtype)
        return depthwise(x.astype(self.dtype), kernel, self.stride)


class TransposedConv3x3(nn.Module):
    """Transposed 3x3 convolution, stride 2, padding 1, output padding 1: `[B, H, W, C]` -> `[B, 2H, 2W, features]`.

    PyTorch's `ConvTranspose2d(C, features, 3, 2, 1, output_padding=1)`, kernel `[3, 3, C, features]`. In this sub-pixel
    form, each of the four output phases is a sum of one to four matrix products. The usual form convolves an image that
    is three quarters zeros (jax-ml/jax #23783).
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        kernel = self.param("kernel", he_normal, (3, 3, c, self.features), jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(self.dtype)
        padded = jnp.pad(x.astype(self.dtype), [(0, 0), (0, 1), (0, 1), (0, 0)])
        # Along one axis, output 2i is k[1] x[i]; output 2i + 1 is k[2] x[i] + k[0] x[i + 1].
        taps = (((1, 0),), ((2, 0), (0, 1)))
        rows = []
        for row in taps:
            phases = []
            for column in taps:
                pairs = ((y, x) for y in row for x in column)
                first, *others = (jnp.dot(window(padded, (i, j), (h, w)), kernel[ky, kx]) for (ky, i), (kx, j) in pairs)
                phases.append(sum(others, first))
            rows.append(jnp.stack(phases, axis=3))
        return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, self.features) + bias.reshape(1, 1, 1, -1)


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167), also of images in patches.

    Statistics, their mean over the devices (one exchange for both) and the normalisation are float32. Variables have
    the names of `flax.linen.BatchNorm`. The input is in patches of `patch`: the patch * patch phases of a channel share
    statistics and parameters.
    """

    numerics: Numerics
    train: bool
    patch: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, patch * patch * C]` -> the same shape, in the numerics's dtype."""
        phases = self.patch**2
        c = x.shape[-1] // phases
        scale = self.param("scale", nn.initializers.ones, (c,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (c,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (c,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (c,), jnp.float32)
        if not self.train:
            factor = scale * jax.lax.rsqrt(running_var.value + self.numerics.bn_epsilon)
            return affine(x, factor, bias - running_mean.value * factor, phases).astype(self.numerics.dtype)
        y, mean, var = batch_normalise(x, scale, bias, self.numerics.bn_epsilon, self.numerics.axis_name, phases)
        if not self.is_initializing():
            keep = self.numerics.bn_momentum
            running_mean.value = keep * running_mean.value + (1 - keep) * mean
            running_var.value = keep * running_var.value + (1 - keep) * var
        return y.astype(self.numerics.dtype)


class ImageAnswer(nn.Module):
    """One logit for the whole image, from the mean of its coarsest feature.

    `inside` is the index of a mask, such as the lung. With it, the logit comes from means over that predicted mask, of
    the two coarsest features: the coarsest one alone hardly resolves the mask. No gradient goes into the mask.
    """

    inside: int | None = None

    @nn.compact
    def __call__(self, features: list[Array], masks: Array) -> Array:
        """`features` `[B, h, w, C]`, finest first, and logits `masks` `[B, H, W, masks]` -> float32 `[B]`."""
        if self.inside is None:
            x = features[-1].astype(jnp.float32).mean(axis=(1, 2))
        else:
            logits = jax.lax.slice_in_dim(masks, self.inside, self.inside + 1, axis=3)
            share = jax.nn.sigmoid(jax.lax.stop_gradient(logits))
            x = jnp.concatenate([weighted_mean(feature, share) for feature in features[-2:]], axis=-1)
        return nn.Dense(1, name="fc")(x).reshape(masks.shape[0])


def weighted_mean(feature: Array, share: Array) -> Array:
    """`feature` `[B, h, w, C]`, weighed by the means of `share` `[B, H, W, 1]` over its pixels: float32 `[B, C]`."""
    b, h, w, _ = feature.shape
    share = share.reshape(b, h, share.shape[1] // h, w, share.shape[2] // w).mean(axis=(2, 4))[..., None]
    return (feature.astype(jnp.float32) * share).sum(axis=(1, 2)) / (share.sum(axis=(1, 2)) + 1e-6)


def batch_norm(numerics: Numerics, *, train: bool, name: str, patch: int = 1) -> BatchNorm:
    return BatchNorm(numerics, train, patch, name=name)


def check_divisible(image: Array, stride: int) -> None:
    """Raises UserError unless height and width of `image` [B, H, W, C] are multiples of `stride`."""
    h, w = image.shape[1:3]
    if h % stride or w % stride:
        raise UserError(
            f"The network needs height and width divisible by {stride}, but the image is {h}x{w}: "
            f"pad it to {-(-h // stride) * stride}x{-(-w // stride) * stride}."
        )
