"""The TFDS builder of any dataset with an archive. It writes array_record files and works without TensorFlow."""

import io
import json
import pathlib
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from tqdm import tqdm

from jaxunet.data.archive import Archive, Record, find_archive
from jaxunet.data.dataset_spec import SPLITS, DatasetSpec
from jaxunet.data.specs import spec_of
from jaxunet.data.verify import verify

Example = dict[str, Any]


def features(spec: DatasetSpec, masks: tuple[str, ...]) -> tfds.features.FeaturesDict:
    """`image` uint8 [S, S, 1]; `<name>_mask` uint8 {0, 1} [S, S, 1] for each of `masks`; `label`; `id`."""
    names, shape = ("image", *(f"{mask}_mask" for mask in masks)), (spec.size, spec.size, 1)
    images = {name: tfds.features.Image(shape=shape, encoding_format="png") for name in names}
    label = tfds.features.ClassLabel(names=list(spec.classes))
    return tfds.features.FeaturesDict({**images, "label": label, "id": tfds.features.Text()})


class ArchiveBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]  # TFDS brings no types
    """X-rays of an archive. The build verifies every file."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First."}

    def __init__(self, spec: DatasetSpec, source: str, subset: str, data_dir: str):
        """`source`: the zip or extracted folder; "" searches, see `find_archive`. `subset`: one of the spec's."""
        self.spec, self.name, self._source, self._subset = spec, spec.name, source, spec.subsets[subset]
        config = tfds.core.BuilderConfig(name=subset, description=self._subset.description)
        super().__init__(file_format="array_record", config=config, data_dir=data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.spec.title,
            features=features(self.spec, self._subset.masks),
            homepage=f"https://www.{self.spec.layout.homepage}",
            citation=self.spec.citation,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, Example]]]:
        part = self._subset.part
        archive = find_archive(self.spec, self._source, pathlib.Path(self._data_dir_root))
        report, masks = verify(archive.path, self.spec, part)
        report.raise_if_unusable()
        # TFDS renames this temporary folder at the end, so report and dataset appear together.
        (pathlib.Path(self._data_dir) / "verify.json").write_text(json.dumps(report.to_dict(), indent=2))
        records = [r for r in archive.records(part) if r.label in self._subset.classes]
        return {
            split: self._generate_examples(archive, [r for r in records if r.split == folder], masks)
            for split, folder in zip(SPLITS, self.spec.layout.splits, strict=True)
        }

    def _generate_examples(
        self, archive: Archive, records: list[Record], masks: dict[str, dict[str, bytes]]
    ) -> Iterator[tuple[str, Example]]:
        split = records[0].split.lower()
        for record in tqdm(records, desc=f"Writing {split}", unit="X-ray", dynamic_ncols=True):
            example = {"image": io.BytesIO(archive.read(record.files["image"])), "label": record.label, "id": record.id}
            for name, mask in masks[record.id].items():
                example[f"{name}_mask"] = io.BytesIO(mask)
            yield record.id, example


def make_builder(dataset: ConfigDict, builder_config: str, data_dir: pathlib.Path) -> ArchiveBuilder:
    """The builder for `config.dataset` in `data_dir`."""
    return ArchiveBuilder(spec_of(dataset), dataset.source, builder_config, str(data_dir))
