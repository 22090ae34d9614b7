"""Two simulated devices must train what one would, and stay identical."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from jaxunet import input_pipeline, parallel
from jaxunet.losses import bce_loss
from jaxunet.metrics import batch_dice
from jaxunet.models import build_model
from jaxunet.optimizer import build_optimizer
from jaxunet.train_state import create_train_state
from jaxunet.train_step import augmented_batch, train_step

N, BATCH, SEED = 10, 4, 3


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (N, 16, 16), np.uint8),
        "mask": rng.integers(0, 256, (N, 16, 2, 1), np.uint8),
    }


@functools.cache
def make(axis_name, *, accumulate_steps=1, sync=True):
    """(initial state, step function, batch function) as `train.train` builds them."""
    config = default.get_config()
    config.model.channels, config.model.patch, config.model.dtype = (4, 8), 2, "float32"
    model = build_model(config.model, ("infection",), axis_name=axis_name if sync else None)
    tx = build_optimizer(config.optimizer, lambda _: 1e-2)
    state = create_train_state(model, tx, seed=SEED, image_shape=(16, 16, 1), ema=True)
    step = functools.partial(
        train_step,
        model=model,
        loss_fn=bce_loss,
        score_fn=batch_dice,
        tx=tx,
        accumulate_steps=accumulate_steps,
        ema_decay=0.9,
    )
    if axis_name:
        step = functools.partial(step, reduce=parallel.reduce_mean)
    return state, step, jax.jit(functools.partial(augmented_batch, seed=SEED, augment=config.augment))


def fresh_state(*, sync=True):
    """A copy for the program to consume: the state is donated."""
    return parallel.replicate(jax.tree.map(np.array, make(parallel.AXIS, sync=sync)[0]))


@functools.cache
def resident_program(max_steps, sync):
    _, step, make_batch = make(parallel.AXIS, sync=sync)
    return parallel.map_resident_steps(
        step, make_batch, seed=SEED, batch_size=BATCH, num_examples=N, max_steps=max_steps
    )


def run_resident(arrays, chunks, *, max_steps, sync=True):
    run, state, resident = resident_program(max_steps, sync), fresh_state(sync=sync), parallel.replicate(arrays)
    totals = []
    for n in chunks:
        state, total = run(state, resident, n)
        totals.append(jax.device_get(total))
    return state, totals


def run_on_one_device(arrays, steps):
    """The plain formulation: no mapping, the global batch at once, order computed on the host."""
    state, step, make_batch = make(None)
    order = np.asarray(input_pipeline.order_of_epochs(SEED, 0, 1 + steps * BATCH // N, N))
    step, losses = jax.jit(step), []
    for s in range(steps):
        positions = jnp.arange(s * BATCH, (s + 1) * BATCH)
        raw = {name: jnp.asarray(a[order[np.asarray(positions)]]) for name, a in arrays.items()}
        state, metrics = step(state, make_batch(raw, positions))
        losses.append(float(metrics["loss"]))
    return state, losses


def close(a, b, tolerance):
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=tolerance, rtol=tolerance, err_msg=jax.tree_util.keystr(path))


def equal(a, b):
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def test_one_step_on_two_devices_equals_one_device(arrays):
    state, totals = run_resident(arrays, [1], max_steps=1)
    plain, losses = run_on_one_device(arrays, 1)
    assert totals[0]["loss"] == pytest.approx(losses[0], rel=1e-5)
    close(state.batch_stats, plain.batch_stats, 1e-5)
    # Adam's first step is the sign of the gradient: compare the moments, which are the gradient itself.
    close(state.opt_state, plain.opt_state, 1e-5)


def test_steps_across_epochs_equal_one_device_and_replicas_agree(arrays):
    state, totals = run_resident(arrays, [1] * 6, max_steps=1)
    plain, losses = run_on_one_device(arrays, 6)
    np.testing.assert_allclose([t["loss"] for t in totals], losses, rtol=2e-3)
    parallel.assert_replicas_agree(state)
    assert int(state.step) == 6


def test_many_steps_per_call_equal_single_steps(arrays):
    """One compiled loop, in chunks of any length, over epoch boundaries."""
    single, single_totals = run_resident(arrays, [1] * 7, max_steps=1)
    looped, totals = run_resident(arrays, [5, 2], max_steps=5)
    assert int(looped.step) == 7
    assert [int(t["steps"]) for t in totals] == [5, 2]
    assert sum(t["loss"] for t in totals) == pytest.approx(sum(t["loss"] for t in single_totals), rel=1e-3)
    close(looped.batch_stats, single.batch_stats, 2e-2)
    parallel.assert_replicas_agree(looped)


def test_chunk_length_changes_nothing(arrays):
    equal(run_resident(arrays, [5, 2], max_steps=5)[0], run_resident(arrays, [1, 3, 3], max_steps=5)[0])


def test_streamed_steps_equal_resident_ones(arrays):
    state, step, make_batch = make(parallel.AXIS)
    run = parallel.map_streamed_step(step, make_batch, batch_size=BATCH)
    state = fresh_state()
    order = np.asarray(input_pipeline.order_of_epochs(SEED, 0, 3, N))
    for s in range(5):
        index = order[s * BATCH : (s + 1) * BATCH]
        state, _ = run(state, {name: a[index] for name, a in arrays.items()})
    close(state, run_resident(arrays, [1] * 5, max_steps=1)[0], 1e-5)


def test_accumulation_averages_gradients(arrays):
    """Without batch normalisation's coupling, two halves give the whole batch's gradient."""
    state, step, make_batch = make(None, accumulate_steps=2)
    positions = jnp.arange(BATCH)
    batch = make_batch({name: jnp.asarray(a[:BATCH]) for name, a in arrays.items()}, positions)
    halves = [jax.tree.map(lambda x, i=i: x[2 * i : 2 * i + 2], batch) for i in range(2)]
    _, whole = jax.jit(step)(state, batch)
    single = jax.jit(make(None)[1])
    losses = [float(single(state, half)[1]["loss"]) for half in halves]
    assert float(whole["loss"]) == pytest.approx(np.mean(losses), rel=1e-5)
    assert not np.isclose(losses[0], losses[1], rtol=1e-3)


def test_non_finite_loss_names_its_first_step(arrays):
    state, step, make_batch = make(parallel.AXIS)

    def poisoned(state, batch):
        new_state, metrics = step(state, batch)
        return new_state, metrics | {"loss": jnp.where(state.step >= 2, jnp.nan, metrics["loss"])}

    run = parallel.map_resident_steps(poisoned, make_batch, seed=SEED, batch_size=BATCH, num_examples=N, max_steps=4)
    _, totals = run(fresh_state(), parallel.replicate(arrays), 4)
    assert int(totals["bad_step"]) == 2


def test_forgotten_reduction_is_found(arrays):
    """`out_axes=None` is not verified by JAX; the replica check is what notices."""
    state, step, make_batch = make(parallel.AXIS)
    unreduced = functools.partial(step, reduce=lambda tree: tree)
    run = parallel.map_resident_steps(unreduced, make_batch, seed=SEED, batch_size=BATCH, num_examples=N, max_steps=1)
    state, _ = run(fresh_state(), parallel.replicate(arrays), 1)
    with pytest.raises(RuntimeError, match=r"Replicas disagree on .*opt_state|Replicas disagree on .*params"):
        parallel.assert_replicas_agree(state)


def test_unsynchronised_statistics_still_give_one_state(arrays):
    state, _ = run_resident(arrays, [1] * 3, max_steps=1, sync=False)
    parallel.assert_replicas_agree(state)


def test_eval_step_keeps_the_order_of_the_batch():
    run = parallel.map_eval_step(lambda variables, batch: batch["x"] * variables)
    np.testing.assert_array_equal(run(jnp.float32(2), {"x": np.arange(8, dtype=np.float32)}), 2 * np.arange(8))


def test_initial_average_is_not_the_donated_weights(arrays):
    """Aliased buffers in a donated state would be deleted together."""
    state, _, _ = make(None)
    weights, averages = jax.tree.leaves(state.params), jax.tree.leaves(state.ema_params)
    assert not {x.unsafe_buffer_pointer() for x in weights} & {x.unsafe_buffer_pointer() for x in averages}
