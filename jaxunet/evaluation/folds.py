"""Runs that are folds of one system, for compare.py: which belong together, and their scores as those of one system."""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from jaxunet.core.errors import UserError
from jaxunet.data.examples import Split
from jaxunet.evaluation.evaluate import Scored, score
from jaxunet.prediction import loading
from jaxunet.runs.settings import SETTINGS, flatten

Run = tuple[pathlib.Path, ConfigDict]


def group(runs: Mapping[str, Run]) -> dict[str, list[Run]]:
    """System -> its runs. Runs whose settings differ in `dataset.fold` alone are one system; others are alone."""
    systems: dict[str, list[Run]] = {}
    by_settings: dict[str, list[str]] = {}
    for name, (_, config) in runs.items():
        key = name
        if config.dataset.get("fold"):
            settings = flatten(config)
            key = repr([settings[k] for k in sorted(settings) if k != "dataset.fold" and not SETTINGS[k].free])
        by_settings.setdefault(key, []).append(name)
    for names in by_settings.values():
        members = [runs[name] for name in names]
        shared = os.path.commonprefix([folder.name for folder, _ in members]).rstrip("-_. ")
        title = names[0] if len(names) == 1 else shared or members[0][0].parent.name
        systems[names[0] if title in systems else title] = members
    return systems


def score_together(runs: Sequence[Run], *, split: str, checkpoint: str) -> Scored:
    """The folds of a system on the images of each one's `split`; on "test", which they share, their mean. Raises
    UserError if the folds share images, as they do in "train"."""
    networks = [loading.load(config, folder, checkpoint=checkpoint) for folder, config in runs]
    if len(runs) == 1 or split == "test":
        mean = loading.ensemble(networks, [folder for folder, _ in runs]) if len(runs) > 1 else networks[0]
        return score(mean, split)
    parts = [score(network, split) for network in networks]
    ids = [name for part in parts for name in part.data.ids]
    if split == "train" or len(set(ids)) < len(ids):
        folders = ", ".join(str(folder) for folder, _ in runs)
        raise UserError(f"The folds {folders} share images: name each fold once, with --split=val or --split=test.")
    first = parts[0].data
    arrays = {k: np.concatenate([part.data.arrays[k] for part in parts]) for k in first.arrays}
    columns = {k: np.concatenate([part.data.columns[k] for part in parts]) for k in first.columns}
    labels = np.concatenate([part.data.labels for part in parts])
    data = Split(arrays, labels, ids, first.classes, first.positive_class, columns)
    order = np.array(sorted(range(len(ids)), key=ids.__getitem__))
    fold = np.repeat(np.arange(len(parts)), [len(part.data.ids) for part in parts])[order]
    counts = np.concatenate([part.counts for part in parts])[order]
    return Scored(networks[0], parts[0].eval_fn, data.part(order), counts, tuple(networks), fold)
