"""Where files lie, and how they are written: local folders and `gs://` buckets, atomically, one writer at a time."""

import contextlib
import fcntl
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import BinaryIO

from jaxunet.core.errors import UserError


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Writes `path`, making its folder if need be: the old content or the new, nothing between."""
    content = content.encode() if isinstance(content, str) else content
    if in_bucket(path):  # objects are like that
        path.write_bytes(content)
        return
    with atomic_file(path) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_file(path: pathlib.Path) -> Iterator[BinaryIO]:
    """A file to write to, which gets the name `path` when all went well, and vanishes if not.

    It may be read and written by whom the user's umask lets, like any other.
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
def only_here(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from doing the same in `folder`; ends with the process, however that ends.

    Buckets have no locks that end so: nothing is kept from anybody there.

    Raises:
      UserError: if another is at it already.
    """
    if in_bucket(folder):
        yield
        return
    path = folder / ".lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # NFS locks only what is open for writing
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise UserError(f"Another process is training in {folder}: wait for it, or use another --workdir.") from error
    except OSError:
        print(f"{folder} is on a file system without locks: see to it that no second process trains there.")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def locate(place: str) -> pathlib.Path:
    """The folder or file `place`, which need not exist; one in a bucket is an `epath.Path`, with the same methods.

    Raises:
      UserError: for gs:// without the extra `gcs`, without credentials, or without the bucket.
    """
    if not place.startswith("gs://"):
        if "://" in place:
            raise UserError(f"{place} is neither a local path nor gs://BUCKET/PATH: nothing else can be used.")
        return pathlib.Path(place).expanduser()
    # What is said of a folder must be true now, not when it was last listed: TensorStore and other hosts write, too.
    os.environ.setdefault("EPATH_USE_TF", "false")
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # another protocol, for buckets of other kinds
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
            client.get_bucket(bucket)  # Orbax asks the same
    except DefaultCredentialsError as error:
        raise UserError(
            f"There are no credentials for {place}: run `gcloud auth application-default login`, or let "
            f"GOOGLE_APPLICATION_CREDENTIALS name a key file."
        ) from error
    except exceptions.NotFound as error:
        raise UserError(f"{place}: there is no bucket {bucket!r}: create it, or correct its name.") from error
    except (exceptions.GoogleAPIError, GoogleAuthError, OSError, ValueError) as error:
        raise UserError(
            f"{place} cannot be used ({' '.join(str(error).split())[:200]}): the credentials need "
            f"storage.buckets.get, and for its objects get, list, create and delete."
        ) from error
    return epath.Path(place)


def in_bucket(path: str | pathlib.Path) -> bool:
    """Whether `path` is one of those that begin with gs://."""
    return str(path).startswith("gs://")
