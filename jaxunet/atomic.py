"""Writing so that a reader, a crash or a second process never meets half of it."""

import contextlib
import fcntl
import os
import pathlib
import tempfile
from collections.abc import Iterator

from jaxunet.errors import UserError
from jaxunet.locations import in_bucket


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Writes `path`, making its folder if need be: the old content or the new, nothing between."""
    content = content.encode() if isinstance(content, str) else content
    if in_bucket(path):  # objects are like that
        path.write_bytes(content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
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
