"""Splits and folds of a user's folder: by patient, stratified by class, a function of the seed and the names alone."""

import collections
import hashlib
from collections.abc import Mapping

from jaxunet.core.errors import UserError

Groups = Mapping[str, tuple[str, str]]  # id of an image -> its patient, "" if unknown, and its class


def made(images: Groups, shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Image -> "train", "val" or "test". `shares`: "val" and "test" -> share of the patients."""
    groups = _ordered(images, seed)
    test = _every(len(groups), shares["test"])
    rest = [group for group, chosen in zip(groups, test, strict=True) if not chosen]
    val = _every(len(rest), shares["val"] / (1 - shares["test"]))
    result = {image: "test" for group, chosen in zip(groups, test, strict=True) if chosen for image in group}
    for group, chosen in zip(rest, val, strict=True):
        result |= dict.fromkeys(group, "val" if chosen else "train")
    return result


def fold(images: Groups, which: str, seed: int) -> set[str]:
    """The images of fold "i/k", i from 0 to k - 1. Raises UserError if there are fewer patients than folds."""
    index, folds = parse_fold(which)
    groups = _ordered(images, seed)
    if len(groups) < folds:
        raise UserError(
            f"config.dataset.fold={which!r} needs {folds} patients that are not in test: there are {len(groups)}."
        )
    return {image for group in groups[index::folds] for image in group}


def parse_fold(which: str) -> tuple[int, int]:
    """ "0/5" -> (0, 5). Raises UserError for anything else."""
    index, slash, folds = which.partition("/")
    if not (slash and index.isdecimal() and folds.isdecimal() and int(folds) >= 2 and int(index) < int(folds)):
        raise UserError(f"config.dataset.fold={which!r} is not like '0/5', ..., '4/5': the fold and their number.")
    return int(index), int(folds)


def _ordered(images: Groups, seed: int) -> list[list[str]]:
    """The images of each patient. Patients are sorted by class, and in random order within a class."""
    groups = collections.defaultdict(list)
    for image, (patient, _) in images.items():
        groups[("patient", patient) if patient else ("image", image)].append(image)

    def place(key: tuple[str, str]) -> tuple[str, str]:
        classes = collections.Counter(images[image][1] for image in groups[key])
        most = min(classes, key=lambda name: (-classes[name], name))
        return most, hashlib.sha256(f"{seed} {key}".encode()).hexdigest()

    return [sorted(groups[key]) for key in sorted(groups, key=place)]


def _every(n: int, share: float) -> list[bool]:
    """bool [n], of which the share `share` is True, evenly spread."""
    return [int((i + 1) * share + 0.5) > int(i * share + 0.5) for i in range(n)]
