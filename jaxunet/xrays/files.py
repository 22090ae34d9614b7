"""Where X-rays lie: a file, glob, folder, zip or DICOMweb server. Listed in a fixed order, one by one, not unpacked."""

import collections
import dataclasses
import functools
import glob
import hashlib
import os
import pathlib
import stat
import zipfile
from collections.abc import Callable, Iterator, Sequence

from jaxunet.core.errors import UserError
from jaxunet.core.files import local_path
from jaxunet.xrays import dicomweb, listing
from jaxunet.xrays.kinds import HEAD, kind_of
from jaxunet.xrays.pixels import MAX_BYTES

_LONGEST_NAME, _LONGEST_PATH = 200, 1000  # bytes; file systems allow 255 and 4,096
_UTF_8 = 0x800  # flag of a zip entry: its name is written so


@dataclasses.dataclass(frozen=True)
class XrayFile:
    """A file that may hold an X-ray."""

    name: str  # its path within the folder or zip, with "/"
    version: str  # changes when the file does
    path: pathlib.Path  # of the file, or of the zip
    load: Callable[[], bytes] | None = None  # returns the content of what is no file of its own

    def read(self) -> bytes:
        """Its content. Raises UserError if it is too large or cannot be read."""
        if self.load is not None:
            return self.load()
        found = self.path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise UserError("it is not a file, but a folder, a pipe or a device.")
        _check_bytes(found.st_size)
        return self.path.read_bytes()


def _check_bytes(size: int) -> None:
    if size > MAX_BYTES:
        raise UserError(f"it has {size:,} bytes, more than any X-ray ({MAX_BYTES:,}).")


def _read_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    _check_bytes(info.file_size)
    try:
        return archive.read(info)
    except Exception as error:  # one for each way of compression and each kind of damage
        said = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"it cannot be read from the zip ({said}).") from error


class XrayFiles:
    """The files at `source`; to be gone through as often as needed, always in the same order.

    Of folders, patterns and zips: those with the suffix of a picture, and those that begin as one. Links are followed.
    Hidden files, what other programs put there, outputs of earlier runs, and the folder `skip` are left out.
    """

    def __init__(self, source: str, skip: pathlib.Path):
        self._source, self._skip = local_path(source), os.path.realpath(skip)
        self.skipped: listing.Skipped = collections.Counter()  # complete once all files have been gone through
        self._list: Callable[[listing.Skipped], Iterator[XrayFile]]
        if dicomweb.is_address(source):
            self._instances = list(dicomweb.listed(source))
            self._list = self._in_study
        elif self._source.is_dir():
            if os.path.realpath(self._source) == self._skip:
                raise UserError(f"--output={skip} is the folder of the X-rays: choose another, or one inside it.")
            self._list = self._in_folder
        elif not self._source.exists() and glob.has_magic(source):
            self._list = self._in_glob
        elif not self._source.exists():
            raise UserError(f"--input={source} does not exist: name a file, a folder, a zip, or a pattern in quotes.")
        elif not self._source.is_file():
            raise UserError(f"--input={source} is a pipe or a device: name a file, a folder or a zip.")
        elif not _is_picture(self._source) and zipfile.is_zipfile(self._source):
            self._open_zip()
            self._list = self._in_zip
        elif self._source.suffix.lower() == ".zip":
            raise UserError(f"--input={source} is not a complete zip file.")
        else:
            self._list = lambda _: iter([_of_path(self._source, self._source.parent)])

    def __iter__(self) -> Iterator[XrayFile]:
        skipped: listing.Skipped = collections.Counter()
        yield from self._list(skipped)
        self.skipped = skipped

    @property
    def left_out(self) -> str:
        """`skipped` in words, " Left out: 2 hidden, 3 no picture."; "" if nothing was."""
        parts = ", ".join(f"{number} {why}" for why, number in sorted(self.skipped.items()))
        return f" Left out: {parts}." if parts else ""

    def _in_folder(self, skipped: listing.Skipped) -> Iterator[XrayFile]:
        for path in listing.in_folder(self._source, self._skip, skipped):
            yield _of_path(path, self._source)

    def _in_glob(self, skipped: listing.Skipped) -> Iterator[XrayFile]:
        parts = self._source.parts
        root = pathlib.Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])
        for path in listing.of_pattern(self._source, root, self._skip, skipped):
            yield _of_path(path, root)

    def _open_zip(self) -> None:
        try:
            self._zip = zipfile.ZipFile(self._source)
        except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
            raise UserError(f"--input={self._source} is not a complete zip file ({error}).") from error
        self._names, taken = {}, set(map(_name, self._zip.infolist()))
        given: set[str] = set()
        for info in self._zip.infolist():
            name, number = _name(info), 2
            stem, suffix = os.path.splitext(name)
            while name in given or number > 2 and name in taken:  # one name twice
                name, number = f"{stem} ({number}){suffix}", number + 1
            given.add(name)
            self._names[info] = name

    def _in_zip(self, skipped: listing.Skipped) -> Iterator[XrayFile]:
        for info in listing.in_zip(self._zip, self._names, skipped):
            version = f"{info.file_size}-{info.CRC:08x}"
            load = functools.partial(_read_zip, self._zip, info)
            yield XrayFile(self._names[info], version, self._source, load)

    def _in_study(self, skipped: listing.Skipped) -> Iterator[XrayFile]:
        for name, load in self._instances:
            if load is None:
                skipped[listing.NO_PICTURE] += 1
            else:
                yield XrayFile(name, "", self._source, load)  # an image of one identifier never changes


