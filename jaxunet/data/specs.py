"""Facts about each dataset: classes, masks, image size, splits, terms of use.

`SPECS` has one row per dataset with masks. The images of `labelled_images.py` have a class and no mask, and no row.
"""

import dataclasses

from ml_collections import ConfigDict

from jaxunet.core.errors import UserError
from jaxunet.data import drawing

SPLITS = ("train", "val", "test")
LABELLED_IMAGES = "labelled_images"  # the one `config.dataset.name` without a row in SPECS


@dataclasses.dataclass(frozen=True)
class Subset:
    """A TFDS builder config. `config.dataset.train_config` and `eval_config` name one.

    Attributes:
      description: one line.
      masks: of each image, such as ("lung", "infection").
      classes: of its images.
      part: part of the archive, a key of `ArchiveLayout.parts`.
      train_images: published number of training images; None if the config sets it.
    """

    description: str
    masks: tuple[str, ...]
    classes: tuple[str, ...]
    part: str = ""
    train_images: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ArchiveLayout:
    """Where the files of a downloaded zip are: `<part>/[<part>/]<split>/<class>/<kind>/<name>.png`.

    Attributes:
      parts: name of a part -> its folder.
      kinds: "image" and each mask -> its folder.
      splits: the folders of the splits, in the order of `DatasetSpec.splits`.
      published: part -> (folder of the split or "all", class) -> number of X-rays.
      kaggle: the dataset's name at Kaggle.
      download: size of the download, such as "1.2 GB".
    """

    parts: dict[str, str]
    kinds: dict[str, str]
    splits: tuple[str, ...]
    published: dict[str, dict[tuple[str, str], int]]
    kaggle: str
    download: str

    @property
    def homepage(self) -> str:
        """Without "https://www."."""
        return f"kaggle.com/datasets/{self.kaggle}"


