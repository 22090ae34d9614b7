"""Everything that training changes, as one pytree: what a checkpoint holds and a step maps to its successor."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array

from jaxunet.models.build import Network


@struct.dataclass
class TrainState:
    """One logical copy, whatever the number of devices.

    Attributes:
      step: int32 [], optimizer steps done.
      params: float32 parameters.
      batch_stats: float32 running statistics of batch normalisation; empty for a network without.
      opt_state: of the Optax transformation.
      ema_params, ema_batch_stats: exponential moving averages, None when `train.ema_decay` is 0. The statistics are
        averaged with the weights: averaged weights with un-averaged statistics score far worse in mid-run.
    """

    step: Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema_params: Any
    ema_batch_stats: Any

    def eval_variables(self) -> dict[str, Any]:
        """The variables to predict with: the averages where they are kept."""
        if self.ema_params is None:
            return {"params": self.params, "batch_stats": self.batch_stats}
        return {"params": self.ema_params, "batch_stats": self.ema_batch_stats}


def create_train_state(
    model: Network, tx: optax.GradientTransformation, *, seed: int, image_shape: tuple[int, int, int], ema: bool
) -> TrainState:
    """Initial state, a function of the seed alone. `image_shape` is (H, W, C)."""

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

    # jit gives every output its own buffer: donating a state whose average aliases its weights would delete both.
    return jax.jit(init)(jax.random.key(seed))
