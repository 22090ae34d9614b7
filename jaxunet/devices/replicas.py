"""Data parallelism over devices, and the only file that names `pmap`.

`jax.pmap` with `in_axes=None` / `out_axes=None` keeps the state as one logical, replicated copy: nothing is stacked or
indexed. JAX does not check `out_axes=None`: after a forgotten reduction the replicas would silently drift apart.
`assert_replicas_agree` finds that.

With several processes (processes.py), the same functions are mapped by jit and shard_map over global arrays, because
pmap would convert every array of the state at every call. The programs are the same.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxunet.devices import processes

AXIS = "batch"


def reduce_mean(tree: Any) -> Any:
    """Mean of every leaf over the replicas. Call it inside a mapped step."""
    return jax.lax.pmean(tree, AXIS)


def replica_devices() -> list[jax.Device]:
    """Devices of all replicas, ordered by process. On a TPU slice, device ids do not follow that order."""
    return sorted(jax.devices(), key=lambda d: d.process_index)


def _sharding(*spec: str) -> NamedSharding:
    """The sharding of an array of which every device holds all; with `AXIS`, each device holds one row."""
    return NamedSharding(Mesh(np.array(replica_devices()), (AXIS,)), PartitionSpec(*spec))


def replicate(tree: Any) -> Any:
    """Copies `tree`, the same on all processes, to all devices; arrays that are already there stay."""
    there, put = _sharding(), jax.make_array_from_process_local_data
    return jax.tree.map(lambda x: x if getattr(x, "sharding", None) == there else put(there, x), tree)


def shard(batch: Any) -> Any:
    """This process's host arrays [B, ...] -> [devices, B / local devices, ...], row i on its device i."""
    n = jax.local_device_count()
    return jax.tree.map(lambda x: _rows(x.reshape(n, x.shape[0] // n, *x.shape[1:])), batch)


def _rows(x: np.ndarray) -> Any:
    """[local devices, ...] of each process -> [devices, ...]. pmap takes the local rows as they are."""
    return jax.make_array_from_process_local_data(_sharding(AXIS), x) if processes.several() else x


def replicated_shapes(tree: Any) -> Any:
    """Shapes, dtypes and global replicated shardings of `tree`, to restore a checkpoint onto the devices present."""
    sharding = _sharding()
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _map(
    run: Callable[..., Any],
    in_axes: tuple[int | None, ...],
    devices: Sequence[jax.Device],
    *,
    out_axes: int | None = None,
    donate: tuple[int, ...] = (),
) -> Any:
    if not processes.several():
        return jax.pmap(run, AXIS, in_axes=in_axes, out_axes=out_axes, donate_argnums=donate, devices=devices)

    def one(*args: Any) -> Any:  # as under pmap, a row comes without its leading axis
        pairs = zip(args, in_axes, strict=True)
        return run(*(x if axis is None else jax.tree.map(lambda row: row.squeeze(0), x) for x, axis in pairs))

    specs = tuple(PartitionSpec() if axis is None else PartitionSpec(AXIS) for axis in in_axes)
    mesh = Mesh(np.array(devices), (AXIS,))
    mapped = jax.shard_map(one, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False)
    return jax.jit(mapped, donate_argnums=donate)


def map_replicas(run: Callable[..., Any], *, in_axes: tuple[int | None, ...], devices: Sequence[jax.Device]) -> Any:
    """Maps `run(state, ...) -> (state, totals)`, one replica's part of training, over `devices`. Compiles nothing yet.

    Args:
      run: its first argument is donated; its results must be the same on all replicas (`reduce_mean`).
      in_axes: for each argument: None if all replicas get it whole, 0 if it has a row per local device.
      devices: one per replica.
    """
    return _map(run, in_axes, devices, donate=(0,))


def map_eval_step(eval_fn: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Maps `eval_fn(variables, batch) -> [B, ...]` over the devices: host batch in, [B, ...] or a pytree of these out.

    Each of several processes passes the whole batch, computes its share, and gets the whole result.
    """
    mapped = eval_program(eval_fn, devices=replica_devices())

    def run(variables: Any, batch: Any) -> Any:
        mine = jax.tree.map(lambda x: np.split(x, jax.process_count())[jax.process_index()], batch)
        out = mapped(variables, shard(mine))
        return out if processes.several() else jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)

    return run


def eval_program(eval_fn: Callable[[Any, Any], Any], *, devices: Sequence[jax.Device]) -> Any:
    """The program of `map_eval_step`, of `(variables, batch [local devices, B, ...])`. Compiles nothing yet."""
    if not processes.several():
        return _map(eval_fn, (None, 0), devices, out_axes=0)
    return _map(lambda *args: jax.lax.all_gather(eval_fn(*args), AXIS, tiled=True), (None, 0), devices)


def replica_indices() -> Any:
    """int32 [devices]: the number of each replica, for a mapped function."""
    mine = [i for i, d in enumerate(replica_devices()) if d.process_index == jax.process_index()]
    return _rows(np.array(mine, np.int32))


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
