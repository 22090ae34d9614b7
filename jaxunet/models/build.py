"""Networks: `build_model` turns `config.model` into a Flax module `image [B, H, W, 1] -> logits [B, H, W, C]`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from jaxunet.data.targets import COVID19, mask_targets
from jaxunet.models.layers import Policy
from jaxunet.models.resnet import ResNetEncoder
from jaxunet.models.resnet_unet import ResNetUNet
from jaxunet.models.separable_unet import SeparableUNet, SeparableUNetEncoder
from jaxunet.models.unet import UNet, UNetEncoder

Network = nn.Module


def build_model(model: ConfigDict, targets: Sequence[str], *, axis_name: str | None) -> Network:
    """The network that `config.model` describes.

    Args:
      model: the `model` section of the config.
      targets: what the C logits stand for, `config.dataset.targets`: masks, and maybe, as the last, "covid19", whose
        logit answers for the whole image and is the same in all its pixels.
      axis_name: mapped axis to average batch statistics over, or None for per-replica statistics.
    """
    policy, masks, covid19 = _policy(model, axis_name), len(mask_targets(targets)), COVID19 in targets
    if model.name == "unet":
        return UNet(masks, tuple(model.channels), model.stem, policy, covid19)
    if model.name == "resnet_unet":
        return ResNetUNet(masks, model.depth, policy, covid19)
    if model.name == "separable_unet":
        return SeparableUNet(masks, policy)
    raise ValueError(f"unknown model {model.name!r}")


class Classifier(nn.Module):
    """Encoder, mean of its coarsest feature, linear head `fc`: `[B, H, W, C]` -> logits float32 [B, classes]."""

    classes: int
    encoder: nn.Module

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        x = self.encoder(image, train=train)[-1]
        return nn.Dense(self.classes, name="fc")(x.astype(jnp.float32).mean(axis=(1, 2)))


def build_classifier(model: ConfigDict, *, classes: int, axis_name: str | None) -> Network:
    """The encoder of the network that `config.model` describes, with a head for `classes` classes of whole images."""
    policy = _policy(model, axis_name)
    if model.name == "unet":
        return Classifier(classes, UNetEncoder(tuple(model.channels), model.stem, policy))
    if model.name == "resnet_unet":
        return Classifier(classes, ResNetEncoder(model.depth, policy))
    if model.name == "separable_unet":
        return Classifier(classes, SeparableUNetEncoder(policy))
    raise ValueError(f"unknown model {model.name!r}")


def without_patches(model: Network) -> Network:
    """The same network computed plainly; same parameters, same values."""
    if isinstance(model, Classifier):
        return model.clone(encoder=without_patches(model.encoder))
    return model.clone(policy=dataclasses.replace(model.policy, patches=False))


def _policy(model: ConfigDict, axis_name: str | None) -> Policy:
    return Policy(
        dtype=compute_dtype(model.dtype),
        axis_name=axis_name,
        bn_momentum=model.bn_momentum,
        patches=model.layout == "patches" or (model.layout == "auto" and jax.default_backend() != "cpu"),
        input_mean=model.input_mean,
        input_std=model.input_std,
    )


def compute_dtype(name: str) -> jnp.dtype:
    """`config.model.dtype` as a dtype; "auto" is bfloat16 except on CPUs, which emulate it slowly."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def predict_step(variables: Any, image: Array, *, model: Network) -> Array:
    """`image` float32 [B, H, W, 1] in [0, 1] -> logits float32 [B, H, W, C] or [B, C], running statistics."""
    return model.apply(variables, image, train=False)
