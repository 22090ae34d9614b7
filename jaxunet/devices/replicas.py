"""Data parallelism over devices, and the only file that names `pmap`.

`jax.pmap` with `in_axes=None` / `out_axes=None` keeps the state as one logical, replicated copy: nothing is stacked or
indexed. JAX does not check `out_axes=None`: after a forgotten reduction the replicas would silently drift apart.
`assert_replicas_agree` finds that.

With several processes (processes.py), each holds arrays on its own devices, and pmap joins them. The state is
replicated over the local devices; mapped values hold the rows of the local devices. Only checkpoints see global arrays.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxunet.devices import processes

AXIS = "batch"


def reduce_mean(tree: Any) -> Any:
    """Mean of every leaf over the replicas. Call it inside a mapped step."""
    return jax.lax.pmean(tree, AXIS)


def replica_devices() -> list[jax.Device]:
    """Devices of all replicas, ordered by process. On a TPU slice, device ids do not follow that order."""
    return sorted(jax.devices(), key=lambda d: d.process_index)


def _mesh() -> Mesh:
    return Mesh(np.array(replica_devices()), (AXIS,))


def replicate(tree: Any) -> Any:
    """Copies `tree` to all devices of this process; arrays that are already there stay.

    `tree` must be the same on all processes.
    """
    return jax.device_put(tree, NamedSharding(_mesh().local_mesh, PartitionSpec()))


def to_global(tree: Any) -> Any:
    """Replicated arrays of each process -> global arrays of all processes, without a copy."""
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
    """Shapes, dtypes and global replicated shardings of `tree`, to restore a checkpoint onto the devices present."""
    sharding = NamedSharding(_mesh(), PartitionSpec())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def map_replicas(run: Callable[..., Any], *, in_axes: tuple[int | None, ...], devices: Sequence[jax.Device]) -> Any:
    """Maps `run(state, ...) -> (state, totals)`, one replica's part of training, over `devices`. Compiles nothing yet.

    Args:
      run: its first argument is donated; its results must be the same on all replicas (`reduce_mean`).
      in_axes: for each argument: None if all replicas get it whole, 0 if it has a row per local device.
      devices: one per replica.
    """
    return jax.pmap(run, axis_name=AXIS, in_axes=in_axes, out_axes=None, donate_argnums=(0,), devices=devices)


def map_eval_step(eval_fn: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Maps `eval_fn(variables, batch) -> [B, ...]` over the devices: host batch in, [B, ...] or a pytree of these out.

    Each of several processes passes the whole batch, computes its share, and gets the whole result.
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
    """The program of `map_eval_step`, of `(variables, batch [local devices, B, ...])`. Compiles nothing yet."""
    return jax.pmap(eval_fn, axis_name=AXIS, in_axes=(None, 0), devices=devices)


def replica_indices() -> np.ndarray:
    """int32 [local devices]: the replicas that run on this process."""
    mine = [i for i, d in enumerate(replica_devices()) if d.process_index == jax.process_index()]
    return np.array(mine, np.int32)


def assert_replicas_agree(tree: Any) -> None:
    """Raises RuntimeError, with the name of the leaf, if copies differ.

    Copies on local devices are compared bit for bit, those of other processes by checksum.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    copies = [[np.asarray(s.data).tobytes() for s in leaf.addressable_shards] for _, leaf in leaves]
    checksums = np.array([zlib.crc32(first) for first, *_ in copies], np.uint32)
    agreed = (processes.gather(checksums) == checksums).all(axis=0)
    for (path, _), (first, *others), same in zip(leaves, copies, agreed, strict=True):
        if not same or any(first != other for other in others):
            raise RuntimeError(f"Replicas disagree on {jax.tree_util.keystr(path)}: a reduction is missing.")
