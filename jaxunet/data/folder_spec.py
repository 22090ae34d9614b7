"""dataset.json, which says what is in a user's folder: from its text to a `DatasetSpec`. draft.py writes a first one.

docs/your_data.md has an example with every key.
"""

import functools
import json
import pathlib
import re
from typing import Any

from ml_collections import ConfigDict

from jaxunet.core.errors import UserError, some
from jaxunet.core.files import local_path
from jaxunet.data.dataset_spec import MAX_SIZE, DatasetSpec, FolderLayout, MaskFiles, Subset
from jaxunet.data.targets import ABNORMAL, COVID19, STRUCTURE, TARGETS, Target

NAME, ALL, FILE = "folder", "all", "dataset.json"  # config.dataset.name, the only subset, and the file in the folder
ROLES = ("image", "split", "patient", "class")  # columns of the table with a meaning
_COLOURS = ((240, 70, 60), (70, 160, 240), (120, 220, 140), (240, 200, 60), (200, 120, 240), (80, 220, 220))
_KEYS = {
    **dict.fromkeys(("title", "terms", "positive"), str),
    **dict.fromkeys(("targets", "classes", "columns"), list),
    **dict.fromkeys(("table", "splits"), dict),
    "size": int,
}
_TARGET_KEYS = {
    **dict.fromkeys(("name", "folder", "label_image", "suffix", "missing", "within"), str),
    **dict.fromkeys(("value", "above"), int),
    **dict.fromkeys(("colour", "code"), list),
}
_WORDS = {str: "a text", int: "a whole number", list: "a list", dict: "a table of names and values"}
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ()+.-]{0,39}")


def of_config(dataset: ConfigDict) -> DatasetSpec:
    """The spec of `config.dataset`, at its image size. Raises UserError if it has none, see `text_of`."""
    return _sized(dataset.spec if dataset.spec.startswith("{") else text_of(dataset), dataset.image_size)


@functools.lru_cache(maxsize=32)
def _sized(text: str, size: int) -> DatasetSpec:
    return parse(text, "config.dataset.spec", size=size)


def text_of(dataset: ConfigDict) -> str:
    """The dataset.json of `config.dataset`: its `spec`, a path or the text itself; else the one in its `source`."""
    if dataset.spec.startswith("{"):
        return str(dataset.spec)
    path = local_path(dataset.spec) if dataset.spec else local_path(dataset.source) / FILE
    if not dataset.source and not dataset.spec:
        raise UserError("config.dataset.source is empty: name the folder with images/ and the masks.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): write one with `jaxunet data inspect FOLDER`.") from error
    parse(text, str(path))
    return compact(json.loads(text))


def compact(content: dict[str, Any]) -> str:
    """The content of a dataset.json as it is kept with a run."""
    return json.dumps(content, sort_keys=True, ensure_ascii=False)


def without_names(text: str) -> str:
    """The text of a dataset.json without the names of images, which can tell patients; "" stays."""
    if not text:
        return ""
    content = json.loads(text)
    content["splits"] = {k: v for k, v in content.get("splits", {}).items() if not isinstance(v, list)}
    return compact(content)


