"""A dataset as downloaded: finds the zip or the extracted folder, lists its X-rays, reads single files.

The files lie as the spec's `ArchiveLayout` says. Outer folders are allowed, and the part's folder may be doubled.
Everything else (.DS_Store, __MACOSX, Thumbs.db, text files) is ignored. Nothing is unpacked.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import os
import pathlib
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable

from jaxunet.core.errors import UserError
from jaxunet.core.files import in_bucket, locate
from jaxunet.data.specs import DatasetSpec

_LARGEST_FILE = 16 * 2**20  # bytes; real files have about 50 KB
_FETCHED_BYTES = 16 * 2**20  # at a time
# Names reach tables, file names and web pages: no characters with a meaning there, and short enough for a file system.
_SAFE_NAME = re.compile(r"[\w ()\[\].,+-]{5,100}", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Record:
    """One X-ray: where its files are.

    Attributes:
      id: `<split>/<class>/<name>`, such as `Train/COVID-19/covid_1.png`, whatever the nesting.
      split, label: the folder of its split, and its class.
      files: "image" and each mask present -> its path in the archive.
    """

    id: str
    split: str
    label: str
    files: dict[str, str]


class Archive:
    """A zip file or a folder, read-only. Worker processes make their own from `path` and `spec`."""

    def __init__(self, path: pathlib.Path, spec: DatasetSpec):
        self.path, self.spec, self._entry = path, spec, _entry(spec)
        if path.is_dir() and in_bucket(path):
            raise UserError(f"{path} is a folder in a bucket: give the path of the zip as the source.")
        if path.is_dir():
            self._zip, self._sizes = None, _list_folder(path)
        elif path.is_file():
            self._zip, self._sizes = _open_zip(path)
        else:
            raise UserError(f"{path} does not exist: give the downloaded zip or its extracted folder as the source.")
        for entry in self._sizes:
            match = self._entry.fullmatch(entry)
            if match and not _SAFE_NAME.fullmatch(match["name"]):
                allowed = "names may have up to 100 letters, digits, spaces and ()[].,+-_"
                raise UserError(f"{path} holds a file called {match['name']!r}: {allowed}. Rename the file.")

    def read(self, entry: str) -> bytes:
        """The bytes of one file, as listed by `records`."""
        if self._sizes[entry] > _LARGEST_FILE:
            claimed, limit = f"claims {self._sizes[entry]:,} bytes", f"{_LARGEST_FILE:,}"
            raise UserError(f"{entry} in {self.path} {claimed}, but X-rays have at most {limit}: remove it.")
        try:
            if self._zip is None:
                return (self.path / entry).read_bytes()
            info = self._zip.getinfo(entry)
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others inflate without a limit
                raise NotImplementedError("it is compressed with another method than Deflate")
            with self._zip.open(info) as file:
                return file.read(info.file_size)  # plain read() would inflate all of it, whatever size it claims
        except Exception as error:  # damaged files raise many kinds of errors in zipfile and zlib
            raise UserError(f"{entry} in {self.path} cannot be read ({error}): download the archive again.") from error

    def records(self, part: str) -> list[Record]:
        """The X-rays of one part, sorted by id. A record lacks the files that are missing.

        Raises:
          UserError: if a split of the part has no X-rays, or a file occurs twice.
        """
        folder = self.spec.layout.parts[part]
        kinds = {name: kind for kind, name in self.spec.layout.kinds.items()}
        found: dict[str, Record] = {}
        for entry in self._sizes:
            match = self._entry.fullmatch(entry)
            if not match or match["part"] != folder or match["name"].startswith("._") or "__MACOSX" in entry:
                continue
            name, kind = f"{match['split']}/{match['label']}/{match['name']}", kinds[match["kind"]]
            files = found.setdefault(name, Record(name, match["split"], match["label"], {})).files
            if kind in files:
                raise UserError(f"{self.path} holds {match['name']} twice: remove {files[kind]} or {entry}.")
            files[kind] = entry
        records = [found[name] for name in sorted(found)]
        for split in self.spec.layout.splits:
            if not any(r.split == split for r in records):
                wanted = f"give a complete copy of {self.spec.title}"
                raise UserError(f"{self.path} has no X-rays in '{folder}/{split}': {wanted}.")
        return records

    @property
    def parts(self) -> list[str]:
        """The parts that have at least one file."""
        present = {match["part"] for entry in self._sizes if (match := self._entry.fullmatch(entry))}
        return [part for part, folder in self.spec.layout.parts.items() if folder in present]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of the names and sizes of all files. It tells archives apart without reading the files."""
        digest = hashlib.sha256()
        for entry, size in sorted(self._sizes.items()):
            if match := self._entry.fullmatch(entry):
                part, *rest = match.groups()
                names = "/".join((part.partition(" ")[0], *rest))  # prepared datasets hold digests of these names
                digest.update(f"{names}:{size}\n".encode())
        return digest.hexdigest()[:16]


