"""Synthetic chest X-rays as a TFDS dataset with the features of the real one, drawn from a seed.

Input: seed and counts. Output: array_record files, read like the real dataset.
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from tqdm import tqdm

from jaxunet.core.errors import UserError
from jaxunet.core.pictures import png
from jaxunet.data.builders import features
from jaxunet.data.drawing import MASKS, VERSION, check_seed, draw_chest_xray
from jaxunet.data.specs import SYNTHETIC_CXR

_FILE_PREFIX = {"COVID-19": "covid", "Non-COVID": "non_covid", "Normal": "normal"}


@dataclasses.dataclass(eq=False, kw_only=True)
class SyntheticConfig(tfds.core.BuilderConfig):
    """See `synthetic_config`, which makes it."""

    train: int
    val: int
    test: int
    seed: int
    controls: bool


def synthetic_config(*, train: int, val: int, test: int, seed: int, controls: bool) -> SyntheticConfig:
    """The configuration of `SyntheticCxr`. Its name holds all numbers, so each choice has its own folder.

    Args:
      train, val, test: number of COVID-19 images, at least 1. Controls do not change these images.
      seed: of the drawing, in [0, 2**63).
      controls: adds as many images without infection, half Non-COVID (one more if odd), half Normal.
    """
    counts = {"train": train, "val": val, "test": test}
    for split, count in counts.items():
        if count < 1:
            raise UserError(f"The synthetic dataset needs at least 1 image in each split, but {split}={count}.")
    check_seed(seed)
    kind = "infection_all" if controls else "infection"
    return SyntheticConfig(
        name=f"{kind}_train{train}_val{val}_test{test}_seed{seed}",
        description=SYNTHETIC_CXR.subsets[kind].description,
        controls=controls,
        seed=seed,
        **counts,
    )


class SyntheticCxr(tfds.core.GeneratorBasedBuilder):
    """Synthetic chest X-rays with the features of the real dataset. Needs `file_format="array_record"`."""

    spec = SYNTHETIC_CXR
    VERSION = tfds.core.Version(VERSION)
    RELEASE_NOTES = {"1.0.0": "First drawing."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Chest X-rays drawn by a program, for demonstration and tests. No patient is shown.",
            features=features(self.spec, self.spec.masks),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[str, Any]]]:
        return {split: self._generate_examples(split) for split in self.spec.splits}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        config = self.builder_config
        count = getattr(config, split)
        counts = {"COVID-19": count, "Non-COVID": count - count // 2, "Normal": count // 2}
        labels = self.spec.subsets["infection_all" if config.controls else "infection"].classes
        wanted = [(label, index) for label in labels for index in range(counts[label])]
        for label, index in tqdm(wanted, desc=f"Drawing {split}", unit="X-ray", dynamic_ncols=True):
            name = f"{split}/{label}/{_FILE_PREFIX[label]}_{index}"
            drawn = draw_chest_xray(config.seed, index, split, label)
            pictures = zip(("image", *(f"{mask}_mask" for mask in MASKS)), drawn, strict=True)
            # PNG bytes, because TFDS needs TensorFlow to encode arrays.
            yield name, {**{k: png(v) for k, v in pictures}, "label": label, "id": name}


def make_builder(dataset: ConfigDict, builder_config: str, data_dir: pathlib.Path) -> SyntheticCxr:
    """The builder for `config.dataset` in `data_dir`."""
    wanted, controls = dataset.synthetic, SYNTHETIC_CXR.has_controls(builder_config)
    config = synthetic_config(train=wanted.train, val=wanted.val, test=wanted.test, seed=wanted.seed, controls=controls)
    return SyntheticCxr(config=config, data_dir=str(data_dir), file_format="array_record")
