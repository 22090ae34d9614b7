"""Builds the learning-rate schedule and the Optax optimizer. Only here are durations turned into steps."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jaxunet.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Durations:
    """Length of a run in optimizer steps, each of one global batch."""

    total_steps: int
    steps_per_epoch: float


def durations(train: ConfigDict, num_examples: int) -> Durations:
    """Turns `total_epochs` or `total_steps`, whichever is set, into steps; an epoch is every training image once.
    Raises UserError if positions in the example stream exceed 32 bits."""
    steps_per_epoch = num_examples / train.batch_size
    total = train.total_steps or math.ceil(train.total_epochs * steps_per_epoch)
    if (total + 1) * train.batch_size >= 2**31:
        raise UserError(
            f"{total} steps of config.train.batch_size={train.batch_size} are more than 2^31 images: train on fewer."
        )
    return Durations(total_steps=total, steps_per_epoch=steps_per_epoch)


def build_schedule(optimizer: ConfigDict, length: Durations) -> optax.Schedule:
    """Step -> learning rate: linear warm-up from zero, then constant, staircase or cosine decay.

    The staircase multiplies the rate by `decay_factor` every `decay_epochs` epochs (the original study: 0.5 every 50).
    """
    peak = optimizer.learning_rate
    warmup = optimizer.warmup_epochs * length.steps_per_epoch

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        if optimizer.schedule == "cosine":
            done = jnp.clip((step - warmup) / max(length.total_steps - warmup, 1), 0.0, 1.0)
            end = optimizer.final_fraction
            rate = peak * (end + (1 - end) * 0.5 * (1 + jnp.cos(jnp.pi * done)))
        elif optimizer.schedule == "step":
            drops = jnp.floor(step / (optimizer.decay_epochs * length.steps_per_epoch))
            rate = peak * optimizer.decay_factor**drops
        else:
            rate = jnp.full((), peak, jnp.float32)
        # (step + 1): the first step of a warm-up must not have rate zero.
        return rate * jnp.minimum(1.0, (step + 1) / max(warmup, 1.0))

    return schedule


def build_optimizer(optimizer: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Global-norm clipping, then Adam, AdamW or SGD with momentum. Weight decay applies to kernels only.

    `encoder_rate` multiplies the encoder's updates at the end, and so its learning rate; 0 freezes the encoder.
    """
    steps = [optax.clip_by_global_norm(optimizer.clip_norm)] if optimizer.clip_norm else []
    if optimizer.name == "sgd":
        if optimizer.weight_decay:
            steps.append(optax.add_decayed_weights(optimizer.weight_decay, mask=is_kernel))
        steps.append(optax.sgd(schedule, momentum=optimizer.momentum, nesterov=optimizer.nesterov))
    elif optimizer.name == "adamw":
        steps.append(
            optax.adamw(schedule, optimizer.beta1, optimizer.beta2, weight_decay=optimizer.weight_decay, mask=is_kernel)
        )
    else:
        steps.append(optax.adam(schedule, optimizer.beta1, optimizer.beta2))
    if optimizer.encoder_rate != 1.0:
        steps.append(optax.masked(optax.scale(optimizer.encoder_rate), is_encoder))
    return optax.chain(*steps)


def is_encoder(params: optax.Params) -> optax.Params:
    """True for all parameters of the module `encoder`, which every network has."""
    return {name: jax.tree.map(lambda _, e=name == "encoder": e, tree) for name, tree in params.items()}


def is_kernel(params: optax.Params) -> optax.Params:
    """True for arrays of two or more dimensions: biases and normalisation scales are not kernels."""
    return jax.tree.map(lambda p: p.ndim > 1, params)
