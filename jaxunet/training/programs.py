"""The compiled programs of training: many steps on device-resident data, or one step on a streamed batch."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from ml_collections import ConfigDict

from jaxunet.data import batches
from jaxunet.data.examples import RawBatch, Source, load_split
from jaxunet.data.order import order_of_epochs
from jaxunet.data.specs import LABELLED_IMAGES
from jaxunet.data.targets import mask_targets
from jaxunet.devices import replicas
from jaxunet.models.build import Network
from jaxunet.scoring.losses import LossFn
from jaxunet.training.flat import flatten_state, unflatten_state
from jaxunet.training.optimizer import Durations
from jaxunet.training.progress import Progress
from jaxunet.training.state import TrainState
from jaxunet.training.step import Batch, Metrics, augmented_batch, train_step

Step = Callable[..., tuple[TrainState, Metrics]]  # (state, batch), and maybe `flat_like`
MakeBatch = Callable[[RawBatch, Array], Batch]
Advance = Callable[[TrainState, int, Progress], TrainState]


def _zero_totals() -> Metrics:
    """Sums over the steps of one call. `bad_step`: the first step with a non-finite loss or gradient, else -1."""
    sums = {name: jnp.zeros((), jnp.float32) for name in ("loss", "grad_norm", "score_sum", "score_count")}
    return sums | {"steps": jnp.zeros((), jnp.int32), "bad_step": jnp.full((), -1, jnp.int32)}


def _add(totals: Metrics, metrics: Metrics, step: Array) -> Metrics:
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    first_bad = jnp.where((totals["bad_step"] < 0) & ~finite, step, totals["bad_step"])
    sums = {name: totals[name] + value for name, value in metrics.items()}
    return sums | {"steps": totals["steps"] + 1, "bad_step": first_bad}


def resident_program(
    step_fn: Step,
    make_batch: MakeBatch,
    *,
    seed: int,
    batch_size: int,
    num_examples: int,
    max_steps: int,
    devices: Sequence[jax.Device] | None = None,
) -> Any:
    """One program that runs n steps on data in device memory, for any n from 1 to `max_steps`. Compiles nothing yet.

    It is `run(state, arrays, n, replica) -> (state, totals)`. `state` is donated. `arrays`: replicated raw arrays [N,
    ...]; `n`: int32 []; `replica`: `replicas.replica_indices()`. `devices`: None for `replicas.replica_devices()`.
    """
    devices = devices or replicas.replica_devices()
    per_device = batch_size // len(devices)
    epochs = -(-max_steps * batch_size // num_examples) + 1  # the most that one call can touch
    flat = max_steps > 1 and devices[0].platform == "gpu"

    def run(state: TrainState, arrays: RawBatch, n: Array, replica: Array) -> tuple[TrainState, Metrics]:
        first_epoch = state.step * batch_size // num_examples
        order = order_of_epochs(seed, first_epoch, epochs, num_examples)

        like = state if flat else None
        state = flatten_state(state) if flat else state

        def one(_: Any, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, totals = carry
            positions = state.step * batch_size + replica * per_device + jnp.arange(per_device, dtype=jnp.int32)
            raw = batches.gather(arrays, order[positions - first_epoch * num_examples])
            new_state, metrics = step_fn(state, make_batch(raw, positions), **({"flat_like": like} if like else {}))
            return new_state, _add(totals, metrics, state.step)

        if max_steps == 1:  # no loop: XLA's CPU backend runs convolutions in a loop body about 25 times slower
            return one(0, (state, _zero_totals()))
        state, totals = jax.lax.fori_loop(0, n, one, (state, _zero_totals()))
        return (unflatten_state(state, like) if like else state), totals

    return replicas.map_replicas(run, in_axes=(None, None, None, 0), devices=devices)


def streamed_program(
    step_fn: Step, make_batch: MakeBatch, *, batch_size: int, devices: Sequence[jax.Device] | None = None
) -> Any:
    """One step on a batch from the host: `run(state, raw, replica) -> (state, totals)`. Compiles nothing yet.

    `raw`: this process's share of the batch, `replicas.shard` of `batches.stream_batches`; else as `resident_program`.
    """
    devices = devices or replicas.replica_devices()
    per_device = batch_size // len(devices)

    def run(state: TrainState, raw: RawBatch, replica: Array) -> tuple[TrainState, Metrics]:
        positions = state.step * batch_size + replica * per_device + jnp.arange(per_device, dtype=jnp.int32)
        new_state, metrics = step_fn(state, make_batch(raw, positions))
        return new_state, _add(_zero_totals(), metrics, state.step)

    return replicas.map_replicas(run, in_axes=(None, 0, 0), devices=devices)


def build_step(
    config: ConfigDict,
    model: Network,
    tx: optax.GradientTransformation,
    loss_fn: LossFn,
    score_fn: Callable[[Any, Any], Array],
) -> Step:
    """`train_step` of one of several replicas, with the settings of `config`."""
    return functools.partial(
        train_step,
        model=model,
        loss_fn=loss_fn,
        score_fn=score_fn,
        tx=tx,
        accumulate_steps=config.train.accumulate_steps,
        ema_decay=config.train.ema_decay,
        reduce=replicas.reduce_mean,
    )


def build_make_batch(config: ConfigDict) -> MakeBatch:
    """`augmented_batch` with the settings of `config`."""
    return functools.partial(augmented_batch, seed=config.seed, augment=config.augment)


def is_resident(config: ConfigDict, num_examples: int, image_shape: tuple[int, ...]) -> bool:
    """Whether the training split stays on the device; see `batches.use_resident`."""
    return batches.use_resident(
        config.input.mode,
        num_examples=num_examples,
        image_shape=image_shape,
        masks=0 if config.dataset.name == LABELLED_IMAGES else len(mask_targets(config.dataset.targets)),
        limit_gib=config.input.resident_limit_gib,
    )


def build_advance(
    config: ConfigDict, source: Source, step_fn: Step, start_step: int, length: Durations
) -> tuple[Advance, int]:
    """`advance(state, n, progress)` runs the next n steps and records them. Also returns the largest n it accepts."""
    make_batch, numbers = build_make_batch(config), replicas.replica_indices()
    batch_size = config.train.batch_size
    if not is_resident(config, len(source), source.image_shape):
        step = streamed_program(step_fn, make_batch, batch_size=batch_size)
        stream = batches.stream_batches(
            source,
            seed=config.seed,
            start_step=start_step,
            total_steps=length.total_steps,
            batch_size=batch_size,
            stream=config.input,
        )

        def advance_streamed(state: TrainState, n: int, progress: Progress) -> TrainState:
            batch = next(stream)
            was_idle = progress.previous_is_done()
            state, totals = step(state, replicas.shard(batch), numbers)
            progress.record(totals, was_idle=was_idle)
            return state

        return advance_streamed, 1

    max_steps = config.train.steps_per_call or (1 if jax.default_backend() == "cpu" else 50)
    sizes = {"batch_size": batch_size, "num_examples": len(source), "max_steps": max_steps}
    steps = resident_program(step_fn, make_batch, seed=config.seed, **sizes)
    arrays = replicas.replicate(load_split(source, threads=config.input.threads).arrays)

    def advance(state: TrainState, n: int, progress: Progress) -> TrainState:
        state, totals = steps(state, arrays, np.int32(n), numbers)
        progress.record(totals, was_idle=False)
        return state

    return advance, max_steps
