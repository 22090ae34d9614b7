"""Two simulated devices must train like one, and stay identical."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import default
from jaxunet.data.order import order_of_epochs
from jaxunet.devices import processes, replicas
from jaxunet.models.build import build_model
from jaxunet.scoring.counts import batch_dice
from jaxunet.scoring.losses import build_loss
from jaxunet.training import programs
from jaxunet.training.optimizer import build_optimizer
from jaxunet.training.state import TrainState, create_train_state
from jaxunet.training.step import augmented_batch, train_step

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
    """(initial state, step function, batch function) as `loop.train` builds them."""
    config = default.get_config()
    config.model.channels, config.model.stem, config.model.dtype, config.loss.name = (4, 8), 2, "float32", "bce"
    model = build_model(config.model, ("infection",), axis_name=axis_name if sync else None)
    tx = build_optimizer(config.optimizer, lambda _: 1e-2)
    state = create_train_state(model, tx, seed=SEED, image_shape=(16, 16, 1), ema=True)
    step = functools.partial(
        train_step,
        model=model,
        loss_fn=build_loss(config.loss, ("infection",)),
        score_fn=batch_dice,
        tx=tx,
        accumulate_steps=accumulate_steps,
        ema_decay=0.9,
    )
    if axis_name:
        step = functools.partial(step, reduce=replicas.reduce_mean)
    return state, step, jax.jit(functools.partial(augmented_batch, seed=SEED, augment=config.augment))


def fresh_state(*, sync=True):
    """A copy of the state, because the program donates it."""
    return replicas.replicate(jax.tree.map(np.array, make(replicas.AXIS, sync=sync)[0]))


def resident(step, make_batch, *, max_steps):
    sizes = {"batch_size": BATCH, "num_examples": N, "max_steps": max_steps}
    run = programs.resident_program(step, make_batch, seed=SEED, **sizes)
    return lambda state, arrays, n: run(state, arrays, np.int32(n), replicas.replica_indices())


@functools.cache
def resident_program(max_steps, sync):
    _, step, make_batch = make(replicas.AXIS, sync=sync)
    return resident(step, make_batch, max_steps=max_steps)


def run_resident(arrays, chunks, *, max_steps, sync=True):
    run, state, on_device = resident_program(max_steps, sync), fresh_state(sync=sync), replicas.replicate(arrays)
    totals = []
    for n in chunks:
        state, total = run(state, on_device, n)
        totals.append(jax.device_get(total))
    return state, totals


def run_on_one_device(arrays, steps):
    """The reference: no mapping, the whole global batch, the order computed on the host."""
    state, step, make_batch = make(None)
    order = np.asarray(order_of_epochs(SEED, 0, 1 + steps * BATCH // N, N))
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
    replicas.assert_replicas_agree(state)
    assert int(state.step) == 6


def test_many_steps_per_call_equal_single_steps(arrays):
    """One compiled loop runs chunks of any length, also over epoch boundaries."""
    single, single_totals = run_resident(arrays, [1] * 7, max_steps=1)
    looped, totals = run_resident(arrays, [5, 2], max_steps=5)
    assert int(looped.step) == 7
    assert [int(t["steps"]) for t in totals] == [5, 2]
    assert sum(t["loss"] for t in totals) == pytest.approx(sum(t["loss"] for t in single_totals), rel=1e-3)
    close(looped.batch_stats, single.batch_stats, 2e-2)
    replicas.assert_replicas_agree(looped)


def test_chunk_length_changes_nothing(arrays):
    equal(run_resident(arrays, [5, 2], max_steps=5)[0], run_resident(arrays, [1, 3, 3], max_steps=5)[0])


def test_streamed_steps_equal_resident_ones(arrays):
    state, step, make_batch = make(replicas.AXIS)
    run = programs.streamed_program(step, make_batch, batch_size=BATCH)
    state = fresh_state()
    order = np.asarray(order_of_epochs(SEED, 0, 3, N))
    for s in range(5):
        index = order[s * BATCH : (s + 1) * BATCH]
        batch = replicas.shard({name: a[index] for name, a in arrays.items()})
        state, _ = run(state, batch, replicas.replica_indices())
    close(state, run_resident(arrays, [1] * 5, max_steps=1)[0], 1e-5)


def test_accumulation_averages_gradients(arrays):
    """The loss of two accumulated halves is the mean of the losses of the halves."""
    state, step, make_batch = make(None, accumulate_steps=2)
    positions = jnp.arange(BATCH)
    batch = make_batch({name: jnp.asarray(a[:BATCH]) for name, a in arrays.items()}, positions)
    halves = [jax.tree.map(lambda x, i=i: x[2 * i : 2 * i + 2], batch) for i in range(2)]
    _, whole = jax.jit(step)(state, batch)
    single = jax.jit(make(None)[1])
    losses = [float(single(state, half)[1]["loss"]) for half in halves]
    assert float(whole["loss"]) == pytest.approx(np.mean(losses), rel=1e-5)
    assert not np.isclose(losses[0], losses[1], rtol=1e-3)


def test_accumulated_parts_have_the_gradient_of_one(arrays):
    """With two equal halves, loss, gradient, moments and score are those of one half, not their sum."""
    state, step, make_batch = make(None, accumulate_steps=2)
    half = make_batch({name: jnp.asarray(a[:2]) for name, a in arrays.items()}, jnp.arange(2))
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), half)
    accumulated, measured = jax.jit(step)(state, twice)
    single, expected = jax.jit(make(None)[1])(state, half)
    for name in ("loss", "grad_norm"):
        assert float(measured[name]) == pytest.approx(float(expected[name]), rel=1e-4), name
    assert float(measured["score_sum"] / measured["score_count"]) == pytest.approx(
        float(expected["score_sum"] / expected["score_count"])
    )
    assert float(optax.tree.norm(single.opt_state)) > 0.01
    close(accumulated.opt_state, single.opt_state, 1e-5)


class OneWeight:
    """A network of one weight: logits are weight * image, the running statistic is twice the image's mean."""

    def apply(self, variables, image, *, train, mutable):
        return variables["params"]["w"] * image, {"batch_stats": {"mean": 2 * image.mean()}}


