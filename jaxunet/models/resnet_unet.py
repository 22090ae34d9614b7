"""U-Net with a ResNet encoder, parameter for parameter `segmentation_models_pytorch.Unet("resnet101")`."""

import functools

import flax.linen as nn
from jax import Array

from jaxunet.models import layers, resampling
from jaxunet.models.layers import Conv, Numerics
from jaxunet.models.patches import PatchConv, UpsampleConcatConv
from jaxunet.models.resnet import ResNetEncoder

DECODER_CHANNELS = (256, 128, 64, 32, 16)


class DecoderBlock(nn.Module):
    """Nearest upsampling, concatenation (upsampled, skip), two 3x3 convolutions with batch norm and ReLU.

    `[B, H, W, C]` and a skip `[B, 2H, 2W, S]` or None -> `[B, 2H, 2W, features]`. With `patch` > 1, skip and result are
    in patches of `patch`, and the input in patches of half that size.
    """

    features: int
    patch: int
    numerics: Numerics

    @nn.compact
    def __call__(self, x: Array, skip: Array | None, *, train: bool) -> Array:
        dtype = self.numerics.dtype
        norm = functools.partial(layers.BatchNorm, self.numerics, train, self.patch)
        x = UpsampleConcatConv(self.features, patch=self.patch, dtype=dtype, name="conv1")(x, skip)
        x = nn.relu(norm(name="bn1")(x))
        if self.patch > 1:
            x = PatchConv(self.features, patch=self.patch, dtype=dtype, name="conv2")(x)
        else:
            x = Conv(self.features, use_bias=False, dtype=dtype, name="conv2")(x)
        return nn.relu(norm(name="bn2")(x))


class Decoder(nn.Module):
    """Features of strides 2 to 32 -> `[B, H, W, 16]` at stride 1, in patches of `patches[-1]`."""

    patches: tuple[int, ...]
    numerics: Numerics

    @nn.compact
    def __call__(self, features: list[Array], *, train: bool) -> Array:
        x, *skips = reversed(features)
        for i, (width, patch, skip) in enumerate(zip(DECODER_CHANNELS, self.patches, [*skips, None], strict=True)):
            x = DecoderBlock(width, patch, self.numerics, name=f"blocks_{i}")(x, skip, train=train)
        return x


class ResNetUNet(nn.Module):
    """The baseline of the original study, with a ResNet of `depth` 18, 34, 50, 101 or 152; the rest is as in `UNet`."""

    masks: int
    depth: int
    numerics: Numerics
    covid19: bool = False
    answer_inside: int | None = None

    @nn.compact
    def __call__(self, image: Array, *, train: bool) -> dict[str, Array]:
        """`image` float [B, H, W, C] in [0, 1] -> logits: `masks` float32 [B, H, W, masks], `covid19` float32 [B]."""
        layers.check_divisible(image, 32)
        features = ResNetEncoder(self.depth, self.numerics, name="encoder")(image, train=train)
        patches = (1, 1, 1, 2, 4) if self.numerics.patches else (1, 1, 1, 1, 1)
        x = Decoder(patches, self.numerics, name="decoder")(features, train=train)
        if patches[-1] == 1:
            logits = Conv(self.masks, name="head")(x)
        else:
            logits = PatchConv(self.masks, patch=patches[-1], use_bias=True, name="head")(x)
            logits = resampling.depth_to_space(logits, patches[-1])
        outputs = {"masks": logits}
        if self.covid19:
            outputs["covid19"] = layers.ImageAnswer(self.answer_inside, name="covid19")(features, outputs["masks"])
        return outputs


def torch_modules(modules: list[str]) -> list[str]:
    """Names of our modules -> names in segmentation_models_pytorch, where conv1.1 is the norm of conv1.0."""
    if modules[0] == "decoder":
        kind, i = modules[-1][:-1], modules[-1][-1]
        return [*modules[:-1], f"conv{i}.{0 if kind == 'conv' else 1}"]
    return ["segmentation_head", "0"] if modules[0] == "head" else modules
