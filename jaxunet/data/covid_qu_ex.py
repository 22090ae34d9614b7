"""The COVID-QU-Ex archive as a TFDS dataset."""

import pathlib
from typing import ClassVar

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from jaxunet.data.builders import ArchiveBuilder, configs
from jaxunet.data.specs import COVID_QU_EX


class CovidQuEx(ArchiveBuilder):
    """COVID-QU-Ex chest X-rays with lung and infection masks, verified file by file when built."""

    spec = COVID_QU_EX
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "The archive of December 2021."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"The zip of {COVID_QU_EX.layout.homepage}, under any name."
    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = configs(COVID_QU_EX)


def make_builder(dataset: ConfigDict, builder_config: str, data_dir: pathlib.Path) -> CovidQuEx:
    """The builder for `config.dataset` in `data_dir`."""
    return CovidQuEx(config=builder_config, data_dir=str(data_dir), source=dataset.source)
