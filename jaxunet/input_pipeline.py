"""From a prepared dataset to batches: device-resident arrays, or a Grain stream; and exact evaluation batches.

Order is a function of (seed, step) alone. The examples seen by a run are the concatenation of one permutation per
epoch, f(seed, epoch); step s takes positions [s * B, (s + 1) * B) of it, B being the global batch. No example is
dropped or repeated within an epoch, nothing random is stored, and both modes give the same batches.

A raw batch, on host or device: `image` uint8 [B, H, W] in [0, 255]; `mask` uint8 [B, H, W / 8, C], packed bits, and,
where the target "covid19" is learnt, `covid19` uint8 {0, 1} [B]; or, where classes are learnt, `label` int32 [B].
"""

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from jaxunet.dataset import CLASSES, COVID19, mask_targets, reading
from jaxunet.dataset.verify import decode_gray_png
from jaxunet.errors import UserError

RawBatch = dict[str, Any]
_COVID = CLASSES.index("COVID-19")


class Source(Protocol):
    """Random access to decoded examples: a raw batch without its first axis, by number."""

    ids: list[str]
    labels: np.ndarray
    image_shape: tuple[int, int, int]

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> RawBatch: ...


class ExampleSource:
    """Random access to the decoded examples of one split, in the order the dataset stores them."""

    def __init__(
        self,
        builder: Any,
        split: str,
        targets: tuple[str, ...],
        *,
        image_size: int = 0,
        exclude: frozenset[str] = frozenset(),
    ):
        """Args:
        builder: a prepared TFDS builder.
        split: "train", "val" or "test".
        targets: which masks to read, in order, of "infection" and "lung"; "covid19" if the class is wanted, too.
        image_size: reduce images and masks to so many pixels per side; a divisor of theirs, or 0 to keep them.
        exclude: ids of examples to leave out.
        """
        import tensorflow_datasets as tfds

        names = ["image", *(f"{t}_mask" for t in mask_targets(targets))]
        missing = [n for n in names if n not in builder.info.features]
        if missing:
            raise UserError(f"The dataset {builder.info.full_name} has no {missing[0]}: change dataset.targets.")
        self._names, self._with_covid19 = names, COVID19 in targets
        images = [n for n, f in builder.info.features.items() if isinstance(f, tfds.features.Image)]
        self._folder = builder.data_dir
        with reading(self._folder):
            self._source = builder.as_data_source(split, decoders={n: tfds.decode.SkipDecoding() for n in images})
            examples = [(i, e["id"].decode(), int(e["label"])) for i, e in enumerate(self._source)]
            if len(examples) != builder.info.splits[split].num_examples:
                raise ValueError(f"{split} has {len(examples)} examples")
        kept = [example for example in examples if example[1] not in exclude]
        self.left_out = len(examples) - len(kept)
        self._records = [i for i, _, _ in kept]
        self.ids = [name for _, name, _ in kept]
        self.labels = np.array([label for _, _, label in kept], np.int32)
        height, width, channels = builder.info.features["image"].shape
        self._block = height // image_size if image_size else 1
        self.image_shape = (height // self._block, width // self._block, channels)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> RawBatch:
        """`image` uint8 [H, W], `mask` packed uint8 [H, W / 8, C], `covid19` uint8 [] if that is a target."""
        with reading(self._folder):
            example = self._source[self._records[i]]
            image, *masks = (decode_gray_png(example[name]) for name in self._names)
        masks = [mask > 0 for mask in masks]
        if self._block > 1:
            image = np.rint(_block_means(image, self._block)).astype(np.uint8)
            masks = [_block_means(mask, self._block) >= 0.5 for mask in masks]
        packed = [np.packbits(mask, axis=1) for mask in masks]
        raw = {"image": image, "mask": np.stack(packed, axis=-1)}
        return raw | ({COVID19: np.uint8(self.labels[i] == _COVID)} if self._with_covid19 else {})


def _block_means(x: np.ndarray, block: int) -> np.ndarray:
    """[H, W] -> [H / block, W / block]: the mean of every block x block pixels; of masks, the share that is set."""
    h, w = x.shape
    return x.reshape(h // block, block, w // block, block).mean(axis=(1, 3))


@dataclasses.dataclass(frozen=True)
class Split:
    """A whole split in host memory: `arrays` are one raw batch of all N examples; labels int32 [N]; ids."""

    arrays: RawBatch
    labels: np.ndarray
    ids: list[str]

    @property
    def image(self) -> np.ndarray:
        """uint8 [N, H, W]."""
        return self.arrays["image"]

    def truth(self, i: int) -> np.ndarray:
        """bool [H, W]: the first mask of image `i`."""
        return np.unpackbits(self.arrays["mask"][i, ..., 0], axis=1).astype(bool)

    def part(self, index: np.ndarray) -> "Split":
        """The examples `index` int [K], in that order."""
        arrays = {name: array[index] for name, array in self.arrays.items()}
        return Split(arrays, self.labels[index], [self.ids[i] for i in index])


def load_split(source: Source, *, threads: int) -> Split:
    """Decodes every example once, in parallel, straight into the final arrays."""
    arrays = {name: np.empty((len(source), *np.shape(x)), x.dtype) for name, x in source[0].items()}

    def fill(i: int) -> None:
        for name, value in source[i].items():
            arrays[name][i] = value

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, range(len(source)), chunksize=64))
    return Split(arrays, source.labels, source.ids)


