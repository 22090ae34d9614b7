"""Mistakes that the user can fix are printed as one sentence, without a traceback."""

import errno
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
# Words in the errors that JAX raises when another process is gone.
_LOST_WORDS = ("Gloo", "NCCL", "heartbeat", "CoordinationService", "coordination service")
# Orbax and array_record write with their own code: their exceptions have other types, and hold these words.
_DISK_WORDS = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS))
_BUCKET_MODULES = ("gcsfs", "google.api_core", "google.auth", "google.cloud", "aiohttp")
_LONGEST = 1000  # characters of a printed sentence


class UserError(Exception):
    """A mistake in the user's input. The message says what is wrong, where (file, key, shape) and what to do."""


class WeightsUnavailable(UserError):
    """The initial weights are not on this machine, and cannot be fetched or read here."""


def run_or_explain(action: Callable[[], int | None], *, process: str = "") -> int:
    """Runs `action` and returns its exit status; None means 0.

    A UserError, trouble with disk, bucket or memory, and the loss of another process print one sentence: status 1.
    `process`: `processes.process_suffix()`; "" if there is only one.
    """
    # On a full disk, or in a folder that was removed, many threads of Orbax and tensorboardX fail.
    threading.excepthook = _quiet_about_the_disk
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        return action() or 0
    except UserError as error:
        sentence = str(error)
    except Exception as error:
        if reason := _disk_trouble(error):
            what_to_do = "Finished work is kept: free space, or choose another --workdir or data_dir."
            if os.strerror(errno.EACCES) in reason or os.strerror(errno.EPERM) in reason:
                what_to_do = "Check the permissions there, or choose another folder."
        elif reason := _bucket_trouble(error):
            reason = f"A bucket can no longer be used ({reason})"
            what_to_do = "Finished work is kept: start the same command again."
        elif isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            reason = "There is not enough memory"
            what_to_do = "Make config.train.batch_size, config.eval.batch_size or the network smaller."
        elif not process:
            raise
        elif any(word in str(error) for word in _LOST_WORDS):
            reason = " ".join(str(error).split())[:160]
            reason = f"Another process of this run has died or cannot be reached ({reason}): read its own message"
            what_to_do = "Checkpoints are kept: start the same command on all hosts to continue."
        else:  # not raised: at exit, JAX would wait 5 minutes for the other processes
            traceback.print_exc()
            reason, what_to_do = type(error).__name__, "The other processes will stop too."
        sentence = f"{reason}. {what_to_do}"
    print(f"error{process}: {one_line(sentence)}", file=sys.stderr)
    return 1


def one_line(text: str) -> str:
    """`text` as one line of limited length. "?" replaces unprintable characters, which names from outside may hold."""
    text = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def some(names: Iterable[str]) -> str:
    """The first few of `names`, sorted, and how many more there are."""
    found = sorted(names)
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")


def _bucket_trouble(error: BaseException | None) -> str | None:
    """The message of a library for gs://, if `error` or an error behind it comes from one."""
    while error is not None:
        ours = isinstance(error, OSError | ValueError) and any(
            words in str(error) for words in ("gs://", "/storage/v1/")
        )
        if ours or type(error).__module__.startswith(_BUCKET_MODULES):
            return " ".join(str(error).split())[:200]
        error = error.__cause__ or error.__context__
    return None


def _quiet_about_the_disk(args: threading.ExceptHookArgs) -> None:
    if not (
        _disk_trouble(args.exc_value)
        or isinstance(args.exc_value, FileNotFoundError)
        or "NOT_FOUND" in str(args.exc_value)
    ):
        threading.__excepthook__(args)


def _disk_trouble(error: BaseException | None) -> str | None:
    """What is wrong with the disk, if `error` or an error behind it is about the disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK:
            return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        for words in _DISK_WORDS:
            if words in str(error):
                return words
        error = error.__cause__ or error.__context__
    return None
