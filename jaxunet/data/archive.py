"""A dataset as downloaded: finds the zip or the extracted folder, lists its X-rays, reads single files.

Nothing is ever unpacked.
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
import zlib
from collections.abc import Iterable
from typing import Any

from jaxunet.core.errors import UserError, some
from jaxunet.core.files import in_bucket, locate
from jaxunet.data.dataset_spec import DatasetSpec
from jaxunet.data.listing import list_folder, open_zip, places
from jaxunet.data.specs import SPECS

_LARGEST_FILE = 16 * 2**20  # bytes; real files have about 50 KB
_FETCHED_BYTES = 16 * 2**20  # at a time
# Names reach tables, file names and web pages: no characters with a meaning there, and short enough for a file system.
_SAFE_NAME = re.compile(r"[\w ()\[\].,+-]{5,100}", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Record:
    """One X-ray: where its files are."""

    id: str  # `<split>/<class>/<name>`, such as `Train/COVID-19/covid_1.png`, whatever the nesting
    split: str  # split, label: the folder of its split, and its class
    label: str
    files: dict[str, str]  # "image" and each mask present -> its path in the archive


class Archive:
    """A zip file or a folder, read-only. Worker processes open their own."""

    def __init__(self, path: pathlib.Path, spec: DatasetSpec):
        self.path, self.spec = path, spec
        if path.is_dir():
            if in_bucket(path):
                raise UserError(f"{path} is a folder in a bucket: give the path of the zip as the source.")
            self._zip, self._sizes = None, list_folder(path)
        elif path.is_file():
            self._zip, self._sizes = open_zip(path)
        else:
            raise UserError(f"{path} does not exist: give the downloaded zip or its extracted folder as the source.")
        self._places = places(spec, self._sizes)
        for place in self._places.values():
            if not _SAFE_NAME.fullmatch(place.name):
                allowed = "names may have up to 100 letters, digits, spaces and ()[].,+-_"
                raise UserError(f"{path} holds a file called {place.name!r}: {allowed}. Rename the file.")

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (self.path, self.spec.name)

    def read(self, entry: str) -> bytes:
        """The bytes of one file, as listed by `records`."""
        if self._sizes[entry] > _LARGEST_FILE:
            claimed = f"claims {self._sizes[entry]:,} bytes, but X-rays have at most {_LARGEST_FILE:,}"
            raise UserError(f"{entry} in {self.path} {claimed}: remove it.")
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

        Raises UserError if a split of the part has no X-rays, or a file occurs twice.
        """
        folder = self.spec.layout.parts[part]
        kinds = {name: kind for kind, name in self.spec.layout.kinds.items()}
        found: dict[str, Record] = {}
        for entry, place in self._places.items():
            if place.part != folder or place.name.startswith("._") or "__MACOSX" in entry:
                continue
            name, kind = f"{place.split}/{place.label}/{place.name}", kinds[place.kind]
            files = found.setdefault(name, Record(name, place.split, place.label, {})).files
            if kind in files:
                raise UserError(f"{self.path} holds {place.name} twice: remove {files[kind]} or {entry}.")
            files[kind] = entry
        records = [found[name] for name in sorted(found)]
        for split in self.spec.layout.splits:
            there = {r.label for r in records if r.split == split}
            if not there:
                raise UserError(
                    f"{self.path} has no X-rays in '{folder}/{split}': give a complete copy of {self.spec.title}. "
                    f"{self._found_and_expected(folder, split)}"
                )
            if self.spec.positive and self.spec.positive not in there:
                raise UserError(
                    f"{self.path} has no {self.spec.positive} X-rays in '{folder}/{split}', only "
                    f"{', '.join(sorted(there))}: every split needs some. {self._found_and_expected(folder, split)}"
                )
        return records

    def _found_and_expected(self, folder: str, split: str) -> str:
        layout, label = self.spec.layout, self.spec.positive or self.spec.classes[0]
        names = [entry for entry in self._sizes if "__MACOSX" not in entry]
        inner = [entry for entry in names if entry.lower().endswith(".zip")]
        if inner and not self._places:
            return f"It holds another zip ({inner[0]!r}): extract that zip, and give it as the source."
        folders = {repr(name.replace("\\", "/").rpartition("/")[0] or ".") for name in names}
        found = f"It has {len(names):,} files in {len(folders)} folders ({some(folders) or 'none'})"
        return f"{found}, but should have files like '{folder}/{split}/{label}/{layout.kinds['image']}/NAME.png'."

    @property
    def parts(self) -> list[str]:
        """The parts that have at least one file."""
        present = {place.part for place in self._places.values()}
        return [part for part, folder in self.spec.layout.parts.items() if folder in present]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of the names and sizes of all files. It tells archives apart without reading the files."""
        lines = []
        for entry, place in sorted(self._places.items()):
            part = place.part.partition(" ")[0]  # prepared datasets on disk hold digests of these names
            lines.append(f"{'/'.join((part, *place[1:]))}:{self._sizes[entry]}\n")
        return _digest(lines)

    def contents(self, part: str) -> str:
        """Digest of the CRC-32s of the files of `part`, the same for a zip and its folder, whose files are read."""
        lines = []
        for record in self.records(part):
            for kind, entry in sorted(record.files.items()):
                crc = self._zip.getinfo(entry).CRC if self._zip else zlib.crc32(self.read(entry))
                lines.append(f"{record.id}:{kind}:{crc:08x}\n")
        return _digest(lines)

    def modified(self, part: str) -> str:
        """Digest of when the files of `part` were changed; "" for a zip."""
        if self._zip:
            return ""
        entries = [entry for record in self.records(part) for entry in record.files.values()]
        return _digest(f"{entry}:{(self.path / entry).stat().st_mtime_ns}\n" for entry in entries)


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=1)
def _opened(path: pathlib.Path, name: str) -> Archive:
    """The archive in a worker process, which opens it once."""
    return Archive(path, SPECS[name])


def find_archive(spec: DatasetSpec, source: str, data_dir: pathlib.Path) -> Archive:
    """The archive at `source`. "" means the one in `<data_dir>/downloads/manual`; the Kaggle client may fetch it there.

    An archive in a bucket is copied into `<data_dir>/downloads/gs`: reading thousands of small files remotely is slow.
    Raises UserError if there is none. The error says what to download and where to put it.
    """
    layout = spec.layout
    if source:
        archive = Archive(locate(source), spec)
        return Archive(_fetch_from_bucket(archive.path, data_dir), spec) if in_bucket(archive.path) else archive
    manual = data_dir / "downloads" / "manual"
    for path in sorted(manual.glob("*.zip")) if manual.is_dir() else []:
        if places(spec, open_zip(path)[1]):
            return Archive(path, spec)
    if manual.is_dir() and places(spec, list_folder(manual)):
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
    """Whether the client is installed and has credentials; importing it without ends the process."""
    token = pathlib.Path(os.path.expanduser(os.environ.get("KAGGLE_CONFIG_DIR", "~/.kaggle"))) / "kaggle.json"
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