@dataclasses.dataclass(frozen=True, eq=False)
class DatasetSpec:
    """A dataset of images with masks.

    Attributes:
      name: `config.dataset.name`, and the folder of the prepared dataset.
      title, citation, terms: name, source and terms of use, in words.
      classes: names, in the order of the labels.
      positive: the class that protocols P1 and P2 use; None if all images count as positive, without controls.
      subsets: builder config -> what it holds; the first one is the default.
      builder: module with `make_builder(dataset, builder_config, data_dir)`, which returns the TFDS builder.
      size: pixels per side of the stored images.
      channels: of the stored images.
      splits: of the prepared dataset.
      archive: the layout of the download; None if there is none.
      frontal: whether it has real, frontal chest X-rays only, so that a network trained on it is asked about no others.
    """

    name: str
    title: str
    citation: str
    terms: str
    classes: tuple[str, ...]
    positive: str | None
    subsets: dict[str, Subset]
    builder: str
    size: int
    channels: int = 1
    splits: tuple[str, ...] = SPLITS
    archive: ArchiveLayout | None = None
    frontal: bool = False

    @property
    def layout(self) -> ArchiveLayout:
        """`archive`; UserError where there is none."""
        if self.archive is None:
            others = " or ".join(repr(spec.name) for spec in SPECS.values() if spec.archive)
            raise UserError(f"config.dataset.name={self.name!r} has no archive to verify: use {others}.")
        return self.archive

    @property
    def masks(self) -> tuple[str, ...]:
        """Every mask that a subset has."""
        return tuple(dict.fromkeys(mask for subset in self.subsets.values() for mask in subset.masks))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Allowed `config.dataset.image_size` below `size`: its divisors that are multiples of 32."""
        return tuple(side for side in range(32, self.size, 32) if self.size % side == 0)

    def part_masks(self, part: str) -> tuple[str, ...]:
        """The masks in one part of the archive."""
        return next(subset.masks for subset in self.subsets.values() if subset.part == part)

    def in_train(self, image_id: str) -> bool:
        """Whether an id `<split>/<class>/<name>` is in the training split."""
        return image_id.startswith(f"{self.layout.splits[0]}/")

    def in_subset(self, image_id: str, builder_config: str) -> bool:
        """Whether the class of an id `<split>/<class>/<name>` is in that subset."""
        return image_id.split("/")[1] in self.subsets[builder_config].classes

    def has_controls(self, builder_config: str) -> bool:
        """Whether that subset has images outside the positive class."""
        return self.positive is not None and set(self.subsets[builder_config].classes) != {self.positive}


_CLASSES, _MASKS = ("COVID-19", "Non-COVID", "Normal"), ("lung", "infection")

COVID_QU_EX = DatasetSpec(
    name="covid_qu_ex",
    title="COVID-QU-Ex",
    citation="Tahir et al., Computers in Biology and Medicine 139:105002 (2021)",
    terms=(
        "third parties state CC BY-SA 4.0 for the dataset (https://www.kaggle.com/datasets/anasmohammedtahir/covidqu), "
        "and weights learnt from it derive from it. The public collections that it was compiled from have terms of "
        "their own: check them before you pass on weights."
    ),
    classes=_CLASSES,
    positive="COVID-19",
    subsets={
        "infection": Subset(
            "Infection part, COVID-19 images only.", _MASKS, _CLASSES[:1], "infection", 1864
        ),
        "infection_all": Subset(
            "Infection part, with Non-COVID and Normal controls.", _MASKS, _CLASSES, "infection", 3728
        ),
        "lung": Subset("Lung part: 33,920 images, lung masks only.", ("lung",), _CLASSES, "lung", 21715),
    },
    builder="jaxunet.data.covid_qu_ex",
    size=256,
    frontal=True,
    archive=ArchiveLayout(
        parts={"infection": "Infection Segmentation Data", "lung": "Lung Segmentation Data"},
        kinds={"image": "images", "lung": "lung masks", "infection": "infection masks"},
        splits=("Train", "Val", "Test"),
        published={  # for the lung part only totals per class are published
            "infection": {
                ("Train", "COVID-19"): 1864, ("Train", "Non-COVID"): 932, ("Train", "Normal"): 932,
                ("Val", "COVID-19"): 466, ("Val", "Non-COVID"): 233, ("Val", "Normal"): 233,
                ("Test", "COVID-19"): 583, ("Test", "Non-COVID"): 292, ("Test", "Normal"): 291,
            },
            "lung": {("all", "COVID-19"): 11956, ("all", "Non-COVID"): 11263, ("all", "Normal"): 10701},
        },
        kaggle="anasmohammedtahir/covidqu",
        download="1.2 GB",
    ),
)  # fmt: skip

SYNTHETIC_CXR = DatasetSpec(
    name="synthetic_cxr",
    title="synthetic chest X-rays",
    citation="drawn by jaxunet",
    terms="drawn by a program; no patient is shown, and nothing about real X-rays can be concluded.",
    classes=drawing.CLASSES,
    positive="COVID-19",
    subsets={
        "infection": Subset("COVID-19 images only.", drawing.MASKS, ("COVID-19",)),
        "infection_all": Subset("COVID-19 and control images.", drawing.MASKS, drawing.CLASSES),
    },
    builder="jaxunet.data.synthetic",
    size=drawing.SIZE,
    splits=drawing.SPLITS,
)

SPECS = {spec.name: spec for spec in (COVID_QU_EX, SYNTHETIC_CXR)}
NAMES = (*SPECS, LABELLED_IMAGES)
SUBSETS = tuple(dict.fromkeys(name for spec in SPECS.values() for name in spec.subsets))


def spec_of(dataset: ConfigDict) -> DatasetSpec:
    """The row for the `dataset` section of a config; KeyError for `LABELLED_IMAGES`."""
    return SPECS[dataset.name]


def image_size(dataset: ConfigDict) -> int:
    """Pixels per side of the network's square input: `config.dataset.image_size`, or the stored size if that is 0."""
    return dataset.image_size or spec_of(dataset).size


def train_images(dataset: ConfigDict) -> int:
    """Number of training images: the published number, or the number that the config has drawn."""
    spec = spec_of(dataset)
    drawn = dataset.synthetic.train * (2 if spec.has_controls(dataset.train_config) else 1)
    return spec.subsets[dataset.train_config].train_images or drawn
