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
from jaxunet.data.specs import spec_of
from jaxunet.xrays import letterbox
from jaxunet.xrays.pixels import Xray
from jaxunet.xrays.read import read_xray

ALL = "all"  # images of every split


@dataclasses.dataclass(frozen=True)
class Originals:
    """N images at their own size."""

    read: Callable[[int], tuple[Xray, np.ndarray]]  # i -> X-ray i and its true masks bool [h, w, C]
    ids: list[str]  # ids, labels, classes, positive_class, columns: as in `Split`
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
            small = [letterbox.fit_mask(mask, place, size) for mask in np.moveaxis(masks, -1, 0)]
            return square, np.packbits(np.stack(small, axis=-1), axis=1)

        with ThreadPoolExecutor(threads) as pool:
            images, masks = zip(*pool.map(fit, range(len(self.ids))), strict=True)
        arrays = {"image": np.stack(images), "mask": np.stack(masks)}
        return Split(arrays, self.labels, self.ids, self.classes, self.positive_class, self.columns)


def open_originals(dataset: ConfigDict, split: str, masks: Sequence[str]) -> Originals:
    """The images of "train", "val", "test" or "all" with these true masks, in the order of `examples.ExampleSource`.

    Raises UserError if the dataset cannot be used, or has no such images.
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
        xray = read_xray(records[i].path)
        truth = [folder.read_mask(spec, records[i], name, xray.pixels.shape) for name in masks]
        return xray, np.stack(truth, axis=-1)

    columns = {name: np.array([r.columns[name] for r in records]) for name in found.layout.columns}
    labels = np.array([spec.classes.index(r.label) for r in records], np.int32)
    return Originals(read, [r.id for r in records], labels, spec.classes, spec.positive, columns)