def parse(text: str, where: str, *, size: int = 0) -> DatasetSpec:
    """The spec that a dataset.json describes; `where` is its path. Raises UserError with everything that is wrong.

    `size`: pixels per side instead of those in the text; 0 keeps them.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error}): correct it, or delete it and inspect again.") from error
    faults: list[str] = []
    if not isinstance(content, dict):
        raise UserError(f"{where} is not a JSON object, {{...}}: docs/your_data.md has its keys.")
    found = _checked(content, _KEYS, "", faults)
    targets, masks = _targets(found.get("targets", []), faults)
    side = size or found.get("size", 256)
    if side % 32 or not 32 <= side <= MAX_SIZE:
        faults.append(f"size {side} is not a multiple of 32 from 32 to {MAX_SIZE}")
    classes, positive = tuple(map(str, found.get("classes", []))), found.get("positive")
    if positive is not None and positive not in classes:
        faults.append(f"the positive class {positive!r} is not one of the classes {list(classes)}")
    if len(set(classes)) != len(classes) or not all(classes):
        faults.append(f"the classes {list(classes)} are not all different and not empty")
    table = {str(k): v for k, v in found.get("table", {}).items()}
    for key, value in table.items():
        if key not in ("file", *ROLES) or not isinstance(value, str) or not value:
            faults.append(f"table.{key} is {value!r}, but table has texts for file, {', '.join(ROLES)}")
        elif key == "file" and _is_outside(value):
            faults.append(f"table.file is {value!r}, which is not inside the dataset's folder")
    if classes and not table.get("class"):
        faults.append("there are classes, but table.class names no column")
    splits = _splits(found.get("splits", {}), faults)
    if faults:
        words = "; ".join(f"({i}) {fault}" for i, fault in enumerate(faults, 1)) if faults[1:] else faults[0]
        raise UserError(f"{where}: {words}. Correct {'them' if faults[1:] else 'it'} there.")
    layout = FolderLayout(masks, table, tuple(map(str, found.get("columns", []))), *splits, compact(content))
    names = classes or (ALL,)
    return DatasetSpec(
        name=NAME,
        title=found.get("title") or "a folder of X-rays",
        citation="",
        terms=found.get("terms") or "not stated.",
        classes=names,
        positive=positive,
        subsets={ALL: Subset("All images of the folder.", tuple(targets), names)},
        builder="jaxunet.data.folder_builder",
        size=side,
        targets=targets,
        folder=layout,
    )


def _checked(content: dict[str, Any], kinds: dict[str, type], of: str, faults: list[str]) -> dict[str, Any]:
    """The entries of the right kind; null is left out."""
    result = {}
    for key, value in content.items():
        if key not in kinds:
            faults.append(f"{of}{key} is unknown: use {', '.join(kinds)}")
        elif value is not None and (not isinstance(value, kinds[key]) or isinstance(value, bool)):
            faults.append(f"{of}{key} is {value!r}, not {_WORDS[kinds[key]]}")
        elif value is not None:
            result[key] = value
    return result


def _targets(rows: list[Any], faults: list[str]) -> tuple[dict[str, Target], dict[str, MaskFiles]]:
    targets: dict[str, Target] = {}
    masks: dict[str, MaskFiles] = {}
    names = [row.get("name") for row in rows if isinstance(row, dict)]
    if not rows:
        faults.append("targets is empty: name at least one mask and its folder")
    for i, row in enumerate(rows):
        of = f"targets[{i}]."
        if not isinstance(row, dict):
            faults.append(f"{of[:-1]} is {row!r}, not {_WORDS[dict]}")
            continue
        found = _checked(row, _TARGET_KEYS, of, faults)
        name = found.get("name", "")
        if not _SAFE_NAME.fullmatch(name.replace("_", "-")) or name in (COVID19, "class"):
            faults.append(f"{of}name is {name!r}: use 1 to 40 letters, digits, spaces and _-+.(), not {COVID19!r}")
        if names.count(name) > 1 and name not in targets:
            faults.append(f"the target {name!r} is named {names.count(name)} times")
        if ("folder" in found) == ("label_image" in found) or ("value" in found) != ("label_image" in found):
            faults.append(f"{of} needs either folder, or label_image and value".replace(". ", " "))
        for key in ("folder", "label_image"):
            if _is_outside(found.get(key, "")):
                faults.append(f"{of}{key} is {found[key]!r}, which is not inside the dataset's folder")
        if found.get("missing", "empty") != "empty":
            faults.append(f"{of}missing is {found['missing']!r}, not 'empty'")
        if (within := found.get("within", "")) and (within not in names or within == name):
            faults.append(f"{of}within is {within!r}, which is not another target")
        colour, code = found.get("colour"), found.get("code")
        if colour is not None and not (len(colour) == 3 and all(type(c) is int and 0 <= c <= 255 for c in colour)):
            faults.append(f"{of}colour is {colour!r}, not red, green and blue from 0 to 255")
        if code is not None and not (len(code) == 3 and all(isinstance(c, str) and c for c in code)):
            faults.append(f"{of}code is {code!r}, not the value, scheme and meaning of a DICOM code")
        known, category = TARGETS.get(name), ABNORMAL if within else STRUCTURE
        colour = tuple(colour or (known.colour if known else _COLOURS[i % len(_COLOURS)]))
        code = tuple(code or (known.code if known else category))
        targets[name] = Target(name, colour=colour, category=category, code=code, within=within)
        missing = found.get("missing") == "empty"
        folder = found.get("folder") or found.get("label_image", "")
        masks[name] = MaskFiles(folder, found.get("suffix", ""), found.get("value"), found.get("above"), missing)
    return targets, masks


def _is_outside(place: str) -> bool:
    """Whether a path names something outside the folder that it starts in."""
    return pathlib.PurePath(place).is_absolute() or ".." in pathlib.PurePath(place).parts


def _splits(content: dict[str, Any], faults: list[str]) -> tuple[dict[str, float], dict[str, tuple[str, ...]], int]:
    shares, given, seed = {"val": 0.2, "test": 0.2}, {}, 0
    for key, value in content.items():
        if key == "seed" and type(value) is int and value >= 0:
            seed = value
        elif key in shares and type(value) in (int, float) and 0 <= value < 1:
            shares[key] = float(value)
        elif key in shares and isinstance(value, list) and all(isinstance(name, str) for name in value):
            given[key] = tuple(value)
        else:
            words = "val and test, shares below 1 or lists of images, and seed, a whole number"
            faults.append(f"splits.{key} is {value!r}: splits can have {words}")
    if len(given) == 1:
        faults.append("splits gives images for one of val and test: give both, as lists or as shares")
    if both := set(given.get("val", ())) & set(given.get("test", ())):
        faults.append(f"splits has {some(both)} in val and in test")
    if sum(shares.values()) >= 1:
        faults.append(f"splits leaves no training images: val and test are {shares['val']} and {shares['test']}")
    return shares, given, seed
