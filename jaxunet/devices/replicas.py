"""Data parallelism: the only file that knows that there is more than one device.

`jax.pmap` with `in_axes=None` / `out_axes=None` for the state keeps one logical copy of it, replicated: there is
nothing to stack, unstack or index. JAX does not check `out_axes=None`, so a forgotten reduction would let replicas
drift apart unseen; `assert_replicas_agree` looks.

Of several processes (processes.py), each holds arrays on its own devices only, and pmap joins them: a state is
replicated over the local devices, mapped values hold the rows of the local devices. Only checkpoints see global arrays.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxunet.devices import processes

AXIS = "batch"


def reduce_mean(tree: Any) -> Any:
    """Mean of every leaf over the replicas; for use inside a mapped step."""
    return jax.lax.pmean(tree, AXIS)


def replica_devices() -> list[jax.Device]:
    """Replica i runs on device i; the devices of a process follow each other, which on a TPU slice their ids do not."""
    return sorted(jax.devices(), key=lambda d: d.process_index)


def _mesh() -> Mesh:
    return Mesh(np.array(replica_devices()), (AXIS,))


def replicate(tree: Any) -> Any:
    """Puts one logical copy of `tree` on all devices of this process; scalars and arrays already there stay.

    It must be the same on all processes.
    """
    return jax.device_put(tree, NamedSharding(_mesh().local_mesh, PartitionSpec()))


def to_global(tree: Any) -> Any:
    """Replicated arrays of each process -> the same as arrays of all processes, without a copy."""
    if not processes.several():
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


def map_replicas(run: Callable[..., Any], *, in_axes: tuple[int | None, ...], devices: Sequence[jax.Device]) -> Any:
    """`run(state, ...) -> (state, totals)`, one replica's part of training, over `devices`; not yet compiled.

    Args:
      run: its first argument is donated; what it returns must be the same on all replicas (`reduce_mean`).
      in_axes: of each argument: None for one that all replicas get, 0 for one with a row per local device.
      devices: one per replica.
    """
    return jax.pmap(run, axis_name=AXIS, in_axes=in_axes, out_axes=None, donate_argnums=(0,), devices=devices)


def map_eval_step(eval_fn: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Compiles `eval_fn(variables, batch) -> [B, ...]` over the devices: host batch in, [B, ...] out, or pytrees of it.

    Of several processes, each gives the whole batch, works off its share, and gets the whole result.
    """
    mapped = eval_program(eval_fn, devices=replica_devices())
    gather = jax.pmap(lambda x: jax.lax.all_gather(x, AXIS), axis_name=AXIS, out_axes=None, devices=replica_devices())
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


def replica_indices() -> Array:
    mine = [i for i, d in enumerate(replica_devices()) if d.process_index == jax.process_index()]
    return np.array(mine, np.int32)


def assert_replicas_agree(tree: Any) -> None:
    """Raises RuntimeError naming the first leaf whose copies differ between devices, bit for bit, or between processes
    (by checksum)."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    copies = [[np.asarray(s.data).tobytes() for s in leaf.addressable_shards] for _, leaf in leaves]
    checksums = np.array([zlib.crc32(first) for first, *_ in copies], np.uint32)
    agreed = (processes.gather(checksums) == checksums).all(axis=0)
    for (path, _), (first, *others), same in zip(leaves, copies, agreed, strict=True):
        if not same or any(first != other for other in others):
            raise RuntimeError(f"Replicas disagree on {jax.tree_util.keystr(path)}: a reduction is missing.")
