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
from jaxunet.models import resnet_unet, separable_unet
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
class Architecture:
    """A row of `NETWORKS`. `model` is the `model` section of a config; `numerics` sets precision and normalisation.

    Attributes:
      build: (model, number of masks, numerics, more) -> the network. With the target "covid19", `more` is
        `{"covid19": True}`.
      encoder: (model, numerics) -> its encoder alone, for pretraining on classes.
      words: model -> its name on a model card.
      answers_image: whether it can have the output "covid19".
      torch_modules: names of its modules -> names in the PyTorch network; None if there is none.
    """

    build: Callable[..., Network]
    encoder: Callable[[ConfigDict, Numerics], Network]
    words: Callable[[ConfigDict], str]
    answers_image: bool = False
    torch_modules: Callable[[list[str]], list[str]] | None = None


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
    ),
    "separable_unet": Architecture(
        lambda model, masks, numerics: SeparableUNet(masks, numerics),
        lambda model, numerics: SeparableUNetEncoder(numerics),
        words=lambda model: "U-Net of depthwise-separable convolutions",
        torch_modules=separable_unet.torch_modules,
    ),
}


def build_model(model: ConfigDict, targets: Sequence[str], *, axis_name: str | None) -> Network:
    """The network that `config.model` describes.

    Args:
      model: the `model` section of the config.
      targets: `config.dataset.targets`: the masks of the C logits, and maybe "covid19".
      axis_name: mapped axis to average batch statistics over; None for statistics per replica.
    """
    more = {"covid19": True} if answers_covid19(targets) else {}
    return NETWORKS[model.name].build(model, len(mask_targets(targets)), _numerics(model, axis_name), **more)


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
