"""A user's folder of X-rays and masks: which files belong together, what the table says of them, and their pixels.

folder_spec.py reads the dataset.json, which says where everything is; inspection.py checks every pixel.
"""

import collections
import dataclasses
import functools
import hashlib
import io
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageOps

from jaxunet.core.errors import UserError, some
from jaxunet.core.files import local_path
from jaxunet.data import folder_spec, splits, table
from jaxunet.data.dataset_spec import SPLITS, DatasetSpec
from jaxunet.xrays import listing
from jaxunet.xrays.files import XrayFile
from jaxunet.xrays.pixels import check_size

IMAGES = "images"
_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "tune", "tuning"), "val"),
    **dict.fromkeys(("test", "testing", "ts"), "test"),
}


@dataclasses.dataclass(frozen=True)
class Record:
    """One X-ray of the folder."""

    id: str  # its path within images/, such as "a.png"
    path: pathlib.Path  # of its file
    masks: dict[str, pathlib.Path | None]  # target -> file; None for no file, which means that nothing is marked
    split: str  # "train", "val" or "test"
    patient: str  # "" if the table says none
    label: str  # its class; "all" in a folder without classes
    columns: dict[str, str]  # name -> cell of each further column that the dataset.json keeps


class FolderDataset:
    """The folder at `path`, of which the dataset.json says `spec`."""

    def __init__(self, path: str | pathlib.Path, spec: DatasetSpec, *, fold: str = ""):
        """`fold`: "i/k" cuts the images outside the test split into k parts, and part i validates; "" is off."""
        self.path = local_path(path)
        if not path or not self.path.is_dir():
            raise UserError(f"{path or 'The dataset'} is no folder: give yours with --config.dataset.source=FOLDER.")
        if not (self.path / IMAGES).is_dir():
            raise UserError(
                f"{self.path} has no folder {IMAGES!r}: put the X-rays there, and each target's masks beside."
            )
        assert spec.folder is not None
        self.spec, self.layout = spec, spec.folder
        self.faults: list[str] = []  # sentences about everything that is wrong with names and the table
        self._of_splits: list[str] = []  # those of `faults` that concern training alone
        self.warnings: list[str] = []  # sentences about what may be wrong
        self.found = self._match(fold)  # the X-rays, sorted by id, also if there are faults

    def records(self, *, train: bool = True) -> list[Record]:
        """The X-rays, sorted by id. Raises UserError with all faults of the folder, if it has any.

        `train=False` accepts splits that cannot be trained on, such as test images alone.
        """
        if faults := [fault for fault in self.faults if train or fault not in self._of_splits]:
            raise UserError(f"{self.path}: {' '.join(faults)}")
        return self.found

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of masks, size and classes, of the name and class of each image, and of size and date of its files."""
        digest = hashlib.sha256(repr((self.layout.masks, self.spec.size, self.spec.classes)).encode())
        for record in self.found:
            digest.update(repr((record.id, record.label)).encode())
            for path in (record.path, *record.masks.values()):
                digest.update(f"{path and (path.stat().st_size, path.stat().st_mtime_ns)}".encode())
        return digest.hexdigest()[:16]

    # ---- names

    def _match(self, fold: str) -> list[Record]:
        images = self._named(IMAGES, "")
        if not images:
            self.faults.append(f"{self.path / IMAGES} holds no PNG, JPEG, TIFF or DICOM file.")
        masks = {}
        for target, where in self.layout.masks.items():
            if not (self.path / where.folder).is_dir():
                self.faults.append(f"The masks of {target!r} have no folder {where.folder!r} in {self.path}.")
                continue
            masks[target] = self._named(where.folder, where.suffix)
            missing, extra = images.keys() - masks[target].keys(), masks[target].keys() - images.keys()
            if missing and not where.missing_is_empty:
                self.faults.append(
                    f"{some(images[key] for key in missing)} in {IMAGES}/ {has(missing)} no mask in {where.folder}/: "
                    f'add the masks, or say "missing": "empty" for {target!r} where nothing is marked.'
                )
            if extra:
                self.faults.append(
                    f"{some(masks[target][key] for key in extra)} in {where.folder}/ {has(extra)} no image of "
                    f'that name in {IMAGES}/: rename or remove the masks, or give what their names add as "suffix".'
                )
        rows = table.rows_of(self.path, self.layout, images, self.faults, self.warnings)
        records = []
        for key, name in sorted(images.items(), key=lambda item: item[1]):
            files = {t: found.get(key) for t, found in masks.items()}
            paths = {
                t: None if file is None else self.path / self.layout.masks[t].folder / file for t, file in files.items()
            }
            records.append(self._record(name, paths, rows.get(key, {})))
        return self._split(records, fold)

    def _record(self, name: str, masks: dict[str, pathlib.Path | None], row: dict[str, str]) -> Record:
        said = {role: row.get(self.layout.column(role), "") for role in folder_spec.ROLES}
        columns = {column: row.get(column, "") for column in self.layout.columns}
        label = folder_spec.ALL if self.spec.classes == (folder_spec.ALL,) else said["class"]
        return Record(name, self.path / IMAGES / name, masks, said["split"], said["patient"], label, columns)

    def _named(self, folder: str, suffix: str) -> dict[str, str]:
        """Name without ending and `suffix` -> path within `folder` of its pictures."""
        found: dict[str, str] = {}
        twice = []
        for name in listing.names_in(self.path / folder):
            key = stem(name).removesuffix(suffix)
            twice += [name] if key in found else []
            found[key] = name
        if twice:
            self.faults.append(
                f"{some(twice)} in {folder}/ {has(twice)} the name of another file with another ending: keep one."
            )
        return found

    # ---- splits and classes

    def _split(self, records: list[Record], fold: str) -> list[Record]:
        groups = {r.id: (r.patient, r.label) for r in records}
        if column := self.layout.column("split"):
            if unknown := {r.split for r in records} - {r.split for r in records if r.split.lower() in _SPLIT_WORDS}:
                self.faults.append(f"The column {column!r} has {some(unknown)}: use train, val and test.")
            of = {r.id: _SPLIT_WORDS.get(r.split.lower(), "train") for r in records}
        elif given := self.layout.given:
            of = dict.fromkeys(groups, "train") | {name: split for split, names in given.items() for name in names}
            if absent := of.keys() - groups.keys():
                self.warnings.append(f"The dataset.json has splits of images that do not exist: {some(absent)}.")
        else:
            of = splits.made(groups, self.layout.shares, self.layout.seed)
        if fold:
            others = {name: group for name, group in groups.items() if of[name] != "test"}
            of |= dict.fromkeys(others, "train") | dict.fromkeys(splits.fold(others, fold, self.layout.seed), "val")
        records = [dataclasses.replace(r, split=of[r.id]) for r in records]
        if unknown := {r.label for r in records} - set(self.spec.classes):
            self.faults.append(f"The table has the class {some(unknown)}, which is not in the dataset.json's classes.")
        self._check_splits(records)
        return records

    def _check_splits(self, records: Sequence[Record]) -> None:
        of_patient = collections.defaultdict(set)
        for record in records:
            if record.patient:
                of_patient[record.patient].add(record.split)
        if leaking := [patient for patient, found in of_patient.items() if len(found) > 1]:
            self._of_splits.append(
                f"Patient {some(leaking)} {has(leaking)} images in two splits: move them into one, or leave the splits "
                f"to be made."
            )
        there = {split: {r.label for r in records if r.split == split} for split in SPLITS}
        for split in ("train", "val"):
            if records and not there[split]:
                self._of_splits.append(
                    f"No image is in the split {split}: every dataset needs training and validation images."
                )
        self.faults += self._of_splits
        for split in SPLITS:
            if there[split] and (absent := [c for c in self.spec.classes if c not in there[split]]):
                self.warnings.append(f"The split {split} has no image of the class {some(absent)}.")


def open_folder(dataset: ConfigDict) -> FolderDataset:
    """The folder of `config.dataset`, with its fold."""
    return FolderDataset(dataset.source, folder_spec.of_config(dataset), fold=dataset.fold)


def stem(name: str) -> str:
    """A path without the ending of a picture."""
    front, ending = os.path.splitext(name)
    return front if ending.lower() in listing.SUFFIXES else name


def has(names: Iterable[str]) -> str:
    return "has" if len(set(names)) == 1 else "have"


# ---- pixels ----------------------------------------------------------------------------------------------------------


def read_mask(spec: DatasetSpec, record: Record, target: str, shape: tuple[int, ...]) -> np.ndarray:
    """bool [h, w]: where `target` is marked. UserError for a file that is no mask of an X-ray of this shape (h, w)."""
    path = record.masks[target]
    if path is None:
        return np.zeros(shape, bool)
    assert spec.folder is not None
    where = spec.folder.masks[target]
    values = mask_values(path, shades=where.value is None)
    if values.shape != shape:
        sizes = "{} x {} pixels, but its image has {} x {}".format(*values.shape, *shape)
        raise UserError(f"{path} has {sizes} (height x width): save the mask at the image's size.")
    if where.value is not None:
        return values == where.value
    if where.above is not None:
        return values > where.above
    found = np.unique(values)
    if len(found) > 2 or found[0] != 0 and len(found) > 1:
        raise UserError(
            f"{path} has {len(found)} values from {found[0]} to {found[-1]}, but a mask has 0 and one other: save it "
            f'without compression, or say "above": 127 for {target!r}, or "label_image" and "value".'
        )
    return values > 0


def mask_values(path: pathlib.Path, *, shades: bool) -> np.ndarray:
    """Whole numbers [h, w] of a mask or label image. Raises UserError if it cannot be read.

    `shades`: read a picture with a palette as the brightness of its colours; else as their indices (label images).
    """
    try:
        with Image.open(io.BytesIO(XrayFile(path.name, "", path).read())) as picture:
            check_size(picture.height, picture.width)
            upright = ImageOps.exif_transpose(picture)
            values = np.asarray(upright.convert("L") if shades and picture.mode == "P" else upright)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # damaged files raise many kinds of errors in Pillow
        raise UserError(f"{path} cannot be read as a mask ({' '.join(str(error).split())[:120]}).") from error
    if values.ndim == 3:
        colours = values[..., : values.shape[2] - (values.shape[2] in (2, 4))]
        if (colours != colours[..., :1]).any():
            raise UserError(f"{path} is a picture in colour: save the mask in gray, with 0 and 255.")
        values = colours[..., 0]
    return values.astype(np.uint8) if values.dtype == bool else values
