"""What is known of each dataset before a file of it is read: classes, masks, size, splits, terms of use.

One row of `SPECS` per dataset of masks. `labelled_images.py`, whose images have a class and no mask, has none.
"""

import dataclasses

from ml_collections import ConfigDict

from jaxunet.core.errors import UserError
from jaxunet.data import drawing

LABELLED_IMAGES = "labelled_images"  # the `config.dataset.name` without a row: classes are learnt, not masks


@dataclasses.dataclass(frozen=True)
class Subset:
    """A TFDS builder config, which `config.dataset.train_config` and `eval_config` name.

    Attributes:
      description: one line.
      masks: that each image has, such as ("lung", "infection").
      classes: that its images are of.
      part: of the archive, a key of `ArchiveLayout.parts`.
      train_images: in the training split, as published; None if the config says how many.
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
      download: its size, for people.
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
      title, citation, terms: for people: what it is called, who made it, and what its use is bound to.
      classes: names, in the order of the labels.
      positive: the class that protocols P1 and P2 are about. None: all images count as positive, there are no controls.
      subsets: builder config -> what it holds; the first one is the default.
      builder: module whose `make_builder(dataset, builder_config, data_dir)` gives the TFDS builder.
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
    splits: tuple[str, ...] = ("train", "val", "test")
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
        """Smaller `config.dataset.image_size`: divisors of `size` that a network of five levels can halve."""
        return tuple(side for side in range(32, self.size, 32) if self.size % side == 0)

    def part_masks(self, part: str) -> tuple[str, ...]:
        """The masks in one part of the archive."""
        return next(subset.masks for subset in self.subsets.values() if subset.part == part)

    def in_train(self, image_id: str) -> bool:
        """Whether an id of the archive, `<split>/<class>/<name>`, is of the training split."""
        return image_id.startswith(f"{self.layout.splits[0]}/")

    def in_subset(self, image_id: str, builder_config: str) -> bool:
        """Whether an id `<split>/<class>/<name>` is of a class of that subset."""
        return image_id.split("/")[1] in self.subsets[builder_config].classes

    def has_controls(self, builder_config: str) -> bool:
        """Whether that subset has images of other classes than the positive one."""
        return self.positive is not None and set(self.subsets[builder_config].classes) != {self.positive}


_CLASSES, _MASKS = ("COVID-19", "Non-COVID", "Normal"), ("lung", "infection")

COVID_QU_EX = DatasetSpec(
    name="covid_qu_ex",
    title="COVID-QU-Ex",
    citation="Tahir et al., Computers in Biology and Medicine 139:105002 (2021)",
    terms=(
        "those that https://www.kaggle.com/datasets/anasmohammedtahir/covidqu states, and those of the "
        "public collections that the dataset was compiled from. jaxunet cannot tell whether they allow to pass on "
        "weights learnt from it: check them first."
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
        published={  # for the lung part only totals per class are
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
    """Pixels per side of the square images that a network sees: `config.dataset.image_size`, or as stored."""
    return dataset.image_size or spec_of(dataset).size


def train_images(dataset: ConfigDict) -> int:
    """Number of training images: as published, or as the config asks to draw."""
    spec = spec_of(dataset)
    drawn = dataset.synthetic.train * (2 if spec.has_controls(dataset.train_config) else 1)
    return spec.subsets[dataset.train_config].train_images or drawn
