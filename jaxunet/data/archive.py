"""COVID-QU-Ex as downloaded: finds the zip or the extracted folder, lists its X-rays, reads single files.

Layout, under any number of outer folders, the name of the part doubled or not:
`{Infection,Lung} Segmentation Data/[same name/]{Train,Val,Test}/{COVID-19,Non-COVID,Normal}/{images,lung masks,
infection masks}/*.png`. Everything else (.DS_Store, __MACOSX, Thumbs.db, text files) is ignored. Nothing is ever
unpacked.
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

from jaxunet.core.errors import UserError
from jaxunet.core.files import in_bucket, locate

IMAGE_SIZE = 256  # pixels per side
CLASSES = ("COVID-19", "Non-COVID", "Normal")
SPLITS = ("Train", "Val", "Test")
PARTS = {"infection": "Infection Segmentation Data", "lung": "Lung Segmentation Data"}
KAGGLE_HANDLE = "anasmohammedtahir/covidqu"
_LARGEST_FILE = 16 * 2**20  # bytes; real files have about 50 KB, so anything above is no X-ray of this dataset
_FETCHED_BYTES = 16 * 2**20  # at a time
_ENTRY = re.compile(
    r"(?:.*/)?(?P<part>Infection|Lung) Segmentation Data/(?:(?P=part) Segmentation Data/)?"
    r"(?P<split>Train|Val|Test)/(?P<label>COVID-19|Non-COVID|Normal)/"
    r"(?P<kind>images|lung masks|infection masks)/(?P<name>[^/]+\.png)"
)
# Names reach tables, file names and web pages: nothing that means something there, and short enough for a file system.
_SAFE_NAME = re.compile(r"[\w ()\[\].,+-]{5,100}", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Record:
    """One X-ray: where its files are. `id` is `Train/COVID-19/covid_1.png`, whatever the nesting."""

    id: str
    split: str
    label: str
    image: str | None
    lung: str | None
    infection: str | None


class Archive:
    """A zip file or a folder, read-only. Cheap to make again in a worker process from `path`."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        if path.is_dir() and in_bucket(path):
            raise UserError(f"{path} is a folder in a bucket: put the zip there, and give its place as the source.")
        if path.is_dir():
            self._zip, self._sizes = None, _list_folder(path)
        elif path.is_file():
            self._zip, self._sizes = _open_zip(path)
        else:
            raise UserError(f"{path} does not exist: give the downloaded zip or its extracted folder as the source.")
        for entry in self._sizes:
            match = _ENTRY.fullmatch(entry)
            if match and not _SAFE_NAME.fullmatch(match["name"]):
                raise UserError(
                    f"{path} holds a file called {match['name']!r}: names may have up to 100 letters, digits, spaces "
                    f"and ()[].,+-_ in them; rename it."
                )

    def read(self, entry: str) -> bytes:
        """The bytes of one file, as listed by `records`."""
        if self._sizes[entry] > _LARGEST_FILE:
            raise UserError(f"{entry} in {self.path} claims {self._sizes[entry]:,} bytes: this is no chest X-ray.")
        try:
            if self._zip is None:
                return (self.path / entry).read_bytes()
            info = self._zip.getinfo(entry)
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others inflate without a limit
                raise NotImplementedError("it is packed with another method than Deflate")
            with self._zip.open(info) as file:
                return file.read(info.file_size)  # plain read() would inflate all of it, whatever size it claims
        except Exception as error:  # of many kinds: what a damaged file makes zipfile and zlib stumble over
            raise UserError(f"{entry} in {self.path} cannot be read ({error}): download the archive again.") from error

    def records(self, part: str) -> list[Record]:
        """X-rays of "infection" or "lung", sorted by id; a file that is missing is None in its record.

        Raises:
          UserError: if the part or one of its three splits is not there at all.
        """
        files: dict[str, dict[str, str]] = {}
        for entry in self._sizes:
            match = _ENTRY.fullmatch(entry)
            if not match or match["part"].lower() != part or match["name"].startswith("._") or "__MACOSX" in entry:
                continue
            kinds = files.setdefault(f"{match['split']}/{match['label']}/{match['name']}", {})
            if match["kind"] in kinds:
                raise UserError(f"{self.path} holds {match['name']} twice: {kinds[match['kind']]} and {entry}.")
            kinds[match["kind"]] = entry
        records = []
        for name in sorted(files):
            split, label, _ = name.split("/")
            kinds = files[name]
            paths = (kinds.get("images"), kinds.get("lung masks"), kinds.get("infection masks"))
            records.append(Record(name, split, label, *paths))
        for split in SPLITS:
            if not any(r.split == split for r in records):
                raise UserError(
                    f"{self.path} has no X-rays in '{PARTS[part]}/{split}': is this COVID-QU-Ex, and complete?"
                )
        return records

    def has_part(self, part: str) -> bool:
        """Whether there is any file of "infection" or "lung"."""
        return any((m := _ENTRY.fullmatch(entry)) and m["part"].lower() == part for entry in self._sizes)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of the names and sizes of all files: tells archives apart without reading them."""
        digest = hashlib.sha256()
        for entry, size in sorted(self._sizes.items()):
            match = _ENTRY.fullmatch(entry)
            if match:
                digest.update(f"{'/'.join(match.groups())}:{size}\n".encode())
        return digest.hexdigest()[:16]


def _open_zip(path: pathlib.Path) -> tuple[zipfile.ZipFile, dict[str, int]]:
    try:
        archive = zipfile.ZipFile(path.open("rb") if in_bucket(path) else path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    except Exception as error:  # of many kinds, as above
        raise UserError(f"{path} is not a complete zip file ({error}): download it again.") from error
    sizes: dict[str, int] = {}
    for info in archive.infolist():
        parts = info.filename.split("/")
        if ".." in parts or info.filename.startswith("/") or "\\" in info.filename or ":" in parts[0]:
            raise UserError(
                f"{path} holds an entry that leaves its folder ({info.filename!r}): do not trust this file."
            )
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
                raise UserError(f"{full} is a link that leaves {path}: copy the file there instead.")
        for name in names:
            full = os.path.join(folder, name)
            if os.path.isfile(full):  # a pipe would be waited for
                sizes[os.path.relpath(full, root).replace(os.sep, "/")] = os.path.getsize(full)
    return sizes


# ---- where it is -----------------------------------------------------------------------------------------------------


def find_archive(source: str, data_dir: pathlib.Path) -> Archive:
    """The archive at `source`; for "", in `<data_dir>/downloads/manual`, or fetched there by the Kaggle client.

    One in a bucket is fetched into `<data_dir>/downloads/gs`: reading thousands of small files there would take longer.

    Raises:
      UserError: that says what to download and where to put it.
    """
    if source:
        archive = Archive(locate(source))
        return Archive(_fetch_from_bucket(archive.path, data_dir)) if in_bucket(archive.path) else archive
    manual = data_dir / "downloads" / "manual"
    for path in sorted(manual.glob("*.zip")) if manual.is_dir() else []:
        if any(_ENTRY.fullmatch(name) for name in _open_zip(path)[1]):
            return Archive(path)
    if manual.is_dir() and any(_ENTRY.fullmatch(name) for name in _list_folder(manual)):
        return Archive(manual)
    if _kaggle_is_ready():
        return Archive(_fetch_from_kaggle(manual))
    raise UserError(
        f"The COVID-QU-Ex dataset was not found. Download it from kaggle.com/datasets/{KAGGLE_HANDLE} (1.2 GB) and put "
        f"the zip, under any name, into {manual}; or give its place with --config.dataset.source=FILE.zip."
    )


def _fetch_from_bucket(source: pathlib.Path, data_dir: pathlib.Path) -> pathlib.Path:
    """The local copy; made once, and complete when it has its name."""
    copy = data_dir / "downloads" / str(source).replace("://", "/")
    if copy.is_file() and copy.stat().st_size == source.stat().length:
        return copy
    copy.parent.mkdir(parents=True, exist_ok=True)
    print(f"Fetching {source} into {copy}")
    with tempfile.TemporaryDirectory(dir=copy.parent, prefix=".fetch-") as folder:
        with source.open("rb") as remote, (part := pathlib.Path(folder) / "part").open("wb") as local:
            shutil.copyfileobj(remote, local, _FETCHED_BYTES)
        return part.replace(copy)


def _kaggle_is_ready() -> bool:
    """Whether the client is installed and has credentials; importing it without ends the process."""
    token = pathlib.Path(os.environ.get("KAGGLE_CONFIG_DIR", "~/.kaggle")).expanduser() / "kaggle.json"
    has_credentials = token.is_file() or {"KAGGLE_USERNAME", "KAGGLE_KEY"} <= os.environ.keys()
    return has_credentials and importlib.util.find_spec("kaggle") is not None


def _fetch_from_kaggle(manual: pathlib.Path) -> pathlib.Path:
    """Downloads to a temporary folder; the file gets its name only when it is complete."""
    import kaggle

    manual.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=manual, prefix=".kaggle-") as folder:
        print(f"Fetching {KAGGLE_HANDLE} from Kaggle")
        try:
            kaggle.api.dataset_download_files(KAGGLE_HANDLE, path=folder, quiet=False)
        except Exception as error:  # the client raises whatever its HTTP library does
            raise UserError(
                f"Kaggle did not deliver {KAGGLE_HANDLE} ({error}): download it by hand into {manual}."
            ) from error
        (path,) = pathlib.Path(folder).glob("*.zip")
        return path.rename(manual / path.name)


COVID = 0  # index of COVID-19 in CLASSES
