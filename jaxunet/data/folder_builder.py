"""A user's folder as a TFDS dataset: every image once, letterboxed to the size of the dataset.

All images are in one stored split, "images": which of them are for training depends on `config.dataset.fold`, and all
folds share one prepared dataset.
"""

import json
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from jaxunet.core.errors import UserError
from jaxunet.data import duplicates, inspection
from jaxunet.data.builders import features
from jaxunet.data.dataset_spec import SPLITS
from jaxunet.data.folder import FolderDataset, open_folder

STORED = "images"
_TABLE = "images.json"


class Folder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]  # TFDS brings no types
    """X-rays and masks of a user's folder. Needs `file_format="array_record"`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First."}
    name = "folder"

    def __init__(self, *, dataset: FolderDataset, **kwargs: Any):
        self.dataset, self.spec = dataset, dataset.spec
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self, description=self.spec.title, features=features(self.spec, self.spec.masks)
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, Any]]]:
        return {STORED: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        records, rows = self.dataset.records(), {}
        faults: list[str] = []
        for record, found in zip(records, inspection.check_all(self.dataset, records, build=True), strict=True):
            faults += found.faults
            rows[record.id] = {"size": found.size, "digest": found.digest, "hash": found.hash.hex()}
            if not faults:
                yield record.id, {**found.pictures, "label": record.label, "id": record.id}
        if faults:
            print("\n".join(faults), file=sys.stderr)
            raise UserError(f"{self.dataset.path} has {len(faults)} faults, listed above: correct them.")
        # TFDS renames this temporary folder at the end, so table and dataset appear together.
        (pathlib.Path(self._data_dir) / _TABLE).write_text(json.dumps(rows))

    def in_split(self, split: str) -> dict[str, dict[str, str]]:
        """Id -> patient and columns of the images of a split."""
        with_patient = self.dataset.layout.column("patient")
        records = [record for record in self.dataset.records() if record.split == split]
        return {r.id: ({"patient": r.patient} if with_patient else {}) | r.columns for r in records}

    def verification(self) -> dict[str, Any]:
        """As in verify.json: identical and nearly identical X-rays in two splits."""
        rows = json.loads((pathlib.Path(self.data_dir) / _TABLE).read_text())
        looks = [
            duplicates.Looks(r.id, r.split, rows[r.id]["digest"], bytes.fromhex(rows[r.id]["hash"]))
            for r in self.dataset.records()
        ]
        train = {look.id for look in looks if look.split == "train"}
        identical, near = duplicates.identical_pairs(looks, SPLITS), duplicates.near_pairs(looks, SPLITS)
        return {
            "dropped_from_train": sorted(train & {i for pair in identical for i in pair}),
            "near_in_train": sorted(train & {i for pair in near for i in pair}),
            "near": [list(pair) for pair in near],
        }


def make_builder(dataset: ConfigDict, builder_config: str, data_dir: pathlib.Path) -> Folder:
    """The builder for `config.dataset` in `data_dir`. Its name tells folders, sizes and versions of files apart."""
    found = open_folder(dataset)
    words = re.sub(r"\W+", "_", found.path.absolute().name)[:40]
    name = f"{words}_{found.spec.size}px_{found.fingerprint}"
    return Folder(dataset=found, config=tfds.core.BuilderConfig(name=name), data_dir=str(data_dir))