def _is_picture(path: pathlib.Path) -> bool:
    try:
        with path.open("rb") as file:
            return kind_of(file.read(HEAD)) != ""
    except OSError:
        return False


def _name(info: zipfile.ZipInfo) -> str:
    """An entry's name, also where it is UTF-8 and the zip does not say so, as on a Mac."""
    if info.flag_bits & _UTF_8:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


def _of_path(path: pathlib.Path, root: pathlib.Path) -> XrayFile:
    try:
        found = path.stat()
        version = f"{found.st_size}-{found.st_mtime_ns}"
    except OSError:
        version = ""  # who reads it will say what is wrong
    return XrayFile(listing.relative(path, root), version, path)


def names_of(sources: Sequence[object]) -> list[str]:
    """Names for X-rays given one by one: a file's path within the folder that all the files are in.

    X-rays without a path are "xray.png" if alone, else "xray0.png", "xray1.png" and so on by their place in `sources`.
    """
    paths = {i: os.path.abspath(source) for i, source in enumerate(sources) if isinstance(source, str | os.PathLike)}
    root = os.path.commonpath([os.path.dirname(path) for path in paths.values()]) if paths else ""
    others = (f"xray{i if len(sources) > 1 else ''}.png" for i in range(len(sources)))
    return [listing.relative(paths[i], root) if i in paths else other for i, other in enumerate(others)]


def output_name(name: str) -> str:
    """A relative path to name outputs after: never leaves its folder, and no two names give the same.

    ".png" is dropped, other suffixes stay ("a.png" -> "a", "a.jpg" -> "a.jpg"); a name without any gets a %. What is
    not a letter, digit, space or one of `_.()+,=@-` is written as % and its number, as in web addresses; very long
    names and paths end in a hash. A folder with the suffix of an output gets a %, too.
    """
    *folders, last = name.split("/")
    stem, end = last.removesuffix(".png"), "" if last.lower().endswith(listing.SUFFIXES) else "%"
    if stem and last != stem and not stem.lower().endswith(listing.SUFFIXES):
        last = stem
    plain = [f"{part}%" if part.endswith((".png", ".dcm")) else part for part in map(_plain, folders)]
    whole = "/".join((*plain, _plain(last))) + end
    if len(whole.encode("utf-8", "surrogateescape")) > _LONGEST_PATH:
        return f"%{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}/{_plain(last)}{end}"
    return whole


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