def step_by_hand(t, image, **settings):
    """One SGD step with rate 1 on the mean logit, at step `t`, from weight 1 and averages 3 and 7."""
    tx, params = optax.sgd(1.0), {"w": jnp.float32(1)}
    state = TrainState(
        step=jnp.int32(t),
        params=params,
        batch_stats={"mean": jnp.float32(5)},
        opt_state=tx.init(params),
        ema_params={"w": jnp.float32(3)},
        ema_batch_stats={"mean": jnp.float32(7)},
    )
    return train_step(
        state,
        {"image": image, "target": image},
        model=OneWeight(),
        loss_fn=lambda logits, target: logits.mean(axis=(1, 2, 3)),
        score_fn=lambda logits, target: jnp.array([1.0, 2.0]),
        tx=tx,
        **settings,
    )


@pytest.mark.parametrize(("t", "kept"), [(0, 0.1), (5, 0.4), (10_000, 0.9)])
def test_averages_keep_little_at_first_and_the_decay_later(t, kept):
    """By hand: the new weight is 1 - 0.5 = 0.5, the new statistic 1. The averages keep `kept` of 3 and 7."""
    state, _ = step_by_hand(t, jnp.full((2, 4, 4, 1), 0.5), ema_decay=0.9)
    assert int(state.step) == t + 1
    assert float(state.params["w"]) == pytest.approx(0.5)
    assert float(state.batch_stats["mean"]) == pytest.approx(1.0)
    assert float(state.ema_params["w"]) == pytest.approx(kept * 3 + (1 - kept) * 0.5)
    assert float(state.ema_batch_stats["mean"]) == pytest.approx(kept * 7 + (1 - kept) * 1.0)


