"""Networks around others: the average over flipped images or over several runs, and some outputs.

They average probabilities, not logits, and return the logit of the mean. Their `apply` is that of `build.Forward`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxunet.models.build import Forward

Mean = Callable[[Array], Array]


def mean_logits(logits: Array) -> Array:
    """float32 [K, ...] -> [...]: the logit of the mean of K probabilities, finite for all finite logits."""
    yes, no = (jax.nn.logsumexp(jax.nn.log_sigmoid(x), axis=0) for x in (logits, -logits))
    return yes - no


def portable_mean_logits(logits: Array) -> Array:
    """The same within rounding, from operations that every runtime has; the result is within +-87."""
    yes, no = (jnp.log(jnp.maximum(jax.nn.sigmoid(x).mean(axis=0), 1e-38)) for x in (logits, -logits))
    return yes - no


@dataclasses.dataclass(frozen=True)
class Flipped:
    """The mean of `model` on the image and on its left-right mirror image. `mean` is one of the two above."""

    model: Forward
    mean: Mean = mean_logits

    def apply(self, variables: Any, image: Array, *, train: bool) -> dict[str, Array]:
        """float32 [B, H, W, 1] -> logits like those of `model`, with twice its work and memory."""
        both = jnp.concatenate([image, jnp.flip(image, 2)])
        result = {}
        for name, logits in self.model.apply(variables, both, train=train).items():
            straight, mirrored = jnp.split(logits, 2)
            mirrored = jnp.flip(mirrored, 2) if name == "masks" else mirrored
            result[name] = self.mean(jnp.stack([straight, mirrored]))
        return result


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """The mean of several networks on the same image.

    The variables are one tree: each collection, such as "params", is a tuple with one entry per network.
    """

    models: tuple[Forward, ...]
    mean: Mean = mean_logits

    def apply(self, variables: Any, image: Array, *, train: bool) -> dict[str, Array]:
        """float32 [B, H, W, 1] -> logits like those of each of the `models`."""
        members = [{name: trees[i] for name, trees in variables.items()} for i in range(len(self.models))]
        logits = [m.apply(v, image, train=train) for m, v in zip(self.models, members, strict=True)]
        return {name: self.mean(jnp.stack([x[name] for x in logits])) for name in logits[0]}


@dataclasses.dataclass(frozen=True)
class Selected:
    """Some of the masks of `model`, by index, and maybe its other outputs."""

    model: Forward
    masks: tuple[int, ...]
    others: bool

    def apply(self, variables: Any, image: Array, *, train: bool) -> dict[str, Array]:
        found = self.model.apply(variables, image, train=train)
        chosen = {"masks": found["masks"][..., jnp.array(self.masks)]}
        return (found if self.others else {}) | chosen
