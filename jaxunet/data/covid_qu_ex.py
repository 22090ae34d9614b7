"""The COVID-QU-Ex archive as a TFDS dataset of array_record files; works without TensorFlow."""

import io
import json
import pathlib
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from tqdm import tqdm

from jaxunet.data.archive import CLASSES, IMAGE_SIZE, KAGGLE_HANDLE, Archive, Record, find_archive
from jaxunet.data.verify import verify

Example = dict[str, Any]


def features(masks: tuple[str, ...]) -> tfds.features.FeaturesDict:
    """`image` uint8 [256, 256, 1]; `<name>_mask` uint8 {0, 1} [256, 256, 1] for each of `masks`; `label`; `id`."""
    image = {
        name: tfds.features.Image(shape=(IMAGE_SIZE, IMAGE_SIZE, 1), encoding_format="png")
        for name in ("image", *masks)
    }
    return tfds.features.FeaturesDict(
        {**image, "label": tfds.features.ClassLabel(names=list(CLASSES)), "id": tfds.features.Text()}
    )


class CovidQuEx(tfds.core.GeneratorBasedBuilder):
    """COVID-QU-Ex chest X-rays with lung and infection masks, verified file by file when built."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "The archive of December 2021."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"The zip of kaggle.com/datasets/{KAGGLE_HANDLE}, under any name."
    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
        tfds.core.BuilderConfig(name="infection", description="Infection part, COVID-19 images only."),
        tfds.core.BuilderConfig(
            name="infection_all", description="Infection part, with Non-COVID and Normal controls."
        ),
        tfds.core.BuilderConfig(name="lung", description="Lung part: 33,920 images, lung masks only."),
    ]

    def __init__(self, *, source: str = "", **kwargs: Any):
        """`source` is the zip or extracted folder; "" searches, see `find_archive`. The rest is TFDS's."""
        self._source = source
        super().__init__(file_format="array_record", **kwargs)

    @property
    def part(self) -> str:
        """The part of the archive that this builder config reads."""
        return "lung" if self.builder_config.name == "lung" else "infection"

    def _info(self) -> tfds.core.DatasetInfo:
        masks = ("lung_mask",) if self.part == "lung" else ("lung_mask", "infection_mask")
        return self.dataset_info_from_configs(
            features=features(masks),
            homepage=f"https://www.kaggle.com/datasets/{KAGGLE_HANDLE}",
            citation="Tahir et al., Computers in Biology and Medicine 139:105002 (2021)",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, Example]]]:
        archive = find_archive(self._source, pathlib.Path(self._data_dir_root))
        report, masks = verify(archive.path, self.part)
        report.raise_if_unusable()
        # The folder is still a temporary one: the report becomes visible together with the dataset.
        (pathlib.Path(self._data_dir) / "verify.json").write_text(json.dumps(report.to_dict(), indent=2))
        records = archive.records(report.part)
        if self.builder_config.name == "infection":
            records = [r for r in records if r.label == "COVID-19"]
        return {
            split: self._generate_examples(archive, [r for r in records if r.split.lower() == split], masks)
            for split in ("train", "val", "test")
        }

    def _generate_examples(
        self, archive: Archive, records: list[Record], masks: dict[str, dict[str, bytes]]
    ) -> Iterator[tuple[str, Example]]:
        split = records[0].split.lower()
        for record in tqdm(records, desc=f"Writing {split}", unit="X-ray", dynamic_ncols=True):
            example = {"image": io.BytesIO(archive.read(record.image)), "label": record.label, "id": record.id}
            for name, mask in masks[record.id].items():
                example[f"{name}_mask"] = io.BytesIO(mask)
            yield record.id, example
