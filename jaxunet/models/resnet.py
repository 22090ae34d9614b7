"""ResNet encoders (He et al. 2015, arXiv:1512.03385) that fit torchvision's weights.

As in torchvision, the 3x3 convolution of a bottleneck has the stride ("V1.5"), padding is explicit, and batch norm has
epsilon 1e-5. Modules have torchvision's names, with `_` for `.` before an index: `layer3_22/conv2/kernel` is
`layer3.22.conv2.weight`.
"""

import flax.linen as nn
from jax import Array

from jaxunet.models import layers, resampling
from jaxunet.models.layers import Conv, Numerics
from jaxunet.models.patches import PatchConv, max_pool_3x3_stride2_of_patches

# Depth -> blocks per stage. From depth 50 on, blocks are bottlenecks.
STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the identity: `[B, H, W, C]` -> `[B, H / stride, W / stride, features]`."""

    features: int
    stride: int
    numerics: Numerics

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        y = _conv_norm(x, self.features, 3, self.stride, 1, self.numerics, train=train)
        y = _conv_norm(nn.relu(y), self.features, 3, 1, 2, self.numerics, train=train)
        return nn.relu(y + _shortcut(x, self.features, self.stride, self.numerics, train=train))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and the identity: `[B, H, W, C]` -> `[B, H / stride, W / stride, 4 * features]`."""

    features: int
    stride: int
    numerics: Numerics

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        y = nn.relu(_conv_norm(x, self.features, 1, 1, 1, self.numerics, train=train))
        y = nn.relu(_conv_norm(y, self.features, 3, self.stride, 2, self.numerics, train=train))
        y = _conv_norm(y, 4 * self.features, 1, 1, 3, self.numerics, train=train)
        return nn.relu(y + _shortcut(x, 4 * self.features, self.stride, self.numerics, train=train))


def _conv_norm(x: Array, features: int, kernel: int, stride: int, i: int, numerics: Numerics, *, train: bool) -> Array:
    """Convolution `conv<i>` and batch norm `bn<i>`. Call it inside a compact method."""
    x = Conv(features, kernel, stride, use_bias=False, dtype=numerics.dtype, name=f"conv{i}")(x)
    return layers.BatchNorm(numerics, train, name=f"bn{i}")(x)


def _shortcut(x: Array, features: int, stride: int, numerics: Numerics, *, train: bool) -> Array:
    if stride == 1 and x.shape[-1] == features:
        return x
    x = Conv(features, 1, stride, use_bias=False, dtype=numerics.dtype, name="downsample_0")(x)
    return layers.BatchNorm(numerics, train, name="downsample_1")(x)


class ResNetEncoder(nn.Module):
    """`[B, H, W, C]` -> features of strides 2, 4, 8, 16, 32, finest first; of 64, 64, 128, 256, 512 channels, or of 64,
    256, 512, 1024, 2048 with bottlenecks. With `numerics.patches`, the finest feature is in patches of 2."""

    depth: int
    numerics: Numerics

    @nn.compact
    def __call__(self, image: Array, *, train: bool) -> list[Array]:
        block = Bottleneck if self.depth >= 50 else BasicBlock
        x = self.numerics.normalise(image)
        if self.numerics.patches:
            x = resampling.space_to_depth(x, 4)
            x = PatchConv(64, kernel_size=7, stride=2, patch=2, dtype=self.numerics.dtype, name="conv1")(x)
            x = nn.relu(layers.BatchNorm(self.numerics, train, 2, name="bn1")(x))
        else:
            x = nn.relu(_conv_norm(x, 64, 7, 2, 1, self.numerics, train=train))
        features = [x]
        x = max_pool_3x3_stride2_of_patches(x, 64) if self.numerics.patches else resampling.max_pool_3x3_stride2(x)
        for stage, blocks in enumerate(STAGES[self.depth]):
            for i in range(blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                x = block(64 * 2**stage, stride, self.numerics, name=f"layer{stage + 1}_{i}")(x, train=train)
            features.append(x)
        return features
