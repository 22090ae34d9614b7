"""The order of examples: which ones a step trains on is a function of (seed, step) alone.

The example stream is one permutation per epoch, f(seed, epoch), one after the other. Step s takes its positions
[s * B, (s + 1) * B), where B is the global batch size. An epoch holds every example once. Nothing random is stored.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def epoch_order(seed: int, epoch: Array | int, num_examples: int) -> Array:
    """int32 [num_examples]: the permutation of `epoch`. It is integer arithmetic, the same on every backend."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), epoch)
    return jax.random.permutation(key, num_examples)


def example_keys(seed: int, positions: Array) -> Array:
    """[B] augmentation keys of the positions int32 [B] in the example stream."""
    key = jax.random.fold_in(jax.random.key(seed), 2)
    return jax.vmap(lambda position: jax.random.fold_in(key, position))(positions)


def order_of_epochs(seed: int, first_epoch: Array | int, epochs: int, num_examples: int) -> Array:
    """int32 [epochs * num_examples]: `epochs` consecutive permutations, concatenated."""
    return jnp.concatenate([epoch_order(seed, first_epoch + e, num_examples) for e in range(epochs)])


def examples_of_step(seed: int, step: int, *, batch_size: int, num_examples: int) -> np.ndarray:
    """int32 [batch_size]: indices of the examples that step `step` trains on, computed on the host."""
    positions = step * batch_size + np.arange(batch_size)
    first = int(positions[0]) // num_examples
    epochs = int(positions[-1]) // num_examples - first + 1
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        order = np.asarray(order_of_epochs(seed, first, epochs, num_examples))
    return order[positions - first * num_examples]
