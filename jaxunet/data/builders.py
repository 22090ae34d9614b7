"""TFDS builders made from a spec. They write array_record files and work without TensorFlow."""

import io
import json
import pathlib
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from tqdm import tqdm

from jaxunet.data.archive import Archive, Record, find_archive
from jaxunet.data.dataset_spec import DatasetSpec
from jaxunet.data.verify import verify

Example = dict[str, Any]


def features(spec: DatasetSpec, masks: tuple[str, ...]) -> tfds.features.FeaturesDict:
    """`image` uint8 [S, S, channels]; `<name>_mask` uint8 {0, 1} [S, S, 1] for each of `masks`; `label`; `id`."""
    channels = {"image": spec.channels} | {f"{mask}_mask": 1 for mask in masks}
    shapes = {name: (spec.size, spec.size, c) for name, c in channels.items()}
    images = {name: tfds.features.Image(shape=shape, encoding_format="png") for name, shape in shapes.items()}
    label = tfds.features.ClassLabel(names=list(spec.classes))
    return tfds.features.FeaturesDict({**images, "label": label, "id": tfds.features.Text()})


def configs(spec: DatasetSpec) -> list[tfds.core.BuilderConfig]:
    """One builder config per subset."""
    return [tfds.core.BuilderConfig(name=name, description=s.description) for name, s in spec.subsets.items()]


class ArchiveBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]  # TFDS brings no types
    """X-rays of an archive. The build verifies every file. A subclass sets `spec` and the attributes TFDS requires."""

    spec: ClassVar[DatasetSpec]

    def __init__(self, *, source: str = "", **kwargs: Any):
        """`source`: the zip or extracted folder; "" searches, see `find_archive`. `kwargs` go to TFDS."""
        self._source = source
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=features(self.spec, self.spec.subsets[self.builder_config.name].masks),
            homepage=f"https://www.{self.spec.layout.homepage}",
            citation=self.spec.citation,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, Example]]]:
        subset = self.spec.subsets[self.builder_config.name]
        archive = find_archive(self.spec, self._source, pathlib.Path(self._data_dir_root))
        report, masks = verify(archive.path, self.spec, subset.part)
        report.raise_if_unusable()
        # TFDS renames this temporary folder at the end, so report and dataset appear together.
        (pathlib.Path(self._data_dir) / "verify.json").write_text(json.dumps(report.to_dict(), indent=2))
        records = [r for r in archive.records(subset.part) if r.label in subset.classes]
        return {
            split: self._generate_examples(archive, [r for r in records if r.split == folder], masks)
            for split, folder in zip(self.spec.splits, self.spec.layout.splits, strict=True)
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
