"""Which example is seen at which step: a function of (seed, step) alone.

The examples seen by a run are the concatenation of one permutation per epoch, f(seed, epoch); step s takes positions
[s * B, (s + 1) * B) of it, B being the global batch. No example is dropped or repeated within an epoch, and nothing
random is stored.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def epoch_order(seed: int, epoch: Array | int, num_examples: int) -> Array:
    """int32 [num_examples]: the permutation of epoch `epoch`; integer arithmetic, the same on every backend."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), epoch)
    return jax.random.permutation(key, num_examples)


def example_keys(seed: int, positions: Array) -> Array:
    """[B] augmentation keys for positions int32 [B] of the example stream."""
    key = jax.random.fold_in(jax.random.key(seed), 2)
    return jax.vmap(lambda position: jax.random.fold_in(key, position))(positions)


def order_of_epochs(seed: int, first_epoch: Array | int, epochs: int, num_examples: int) -> Array:
    """int32 [epochs * num_examples]: `epochs` consecutive permutations, concatenated."""
    orders = [epoch_order(seed, first_epoch + e, num_examples) for e in range(epochs)]
    return jnp.concatenate(orders)


def examples_of_step(seed: int, step: int, *, batch_size: int, num_examples: int) -> np.ndarray:
    """int64 [batch_size]: the numbers of the examples that step `step` trains on, on the host."""
    positions = step * batch_size + np.arange(batch_size)
    first = int(positions[0]) // num_examples
    epochs = int(positions[-1]) // num_examples - first + 1
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        order = np.asarray(order_of_epochs(seed, first, epochs, num_examples))
    return order[positions - first * num_examples]
