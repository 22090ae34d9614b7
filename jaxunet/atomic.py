"""Writing so that a reader, a crash or a second process never meets half of it."""

import contextlib
import fcntl
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import BinaryIO

from jaxunet.errors import UserError
from jaxunet.locations import in_bucket


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
