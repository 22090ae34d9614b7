"""A first dataset.json for a user's folder, by looking at names, a few masks and the table."""

import collections
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxunet.core.errors import UserError
from jaxunet.core.files import local_path, write_atomically
from jaxunet.data import folder, folder_spec, table
from jaxunet.data.folder import IMAGES, FolderDataset, stem
from jaxunet.xrays import listing
from jaxunet.xrays.read import read_xray

_SAMPLED = 20  # files looked into
_MOST_LABELS = 16  # values in a label image
_MOST_CLASSES = 20
_SIZE = 256  # pixels per side, unless the images are smaller
_ROLES = {
    "split": ("split", "set", "subset", "partition"),
    "patient": ("patient", "patient_id", "patientid", "patient id", "subject", "subject_id", "subjectid", "case_id"),
    "class": ("class", "label", "finding", "diagnosis"),
}


def settle(config: ConfigDict) -> ConfigDict:
    """Puts the dataset.json of a user's folder and its targets into the config. Returns other configs unchanged.

    Writes a first dataset.json into the folder if there is none.
    """
    if config.dataset.name != folder_spec.NAME:
        return config
    config = config.copy_and_resolve_references()
    dataset = config.dataset
    if not dataset.spec and dataset.source and not (local_path(dataset.source) / folder_spec.FILE).exists():
        dataset.spec = folder_spec.compact(write(local_path(dataset.source), None))
    else:
        dataset.spec = folder_spec.text_of(dataset)
    dataset.targets = dataset.targets or tuple(folder_spec.of_config(dataset).targets)
    return config.lock()


def write(path: pathlib.Path, output: pathlib.Path | None) -> dict[str, Any]:
    """Writes a first dataset.json, and returns its content.

    `output`: its path; None for the folder itself. If the folder cannot be written to, prints what to do.
    """
    content, place = draft(path), output or path / folder_spec.FILE
    try:
        write_atomically(place, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        print(f"Written to {place}: look at it, and edit it.")
    except OSError as error:
        if output:
            raise
        print(
            f"{place} cannot be written ({error.strerror}): name another place with --output=dataset.json, and train "
            f"with --config.dataset.spec=dataset.json."
        )
    return content


def draft(path: pathlib.Path) -> dict[str, Any]:
    """What a dataset.json of this folder would say. Raises UserError without images or masks."""
    images = listing.names_in(path / IMAGES) if (path / IMAGES).is_dir() else []
    if not images:
        raise UserError(f"{path / IMAGES} holds no X-rays: put them there, and each target's masks in a folder beside.")
    keys = {stem(name): name for name in images}
    targets = [target for name in _mask_folders(path) for target in _targets(path, name, keys)]
    if not targets:
        raise UserError(
            f"{path} has no folder of masks beside {IMAGES}/: put each target's masks in a folder of its name."
        )
    names = {target["name"] for target in targets}
    for target in targets:
        if target["name"] == "infection" and "lung" in names:
            target["within"] = "lung"
    content = {
        "title": path.absolute().name,
        "terms": "not stated.",
        "size": _size(path, images),
        "targets": targets,
        **_table(path, keys),
        "splits": {"val": 0.2, "test": 0.2, "seed": 0},
    }
    if not content.get("table", {}).get("split"):  # the splits are made once and written down
        records = FolderDataset(path, folder_spec.parse(json.dumps(content), str(path))).found
        content["splits"] |= {s: [r.id for r in records if r.split == s] for s in ("val", "test")}
    return content


def _mask_folders(path: pathlib.Path) -> list[str]:
    """The folders beside images/ that hold pictures; of a folder of folders, such as masks/lung, those within."""
    inner = {p.name for p in (path / IMAGES).iterdir() if p.is_dir()}
    found = []
    for place in sorted(p for p in path.iterdir() if p.is_dir() and p.name != IMAGES and not p.name.startswith(".")):
        below = sorted(p for p in place.iterdir() if p.is_dir())
        files = any(p.is_file() and p.name.lower().endswith(listing.SUFFIXES) for p in place.iterdir())
        nested = bool(below) and not files and not {p.name for p in below} & inner
        found += [f"{place.name}/{p.name}" for p in below] if nested else [place.name]
    return [name for name in found if listing.names_in(path / name)]


def _targets(path: pathlib.Path, name: str, images: Mapping[str, str]) -> list[dict[str, Any]]:
    """The target of a folder of masks, or the targets of a folder of label images."""
    files = listing.names_in(path / name)
    words = name.rpartition("/")[2].lower()
    for ending in ("masks", "mask", "labels", "label", "annotations", "segmentations"):
        if words != ending:
            words = words.removesuffix(ending).rstrip(" _-")
    row: dict[str, Any] = {"name": words, "folder": name}
    strange = [key for key in map(stem, files[:200]) if key not in images]
    endings = collections.Counter(key[len(image) :] for key in strange for image in images if key.startswith(image))
    if endings and 2 * len(strange) > len(files[:200]):
        row["suffix"] = endings.most_common(1)[0][0]
    values: set[int] = set()
    for file in files[:: 1 + len(files) // _SAMPLED]:
        try:
            values |= set(np.unique(folder.mask_values(path / name / file, shades=False)).tolist())
        except UserError:
            continue  # inspection lists it
    labels = sorted(values - {0})
    lossy = any(file.lower().endswith((".jpg", ".jpeg")) for file in files)
    if 2 <= len(labels) <= _MOST_LABELS and not lossy:
        del row["folder"]
        return [{**row, "name": f"{words}_{value}", "label_image": name, "value": value} for value in labels]
    return [row]


def _size(path: pathlib.Path, images: list[str]) -> int:
    sides = []
    for name in images[:: 1 + len(images) // _SAMPLED]:
        try:
            sides.append(max(read_xray(path / IMAGES / name).pixels.shape))
        except UserError:
            continue
    return min(_SIZE, max(32, int(np.median(sides)) // 32 * 32)) if sides else _SIZE


def _table(path: pathlib.Path, images: dict[str, str]) -> dict[str, Any]:
    """The entries `table`, `columns`, `classes` and `positive`; {} without a table of the images."""
    by_name = {name: key for key, name in images.items()}
    for file in table.tables_in(path):
        try:
            names, rows = table.read(path / file)
        except UserError as error:
            if file.lower().endswith(".csv"):
                print(error)
            continue
        known = {n: sum(table.image_key(row[n], images, by_name) is not None for row in rows) for n in names}
        image = max(names, key=lambda name: known[name])
        if known[image] * 2 < len(images):
            continue
        roles = {r: n for r, words in _ROLES.items() for n in reversed(names) if n.lower() in words and n != image}
        classes = sorted({row[roles["class"]] for row in rows}) if "class" in roles else []
        if not 2 <= len(classes) <= _MOST_CLASSES or not all(classes):
            roles.pop("class", None)
            classes = []
        others = [name for name in names if name not in (image, *roles.values())]
        more = {"classes": classes, "positive": None} if classes else {}
        return {"table": {"file": file, "image": image, **roles}, "columns": others, **more}
    return {}
