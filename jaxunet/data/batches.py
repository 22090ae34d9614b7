"""From examples to batches: gathered from device-resident arrays, streamed by Grain, or in order for evaluation.

Both ways of training give the same batches, in the order of `order.py`.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from jaxunet.data.examples import RawBatch, Source
from jaxunet.data.order import epoch_order
from jaxunet.data.targets import COVID19


def use_resident(mode: str, *, num_examples: int, image_shape: tuple[int, ...], masks: int, limit_gib: float) -> bool:
    """Whether the training split stays on the device; with "auto", if it takes at most `limit_gib` GiB."""
    h, w = image_shape[:2]
    size = num_examples * h * w * (1 + masks / 8)
    return mode == "resident" or (mode == "auto" and size <= limit_gib * 2**30)


def gather(arrays: RawBatch, index: Array) -> RawBatch:
    """Rows `index` int32 [B] of device-resident arrays."""
    return {name: jnp.take(array, index, axis=0, mode="clip") for name, array in arrays.items()}


def decode_image(raw: RawBatch) -> Array:
    """Raw batch -> float32 [B, H, W, 1] in [0, 1]."""
    return raw["image"][..., None].astype(jnp.float32) / 255


def decode(raw: RawBatch) -> dict[str, Any]:
    """Raw batch -> `image` float32 [B, H, W, 1] in [0, 1] and `target`: labels int32 [B], or a dict of `masks` float32
    {0, 1} [B, H, W, C] and, if it is a target, `covid19` float32 {0, 1} [B]."""
    image = decode_image(raw)
    if "label" in raw:
        return {"image": image, "target": raw["label"]}
    target = {"masks": jnp.unpackbits(raw["mask"], axis=2).astype(jnp.float32)}
    if COVID19 in raw:
        target[COVID19] = raw[COVID19].astype(jnp.float32)
    return {"image": image, "target": target}


def eval_batches(arrays: RawBatch, batch_size: int) -> Iterator[tuple[RawBatch, np.ndarray]]:
    """Splits `arrays`, one raw batch of all examples, into batches of `batch_size`, each example once and in order.

    Each comes with `valid` bool [B], False for padding. The last batch is padded with its first example.
    """
    n = len(arrays["image"])
    for start in range(0, n, batch_size):
        index = np.arange(start, start + batch_size)
        valid = index < n
        index = np.where(valid, index, start)
        yield {name: array[index] for name, array in arrays.items()}, valid


class _Positions:
    """The examples that this process reads, as the random-access source that Grain wants.

    Item i is example i % share of this process's `share` of step i // share. `first` is the position of item 0 in the
    stream of all processes.
    """

    def __init__(self, source: Source, seed: int, *, first: int, batch_size: int, share: int, count: int):
        self._source, self._seed = source, seed
        self._first, self._batch_size, self._share, self._count = first, batch_size, share, count
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int32))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> RawBatch:
        step, place = divmod(i, self._share)
        epoch, offset = divmod(self._first + step * self._batch_size + place, len(self._source))
        known, order = self._order
        if known != epoch:
            with jax.default_device(jax.local_devices(backend="cpu")[0]):
                order = np.asarray(epoch_order(self._seed, epoch, len(self._source)))
            self._order = (epoch, order)
        return self._source[int(order[offset])]


def stream_batches(
    source: Source, *, seed: int, start_step: int, total_steps: int, batch_size: int, stream: ConfigDict
) -> Iterator[RawBatch]:
    """This process's share of the raw batch of each step in [start_step, total_steps), prefetched by Grain."""
    import grain

    share = batch_size // jax.process_count()
    first = start_step * batch_size + jax.process_index() * share
    positions = _Positions(
        source, seed, first=first, batch_size=batch_size, share=share, count=(total_steps - start_step) * share
    )
    dataset = grain.MapDataset.source(positions).batch(share)
    options = grain.ReadOptions(num_threads=stream.threads, prefetch_buffer_size=stream.prefetch_batches)
    return iter(dataset.to_iter_dataset(options))
