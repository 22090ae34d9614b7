"""Plain U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with batch normalisation and a space-to-depth stem.

The encoder returns one feature per stride. The decoder uses all of them.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jaxunet.models import layers, resampling
from jaxunet.models.layers import Conv, Numerics


class DoubleConv(nn.Module):
    """Twice (3x3 convolution, batch norm, ReLU): `[B, H, W, C]` -> `[B, H, W, features]`."""

    features: int
    numerics: Numerics

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        for i in (1, 2):
            x = Conv(self.features, use_bias=False, dtype=self.numerics.dtype, name=f"conv{i}")(x)
            x = nn.relu(layers.batch_norm(self.numerics, train=train, name=f"bn{i}")(x))
        return x


class UNetEncoder(nn.Module):
    """One `DoubleConv` per level, max-pooling between them.

    `[B, H, W, C]` -> list of features, finest first: level i has stride `stem * 2**i` and `channels[i]` channels.
    """

    channels: tuple[int, ...]
    stem: int
    numerics: Numerics

    @nn.compact
    def __call__(self, image: Array, *, train: bool) -> list[Array]:
        x = resampling.space_to_depth(self.numerics.normalise(image), self.stem)
        features = []
        for i, width in enumerate(self.channels):
            if i > 0:
                x = resampling.max_pool_2x(x)
            x = DoubleConv(width, self.numerics, name=f"level{i + 1}")(x, train=train)
            features.append(x)
        return features


class UNetDecoder(nn.Module):
    """Upsamples the coarsest feature step by step, and concatenates the encoder's feature of the same stride.

    Features, finest first -> `[B, H, W, channels[0]]` of the finest one's size; `channels[i]` is the width of level i.
    """

    channels: tuple[int, ...]
    numerics: Numerics

    @nn.compact
    def __call__(self, features: list[Array], *, train: bool) -> Array:
        x = features[-1]
        for i, (skip, width) in reversed(list(enumerate(zip(features[:-1], self.channels, strict=True)))):
            x = jnp.concatenate([skip, resampling.upsample_bilinear_2x(x)], axis=-1)
            x = DoubleConv(width, self.numerics, name=f"level{i + 1}")(x, train=train)
        return x


class UNet(nn.Module):
    """U-Net whose finest level works on `stem` x `stem` pixels at a time.

    With `stem=1` it is the textbook network. A larger stem moves pixels into channels (space-to-depth) before the first
    convolution and back after the last (sub-pixel head). This avoids the full-resolution maps, which cost most of the
    time and memory traffic. The output still has the input's resolution.

    Attributes:
      masks: number of predicted masks, one logit each.
      channels: width of each level, finest first; one level per entry.
      stem: 1, 2 or 4.
      numerics: precision and normalisation.
      covid19: whether it also has the output "covid19" (`layers.ImageAnswer`).
      answer_inside: index of the mask within which that answer is formed; None for the whole image.
    """

    masks: int
    channels: tuple[int, ...]
    stem: int
    numerics: Numerics
    covid19: bool = False
    answer_inside: int | None = None

    @property
    def stride(self) -> int:
        """Height and width of the image must be multiples of it."""
        return self.stem * 2 ** (len(self.channels) - 1)

    @nn.compact
    def __call__(self, image: Array, *, train: bool) -> dict[str, Array]:
        """`image` float [B, H, W, C] in [0, 1] -> logits: `masks` float32 [B, H, W, masks], `covid19` float32 [B]."""
        layers.check_divisible(image, self.stride)
        features = UNetEncoder(self.channels, self.stem, self.numerics, name="encoder")(image, train=train)
        x = UNetDecoder(self.channels[:-1], self.numerics, name="decoder")(features, train=train)
        # The head runs in float32: logits and the loss never see bfloat16 rounding.
        logits = Conv(self.masks * self.stem**2, kernel_size=1, name="head")(x)
        outputs = {"masks": resampling.depth_to_space(logits, self.stem)}
        if self.covid19:
            outputs["covid19"] = layers.ImageAnswer(self.answer_inside, name="covid19")(features, outputs["masks"])
        return outputs
