"""The original study's own network: a U-Net of depthwise-separable convolutions, 54,703,584 parameters.

From its published code (github.com/NianzhenGu/Covid-19-Infection-Area-Localization-on-Chest-X-Ray-Images, class
`u_shape`), written anew. Modules are named after the layers of its state dict, see `torch_weights.py`.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jaxunet.models import layers, resampling
from jaxunet.models.layers import Conv, Numerics

CHANNELS = (64, 128, 256, 512, 1024)


class SeparableBlock(nn.Module):
    """Depthwise 3x3, pointwise, batch norm, ReLU, then 3 times (3x3 convolution, ReLU): C -> `features` channels."""

    features: int
    numerics: Numerics

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        dtype = self.numerics.dtype
        x = layers.DepthwiseConv(dtype=dtype, name="depthwise")(x)
        x = Conv(self.features, 1, use_bias=False, dtype=dtype, name="pointwise")(x)
        x = nn.relu(layers.BatchNorm(self.numerics, train, name="bn")(x))
        for i in (0, 2, 4):
            x = nn.relu(Conv(self.features, use_bias=False, dtype=dtype, name=f"triple_{i}")(x))
        return x


class SeparableUNetEncoder(nn.Module):
    """`[B, H, W, C]` -> features of strides 1, 2, 4, 8, 16 and 64, 128, 256, 512, 1024 channels."""

    numerics: Numerics

    @nn.compact
    def __call__(self, image: Array, *, train: bool) -> list[Array]:
        x = self.numerics.normalise(image)
        for i in (0, 2):
            x = nn.relu(Conv(CHANNELS[0], use_bias=False, dtype=self.numerics.dtype, name=f"layer1_{i}")(x))
        features = [x]
        for level, width in enumerate(CHANNELS[1:], 2):
            x = SeparableBlock(width, self.numerics, name=f"layer{level}")(resampling.max_pool_2x(x), train=train)
            features.append(x)
        return features


class SeparableUNetDecoder(nn.Module):
    """Transposed convolution, concatenation (skip, upsampled), block. The full resolution has no block."""

    numerics: Numerics

    @nn.compact
    def __call__(self, features: list[Array], *, train: bool) -> Array:
        x, *skips = reversed(features)
        for i, skip in enumerate(skips, 1):
            up = layers.TransposedConv3x3(skip.shape[-1], dtype=self.numerics.dtype, name=f"up{i}")
            x = jnp.concatenate([skip, up(x)], axis=-1)
            if i < len(skips):
                x = SeparableBlock(skip.shape[-1], self.numerics, name=f"layer{i + 5}")(x, train=train)
        return x


class SeparableUNet(nn.Module):
    """The network of the original study, which predicts one mask. Attributes as in `UNet`."""

    masks: int
    numerics: Numerics

    @nn.compact
    def __call__(self, image: Array, *, train: bool) -> dict[str, Array]:
        """`image` float [B, H, W, C] in [0, 1] -> logits: `masks` float32 [B, H, W, masks]."""
        layers.check_divisible(image, 16)
        features = SeparableUNetEncoder(self.numerics, name="encoder")(image, train=train)
        x = SeparableUNetDecoder(self.numerics, name="decoder")(features, train=train)
        x = nn.relu(Conv(64, use_bias=False, dtype=self.numerics.dtype, name="final_0")(x))
        x = nn.relu(Conv(32, use_bias=False, dtype=self.numerics.dtype, name="final_2")(x))
        return {"masks": Conv(self.masks, use_bias=False, name="final_4")(x.astype(jnp.float32))}


def torch_modules(modules: list[str]) -> list[str]:
    """Names of our modules -> names in the original."""
    inside = {"depthwise": "0.depthwise", "pointwise": "0.pointwise", "bn": "1"}
    flat = [m for m in modules if m not in ("encoder", "decoder")]
    return [inside.get(m, f"3.{m}" if m.startswith("triple") else m) for m in flat]