def _entry(spec: DatasetSpec) -> re.Pattern[str]:
    """Matches the files of the dataset; groups part, split, label, kind, name."""
    layout = spec.layout

    def one_of(names: Iterable[str]) -> str:
        return "|".join(map(re.escape, names))

    return re.compile(
        rf"(?:.*/)?(?P<part>{one_of(layout.parts.values())})/(?:(?P=part)/)?(?P<split>{one_of(layout.splits)})/"
        rf"(?P<label>{one_of(spec.classes)})/(?P<kind>{one_of(layout.kinds.values())})/(?P<name>[^/]+\.png)"
    )


def _open_zip(path: pathlib.Path) -> tuple[zipfile.ZipFile, dict[str, int]]:
    try:
        archive = zipfile.ZipFile(path.open("rb") if in_bucket(path) else path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    except Exception as error:  # damaged files raise many kinds of errors
        raise UserError(f"{path} is not a complete zip file ({error}): download it again.") from error
    sizes: dict[str, int] = {}
    for info in archive.infolist():
        parts = info.filename.split("/")
        if ".." in parts or info.filename.startswith("/") or "\\" in info.filename or ":" in parts[0]:
            raise UserError(f"{path} holds an entry that leaves its folder ({info.filename!r}): do not trust it.")
        if info.filename in sizes:
            raise UserError(f"{path} holds {info.filename!r} twice: download it again.")
        if not info.is_dir():
            sizes[info.filename] = info.file_size
    return archive, sizes


def _list_folder(path: pathlib.Path) -> dict[str, int]:
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


# ---- where it is -----------------------------------------------------------------------------------------------------


def find_archive(spec: DatasetSpec, source: str, data_dir: pathlib.Path) -> Archive:
    """The archive at `source`. For "", the one in `<data_dir>/downloads/manual`; the Kaggle client may fetch it there.

    An archive in a bucket is copied into `<data_dir>/downloads/gs`: reading thousands of small files remotely is slow.

    Raises:
      UserError: if there is none. It says what to download and where to put it.
    """
    layout, entry = spec.layout, _entry(spec)
    if source:
        archive = Archive(locate(source), spec)
        return Archive(_fetch_from_bucket(archive.path, data_dir), spec) if in_bucket(archive.path) else archive
    manual = data_dir / "downloads" / "manual"
    for path in sorted(manual.glob("*.zip")) if manual.is_dir() else []:
        if any(entry.fullmatch(name) for name in _open_zip(path)[1]):
            return Archive(path, spec)
    if manual.is_dir() and any(entry.fullmatch(name) for name in _list_folder(manual)):
        return Archive(manual, spec)
    if _kaggle_is_ready():
        return Archive(_fetch_from_kaggle(layout.kaggle, manual), spec)
    raise UserError(
        f"The {spec.title} dataset was not found. Download it from {layout.homepage} ({layout.download}) and put "
        f"the zip, under any name, into {manual}, or give its path with --config.dataset.source=FILE.zip."
    )


def _fetch_from_bucket(source: pathlib.Path, data_dir: pathlib.Path) -> pathlib.Path:
    """The local copy. It gets its name when it is complete, and is fetched once."""
    copy = data_dir / "downloads" / str(source).replace("://", "/")
    if copy.is_file() and copy.stat().st_size == source.stat().length:  # type: ignore[attr-defined]  # etils' stat
        return copy
    copy.parent.mkdir(parents=True, exist_ok=True)
    print(f"Fetching {source} into {copy}")
    with tempfile.TemporaryDirectory(dir=copy.parent, prefix=".fetch-") as folder:
        with source.open("rb") as remote, (part := pathlib.Path(folder) / "part").open("wb") as local:
            shutil.copyfileobj(remote, local, _FETCHED_BYTES)
        return part.replace(copy)


def _kaggle_is_ready() -> bool:
    """Whether the client is installed and has credentials. Importing it without credentials ends the process."""
    token = pathlib.Path(os.environ.get("KAGGLE_CONFIG_DIR", "~/.kaggle")).expanduser() / "kaggle.json"
    has_credentials = token.is_file() or {"KAGGLE_USERNAME", "KAGGLE_KEY"} <= os.environ.keys()
    return has_credentials and importlib.util.find_spec("kaggle") is not None


def _fetch_from_kaggle(handle: str, manual: pathlib.Path) -> pathlib.Path:
    """Downloads to a temporary folder; the file gets its name only when it is complete."""
    import kaggle

    manual.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=manual, prefix=".kaggle-") as folder:
        print(f"Fetching {handle} from Kaggle")
        try:
            kaggle.api.dataset_download_files(handle, path=folder, quiet=False)
        except Exception as error:  # the client raises whatever its HTTP library does
            raise UserError(f"Kaggle did not send {handle} ({error}): download it by hand into {manual}.") from error
        (path,) = pathlib.Path(folder).glob("*.zip")
        return path.rename(manual / path.name)
