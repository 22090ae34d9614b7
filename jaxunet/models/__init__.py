"""Networks: `build_model` turns `config.model` into a Flax module `image [B, H, W, 1] -> logits [B, H, W, classes]`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxunet.models.layers import Policy
from jaxunet.models.resnet_unet import ResNetUNet
from jaxunet.models.separable_unet import SeparableUNet
from jaxunet.models.unet import UNet

Network = nn.Module


def build_model(model: ConfigDict, *, classes: int, axis_name: str | None) -> Network:
    """The network that `config.model` describes.

    Args:
      model: the `model` section of the config.
      classes: number of masks to predict.
      axis_name: mapped axis to average batch statistics over, or None for per-replica statistics.
    """
    policy = Policy(
        dtype=compute_dtype(model.dtype),
        axis_name=axis_name,
        bn_momentum=model.bn_momentum,
        input_mean=model.input_mean,
        input_std=model.input_std,
    )
    if model.name == "unet":
        return UNet(classes=classes, channels=tuple(model.channels), patch=model.patch, policy=policy)
    if model.name == "resnet_unet":
        return ResNetUNet(classes=classes, depth=model.depth, policy=policy)
    if model.name == "separable_unet":
        return SeparableUNet(classes=classes, policy=policy)
    raise ValueError(f"unknown model {model.name!r}")


def compute_dtype(name: str) -> jnp.dtype:
    """`config.model.dtype` as a dtype; "auto" is bfloat16 except on CPUs, which emulate it slowly."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)
