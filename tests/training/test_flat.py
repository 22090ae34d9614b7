"""The flat form of the training state, in which GPUs update it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunet.models.build import build_model
from jaxunet.scoring.counts import batch_dice
from jaxunet.scoring.losses import build_loss
from jaxunet.training import flat
from jaxunet.training.optimizer import build_optimizer, is_kernel
from jaxunet.training.state import create_train_state
from jaxunet.training.step import train_step


@pytest.mark.parametrize(
    "change",
    [{}, {"optimizer.encoder_rate": 0.1, "optimizer.name": "sgd"}, {"train.ema_decay": 0.0}],
    ids=["adamw", "sgd", "no averages"],
)
def test_a_flat_step_equals_the_usual_one(change, config):
    """The same next state and metrics, to the rounding of the gradient's norm; decay and rates keep to their leaves."""
    config.model.channels, config.model.dtype = (4, 8), "float32"
    config.optimizer.weight_decay = 0.1
    config.update_from_flattened_dict(change)
    model = build_model(config.model, ("infection",), axis_name=None)
    tx = build_optimizer(config.optimizer, lambda step: 0.01)
    state = create_train_state(model, tx, seed=0, image_shape=(32, 32, 1), ema=config.train.ema_decay > 0)
    keys = jax.random.split(jax.random.key(0))
    masks = jax.random.bernoulli(keys[1], 0.3, (2, 32, 32, 1)).astype(jnp.float32)
    batch = {"image": jax.random.uniform(keys[0], (2, 32, 32, 1)), "target": {"masks": masks}}

    def step(state, **more):
        loss = build_loss(config.loss, ("infection",))
        options = {"model": model, "loss_fn": loss, "score_fn": batch_dice, "tx": tx}
        return train_step(state, batch, **options, ema_decay=config.train.ema_decay, **more)

    @jax.jit
    def flat_step(state):
        after, metrics = step(flat.flatten_state(state), flat_like=state)
        return flat.unflatten_state(after, state), after.params, metrics

    expected, expected_metrics = jax.jit(step)(state)
    found, arrays, metrics = flat_step(state)
    assert len(jax.tree.leaves(arrays)) <= 2 * len(state.params)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), metrics, expected_metrics)
    assert optax.tree.norm(jax.tree.map(jnp.subtract, found.params, state.params)) > 0.01


def test_every_array_of_two_dimensions_or_more_is_a_kernel():
    """As for the optimizer, also those of dense layers."""
    leaves = [
        jnp.arange(n, dtype=jnp.float32).reshape(shape) for n, shape in ((6, (2, 3)), (4, (1, 1, 2, 2)), (3, (3,)))
    ]
    tree = {"fc": dict(zip("abc", leaves, strict=True))}
    found = flat.flatten(tree)
    assert {kind: x.shape for kind, x in found["fc"].items()} == {"kernels": (10, 1), "rest": (3,)}
    assert is_kernel(found) == {"fc": {"kernels": True, "rest": False}}
    jax.tree.map(np.testing.assert_array_equal, flat.unflatten(found, tree), tree)
