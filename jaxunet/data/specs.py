"""Facts about each dataset: classes, masks, image size, splits, terms of use.

`SPECS` has one row per dataset that comes with jaxunet. A user's folder has its own record, see folder_spec.py. The
images of `labelled_images.py` have a class and no mask, and no row.
"""

from ml_collections import ConfigDict

from jaxunet.data import drawing, folder, folder_spec
from jaxunet.data.dataset_spec import ArchiveLayout, DatasetSpec, Subset
from jaxunet.data.targets import Target, mask_targets

LABELLED_IMAGES = "labelled_images"  # the one `config.dataset.name` without a record


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
    builder="jaxunet.data.builders",
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
)

SPECS = {spec.name: spec for spec in (COVID_QU_EX, SYNTHETIC_CXR)}
NAMES = (*SPECS, folder_spec.NAME, LABELLED_IMAGES)
SUBSETS = (*dict.fromkeys(name for spec in SPECS.values() for name in spec.subsets), folder_spec.ALL)


def spec_of(dataset: ConfigDict) -> DatasetSpec:
    """The record for the `dataset` section of a config; KeyError for `LABELLED_IMAGES`."""
    return folder_spec.of_config(dataset) if dataset.name == folder_spec.NAME else SPECS[dataset.name]


def masks_of(dataset: ConfigDict) -> dict[str, Target]:
    """Name -> record of each mask in `config.dataset.targets`, in their order."""
    known = spec_of(dataset).targets
    return {name: known[name] for name in mask_targets(dataset.targets)}


def image_size(dataset: ConfigDict) -> int:
    """Pixels per side of the network's square input: `config.dataset.image_size`, or the stored size if that is 0."""
    return dataset.image_size or spec_of(dataset).size


def train_images(dataset: ConfigDict) -> int:
    """Number of training images: as published, as counted in the folder, or as many as the config draws."""
    spec = spec_of(dataset)
    if spec.folder:
        return sum(record.split == "train" for record in folder.open_folder(dataset).records())
    drawn = dataset.synthetic.train * (2 if spec.has_controls(dataset.train_config) else 1)
    return spec.subsets[dataset.train_config].train_images or drawn
