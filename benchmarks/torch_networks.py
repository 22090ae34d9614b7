"""The two networks in PyTorch, as a reference for timing. Modules have the names that our exported weights use."""

import torch
from torch import nn

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or inputs != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Encoder(nn.Module):
    def __init__(self, depth: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for stage, blocks in enumerate(STAGES[depth]):
            layers = []
            for i in range(blocks):
                layers.append(Bottleneck(inputs, 64 * 2**stage, 2 if stage and i == 0 else 1))
                inputs = 4 * 64 * 2**stage
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        features = [self.relu(self.bn1(self.conv1(x)))]
        x = self.maxpool(features[0])
        for stage in range(4):
            x = getattr(self, f"layer{stage + 1}")(x)
            features.append(x)
        return features


class DecoderBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        )
        self.conv2 = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        )

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None) -> torch.Tensor:
        x = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.conv2(self.conv1(x if skip is None else torch.cat([x, skip], dim=1)))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        inputs = (2048 + 1024, 256 + 512, 128 + 256, 64 + 64, 32)
        self.blocks = nn.ModuleList(DecoderBlock(i, o) for i, o in zip(inputs, (256, 128, 64, 32, 16), strict=True))

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        x, *skips = reversed(features)
        for block, skip in zip(self.blocks, [*skips, None], strict=True):
            x = block(x, skip)
        return x


class ResNetUNet(nn.Module):
    """`segmentation_models_pytorch.Unet` with an encoder of 50 layers or more and one input channel."""

    def __init__(self, depth: int = 101, classes: int = 1):
        super().__init__()
        self.encoder, self.decoder = Encoder(depth), Decoder()
        self.segmentation_head = nn.Sequential(nn.Conv2d(16, classes, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.segmentation_head(self.decoder(self.encoder(x)))


class Separable(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, 1, 1, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise(self.depthwise(x))


class Triple(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.triple = nn.Sequential(
            *(m for _ in range(3) for m in (nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.ReLU(inplace=True)))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.triple(x)


def separable_block(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(Separable(inputs, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True), Triple(width))


class SeparableUNet(nn.Module):
    """The network of the original study."""

    def __init__(self) -> None:
        super().__init__()
        widths = (64, 128, 256, 512, 1024)
        self.layer1 = nn.Sequential(
            nn.Conv2d(1, 64, 3, 1, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, 64, 3, 1, 1, bias=False),
            nn.ReLU(inplace=True),
        )
        for i, (inputs, width) in enumerate(zip(widths, widths[1:], strict=False), 2):
            setattr(self, f"layer{i}", separable_block(inputs, width))
        for i, width in enumerate(reversed(widths[:-1]), 1):
            setattr(self, f"up{i}", nn.ConvTranspose2d(2 * width, width, 3, 2, 1, output_padding=1))
            if i < 4:
                setattr(self, f"layer{i + 5}", separable_block(2 * width, width))
        self.final = nn.Sequential(
            nn.Conv2d(128, 64, 3, 1, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, 32, 3, 1, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 1, 3, 1, 1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [self.layer1(x)]
        for i in range(2, 6):
            features.append(getattr(self, f"layer{i}")(nn.functional.max_pool2d(features[-1], 2)))
        x = features.pop()
        for i in range(1, 5):
            x = torch.cat([features.pop(), getattr(self, f"up{i}")(x)], dim=1)
            if i < 4:
                x = getattr(self, f"layer{i + 5}")(x)
        return self.final(x)
