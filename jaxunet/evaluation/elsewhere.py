"""A network on a dataset it was not trained for: which targets the two share, which images are scored, and where.

api.py asks here whether the settings name another dataset; evaluate.py scores it.
"""

import contextlib
import dataclasses
import json
import pathlib
import re
import zlib
from typing import Any

from jaxunet.core.errors import UserError
from jaxunet.core.files import local_path
from jaxunet.data import folder_spec
from jaxunet.data.dataset_spec import DatasetSpec
from jaxunet.data.originals import ALL
from jaxunet.data.specs import LABELLED_IMAGES, spec_of
from jaxunet.data.targets import COVID19
from jaxunet.models.averaging import Selected
from jaxunet.prediction.predictor import Predictor
from jaxunet.runs import config_file
from jaxunet.scoring.detection import IMAGE, PROBABILITY, Rule

_SECTION = "dataset."


@dataclasses.dataclass(frozen=True)
class Elsewhere:
    """What is scored on another dataset.

    Attributes:
      network: the network with the shared targets alone; its config names the other dataset.
      split: "train", "val", "test" or "all".
      about: the blocks `dataset_title`, `dataset_crc32`, `trained_on` and `left_out` of metrics.json.
      folder: of the results, within eval/.
    """

    network: Predictor
    split: str
    about: dict[str, Any]
    folder: str


def is_named(changes: dict[str, Any]) -> bool:
    """Whether `changes`, settings of the command line, may name another dataset than the network's own."""
    source = changes.get(f"{_SECTION}source") or ""
    given = f"{_SECTION}name" in changes or bool(changes.get(f"{_SECTION}spec"))
    return given or source != "" and (local_path(source) / folder_spec.FILE).is_file()


def identity(network: Predictor) -> tuple[str, str]:
    """What tells the dataset in the config of `network` from others."""
    return network.config.dataset.name, network.config.dataset.spec


def own_changes(changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` without those of the dataset."""
    return {key: value for key, value in changes.items() if not key.startswith(_SECTION)}


def find(network: Predictor, changes: dict[str, Any], split: str | None) -> Elsewhere | None:
    """What is scored, if `changes` name another dataset; None if it is the network's own.

    Args:
      network: loaded with `own_changes`.
      changes: settings to change, such as {"dataset.name": "folder", "dataset.source": "xrays"}.
      split: None for "test" if the dataset has published or drawn splits or a column of splits, else for "all".

    Raises:
      UserError: if the datasets share no mask.
    """
    mine = network.config.dataset
    dataset = config_file.shipped("default")
    dataset.dataset.name, dataset.dataset.data_dir = mine.name, mine.data_dir
    config_file.override(dataset, {key: value for key, value in changes.items() if key.startswith(_SECTION)})
    dataset = dataset.dataset
    if dataset.name == LABELLED_IMAGES:
        raise UserError(f"config.dataset.name={LABELLED_IMAGES!r} has no masks to score: name another dataset.")
    dataset.image_size = network.image_size
    if f"{_SECTION}name" not in changes:  # `is_named` found a dataset.json
        dataset.name = folder_spec.NAME
    if dataset.name == folder_spec.NAME:
        dataset.spec = folder_spec.text_of(dataset)
    if (dataset.name, dataset.spec) == identity(network):
        return None
    spec, own = spec_of(dataset), spec_of(mine)
    if spec.folder and (dataset.name, spec.title) == (mine.name, own.title):
        raise UserError(
            f"The dataset.json at {dataset.source} is not the one that the network was trained with, but has its title "
            f"{own.title!r}: if it is another dataset, give it another title there."
        )
    if dataset.eval_config not in spec.subsets:
        dataset.eval_config = next(iter(spec.subsets))
    shared = tuple(name for name in network.targets if name in spec.subsets[dataset.eval_config].masks)
    if not shared:
        theirs, ours = (" and ".join(names) for names in (spec.masks, network.targets))
        raise UserError(
            f"{spec.title} has masks of {theirs}, the network predicts {ours}: there is no shared target to score. "
            f"Give the same thing the same name in the dataset.json."
        )
    answers = network.answers_covid19 and spec.positive == own.positive
    dataset.targets = (*shared, COVID19) if answers else shared
    left = {
        "of_the_network": [t for t in mine.targets if t not in dataset.targets],
        "of_the_dataset": [name for name in spec.masks if name not in shared],
    }
    config = network.config.copy_and_resolve_references()
    config.dataset = dataset
    model = Selected(network.model, tuple(network.targets.index(name) for name in shared), answers)
    decides = network.rule.decides
    kept = answers if decides == PROBABILITY else decides in (*shared, IMAGE)
    rule = network.rule if kept else dataclasses.replace(Rule.not_chosen(answers=answers), positive=spec.positive)
    split = split or ("test" if _has_test(spec) else ALL)
    return Elsewhere(
        dataclasses.replace(network, config=config.lock(), model=model, best_step=None, rule=rule),
        split,
        {
            "dataset_title": spec.title,
            "dataset_crc32": f"{zlib.crc32(dataset.spec.encode()):08x}",  # of its dataset.json
            "trained_on": own.title,
            "left_out": left,
        },
        f"{re.sub(r'[^A-Za-z0-9]+', '-', spec.title).strip('-').lower()}-{split}",
    )


def check_place(metrics: pathlib.Path, about: dict[str, Any]) -> None:
    """Raises UserError if `metrics`, a metrics.json that would be replaced, is of another dataset with that title."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if json.loads(metrics.read_text()).get("dataset_crc32", about["dataset_crc32"]) != about["dataset_crc32"]:
            raise UserError(
                f"{metrics.parent} has the scores of another dataset, or of another dataset.json, with the title "
                f"{about['dataset_title']!r}: give this one another title in its dataset.json, or delete that folder."
            )


def _has_test(spec: DatasetSpec) -> bool:
    """Whether the test split was given with the images, rather than made here."""
    return spec.folder is None or bool(spec.folder.column("split"))


def in_words(about: dict[str, Any], targets: tuple[str, ...]) -> str:
    """The datasets and targets, as printed."""
    left = about["left_out"]
    words = [
        f"the {which}'s {' and '.join(names)}"
        for which, names in (("network", left["of_the_network"]), ("dataset", left["of_the_dataset"]))
        if names
    ]
    return f"Scored on {about['dataset_title']}, trained on {about['trained_on']}. Shared: {' and '.join(targets)}." + (
        f" Not scored: {' and '.join(words)}." if words else ""
    )
