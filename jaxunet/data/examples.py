"""Examples of a prepared dataset, decoded: by number (`ExampleSource`) or a whole split in memory (`Split`).

A raw batch, on host or device: `image` uint8 [B, H, W] in [0, 255]; `mask` uint8 [B, H, W / 8, C], packed bits, and,
where the target "covid19" is learnt, `covid19` uint8 {0, 1} [B]; or, where classes are learnt, `label` int32 [B].
"""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from jaxunet.core.errors import UserError
from jaxunet.data.archive import CLASSES
from jaxunet.data.png import decode_gray_png
from jaxunet.data.prepared import reading
from jaxunet.data.targets import COVID19, answers_covid19, mask_targets

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
        targets: which masks to read, in order; "covid19" if the class is wanted, too.
        image_size: reduce images and masks to so many pixels per side; a divisor of theirs, or 0 to keep them.
        exclude: ids of examples to leave out.
        """
        import tensorflow_datasets as tfds

        names = ["image", *(f"{t}_mask" for t in mask_targets(targets))]
        missing = [n for n in names if n not in builder.info.features]
        if missing:
            raise UserError(f"The dataset {builder.info.full_name} has no {missing[0]}: change dataset.targets.")
        self._names, self._with_covid19 = names, answers_covid19(targets)
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
