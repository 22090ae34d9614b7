"""Mistakes that the user can fix are printed as one sentence, without a traceback."""

import errno
import sys
from collections.abc import Callable

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


class UserError(Exception):
    """A mistake in the user's input: says what is wrong, where (file, key, shape) and what to do."""


def exit_status(action: Callable[[], int | None]) -> int:
    """Runs `action`; a UserError, or a disk that is full or refuses to be written, becomes a sentence and status 1."""
    try:
        return action() or 0
    except UserError as error:
        sentence = str(error)
    except OSError as error:
        if error.errno not in _DISK:
            raise
        where = f" ({error.filename})" if error.filename else ""
        sentence = f"{error.strerror}{where}: free space, or choose another --workdir or dataset data_dir."
    print(f"error: {sentence}", file=sys.stderr)
    return 1
