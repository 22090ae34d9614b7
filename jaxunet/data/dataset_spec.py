"""What is known of a dataset, as a record: classes, masks, image size, splits, terms of use.

specs.py has the records of the datasets that come with jaxunet; folder_spec.py makes one of a user's dataset.json.
"""

import dataclasses

from jaxunet.core.errors import UserError
from jaxunet.data.targets import TARGETS, Target

SPLITS = ("train", "val", "test")
MAX_SIZE = 1024  # pixels per side at which a folder can be built


@dataclasses.dataclass(frozen=True)
class Subset:
    """A TFDS builder config. `config.dataset.train_config` and `eval_config` name one."""

    description: str  # one line
    masks: tuple[str, ...]  # of each image, such as ("lung", "infection")
    classes: tuple[str, ...]  # of its images
    part: str = ""  # part of the archive, a key of `ArchiveLayout.parts`
    train_images: int | None = None  # published number of training images; None if the config sets it


@dataclasses.dataclass(frozen=True, eq=False)
class ArchiveLayout:
    """Where the files of a downloaded zip are: `<part>/[<part>/]<split>/<class>/<kind>/<name>.png`."""

    parts: dict[str, str]  # name of a part -> its folder
    kinds: dict[str, str]  # "image" and each mask -> its folder
    splits: tuple[str, ...]  # the folders of the splits, in the order of `SPLITS`
    # part -> (folder of the split or "all", class) -> number of X-rays
    published: dict[str, dict[tuple[str, str], int]]
    kaggle: str  # the dataset's name at Kaggle
    download: str  # size of the download, such as "1.2 GB"

    @property
    def homepage(self) -> str:
        """Without "https://www."."""
        return f"kaggle.com/datasets/{self.kaggle}"


@dataclasses.dataclass(frozen=True)
class MaskFiles:
    """Where the masks of one target are in a user's folder."""

    folder: str  # its name
    suffix: str = ""  # what each mask's name has after the name of its image, such as "_mask"
    value: int | None = None  # the pixel value of the target in a label image; None for masks of this target alone
    above: int | None = None  # pixels above this value are marked; None for masks of 0 and one other value
    missing_is_empty: bool = False  # whether an image without a file has nothing marked


@dataclasses.dataclass(frozen=True, eq=False)
class FolderLayout:
    """What a dataset.json says of the files in a user's folder."""

    masks: dict[str, MaskFiles]  # target -> where its masks are
    # "file" -> path of the table; "image", "split", "patient" and "class" -> names of the columns that it has
    table: dict[str, str]
    columns: tuple[str, ...]  # other columns of the table to keep
    # "val" and "test" -> share of the images, where neither a column nor `given` gives the splits
    shares: dict[str, float]
    given: dict[str, tuple[str, ...]]  # "val" and "test" -> their images
    seed: int  # of the splits
    text: str  # the dataset.json

    def column(self, role: str) -> str:
        """The column of the table that gives the "split", "patient" or "class"; "" if there is none."""
        return self.table.get(role, "")


@dataclasses.dataclass(frozen=True, eq=False)
class DatasetSpec:
    """A dataset of images with masks."""

    name: str  # `config.dataset.name`, and the folder of the prepared dataset
    title: str  # title, citation, terms: name, source and terms of use, in words
    citation: str
    terms: str
    classes: tuple[str, ...]  # names, in the order of the labels
    # the class that protocols P1 and P2 use; None if all images count as positive, without controls
    positive: str | None
    subsets: dict[str, Subset]  # builder config -> what it holds; the first one is the default
    builder: str  # module with `make_builder(dataset, builder_config, data_dir)`, which returns the TFDS builder
    size: int  # pixels per side of the stored images
    # name -> record of each mask, and of the answers for the whole image
    targets: dict[str, Target] = dataclasses.field(default_factory=lambda: TARGETS)
    archive: ArchiveLayout | None = None  # the layout of the download; None if the dataset is not downloaded
    folder: FolderLayout | None = None  # the layout of a user's folder; None for other datasets
    # whether all images are real frontal chest X-rays. Networks trained on them refuse other pictures.
    frontal: bool = False

    @property
    def layout(self) -> ArchiveLayout:
        """`archive`; UserError where there is none."""
        if self.archive is None:
            raise UserError(f"config.dataset.name={self.name!r} has no archive to verify: use 'covid_qu_ex'.")
        return self.archive

    @property
    def masks(self) -> tuple[str, ...]:
        """Every mask that a subset has."""
        return tuple(dict.fromkeys(mask for subset in self.subsets.values() for mask in subset.masks))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Allowed `config.dataset.image_size`: for a folder any multiple of 32, else multiples that divide `size`."""
        if self.folder:
            return tuple(range(32, MAX_SIZE + 1, 32))
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
