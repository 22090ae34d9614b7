"""The training state: one pytree with everything that a step changes and a checkpoint holds."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array

from jaxunet.models.build import Network


@struct.dataclass
class TrainState:
    """One logical copy, for any number of devices.

    Attributes:
      step: int32 [], optimizer steps done.
      params: float32 parameters.
      batch_stats: float32 running statistics of batch normalisation; empty for a network without it.
      opt_state: state of the Optax transformation.
      ema_params, ema_batch_stats: exponential moving averages; None if `train.ema_decay` is 0. The statistics are
        averaged too: averaged weights with statistics of the last steps score far worse in mid-run.
    """

    step: Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema_params: Any
    ema_batch_stats: Any

    def eval_variables(self) -> dict[str, Any]:
        """The variables to predict with: the averages if they are kept."""
        if self.ema_params is None:
            return {"params": self.params, "batch_stats": self.batch_stats}
        return {"params": self.ema_params, "batch_stats": self.ema_batch_stats}


def create_train_state(
    model: Network, tx: optax.GradientTransformation, *, seed: int, image_shape: tuple[int, int, int], ema: bool
) -> TrainState:
    """The initial state; it depends on the seed alone. `image_shape`: (H, W, C)."""

    def init(key: Array) -> TrainState:
        variables = model.init(key, jnp.zeros((1, *image_shape), jnp.float32), train=False)
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=batch_stats,
            opt_state=tx.init(params),
            ema_params=params if ema else None,
            ema_batch_stats=batch_stats if ema else None,
        )

    # jit gives every output its own buffer. Without it, averages and weights would share buffers, and donation fails.
    return jax.jit(init)(jax.random.key(seed))
