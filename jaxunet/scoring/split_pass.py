"""One pass over a split: every image once, counted on the device."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from jaxunet.data import batches, prepared
from jaxunet.data.examples import ExampleSource, RawBatch, Split, load_split
from jaxunet.data.targets import COVID19, mask_targets
from jaxunet.devices import replicas
from jaxunet.models.build import Forward, predict_step
from jaxunet.scoring import protocols
from jaxunet.scoring.counts import histogram, pixel_counts, positive


def eval_step(
    variables: Any, raw: RawBatch, *, model: Forward, threshold: float, predicted: bool = False
) -> dict[str, Array]:
    """Raw batch -> `counts` int32 [B, C, 4] per image and mask. Networks with the output "covid19" also give `covid19`
    bool [B]: whether the probability is above 0.5. `predicted=True` adds `mask` as in `measure_step`."""
    outputs, masks = _outputs_and_masks(variables, raw, model)
    called = {COVID19: positive(outputs[COVID19], 0.5)} if COVID19 in outputs else {}
    drawn = {"mask": jnp.packbits(positive(outputs["masks"], threshold), axis=2)} if predicted else {}
    return {"counts": pixel_counts(outputs["masks"], masks, threshold), **called, **drawn}


def measure_step(variables: Any, raw: RawBatch, *, model: Forward, threshold: float) -> dict[str, Array]:
    """Raw batch -> everything that evaluation needs: `counts` int32 [B, C, 4] as in `eval_step`; `histogram` int32
    [B, C, 3, 20], see `counts.histogram`; `mask` uint8 [B, H, W / 8, C], the predicted masks as packed bits; with the
    output "covid19" also `covid19` float32 [B], the probability."""
    outputs, masks = _outputs_and_masks(variables, raw, model)
    logits = outputs["masks"]
    measured = {"counts": pixel_counts(logits, masks, threshold), "histogram": histogram(logits, masks)}
    measured["mask"] = jnp.packbits(positive(logits, threshold), axis=2)
    return measured | ({COVID19: jax.nn.sigmoid(outputs[COVID19])} if COVID19 in outputs else {})


def _outputs_and_masks(variables: Any, raw: RawBatch, model: Forward) -> tuple[dict[str, Array], Array]:
    batch = batches.decode(raw)
    return predict_step(variables, batch["image"], model=model), batch["target"]["masks"]


def eval_classifier_step(variables: Any, raw: RawBatch, *, model: Forward) -> Array:
    """Raw batch with labels -> bool [B]: whether the largest logit is that of the right class."""
    batch = batches.decode(raw)
    return jnp.argmax(predict_step(variables, batch["image"], model=model), axis=-1) == batch["target"]


EvalFn = Callable[[Any, RawBatch], dict[str, Array]]


def load_eval_split(config: ConfigDict, split: str) -> Split:
    """The validation or test images in host memory."""
    builder = prepared.open_builder(config.dataset, config.dataset.eval_config)
    source = ExampleSource(builder, split, config.dataset.targets, image_size=config.dataset.image_size)
    return load_split(source, threads=config.input.threads)


def build_eval_fn(model: Forward, config: ConfigDict, *, predicted: bool = False) -> EvalFn:
    """`eval_step` as `(variables, raw batch) -> dict`, compiled for all devices."""
    step = functools.partial(eval_step, model=model, threshold=config.eval.threshold, predicted=predicted)
    return replicas.map_eval_step(step)


def map_split(
    fn: Callable[[Any, Any], Any],
    variables: Any,
    arrays: RawBatch,
    batch_size: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> Any:
    """Applies `fn(variables, raw batch)`, which returns a tree of arrays [B, ...], to all images of `arrays` in order.

    Returns host arrays [N, ...] without the padding; None if it was stopped."""
    results: list[tuple[Any, np.ndarray]] = []
    for raw, valid in batches.eval_batches(arrays, batch_size):
        if should_stop():
            return None
        if len(results) > 1:  # at most two calls ahead of the device, so that a stop is quick
            jax.block_until_ready(results[-2][0])
        results.append((fn(variables, raw), valid))
    parts = [jax.tree.map(lambda x, valid=valid: np.asarray(x)[valid], out) for out, valid in results]
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def summarize(counts: np.ndarray, split: Split, targets: Iterable[str], *, resamples: int = 0) -> dict[str, Any]:
    """Metrics of the first mask at top level, of the other masks under `targets`; see `protocols.summarize`."""
    masks = mask_targets(targets)
    first, *others = (protocols.summarize(counts[:, i], split.positive, resamples=resamples) for i in range(len(masks)))
    return first | ({"targets": dict(zip(masks[1:], others, strict=True))} if others else {})
