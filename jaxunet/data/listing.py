"""The files of a downloaded dataset, and the place of each in the spec's `ArchiveLayout`.

There may be any number of outer folders. The folder of the part may be doubled, followed by one more folder, or left
out. Capitals, underscores for spaces, backslashes for slashes and COVID for COVID-19 make no difference. Everything
else (.DS_Store, __MACOSX, Thumbs.db, text files) is ignored.
"""

import os
import pathlib
import re
import zipfile
from collections.abc import Iterable
from typing import NamedTuple

from jaxunet.core.errors import UserError
from jaxunet.core.files import in_bucket
from jaxunet.data.dataset_spec import DatasetSpec


class Place(NamedTuple):
    """What the path of a file says, in the words of the spec's layout."""

    part: str
    split: str
    label: str
    kind: str
    name: str


def places(spec: DatasetSpec, entries: Iterable[str]) -> dict[str, Place]:
    """Entry -> its place, of the files that belong to the dataset."""
    layout = spec.layout
    words = {_plain(name): name for name in (*layout.parts.values(), *layout.splits, *layout.kinds.values())}
    words |= {_plain(label): label for label in spec.classes}
    words |= {_plain(label).removesuffix(" 19"): label for label in spec.classes if label.endswith("-19")}

    def one_of(names: Iterable[str]) -> str:
        return "|".join(re.escape(plain) for plain, name in words.items() if name in set(names))

    pattern = re.compile(
        rf"(?:(?:.*/)?({one_of(layout.parts.values())})/(?:\1/)?(?:[^/]+/)?|)(?:.*/)??({one_of(layout.splits)})/"
        rf"({one_of(spec.classes)})/({one_of(layout.kinds.values())})/"
    )
    matches: dict[str, tuple[re.Match[str], str]] = {}
    for entry in entries:
        folders, slash, name = entry.replace("\\", "/").rpartition("/")
        if name.lower().endswith(".png") and (match := pattern.fullmatch(_plain(folders + slash))):
            matches[entry] = match, name[:-4] + ".png"
    marked = {match[4] for match, _ in matches.values()}  # which part it is, where no folder says so
    mask_kinds = {part: {_plain(layout.kinds[mask]) for mask in spec.part_masks(part)} for part in layout.parts}
    fitting = [part for part, kinds in mask_kinds.items() if kinds == marked - {_plain(layout.kinds["image"])}]
    unnamed = layout.parts[fitting[0]] if fitting else ""
    return {
        entry: Place(words.get(match[1], unnamed), words[match[2]], words[match[3]], words[match[4]], name)
        for entry, (match, name) in matches.items()
        if match[1] or unnamed
    }


def _plain(name: str) -> str:
    return re.sub("[_ -]+", " ", name.lower())


def open_zip(path: pathlib.Path) -> tuple[zipfile.ZipFile, dict[str, int]]:
    """The zip, and entry -> bytes; UserError if it is damaged or malicious."""
    try:
        archive = zipfile.ZipFile(path.open("rb") if in_bucket(path) else path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    except Exception as error:  # damaged files raise many kinds of errors
        raise UserError(f"{path} is not a complete zip file ({error}): download it again.") from error
    sizes: dict[str, int] = {}
    for info in archive.infolist():
        parts = info.filename.replace("\\", "/").split("/")
        if ".." in parts or not parts[0] or ":" in parts[0]:
            raise UserError(f"{path} holds an entry that leaves its folder ({info.filename!r}): do not trust it.")
        if info.filename in sizes:
            raise UserError(f"{path} holds {info.filename!r} twice: download it again.")
        if not info.is_dir():
            sizes[info.filename] = info.file_size
    return archive, sizes


def list_folder(path: pathlib.Path) -> dict[str, int]:
    """Relative path -> bytes of each file in a folder; UserError for a link that leaves it."""
    root, sizes = os.path.realpath(path), {}
    for folder, folders, names in os.walk(root):
        for name in (*folders, *names):
            full = os.path.join(folder, name)
            if os.path.islink(full) and not os.path.realpath(full).startswith(root + os.sep):
                raise UserError(f"{full} is a link that leaves {path}: replace the link with a copy of the file.")
        for name in names:
            full = os.path.join(folder, name)
            if os.path.isfile(full):  # reading a pipe would block
                sizes[os.path.relpath(full, root).replace(os.sep, "/")] = os.path.getsize(full)
    return sizes