def test_without_a_decay_averages_are_left_alone():
    state, _ = step_by_hand(0, jnp.full((2, 4, 4, 1), 0.5))
    assert (float(state.ema_params["w"]), float(state.ema_batch_stats["mean"])) == (3.0, 7.0)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_the_gradient_of_parts_is_their_mean(parts):
    """By hand: images of 0.1, 0.2, 0.3 and 0.6 have the mean 0.3, the gradient. The statistic is the last part's."""
    image = jnp.array([0.1, 0.2, 0.3, 0.6]).reshape(4, 1, 1, 1) * jnp.ones((1, 4, 4, 1))
    state, measured = step_by_hand(0, image, accumulate_steps=parts)
    assert float(measured["grad_norm"]) == pytest.approx(0.3)
    assert float(measured["loss"]) == pytest.approx(0.3)
    assert float(state.params["w"]) == pytest.approx(0.7)
    assert (float(measured["score_sum"]), float(measured["score_count"])) == (1.0, 2.0)
    assert float(state.batch_stats["mean"]) == pytest.approx({1: 0.6, 2: 0.9, 4: 1.2}[parts])


def test_non_finite_loss_names_its_first_step(arrays):
    state, step, make_batch = make(replicas.AXIS)

    def poisoned(state, batch):
        new_state, metrics = step(state, batch)
        return new_state, metrics | {"loss": jnp.where(state.step >= 2, jnp.nan, metrics["loss"])}

    run = resident(poisoned, make_batch, max_steps=4)
    _, totals = run(fresh_state(), replicas.replicate(arrays), 4)
    assert int(totals["bad_step"]) == 2


def test_forgotten_reduction_is_found(arrays):
    """JAX does not verify `out_axes=None`; the replica check does."""
    state, step, make_batch = make(replicas.AXIS)
    unreduced = functools.partial(step, reduce=lambda tree: tree)
    run = resident(unreduced, make_batch, max_steps=1)
    state, _ = run(fresh_state(), replicas.replicate(arrays), 1)
    with pytest.raises(RuntimeError, match=r"Replicas disagree on .*opt_state|Replicas disagree on .*params"):
        replicas.assert_replicas_agree(state)


def test_unsynchronised_statistics_still_give_one_state(arrays):
    state, _ = run_resident(arrays, [1] * 3, max_steps=1, sync=False)
    replicas.assert_replicas_agree(state)


def test_eval_step_keeps_the_order_of_the_batch(mapping):
    run = replicas.map_eval_step(lambda variables, batch: batch["x"] * variables)
    two = replicas.replicate(np.float32(2))
    np.testing.assert_array_equal(run(two, {"x": np.arange(8, dtype=np.float32)}), 2 * np.arange(8))


@pytest.fixture(params=["pmap", "shard_map"])
def mapping(request, monkeypatch):
    """How one process maps, and how several do; here one has all devices."""
    monkeypatch.setattr(processes, "several", lambda: request.param == "shard_map")


@pytest.mark.parametrize("stream", [False, True])
def test_several_processes_run_the_program_of_one(arrays, monkeypatch, stream):
    """pmap and shard_map give the same bits and exchange the same arrays."""
    _, step, make_batch = make(replicas.AXIS)
    ends, exchanged = [], []
    for several in (False, True):
        monkeypatch.setattr(processes, "several", lambda several=several: several)
        if stream:
            program = programs.streamed_program(step, make_batch, batch_size=BATCH)
            given = [replicas.shard({name: a[:BATCH] for name, a in arrays.items()})]
        else:
            sizes = {"batch_size": BATCH, "num_examples": N, "max_steps": 1}
            program = programs.resident_program(step, make_batch, seed=SEED, **sizes)
            given = [replicas.replicate(arrays), np.int32(1)]
        given.append(replicas.replica_indices())
        state = fresh_state()
        exchanged.append(re.findall(r"stablehlo\.(all_\w+|collective_\w+).*", program.lower(state, *given).as_text()))
        for _ in range(3):
            before, (state, totals) = state, program(state, *given)
            assert all(x.is_deleted() for x in jax.tree.leaves(before.params))  # donated: memory holds one state
        ends.append((state, totals))
    equal(*ends)
    assert len(exchanged[0]) > 20
    assert exchanged[0] == exchanged[1]


def test_initial_average_is_not_the_donated_weights(arrays):
    """Donation would delete aliased buffers together."""
    state, _, _ = make(None)
    weights, averages = jax.tree.leaves(state.params), jax.tree.leaves(state.ema_params)
    assert not {x.unsafe_buffer_pointer() for x in weights} & {x.unsafe_buffer_pointer() for x in averages}
