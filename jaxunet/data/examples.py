"""Decoded examples of a prepared dataset: one at a time (`ExampleSource`) or a whole split in memory (`Split`).

A raw batch, on host or device: `image` uint8 [B, H, W] in [0, 255]; `mask` uint8 [B, H, W / 8, C], packed bits; with
the target "covid19" also `covid19` uint8 {0, 1} [B]. With the target "class": `image` and `label` int32 [B].
"""

import dataclasses
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxunet.core.errors import UserError
from jaxunet.data.labelled_images import LabelledImages
from jaxunet.data.png import decode_gray_png
from jaxunet.data.prepared import reading
from jaxunet.data.targets import COVID19, answers_covid19, mask_targets

RawBatch = dict[str, Any]


class ExampleSource:
    """Random access to the decoded examples of one split, in the order the dataset stores them.

    An example is a raw batch without the first axis.

    Attributes:
      ids: of the N examples.
      labels: int32 [N], index into `classes`.
      classes, positive_class: of the dataset's spec.
      positive: bool [N], whether an example is of the positive class.
      image_shape: (H, W, channels).
      columns: name -> str [N], of a user's folder: what its table says of the examples.
      left_out: number of examples that were excluded.
    """

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
        targets: masks to read, in order, and maybe "covid19".
        image_size: pixels per side to reduce images and masks to, a divisor of theirs; 0 keeps their size.
        exclude: ids of examples to leave out.
        """
        import tensorflow_datasets as tfds

        names = ["image", *(f"{t}_mask" for t in mask_targets(targets))]
        if missing := [n for n in names if n not in builder.info.features]:
            raise UserError(f"The dataset {builder.info.full_name} has no {missing[0]}: change dataset.targets.")
        self._names, self._with_covid19 = names, answers_covid19(targets)
        images = [n for n, f in builder.info.features.items() if isinstance(f, tfds.features.Image)]
        self._folder = builder.data_dir
        table = builder.in_split(split) if builder.spec.folder else None  # a folder's images are stored in one split
        stored = split if table is None else next(iter(builder.info.splits))
        with reading(self._folder):
            self._source = builder.as_data_source(stored, decoders={n: tfds.decode.SkipDecoding() for n in images})
            examples = [(i, e["id"].decode(), int(e["label"])) for i, e in enumerate(self._source)]
            if len(examples) != builder.info.splits[stored].num_examples:
                raise ValueError(f"{stored} has {len(examples)} examples")
        if table is not None:
            examples = [example for example in examples if example[1] in table]
        if not examples:
            raise UserError(f"The dataset {builder.info.full_name} has no images in its split {split!r}: use another.")
        kept = [example for example in examples if example[1] not in exclude]
        self.left_out = len(examples) - len(kept)
        self._records = [i for i, _, _ in kept]
        self.ids = [name for _, name, _ in kept]
        self.labels = np.array([label for _, _, label in kept], np.int32)
        self.classes, self.positive_class, self._size = builder.spec.classes, builder.spec.positive, builder.spec.size
        rows = [table[name] for name in self.ids] if table else []
        self.columns = {name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else ())}
        self.positive = is_positive(self.labels, self.classes, self.positive_class)
        height, width, channels = builder.info.features["image"].shape
        self._block = height // image_size if image_size else 1
        self.image_shape = (height // self._block, width // self._block, channels)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> RawBatch:
        """`image` uint8 [H, W], `mask` packed uint8 [H, W / 8, C], `covid19` uint8 [] if that is a target."""
        with reading(self._folder):
            example = self._source[self._records[i]]
            image, *masks = (decode_gray_png(example[name], self._size) for name in self._names)
        masks = [mask > 0 for mask in masks]
        if self._block > 1:
            image = np.rint(_block_means(image, self._block)).astype(np.uint8)
            masks = [_block_means(mask, self._block) >= 0.5 for mask in masks]
        raw = {"image": image, "mask": np.packbits(np.stack(masks, axis=-1), axis=1)}
        return raw | ({COVID19: np.uint8(self.positive[i])} if self._with_covid19 else {})


Source = ExampleSource | LabelledImages


def is_positive(labels: np.ndarray, classes: Sequence[str], positive_class: str | None) -> np.ndarray:
    """bool [N]: which `labels` are of the positive class. Without a positive class all are."""
    return np.ones(len(labels), bool) if positive_class is None else labels == list(classes).index(positive_class)


def _block_means(x: np.ndarray, block: int) -> np.ndarray:
    """[H, W] -> [H / block, W / block]: the mean of every block x block pixels; of masks, the share that is set."""
    h, w = x.shape
    return x.reshape(h // block, block, w // block, block).mean(axis=(1, 3))


@dataclasses.dataclass(frozen=True)
class Split:
    """A whole split in host memory."""

    arrays: RawBatch  # one raw batch of all N examples
    labels: np.ndarray  # int32 [N], index into `classes`
    ids: list[str]  # of the examples
    classes: Sequence[str] = ()  # names, in the order of the labels
    positive_class: str | None = None  # one of `classes`; None if all examples count as positive
    # name -> str [N], of a user's folder: what its table says of the examples, such as their "patient"
    columns: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def positive(self) -> np.ndarray:
        """bool [N]: the images of the positive class. Protocols P1 and P2 use these images."""
        return is_positive(self.labels, self.classes, self.positive_class)

    @property
    def controls(self) -> dict[str, np.ndarray]:
        """Class -> bool [N], its images, for each other class that has images."""
        members = {name: (self.labels == i) & ~self.positive for i, name in enumerate(self.classes)}
        return {name: chosen for name, chosen in members.items() if chosen.any()}

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
        columns = {name: column[index] for name, column in self.columns.items()}
        ids = [self.ids[i] for i in index]
        return dataclasses.replace(self, arrays=arrays, labels=self.labels[index], ids=ids, columns=columns)


def fingerprint(source: Source | Split, *, threads: int) -> dict[str, str | int]:
    """What tells images apart: their number, a CRC-32 of names and classes, and one of pixels and masks.

    `threads` decode the images. Images with a class and no mask are not decoded: there may be millions.
    """
    names = "\n".join(f"{name} {label}" for name, label in zip(source.ids, source.labels.tolist(), strict=True))
    found: dict[str, str | int] = {"number": len(source.ids), "names": f"{zlib.crc32(names.encode()):08x}"}
    if isinstance(source, Split) and "label" in source.arrays or not isinstance(source, Split | ExampleSource):
        return found

    def pixels(i: int) -> int:
        example = {k: v[i] for k, v in source.arrays.items()} if isinstance(source, Split) else source[i]
        crc = 0
        for name in sorted(example):
            crc = zlib.crc32(np.asarray(example[name]).tobytes(), crc)
        return crc

    with ThreadPoolExecutor(threads) as pool:
        each = np.fromiter(pool.map(pixels, range(len(source.ids)), chunksize=64), np.uint32)
    return found | {"pixels": f"{zlib.crc32(each.tobytes()):08x}"}


def load_split(source: Source, *, threads: int) -> Split:
    """Decodes every example once, with `threads` threads, into the final arrays."""
    arrays = {name: np.empty((len(source), *np.shape(x)), x.dtype) for name, x in source[0].items()}

    def fill(i: int) -> None:
        for name, value in source[i].items():
            arrays[name][i] = value

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, range(len(source)), chunksize=64))
    columns = source.columns if isinstance(source, ExampleSource) else {}
    return Split(arrays, source.labels, source.ids, source.classes, source.positive_class, columns)
