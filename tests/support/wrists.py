"""A third dataset, as one adds it: a spec and a builder. Its archive has other folders, classes and sizes."""

import pathlib

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from jaxunet.data.builders import ArchiveBuilder, configs
from jaxunet.data.dataset_spec import ArchiveLayout, DatasetSpec, Subset

WRISTS = DatasetSpec(
    name="wrists",
    title="WRISTS",
    citation="nobody",
    terms="anything.",
    classes=("whole", "broken"),
    positive="broken",
    subsets={
        "fractures": Subset("Broken wrists.", ("fracture",), ("broken",), "hand", 2),
        "all": Subset("All wrists.", ("fracture",), ("whole", "broken"), "hand", 4),
    },
    builder="tests.support.wrists",
    size=64,
    archive=ArchiveLayout(
        parts={"hand": "Hands (left)"},
        kinds={"image": "x-rays", "fracture": "fractures"},
        splits=("training", "tuning", "testing"),
        published={"hand": {("training", "broken"): 2}},
        kaggle="nobody/wrists",
        download="1 MB",
    ),
)


class Wrists(ArchiveBuilder):
    """Wrists."""

    spec = WRISTS
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = configs(WRISTS)


def make_builder(dataset: ConfigDict, builder_config: str, data_dir: pathlib.Path) -> Wrists:
    return Wrists(config=builder_config, data_dir=str(data_dir), source=dataset.source)
