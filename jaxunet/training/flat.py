"""The training state with all kernels of a module in one array: GPUs then update it with few kernels.

`resident_program` keeps the state in this form between the steps of one call. A tree {module: {...: leaf}} becomes
{module: {"kernels": [n, 1], "rest": [m]}}: two dimensions where the leaves have more than one, so that masks such as
`optimizer.is_kernel` stay the same.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxunet.training.state import TrainState

Flat = dict[str, dict[str, Array]]


def flatten(tree: Any) -> Flat:
    """Nested dicts of arrays -> their entries, one array per module and kind."""
    return {module: _join(jax.tree.leaves(part)) for module, part in tree.items()}


def _join(leaves: list[Array]) -> dict[str, Array]:
    kinds = {"kernels": [x for x in leaves if x.ndim > 1], "rest": [x for x in leaves if x.ndim <= 1]}
    joined = {kind: jnp.concatenate([x.reshape(-1) for x in group]) for kind, group in kinds.items() if group}
    return {kind: x.reshape(-1, 1) if kind == "kernels" else x for kind, x in joined.items()}


def unflatten(flat: Flat, like: Any) -> Any:
    """Inverse of `flatten`; `like` has the leaves' shapes."""

    def split(arrays: dict[str, Array], part: Any) -> Any:
        leaves, structure = jax.tree.flatten(part)
        done = dict.fromkeys(arrays, 0)
        pieces = []
        for leaf in leaves:
            kind, size = "kernels" if leaf.ndim > 1 else "rest", math.prod(leaf.shape)
            piece = jax.lax.slice_in_dim(arrays[kind], done[kind], done[kind] + size)
            pieces.append(piece.reshape(leaf.shape))
            done[kind] += size
        return jax.tree.unflatten(structure, pieces)

    return {module: split(flat[module], part) for module, part in like.items()}


def flatten_state(state: TrainState) -> TrainState:
    return _map_trees(state, state, lambda tree, like: flatten(tree))


def unflatten_state(state: TrainState, like: TrainState) -> TrainState:
    return _map_trees(state, like, unflatten)


def _map_trees(state: TrainState, like: TrainState, change: Any) -> TrainState:
    """Applies `change(tree, tree of like)` to every tree of the state, those of the optimizer included."""

    def maybe(tree: Any, shapes: Any) -> Any:
        return change(tree, shapes) if tree else tree  # None or {}: nothing to change

    known = {jax.tree.structure(s.params) for s in (state, like)}
    is_params = lambda tree: jax.tree.structure(tree) in known  # noqa: E731
    shapes = iter([x for x in jax.tree.leaves(like.opt_state, is_leaf=is_params) if is_params(x)])
    return dataclasses.replace(
        state,
        params=change(state.params, like.params),
        batch_stats=maybe(state.batch_stats, like.batch_stats),
        opt_state=jax.tree.map(
            lambda x: change(x, next(shapes)) if is_params(x) else x, state.opt_state, is_leaf=is_params
        ),
        ema_params=maybe(state.ema_params, like.ema_params),
        ema_batch_stats=maybe(state.ema_batch_stats, like.ema_batch_stats),
    )
