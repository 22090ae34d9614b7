"""Synthetic chest X-rays as a TFDS dataset with the features of the real one, drawn from a seed.

Input: seed and counts. Output: array_record files, read like the real dataset.
"""

import pathlib
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from tqdm import tqdm

from jaxunet.core.pictures import png
from jaxunet.data.builders import features
from jaxunet.data.drawing import MASKS, VERSION, draw_chest_xray
from jaxunet.data.specs import SYNTHETIC_CXR

_FILE_PREFIX = {"COVID-19": "covid", "Non-COVID": "non_covid", "Normal": "normal"}


class SyntheticCxr(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]  # TFDS brings no types
    """Synthetic chest X-rays with the features of the real dataset. Its name holds all numbers."""

    spec = SYNTHETIC_CXR
    VERSION = tfds.core.Version(VERSION)
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First drawing."}

    def __init__(self, *, train: int, val: int, test: int, seed: int, controls: bool, data_dir: str):
        """`train`, `val`, `test`: number of COVID-19 images; controls do not change them. `seed`: in [0, 2**63).

        `controls` adds as many images without infection, half Non-COVID (one more if odd), half Normal.
        """
        self._counts, self._seed = {"train": train, "val": val, "test": test}, seed
        kind = "infection_all" if controls else "infection"
        self._subset = self.spec.subsets[kind]
        name = f"{kind}_train{train}_val{val}_test{test}_seed{seed}"
        config = tfds.core.BuilderConfig(name=name, description=self._subset.description)
        super().__init__(file_format="array_record", config=config, data_dir=data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Chest X-rays drawn by a program, for demonstration and tests. No patient is shown.",
            features=features(self.spec, self.spec.masks),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[str, Any]]]:
        return {split: self._generate_examples(split) for split in self._counts}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        count = self._counts[split]
        counts = {"COVID-19": count, "Non-COVID": count - count // 2, "Normal": count // 2}
        wanted = [(label, index) for label in self._subset.classes for index in range(counts[label])]
        for label, index in tqdm(wanted, desc=f"Drawing {split}", unit="X-ray", dynamic_ncols=True):
            name = f"{split}/{label}/{_FILE_PREFIX[label]}_{index}"
            drawn = draw_chest_xray(self._seed, index, split, label)
            pictures = zip(("image", *(f"{mask}_mask" for mask in MASKS)), drawn, strict=True)
            # PNG bytes, because TFDS needs TensorFlow to encode arrays.
            yield name, {**{k: png(v) for k, v in pictures}, "label": label, "id": name}


def make_builder(dataset: ConfigDict, builder_config: str, data_dir: pathlib.Path) -> SyntheticCxr:
    """The builder for `config.dataset` in `data_dir`."""
    controls = SYNTHETIC_CXR.has_controls(builder_config)
    return SyntheticCxr(**dataset.synthetic, controls=controls, data_dir=str(data_dir))
