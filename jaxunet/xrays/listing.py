"""Which files of a folder, pattern or zip may be X-rays, and why the others are left out."""

import collections
import errno
import functools
import glob
import os
import pathlib
import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from typing import IO

from jaxunet.xrays.kinds import HEAD, is_dicomdir, kind_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom")
Skipped = collections.Counter[str]  # why -> how many files or folders
_OF_OTHERS = ("@eadir", "__macosx", "#recycle", "$recycle.bin", "lost+found", "system volume information")
_OUTPUTS = ("masks", "overlays", "probabilities", "reports", "segmentations")  # folders beside a table of this name:
_TABLE = re.compile(r"predictions(-\d+-of-\d+)?\.(csv|json|jsonl)|per_image\.csv")

NO_PICTURE, HIDDEN, FOREIGN, OURS = "no picture", "hidden", "folder of another program", "output of an earlier run"
DICOMDIR, NOWHERE, TWICE = "DICOMDIR", "link that leads nowhere", "link to a folder that is listed already"
SPECIAL, UNREADABLE = "pipe or device", "cannot be read"


def relative(path: str | pathlib.Path, root: str | pathlib.Path) -> str:
    """The path within the folder `root`, with "/"."""
    return os.path.relpath(path, root).replace(os.sep, "/")


def names_in(root: pathlib.Path) -> list[str]:
    """The paths within `root` of the files that `in_folder` lists."""
    return [relative(path, root) for path in in_folder(root, "", collections.Counter())]


def in_folder(root: pathlib.Path, skip: str, skipped: Skipped) -> Iterator[pathlib.Path]:
    """The files of a folder and of those in it: first its own, by name, then folder by folder. Links are followed.

    `skip`: the real path of a folder to be left out. `skipped` counts what is left out.
    """
    inside = os.path.realpath(root)
    seen, folders = {inside}, [root]
    while folders:
        folder = folders.pop()
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            skipped[UNREADABLE] += 1
            continue
        below = [name for name in names if os.path.isdir(folder / name)]
        for name in sorted(set(names) - set(below)):
            if _is_wanted(folder / name, skipped):
                yield folder / name
        ours = any(map(_TABLE.fullmatch, names))
        kept = []
        for name in below:
            path, real = folder / name, os.path.realpath(folder / name)
            if real == skip:
                continue
            linked_inside = path.is_symlink() and (real + os.sep).startswith(inside.rstrip(os.sep) + os.sep)
            reason = TWICE if real in seen or linked_inside else _why_not(name, ours)
            if reason:
                skipped[reason] += 1
            else:
                seen.add(real)
                kept.append(path)
        folders += reversed(kept)


def of_pattern(pattern: pathlib.Path, root: pathlib.Path, skip: str, skipped: Skipped) -> Iterator[pathlib.Path]:
    """The files that match `pattern`, by name; for the rest see `in_folder`."""
    tables: dict[pathlib.Path, bool] = {}
    for name in sorted(glob.iglob(str(pattern), recursive=True)):
        path = pathlib.Path(name)
        if path.is_dir() or os.path.realpath(path).startswith(skip + os.sep):
            continue
        reason, folder = "", root
        for part in path.relative_to(root).parts[:-1]:
            if folder not in tables:
                tables[folder] = any(map(_TABLE.fullmatch, os.listdir(folder)))
            reason = reason or _why_not(part, tables[folder])
            folder = folder / part
        if reason:
            skipped[reason] += 1
        elif _is_wanted(path, skipped):
            yield path


def in_zip(archive: zipfile.ZipFile, names: dict[zipfile.ZipInfo, str], skipped: Skipped) -> Iterator[zipfile.ZipInfo]:
    """The entries of a zip, in its order; `names` are what they are called here."""
    split = {info: tuple(re.split(r"[/\\]", name)) for info, name in names.items()}
    tables = {parts[:-1] for parts in split.values() if _TABLE.fullmatch(parts[-1])}
    for info, parts in split.items():
        if info.is_dir():
            continue
        folders = [_why_not(part, parts[:i] in tables) for i, part in enumerate(parts[:-1])]
        reason = next(filter(None, folders), "") or _why_no_picture(parts[-1], functools.partial(archive.open, info))
        if reason:
            skipped[reason] += 1
        else:
            yield info


def _why_not(name: str, beside_table: bool) -> str:
    """Why a folder of this name, maybe beside a table of predictions, is left out; or ""."""
    if name.lower() in _OF_OTHERS:
        return FOREIGN
    if name.startswith(".") and name.strip("."):
        return HIDDEN
    return OURS if beside_table and name in _OUTPUTS else ""


def _is_wanted(path: pathlib.Path, skipped: Skipped) -> bool:
    try:
        mode = path.stat().st_mode
        reason = "" if stat.S_ISREG(mode) else SPECIAL
    except OSError as error:
        gone = not path.is_symlink() and error.errno == errno.ENOENT  # since it was listed: who reads it will say so
        reason = "" if gone or error.errno == errno.EACCES else NOWHERE
    if reason := reason or _why_no_picture(path.name, lambda: path.open("rb")):
        skipped[reason] += 1
    return not reason


def _why_no_picture(name: str, opened: Callable[[], IO[bytes]]) -> str:
    """ "" if a file's name or, where that does not tell, its beginning is that of a picture."""
    if name.startswith("."):
        return HIDDEN
    if name.upper() == "DICOMDIR":
        return DICOMDIR
    if name.lower().endswith(SUFFIXES):
        return ""
    try:
        with opened() as file:
            beginning = file.read(HEAD)
    except Exception:  # damaged, encrypted or not to be read by this user, and maybe no picture at all
        return UNREADABLE
    if is_dicomdir(beginning):
        return DICOMDIR
    return "" if kind_of(beginning) else NO_PICTURE