def use_resident(mode: str, *, num_examples: int, image_shape: tuple[int, ...], masks: int, limit_gib: float) -> bool:
    """Whether the training split stays on the device: as `input.mode` says, or for "auto", if it fits `limit_gib`."""
    h, w = image_shape[:2]
    size = num_examples * h * w * (1 + masks / 8)
    return mode == "resident" or (mode == "auto" and size <= limit_gib * 2**30)


# ---- order -----------------------------------------------------------------------------------------------------------


def epoch_order(seed: int, epoch: Array | int, num_examples: int) -> Array:
    """int32 [num_examples]: the permutation of epoch `epoch`; integer arithmetic, the same on every backend."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), epoch)
    return jax.random.permutation(key, num_examples)


def example_keys(seed: int, positions: Array) -> Array:
    """[B] augmentation keys for positions int32 [B] of the example stream."""
    key = jax.random.fold_in(jax.random.key(seed), 2)
    return jax.vmap(lambda position: jax.random.fold_in(key, position))(positions)


def order_of_epochs(seed: int, first_epoch: Array | int, epochs: int, num_examples: int) -> Array:
    """int32 [epochs * num_examples]: `epochs` consecutive permutations, concatenated."""
    orders = [epoch_order(seed, first_epoch + e, num_examples) for e in range(epochs)]
    return jnp.concatenate(orders)


def examples_of_step(seed: int, step: int, *, batch_size: int, num_examples: int) -> np.ndarray:
    """int64 [batch_size]: the numbers of the examples that step `step` trains on, on the host."""
    positions = step * batch_size + np.arange(batch_size)
    first = int(positions[0]) // num_examples
    epochs = int(positions[-1]) // num_examples - first + 1
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        order = np.asarray(order_of_epochs(seed, first, epochs, num_examples))
    return order[positions - first * num_examples]


# ---- batches ---------------------------------------------------------------------------------------------------------


def gather(arrays: RawBatch, index: Array) -> RawBatch:
    """Rows `index` int32 [B] of device-resident arrays."""
    return {name: jnp.take(array, index, axis=0, mode="clip") for name, array in arrays.items()}


def decode_image(raw: RawBatch) -> Array:
    """Raw batch -> float32 [B, H, W, 1] in [0, 1]."""
    return raw["image"][..., None].astype(jnp.float32) / 255


def decode(raw: RawBatch) -> dict[str, Array]:
    """Raw batch -> `image` float32 [B, H, W, 1] in [0, 1]; `target`: masks float32 {0, 1} [B, H, W, C], or labels.

    Where "covid19" is a target, it is the last of the C: 1 in every pixel of a COVID-19 image, else 0.
    """
    image = decode_image(raw)
    if "label" in raw:
        return {"image": image, "target": raw["label"]}
    target = jnp.unpackbits(raw["mask"], axis=2).astype(jnp.float32)
    return {"image": image, "target": append_covid19(target, raw)}


def append_covid19(masks: Array, raw: RawBatch) -> Array:
    """`masks` float32 [B, H, W, C], and as one more plane the class of each image, if `raw` has it."""
    if COVID19 not in raw:
        return masks
    plane = raw[COVID19].astype(jnp.float32)[:, None, None, None]
    return jnp.concatenate([masks, jnp.broadcast_to(plane, (*masks.shape[:-1], 1))], axis=-1)


def eval_batches(split: Split, batch_size: int) -> Iterator[tuple[RawBatch, np.ndarray]]:
    """Every example once, in order, in batches of one static size.

    Yields:
      The raw batch, the last one padded with its first example, and `valid` bool [B], False for padding.
    """
    for start in range(0, len(split.ids), batch_size):
        index = np.arange(start, start + batch_size)
        valid = index < len(split.ids)
        index = np.where(valid, index, start)
        yield {name: array[index] for name, array in split.arrays.items()}, valid


class _Positions:
    """The positions of the example stream that this process takes, as the random-access source that Grain wants.

    Number i of `count` is example i % share of its `share` in step i // share after `first`, a position.
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
    """Raw batches of steps [start_step, total_steps), this process's share of each, prefetched by Grain's threads."""
    import grain

    share = batch_size // jax.process_count()
    first = start_step * batch_size + jax.process_index() * share
    positions = _Positions(
        source, seed, first=first, batch_size=batch_size, share=share, count=(total_steps - start_step) * share
    )
    dataset = grain.MapDataset.source(positions).batch(share)
    options = grain.ReadOptions(num_threads=stream.threads, prefetch_buffer_size=stream.prefetch_batches)
    return iter(dataset.to_iter_dataset(options))
