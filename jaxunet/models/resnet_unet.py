"""U-Net with a ResNet encoder, parameter for parameter `segmentation_models_pytorch.Unet("resnet101")`."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jaxunet.models import layers
from jaxunet.models.layers import Conv, Policy
from jaxunet.models.resnet import ResNetEncoder

DECODER_CHANNELS = (256, 128, 64, 32, 16)


class DecoderBlock(nn.Module):
    """Nearest upsampling, concatenation (upsampled, skip), two 3x3 convolutions with batch norm and ReLU.

    `[B, H, W, C]` and a skip `[B, 2H, 2W, S]` or None -> `[B, 2H, 2W, features]`.
    """

    features: int
    policy: Policy

    @nn.compact
    def __call__(self, x: Array, skip: Array | None, *, train: bool) -> Array:
        x = layers.upsample_nearest_2x(x)
        if skip is not None:
            x = jnp.concatenate([x, skip], axis=-1)
        for i in (1, 2):
            x = Conv(self.features, use_bias=False, dtype=self.policy.dtype, name=f"conv{i}")(x)
            x = nn.relu(layers.batch_norm(self.policy, train=train, name=f"bn{i}")(x))
        return x


class Decoder(nn.Module):
    """Features of strides 2 to 32, all used -> `[B, H, W, 16]` at stride 1."""

    policy: Policy

    @nn.compact
    def __call__(self, features: list[Array], *, train: bool) -> Array:
        x, *skips = reversed(features)
        for i, (width, skip) in enumerate(zip(DECODER_CHANNELS, [*skips, None], strict=True)):
            x = DecoderBlock(width, self.policy, name=f"blocks_{i}")(x, skip, train=train)
        return x


class ResNetUNet(nn.Module):
    """The baseline of the original study.

    Attributes:
      classes: number of masks predicted, one logit each.
      depth: of the ResNet: 18, 34, 50, 101 or 152.
      policy: precision and normalisation.
    """

    classes: int
    depth: int
    policy: Policy

    @property
    def stride(self) -> int:
        """Height and width of the image must be multiples of this."""
        return 32

    @nn.compact
    def __call__(self, image: Array, *, train: bool) -> Array:
        """`image` float [B, H, W, C] in [0, 1] -> logits float32 [B, H, W, classes]."""
        layers.check_divisible(image, self.stride)
        features = ResNetEncoder(self.depth, self.policy, name="encoder")(image, train=train)
        x = Decoder(self.policy, name="decoder")(features, train=train)
        return Conv(self.classes, name="head")(x)
