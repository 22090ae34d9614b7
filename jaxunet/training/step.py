"""One training step of one replica. Pure functions; the caller passes in how replicas are reduced."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from ml_collections import ConfigDict

from jaxunet.data import batches, order
from jaxunet.data.augment import augment_batch
from jaxunet.data.examples import RawBatch
from jaxunet.models.build import Network, predict_step, without_patches
from jaxunet.scoring.losses import LossFn
from jaxunet.training.flat import flatten, unflatten
from jaxunet.training.state import TrainState

Batch = dict[str, Any]
Metrics = dict[str, Array]


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: Network,
    loss_fn: LossFn,
    score_fn: Callable[[Any, Any], Array],
    tx: optax.GradientTransformation,
    accumulate_steps: int = 1,
    ema_decay: float = 0.0,
    reduce: Callable[[Any], Any] = lambda tree: tree,
    flat_like: TrainState | None = None,
) -> tuple[TrainState, Metrics]:
    """One optimizer step.

    Args:
      state, batch: of this replica; `image` float32 [B, H, W, 1] in [0, 1] and `target`, from `batches.decode`.
      loss_fn, score_fn: see `task.Task`.
      accumulate_steps: number of equal parts of the batch that are computed one after the other.
      ema_decay: decay of the averaged weights; 0 keeps no averages.
      reduce: pytree -> its mean over replicas; the identity for one replica.
      flat_like: shapes of the state that `state` is the flat form of (flat.py); None if it has its usual form.

    Returns the next state, and float32 scalars: `loss`, `grad_norm`, `score_sum` and `score_count`. For a mean over
    several steps, sum both over the steps, then divide.
    """

    def loss_and_aux(params: Any, batch_stats: Any, part: Batch) -> tuple[Array, tuple[Any, Array]]:
        variables = {"params": params, "batch_stats": batch_stats}
        outputs, updates = model.apply(variables, part["image"], train=True, mutable=["batch_stats"])
        score = score_fn(outputs, part["target"])
        return loss_fn(outputs, part["target"]).mean(), (updates.get("batch_stats", {}), score)

    params, batch_stats, totals = state.params, state.batch_stats, None
    if flat_like:
        params, batch_stats = unflatten(params, flat_like.params), unflatten(batch_stats, flat_like.batch_stats)
    # A Python loop, not lax.scan: XLA's CPU backend runs convolutions in a loop body about 25 times slower.
    for part in _split(batch, accumulate_steps):
        (loss, (batch_stats, score)), grads = jax.value_and_grad(loss_and_aux, has_aux=True)(params, batch_stats, part)
        part_totals = (grads, loss, score)
        totals = part_totals if totals is None else jax.tree.map(jnp.add, totals, part_totals)
    grads, loss, score = jax.tree.map(lambda x: x / accumulate_steps, totals)
    if flat_like:
        grads, batch_stats = flatten(grads), flatten(batch_stats)
    grads, loss, score, batch_stats = reduce((grads, loss, score, batch_stats))

    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema_params, ema_batch_stats = state.ema_params, state.ema_batch_stats
    if ema_decay:
        # The decay starts small, so that the random initial weights are forgotten: min(decay, (1 + t) / (10 + t)).
        t = state.step.astype(jnp.float32)
        decay = jnp.minimum(ema_decay, (1 + t) / (10 + t))
        ema_params, ema_batch_stats = jax.tree.map(
            lambda average, new: decay * average + (1 - decay) * new,
            (ema_params, ema_batch_stats),
            (params, batch_stats),
        )
    new_state = TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        ema_params=ema_params,
        ema_batch_stats=ema_batch_stats,
    )
    metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads), "score_sum": score[0], "score_count": score[1]}
    return new_state, metrics


def _split(batch: Batch, parts: int) -> list[Batch]:
    size = batch["image"].shape[0] // parts
    return [jax.tree.map(lambda x, i=i: x[i * size : (i + 1) * size], batch) for i in range(parts)]


def augmented_batch(raw: RawBatch, positions: Array, *, seed: int, augment: ConfigDict) -> Batch:
    """Raw uint8 batch -> normalised, augmented batch. `positions`: int32 [B] in the stream of examples."""
    batch = batches.decode(raw)
    image, target = batch["image"], batch["target"]
    keys = order.example_keys(seed, positions)
    masks = target["masks"] if "mask" in raw else jnp.zeros((*image.shape[:-1], 0), jnp.float32)
    image, masks = augment_batch(keys, image, masks, augment)
    return {"image": image, "target": target | {"masks": masks} if "mask" in raw else target}


def flops_per_image(model: Network, variables: Any, image_shape: tuple[int, int, int]) -> float:
    """Operations of training on one image (H, W, C): three times the forward pass, because the backward pass costs
    twice as much. Layout "patches" is counted as "plain": it also multiplies by zeros. `variables`: arrays or shapes.
    """
    model = without_patches(model)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables)
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):  # other backends count only after compiling
        lowered = jax.jit(lambda v, x: predict_step(v, x, model=model)).lower(shapes, image)
    return 3 * float((lowered.cost_analysis() or {})["flops"])
