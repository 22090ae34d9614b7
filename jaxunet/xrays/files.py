"""Where X-rays lie: one file, a glob, a folder or a zip. Listed one by one, in a fixed order, never unpacked."""

import dataclasses
import functools
import glob
import hashlib
import os
import pathlib
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence

from jaxunet.core.errors import UserError
from jaxunet.core.files import local_path
from jaxunet.xrays.pixels import MAX_BYTES

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom")
_LONGEST_NAME = 200  # bytes of a file's name; file systems allow 255


@dataclasses.dataclass(frozen=True)
class XrayFile:
    """A file that may hold an X-ray.

    Attributes:
      name: its path within the folder or zip, with "/".
      version: changes when the file does.
      path: of the file, or of the zip.
    """

    name: str
    version: str
    path: pathlib.Path
    _zip: zipfile.ZipFile | None = None

    def read(self) -> bytes:
        """Its content.

        Raises:
          UserError: if it is too large or cannot be read.
        """
        size = self._zip.getinfo(self.name).file_size if self._zip else self.path.stat().st_size
        if size > MAX_BYTES:
            raise UserError(f"it claims {size:,} bytes, more than {MAX_BYTES:,}: this is no X-ray.")
        if self._zip is None:
            return self.path.read_bytes()
        try:
            return self._zip.read(self.name)
        except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, ValueError, zlib.error) as error:
            raise UserError(f"it cannot be read from the zip ({error}).") from error


class XrayFiles:
    """The files at `source`; to be gone through as often as needed, always in the same order.

    Of folders and zips: those with the suffix of a picture, and those without any that begin as DICOM does. Hidden
    files, and the folder `skip`, are left out.
    """

    def __init__(self, source: str, skip: pathlib.Path):
        self._source, self._skip = local_path(source), os.path.realpath(skip)
        if self._source.is_dir():
            if os.path.realpath(self._source) == self._skip:
                raise UserError(f"--output={skip} is the folder of the X-rays: choose another, or one inside it.")
            self._list = self._in_folder
        elif not self._source.exists() and glob.has_magic(source):
            self._list = self._in_glob
        elif not self._source.is_file():
            raise UserError(f"--input={source} does not exist: name a file, a folder, a zip, or a pattern in quotes.")
        elif zipfile.is_zipfile(self._source):
            self._list = functools.partial(self._in_zip, _open(self._source))
        elif self._source.suffix.lower() == ".zip":
            raise UserError(f"--input={source} is not a complete zip file.")
        else:
            self._list = lambda: iter([_of_path(self._source, self._source.name)])

    def __iter__(self) -> Iterator[XrayFile]:
        return self._list()

    def _in_folder(self) -> Iterator[XrayFile]:
        root = str(self._source)
        for folder, folders, names in os.walk(root):
            inside = [f for f in folders if not f.startswith(".")]
            folders[:] = sorted(f for f in inside if os.path.realpath(os.path.join(folder, f)) != self._skip)
            for name in sorted(names):
                path = pathlib.Path(folder, name)
                if _is_named_so(name) or (_may_be_dicom(name) and _begins_as_dicom(path)):
                    yield _of_path(path, os.path.relpath(path, root).replace(os.sep, "/"))

    def _in_glob(self) -> Iterator[XrayFile]:
        parts = self._source.parts
        fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        root = pathlib.Path(*parts[:fixed])
        for name in sorted(glob.iglob(str(self._source), recursive=True)):
            path = pathlib.Path(name)
            wanted = _is_named_so(path.name) or (_may_be_dicom(path.name) and _begins_as_dicom(path))
            if wanted and path.is_file() and not os.path.realpath(path).startswith(self._skip + os.sep):
                yield _of_path(path, os.path.relpath(path, root).replace(os.sep, "/"))

    def _in_zip(self, archive: zipfile.ZipFile) -> Iterator[XrayFile]:
        for info in archive.infolist():
            parts = info.filename.split("/")
            if info.is_dir() or "__MACOSX" in parts:
                continue
            if not _is_named_so(parts[-1]) and not (_may_be_dicom(parts[-1]) and _begins_as_dicom_in(archive, info)):
                continue
            yield XrayFile(info.filename, f"{info.file_size}-{info.CRC:08x}", self._source, archive)


def _open(path: pathlib.Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        raise UserError(f"--input={path} is not a complete zip file ({error}).") from error


def _is_named_so(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _may_be_dicom(name: str) -> bool:
    return "." not in name or re.fullmatch(r"\d[\d.]*", name) is not None


def _begins_as_dicom(path: pathlib.Path) -> bool:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _begins_as_dicom_in(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(info) as file:
            return file.read(132)[128:] == b"DICM"
    except Exception:  # damaged or encrypted, and maybe no picture at all
        return False


def _of_path(path: pathlib.Path, name: str) -> XrayFile:
    try:
        found = path.stat()
        version = f"{found.st_size}-{found.st_mtime_ns}"
    except OSError:
        version = ""  # who reads it will say what is wrong
    return XrayFile(name, version, path)


def names_of(sources: Sequence[object]) -> list[str]:
    """Names for X-rays given one by one: a file's path within the folder that all the files are in.

    X-rays without a path are "xray.png" if alone, else "xray0.png", "xray1.png" and so on by their place in `sources`.
    """
    paths = {i: os.path.abspath(source) for i, source in enumerate(sources) if isinstance(source, str | os.PathLike)}
    root = os.path.commonpath([os.path.dirname(path) for path in paths.values()]) if paths else ""
    others = (f"xray{i if len(sources) > 1 else ''}.png" for i in range(len(sources)))
    return [
        os.path.relpath(paths[i], root).replace(os.sep, "/") if i in paths else other for i, other in enumerate(others)
    ]


def output_name(name: str) -> str:
    """A relative path to name outputs after: never leaves its folder, and no two names give the same.

    ".png" is dropped, other suffixes stay ("a.png" -> "a", "a.jpg" -> "a.jpg"); a name without any gets a %. What is
    not a letter, digit, space or one of `_.()+,=@-` is written as % and its number, as in web addresses; very long
    names end in a hash.
    """
    *folders, last = name.split("/")
    stem = last.removesuffix(".png")
    if not last.lower().endswith(SUFFIXES):
        end = "%"
    elif last != stem and stem and not stem.lower().endswith(SUFFIXES):
        last, end = stem, ""
    else:
        end = ""
    return "/".join(_plain(part) for part in (*folders, last)) + end


def _plain(part: str) -> str:
    raw = part.encode("utf-8", "surrogateescape")
    text = "".join(c if c.isalnum() or c in " _.()+,=@-" else _escaped(c) for c in part)
    if not part or set(part) == {"."}:
        text = "%2E" * len(part) or "%"
    if len(text.encode("utf-8", "surrogateescape")) > _LONGEST_NAME:
        kept = text.encode("utf-8", "surrogateescape")[: _LONGEST_NAME - 20].decode("utf-8", "ignore")
        text = f"{kept}%{hashlib.sha256(raw).hexdigest()[:16]}"
    return text


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))
