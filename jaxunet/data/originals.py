"""The images of any dataset at their files' own size, one by one. Evaluation reads them."""

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from ml_collections import ConfigDict

from jaxunet.core.errors import UserError
from jaxunet.data import folder, prepared
from jaxunet.data.dataset_spec import SPLITS
from jaxunet.data.examples import ExampleSource, Split, is_positive
from jaxunet.data.folder import Record
from jaxunet.data.specs import spec_of
from jaxunet.xrays import letterbox
from jaxunet.xrays.pixels import Xray

ALL = "all"  # images of every split


@dataclasses.dataclass(frozen=True)
class Originals:
    """N images at their own size.

    Attributes:
      read: i -> X-ray i and its true masks bool [h, w, C].
      ids, labels, classes, positive_class, columns: as in `Split`.
    """

    read: Callable[[int], tuple[Xray, np.ndarray]]
    ids: list[str]
    labels: np.ndarray
    classes: Sequence[str]
    positive_class: str | None
    columns: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def positive(self) -> np.ndarray:
        """As `Split.positive`."""
        return is_positive(self.labels, self.classes, self.positive_class)

    def part(self, ids: Sequence[str]) -> "Originals":
        """The images `ids`, in that order."""
        at = {name: i for i, name in enumerate(self.ids)}
        index = [at[name] for name in ids]
        columns = {name: column[index] for name, column in self.columns.items()}
        return dataclasses.replace(
            self, read=lambda i: self.read(index[i]), ids=list(ids), labels=self.labels[index], columns=columns
        )

    def fitted(self, size: int, *, threads: int) -> Split:
        """All images and masks in squares of `size` pixels, as prediction scales them."""

        def fit(i: int) -> tuple[np.ndarray, np.ndarray]:
            xray, masks = self.read(i)
            square, place = letterbox.fit(xray.pixels, size, xray.aspect)
            return square, np.packbits(fit_masks(masks, place, size), axis=1)

        with ThreadPoolExecutor(threads) as pool:
            images, masks = zip(*pool.map(fit, range(len(self.ids))), strict=True)
        arrays = {"image": np.stack(images), "mask": np.stack(masks)}
        return Split(arrays, self.labels, self.ids, self.classes, self.positive_class, self.columns)


def fit_masks(masks: np.ndarray, place: letterbox.Placement, size: int) -> np.ndarray:
    """bool [h, w, C] -> bool [S, S, C]; see `letterbox.fit_mask`."""
    return np.stack([letterbox.fit_mask(mask, place, size) for mask in np.moveaxis(masks, -1, 0)], axis=-1)


def open_originals(dataset: ConfigDict, split: str, masks: Sequence[str]) -> Originals:
    """The images of a split, in the order of `examples.ExampleSource`.

    Args:
      dataset: the `dataset` section of a config.
      split: "train", "val", "test" or "all".
      masks: names of the true masks to read.

    Raises:
      UserError: if the dataset cannot be used, or has no such images.
    """
    if spec_of(dataset).folder:
        return _of_folder(dataset, split, masks)
    builder = prepared.open_builder(dataset, dataset.eval_config)
    parts = [ExampleSource(builder, name, tuple(masks)) for name in (SPLITS if split == ALL else (split,))]
    where = [(part, i) for part in parts for i in range(len(part))]

    def read(i: int) -> tuple[Xray, np.ndarray]:
        part, at = where[i]
        raw = part[at]
        return Xray(raw["image"]), np.unpackbits(raw["mask"], axis=1).astype(bool)

    ids, labels = [name for part in parts for name in part.ids], np.concatenate([part.labels for part in parts])
    return Originals(read, ids, labels, builder.spec.classes, builder.spec.positive)


def _of_folder(dataset: ConfigDict, split: str, masks: Sequence[str]) -> Originals:
    found = folder.open_folder(dataset)
    spec, records = found.spec, [r for r in found.records(train=False) if split in (r.split, ALL)]
    if not records:
        raise UserError(f"{found.path} has no images in its split {split!r}: use another, or --split={ALL}.")

    def read(i: int) -> tuple[Xray, np.ndarray]:
        record, xray = records[i], folder.read_image(records[i])
        return xray, np.stack([_mask(record, xray, name) for name in masks], axis=-1)

    def _mask(record: Record, xray: Xray, name: str) -> np.ndarray:
        if record.masks[name] is None:
            return np.zeros(xray.pixels.shape, bool)
        mask = folder.read_mask(spec, record, name)
        if mask.shape != xray.pixels.shape:
            sizes = "{} x {} pixels, but its image has {} x {}".format(*mask.shape, *xray.pixels.shape)
            raise UserError(f"{record.masks[name]} has {sizes} (height x width): save the mask at the image's size.")
        return mask

    columns = {name: np.array([r.columns[name] for r in records]) for name in found.layout.columns}
    labels = np.array([spec.classes.index(r.label) for r in records], np.int32)
    return Originals(read, [r.id for r in records], labels, spec.classes, spec.positive, columns)
