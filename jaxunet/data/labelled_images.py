"""Images of one class each, to pretrain an encoder on: folders of files, or a prepared TFDS dataset like ImageNet."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxunet.core.errors import UserError
from jaxunet.core.files import local_path
from jaxunet.data.prepared import reading
from jaxunet.xrays.read import decode

SPLITS = {"train": ("train",), "val": ("val", "validation", "test")}  # names looked for, first found
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".dcm")
_OTHER_FORMATS = ("BMP", "WEBP")  # beside those of X-rays, whatever the name; some are given to programs of their own


class LabelledImages:
    """Random access to the decoded examples of one split; attributes as of `ExampleSource`."""

    classes: Sequence[str]
    positive_class: str | None = None

    def __init__(self, source: str, split: str, *, image_size: int):
        """Args:
        source: a folder with `train/<class>/<image>` and `val/<class>/<image>`, or the folder of a prepared TFDS
          dataset with the features `image` and `label`, stored as array_record.
        split: "train" or "val".
        image_size: pixels per side; each image is resized, its centre cropped.
        """
        folder = local_path(source)
        if not source or not folder.is_dir():
            place = f"config.dataset.source={source!r}"
            raise UserError(f"{place} is not a local folder: give one that holds train/<class>/<image>.")
        self.image_shape = (image_size, image_size, 1)
        if (folder / "dataset_info.json").is_file():
            self._open_prepared(folder, split)
        else:
            self._open_folders(folder, split)
        if len(self.ids) == 0:
            raise UserError(f"{folder} has no images in its split {split!r}.")

    def _open_folders(self, folder: pathlib.Path, split: str) -> None:
        present = {path.name for path in folder.iterdir() if path.is_dir()}
        root, train = _first_of(split, present, folder), folder / _first_of("train", present, folder)
        self.classes = sorted(path.name for path in train.iterdir() if path.is_dir())
        files = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in sorted((folder / root / name).rglob("*"))
            if path.suffix.lower() in _SUFFIXES
        ]
        self.ids = [str(path.relative_to(folder)) for path, _ in files]
        self.labels = np.array([label for _, label in files], np.int32)
        self._read = lambda i: files[i][0].read_bytes()

    def _open_prepared(self, folder: pathlib.Path, split: str) -> None:
        import tensorflow_datasets as tfds

        with reading(folder):
            builder = tfds.builder_from_directory(folder)
        for name in ("image", "label"):
            if name not in builder.info.features:
                raise UserError(f"{folder} has no feature {name!r}: labelled images have image and label.")
        found = _first_of(split, set(builder.info.splits), folder)
        with reading(folder):
            data = builder.as_data_source(found, decoders={"image": tfds.decode.SkipDecoding()})
            self.classes = list(builder.info.features["label"].names)
            self.ids = [f"{found}/{i}" for i in range(len(data))]
            self.labels = np.array([int(example["label"]) for example in data], np.int32)
            if not np.isin(self.labels, np.arange(len(self.classes))).all():
                raise ValueError(f"there are labels above {len(self.classes) - 1}")
        self._read = lambda i: data[i]["image"]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """`image` uint8 [H, W], gray; `label` int32 []."""
        try:
            pixels = decode(self._read(i), also=_OTHER_FORMATS).pixels
        except (UserError, OSError) as error:
            raise UserError(f"{self.ids[i]} cannot be read as an image ({error}): repair or remove it.") from error
        image, size = Image.fromarray(pixels), self.image_shape[:2]
        side = min(image.size)  # of the largest centred square
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        square = image.resize(size, Image.Resampling.BILINEAR, box=box, reducing_gap=2)
        return {"image": np.asarray(square), "label": self.labels[i]}


def _first_of(split: str, present: set[str], folder: pathlib.Path) -> str:
    if found := [name for name in SPLITS[split] if name in present]:
        return found[0]
    raise UserError(f"{folder} has no split {' or '.join(SPLITS[split])}: there are {', '.join(sorted(present))}.")
