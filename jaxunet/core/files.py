"""Files in local folders and `gs://` buckets: where they are, atomic writing, and a lock for one writer at a time."""

import contextlib
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import BinaryIO

import filelock

from jaxunet.core.errors import UserError


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Writes `path`, and makes its folder if needed. Readers see the old content or the new one, never a part."""
    content = content.encode() if isinstance(content, str) else content
    if in_bucket(path):  # objects are written atomically
        path.write_bytes(content)
        return
    with atomic_file(path) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_file(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Yields a file to write to. It gets the name `path` at the end, and is deleted after an error.

    Its permissions follow the user's umask.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}")
    try:
        with open(unfinished, "xb") as file:
            yield file
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def exclusive_lock(folder: pathlib.Path) -> Iterator[None]:
    """Locks `folder` against other processes; in a bucket, which has no such locks, it does nothing. The lock ends with
    the process, even if that is killed. Raises UserError if another process holds it."""
    if in_bucket(folder):
        yield
        return
    taken = f"Another process is training in {folder}: wait for it, or use another --workdir."
    with lock(folder / ".lock", taken) as works:
        if not works:
            print(f"{folder} is on a file system without locks: make sure that no second process trains there.")
        yield


@contextlib.contextmanager
def lock(path: pathlib.Path, taken: str) -> Iterator[bool]:
    """Holds the lock file `path`; yields False on a file system without locks. The lock ends with the process. Raises
    UserError with the sentence `taken` if another process holds it."""
    held = filelock.FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False)
    try:
        held.acquire()
    except filelock.Timeout as error:
        raise UserError(taken) from error
    except (OSError, NotImplementedError):
        yield False
        return
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):  # Windows deletes no open file; filelock does it afterwards
            path.unlink()
        held.release()


def locate(place: str) -> pathlib.Path:
    """The path of the folder or file `place`, which need not exist. For gs:// it is an `epath.Path`: same methods.
    Raises UserError if the extra `gcs`, the credentials or the bucket are missing."""
    if not place.startswith("gs://"):
        if "://" in place:
            raise UserError(f"{place} is neither a local path nor gs://BUCKET/PATH: use one of these.")
        return local_path(place)
    # No cached listings of folders: TensorStore and other hosts write there too.
    os.environ.setdefault("EPATH_USE_TF", "false")
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # a protocol for other kinds of buckets
    try:
        import fsspec
        import gcsfs  # noqa: F401
        from etils import epath
        from google.api_core import exceptions
        from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
        from google.cloud import storage
    except ImportError as error:
        raise UserError(f"{place} needs gcsfs: install jaxunet with the extra gcs (pip install '.[gcs]').") from error
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    bucket = place.removeprefix("gs://").partition("/")[0]
    try:
        with contextlib.closing(storage.Client()) as client:
            client.get_bucket(bucket)  # Orbax needs the same permission
    except DefaultCredentialsError as error:
        raise UserError(
            f"There are no credentials for {place}: run `gcloud auth application-default login`, or set "
            f"GOOGLE_APPLICATION_CREDENTIALS to a key file."
        ) from error
    except exceptions.NotFound as error:
        raise UserError(f"{place}: the bucket {bucket!r} does not exist: create it, or correct its name.") from error
    except (exceptions.GoogleAPIError, GoogleAuthError, OSError, ValueError) as error:
        raise UserError(
            f"{place} cannot be used ({' '.join(str(error).split())[:200]}): the credentials need "
            f"storage.buckets.get, and get, list, create and delete for the bucket's objects."
        ) from error
    return epath.Path(place)


def local_path(place: str | os.PathLike[str]) -> pathlib.Path:
    """`place` as a path, with a home folder for "~" or "~user" at its beginning. Raises UserError if there is none."""
    try:
        return pathlib.Path(place).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{place} begins with a home folder that does not exist: give the whole path (./~NAME for a name with ~)."
        ) from error


def in_bucket(path: str | pathlib.Path) -> bool:
    """Whether `path` begins with gs://."""
    return str(path).startswith("gs://")
