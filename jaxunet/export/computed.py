"""The function inside an exported file: from the pixels of X-rays to probabilities and masks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxunet.data import batches
from jaxunet.models.build import predict_step
from jaxunet.prediction.predictor import Predictor
from jaxunet.scoring.counts import positive


def function_of(source: Predictor) -> Callable[[Array], dict[str, Array]]:
    """A function, with the weights inside, of `image` uint8 [B, S, S]. It returns `probability` float32, `mask` uint8
    {0, 1}, both [B, S, S, C], and `covid19` float32 [B] if the network answers for the whole image."""
    logits = logits_of(source)
    return lambda image: from_logits(logits(image), source)


def logits_of(source: Predictor) -> Callable[[Array], dict[str, Array]]:
    """The same function, up to the logits of the network: `masks` float32 [B, S, S, C], `covid19` float32 [B]."""
    variables = jax.device_get(source.variables)
    return lambda image: predict_step(variables, batches.decode_image({"image": image}), model=source.model)


def from_logits(logits: Any, source: Predictor) -> dict[str, Array]:
    """The outputs of `function_of` from the `logits` of a network, see `Predictor.outputs`."""
    probability = {name: jax.nn.sigmoid(x) for name, x in logits.items()}
    mask = positive(logits["masks"], source.threshold).astype(jnp.uint8)
    return {"mask": mask, "probability": probability.pop("masks"), **probability}
