"""Writing so that a reader, a crash or a second process never meets half of it."""

import contextlib
import fcntl
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from jaxunet.errors import UserError


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Writes `path`, making its folder if need be: the old content or the new, nothing between."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def atomic_file(path: pathlib.Path) -> Iterator[BinaryIO]:
    """A file to write to, which gets the name `path` when all went well, and vanishes if not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


@contextlib.contextmanager
def only_here(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from doing the same in `folder`; ends with the process, however that ends.

    Raises:
      UserError: if another is at it already.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise UserError(f"Another process is training in {folder}: wait for it, or use another --workdir.") from error
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(handle)
