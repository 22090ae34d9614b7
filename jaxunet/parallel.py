"""Data parallelism: the only file that knows that there is more than one device.

`jax.pmap` with `in_axes=None` / `out_axes=None` for the state keeps one logical copy of it, replicated: there is
nothing to stack, unstack or index. JAX does not check `out_axes=None`, so a forgotten reduction would let replicas
drift apart unseen; `assert_replicas_agree` looks.

Of several processes (distributed.py), each holds arrays on its own devices only, and pmap joins them: a state is
replicated over the local devices, mapped values hold the rows of the local devices. Only checkpoints see global arrays.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxunet import distributed, input_pipeline
from jaxunet.train_state import TrainState
from jaxunet.train_step import Batch, Metrics

AXIS = "batch"

Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
MakeBatch = Callable[[input_pipeline.RawBatch, Array], Batch]


def reduce_mean(tree: Any) -> Any:
    """Mean of every leaf over the replicas; for use inside a mapped step."""
    return jax.lax.pmean(tree, AXIS)


def _devices() -> list[jax.Device]:
    """Replica i runs on device i; the devices of a process follow each other, which on a TPU slice their ids do not."""
    return sorted(jax.devices(), key=lambda d: d.process_index)


def _mesh() -> Mesh:
    return Mesh(np.array(_devices()), (AXIS,))


def replicate(tree: Any) -> Any:
    """Puts one logical copy of `tree` on all devices of this process; scalars and arrays already there stay.

    It must be the same on all processes.
    """
    return jax.device_put(tree, NamedSharding(_mesh().local_mesh, PartitionSpec()))


def to_global(tree: Any) -> Any:
    """Replicated arrays of each process -> the same as arrays of all processes, without a copy."""
    if not distributed.several():
        return tree
    return multihost_utils.host_local_array_to_global_array(tree, _mesh(), PartitionSpec())


def to_local(tree: Any) -> Any:
    """Inverse of `to_global`."""
    return multihost_utils.global_array_to_host_local_array(tree, _mesh(), PartitionSpec())


def shard(batch: Any) -> Any:
    """Host arrays [B, ...] -> [local devices, B / local devices, ...], row i on device i."""
    n = jax.local_device_count()
    return jax.tree.map(lambda x: x.reshape(n, x.shape[0] // n, *x.shape[1:]), batch)


def replicated_shapes(tree: Any) -> Any:
    """Shapes, dtypes and global replicated shardings of `tree`, for restoring a checkpoint onto the devices present."""
    sharding = NamedSharding(_mesh(), PartitionSpec())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


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
) -> Callable[[TrainState, input_pipeline.RawBatch, int], tuple[TrainState, Metrics]]:
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
        devices=_devices(),
    )
    replicas = _replica_indices()
    return lambda state, arrays, n: mapped(state, arrays, np.int32(n), replicas)


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

    def run(state: TrainState, arrays: input_pipeline.RawBatch, n: Array, replica: Array):
        first_epoch = state.step * batch_size // num_examples
        order = input_pipeline.order_of_epochs(seed, first_epoch, epochs, num_examples)

        def one(_: Any, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, totals = carry
            positions = state.step * batch_size + replica * per_device + jnp.arange(per_device, dtype=jnp.int32)
            raw = input_pipeline.gather(arrays, order[positions - first_epoch * num_examples])
            new_state, metrics = step_fn(state, make_batch(raw, positions))
            return new_state, _add(totals, metrics, state.step)

        if max_steps == 1:  # no loop: XLA's CPU backend runs convolutions in a loop body about 25 times slower
            return one(0, (state, _zero_totals()))
        return jax.lax.fori_loop(0, n, one, (state, _zero_totals()))

    return jax.pmap(
        run, axis_name=AXIS, in_axes=(None, None, None, 0), out_axes=None, donate_argnums=(0,), devices=devices
    )


def map_streamed_step(
    step_fn: Step, make_batch: MakeBatch, *, batch_size: int
) -> Callable[[TrainState, input_pipeline.RawBatch], tuple[TrainState, Metrics]]:
    """Compiles "one step on a batch from the host": `run(state, raw) -> (state, totals)`, `state` donated.

    `raw` is this process's share of the batch, as `input_pipeline.stream_batches` gives it.
    """
    mapped = streamed_program(step_fn, make_batch, batch_size=batch_size, devices=_devices())
    replicas = _replica_indices()
    return lambda state, raw: mapped(state, shard(raw), replicas)


def streamed_program(step_fn: Step, make_batch: MakeBatch, *, batch_size: int, devices: Sequence[jax.Device]) -> Any:
    """What `map_streamed_step` runs, for any devices: `(state, raw [local devices, B, ...], replica index [local
    devices])`, not yet compiled."""
    per_device = batch_size // len(devices)

    def run(state: TrainState, raw: input_pipeline.RawBatch, replica: Array):
        positions = state.step * batch_size + replica * per_device + jnp.arange(per_device, dtype=jnp.int32)
        new_state, metrics = step_fn(state, make_batch(raw, positions))
        return new_state, _add(_zero_totals(), metrics, state.step)

    return jax.pmap(run, axis_name=AXIS, in_axes=(None, 0, 0), out_axes=None, donate_argnums=(0,), devices=devices)


def map_eval_step(eval_fn: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Compiles `eval_fn(variables, batch) -> [B, ...]` over the devices: host batch in, [B, ...] out, or pytrees of it.

    Of several processes, each gives the whole batch, works off its share, and gets the whole result.
    """
    mapped = eval_program(eval_fn, devices=_devices())
    gather = jax.pmap(lambda x: jax.lax.all_gather(x, AXIS), axis_name=AXIS, out_axes=None, devices=_devices())
    processes, process = jax.process_count(), jax.process_index()

    def mine(x: np.ndarray) -> np.ndarray:
        share = len(x) // processes
        return x[process * share : (process + 1) * share]

    def run(variables: Any, batch: Any) -> Any:
        out = mapped(variables, shard(jax.tree.map(mine, batch)))
        if processes > 1:
            out = gather(out)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)

    return run


def eval_program(eval_fn: Callable[[Any, Any], Any], *, devices: Sequence[jax.Device]) -> Any:
    """What `map_eval_step` runs, for any devices: `(variables, batch [local devices, B, ...])`, not yet compiled."""
    return jax.pmap(eval_fn, axis_name=AXIS, in_axes=(None, 0), devices=devices)


def _replica_indices() -> Array:
    mine = [i for i, d in enumerate(_devices()) if d.process_index == jax.process_index()]
    return np.array(mine, np.int32)


def assert_replicas_agree(tree: Any) -> None:
    """Raises RuntimeError naming the first leaf whose copies differ between devices, bit for bit, or between processes
    (by checksum)."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    copies = [[np.asarray(s.data).tobytes() for s in leaf.addressable_shards] for _, leaf in leaves]
    checksums = np.array([zlib.crc32(first) for first, *_ in copies], np.uint32)
    agreed = (distributed.gather(checksums) == checksums).all(axis=0)
    for (path, _), (first, *others), same in zip(leaves, copies, agreed, strict=True):
        if not same or any(first != other for other in others):
            raise RuntimeError(f"Replicas disagree on {jax.tree_util.keystr(path)}: a reduction is missing.")
