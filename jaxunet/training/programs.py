"""The compiled programs of training: many steps on device-resident data, or one step on a streamed batch."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxunet.data import batches
from jaxunet.data.examples import RawBatch
from jaxunet.data.order import order_of_epochs
from jaxunet.devices import replicas
from jaxunet.training.state import TrainState
from jaxunet.training.step import Batch, Metrics

Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
MakeBatch = Callable[[RawBatch, Array], Batch]


def _zero_totals() -> Metrics:
    """Sums over the steps of one dispatch; `bad_step` is the first step with a non-finite loss or gradient, or -1."""
    sums = {name: jnp.zeros((), jnp.float32) for name in ("loss", "grad_norm", "score", "scored")}
    return sums | {"steps": jnp.zeros((), jnp.int32), "bad_step": jnp.full((), -1, jnp.int32)}


def _add(totals: Metrics, metrics: Metrics, step: Array) -> Metrics:
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    first_bad = jnp.where((totals["bad_step"] < 0) & ~finite, step, totals["bad_step"])
    sums = {name: totals[name] + value for name, value in metrics.items()}
    return sums | {"steps": totals["steps"] + 1, "bad_step": first_bad}


def map_resident_steps(
    step_fn: Step, make_batch: MakeBatch, *, seed: int, batch_size: int, num_examples: int, max_steps: int
) -> Callable[[TrainState, RawBatch, int], tuple[TrainState, Metrics]]:
    """Compiles "run n steps on data that is on the device" as one program for every n from 1 to `max_steps`.

    Returns:
      `run(state, arrays, n) -> (state, totals)`. `state` is donated; `arrays` are replicated raw arrays [N, ...].
    """
    mapped = resident_program(
        step_fn,
        make_batch,
        seed=seed,
        batch_size=batch_size,
        num_examples=num_examples,
        max_steps=max_steps,
        devices=replicas.replica_devices(),
    )
    numbers = replicas.replica_indices()
    return lambda state, arrays, n: mapped(state, arrays, np.int32(n), numbers)


def resident_program(
    step_fn: Step,
    make_batch: MakeBatch,
    *,
    seed: int,
    batch_size: int,
    num_examples: int,
    max_steps: int,
    devices: Sequence[jax.Device],
) -> Any:
    """What `map_resident_steps` runs, for any devices: `(state, arrays, n, replica index [local devices])`, not yet
    compiled."""
    per_device = batch_size // len(devices)
    epochs = -(-max_steps * batch_size // num_examples) + 1  # that the positions of one dispatch can touch

    def run(state: TrainState, arrays: RawBatch, n: Array, replica: Array):
        first_epoch = state.step * batch_size // num_examples
        order = order_of_epochs(seed, first_epoch, epochs, num_examples)

        def one(_: Any, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, totals = carry
            positions = state.step * batch_size + replica * per_device + jnp.arange(per_device, dtype=jnp.int32)
            raw = batches.gather(arrays, order[positions - first_epoch * num_examples])
            new_state, metrics = step_fn(state, make_batch(raw, positions))
            return new_state, _add(totals, metrics, state.step)

        if max_steps == 1:  # no loop: XLA's CPU backend runs convolutions in a loop body about 25 times slower
            return one(0, (state, _zero_totals()))
        return jax.lax.fori_loop(0, n, one, (state, _zero_totals()))

    return replicas.map_replicas(run, in_axes=(None, None, None, 0), devices=devices)


def map_streamed_step(
    step_fn: Step, make_batch: MakeBatch, *, batch_size: int
) -> Callable[[TrainState, RawBatch], tuple[TrainState, Metrics]]:
    """Compiles "one step on a batch from the host": `run(state, raw) -> (state, totals)`, `state` donated.

    `raw` is this process's share of the batch, as `batches.stream_batches` gives it.
    """
    mapped = streamed_program(step_fn, make_batch, batch_size=batch_size, devices=replicas.replica_devices())
    numbers = replicas.replica_indices()
    return lambda state, raw: mapped(state, replicas.shard(raw), numbers)


def streamed_program(step_fn: Step, make_batch: MakeBatch, *, batch_size: int, devices: Sequence[jax.Device]) -> Any:
    """What `map_streamed_step` runs, for any devices: `(state, raw [local devices, B, ...], replica index [local
    devices])`, not yet compiled."""
    per_device = batch_size // len(devices)

    def run(state: TrainState, raw: RawBatch, replica: Array):
        positions = state.step * batch_size + replica * per_device + jnp.arange(per_device, dtype=jnp.int32)
        new_state, metrics = step_fn(state, make_batch(raw, positions))
        return new_state, _add(_zero_totals(), metrics, state.step)

    return replicas.map_replicas(run, in_axes=(None, 0, 0), devices=devices)
