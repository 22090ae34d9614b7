"""Reads every pixel of a user's folder: sizes, gray levels, masks, digests for duplicates; scales it to be stored.

findings.py prints what was found; folder_builder.py stores it.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from jaxunet.core.errors import UserError
from jaxunet.core.pictures import png
from jaxunet.core.processors import on_all_cores
from jaxunet.data import duplicates, folder
from jaxunet.data.dataset_spec import DatasetSpec
from jaxunet.data.folder import FolderDataset, Record
from jaxunet.xrays import letterbox
from jaxunet.xrays.kinds import HEAD, kind_of
from jaxunet.xrays.read import read_xray

_WIDE = ("I;16", "I;16B", "I;16L", "I", "F")  # Pillow's modes of more than 8 bits


@dataclasses.dataclass(frozen=True)
class Checked:
    """What the files of one X-ray hold."""

    faults: tuple[str, ...] = ()  # faults, notes: sentences about what stops a build, and about what does not
    notes: tuple[str, ...] = ()
    size: tuple[int, int] = (0, 0)  # (height, width) in pixels
    kind: str = ""  # of the file, such as "PNG, 8 bits"
    levels: tuple[float, ...] = ()  # smallest and largest stored value; () where unknown
    marked: dict[str, int] = dataclasses.field(default_factory=dict)  # target -> number of marked pixels
    # digest, hash: equal for identical pictures, and similar for nearly identical ones (duplicates.py)
    digest: str = ""
    hash: bytes = b""
    # "image" and "<target>_mask" -> PNG of the square at the size of the dataset; {} unless `build`
    pictures: dict[str, bytes] = dataclasses.field(default_factory=dict)


def check(record: Record, spec: DatasetSpec, *, build: bool) -> Checked:
    """Reads the files of one X-ray; `build` also scales them to the square that is stored."""
    try:
        xray = read_xray(record.path)
    except UserError as error:
        return Checked(faults=(str(error),))
    shape, faults, masks = xray.pixels.shape, [], {}
    for target in record.masks:
        try:
            masks[target] = folder.read_mask(spec, record, target, shape)
        except UserError as error:
            faults.append(str(error))
    pictures = {}
    if build and not faults:
        square, place = letterbox.fit(xray.pixels, spec.size, xray.aspect)
        pictures["image"] = png(square, compress_level=1)
        for target, mask in masks.items():
            small = letterbox.fit_mask(mask, place, spec.size)
            pictures[f"{target}_mask"] = png(small.astype(np.uint8), compress_level=1)
    kind, levels = _stored(record)
    return Checked(
        faults=tuple(faults),
        notes=xray.notes,
        size=shape,
        kind=kind,
        levels=levels or (int(xray.pixels.min()), int(xray.pixels.max())),
        marked={target: int(mask.sum()) for target, mask in masks.items()},
        digest=hashlib.sha256(repr(shape).encode() + xray.pixels.tobytes()).hexdigest(),
        hash=duplicates.gradient_hash(xray.pixels),
        pictures=pictures,
    )


def _stored(record: Record) -> tuple[str, tuple[float, ...]]:
    """The kind of an image file, and the extremes of its values if they have more than 8 bits."""
    with record.path.open("rb") as file:
        kind = kind_of(file.read(HEAD))
    try:
        with Image.open(record.path, formats=("PNG", "JPEG", "TIFF")) as picture:
            if picture.mode not in _WIDE:
                return f"{kind}, 8 bits", ()
            values = np.asarray(picture)
        low, high = float(values.min()), float(values.max())
        return f"{kind}, {max(8, int(np.ceil(np.log2(max(high, 1) + 1))))} bits used", (low, high)
    except Exception:  # DICOM, or a TIFF that Pillow cannot read
        return kind, ()


def check_all(dataset: FolderDataset, records: Sequence[Record], *, build: bool) -> Iterator[Checked]:
    """`check` of each of `records`, in order, on all cores, with a progress bar."""
    one = functools.partial(check, spec=dataset.spec, build=build)
    return on_all_cores(one, records, "Building" if build else "Inspecting", fewest=100)
