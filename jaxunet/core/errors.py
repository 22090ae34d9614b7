"""Mistakes that the user can fix are printed as one sentence, without a traceback."""

import errno
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
# What the libraries between processes say when another one is gone.
_LOST_WORDS = ("Gloo", "NCCL", "heartbeat", "CoordinationService", "coordination service")
# What Orbax and array_record, which write with their own code, say in exceptions of other types.
_DISK_WORDS = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS))
_BUCKET_MODULES = ("gcsfs", "google.api_core", "google.auth", "google.cloud", "aiohttp")
_LONGEST = 1000  # characters of a sentence


class UserError(Exception):
    """A mistake in the user's input: says what is wrong, where (file, key, shape) and what to do."""


class WeightsUnavailable(UserError):
    """Weights to start from that are not on this machine and cannot be fetched or read here."""


def exit_status(action: Callable[[], int | None], *, process: str = "") -> int:
    """Runs `action`; a UserError, trouble with disk or memory, or the loss of another process becomes a sentence and
    status 1.

    Args:
      action: returns the status, None for 0.
      process: which of several this is, as `distributed.name` says it; "" if there is one.
    """
    # A full disk is met by many threads and futures of Orbax and tensorboardX at once; one sentence is enough.
    threading.excepthook = _quiet_about_the_disk
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        return action() or 0
    except UserError as error:
        sentence = str(error)
    except Exception as error:
        if reason := _disk_trouble(error):
            what_to_do = "What was finished before is kept: free space, or choose another --workdir or data_dir."
            if os.strerror(errno.EACCES) in reason or os.strerror(errno.EPERM) in reason:
                what_to_do = "See who may read and write there, or choose another folder."
        elif reason := _bucket_trouble(error):
            reason = f"A bucket cannot be used any more ({reason})"
            what_to_do = "What was finished before is kept: start again."
        elif isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            reason = "The memory is not enough"
            what_to_do = "Make config.train.batch_size, config.eval.batch_size or the network smaller."
        elif not process:
            raise
        elif any(word in str(error) for word in _LOST_WORDS):
            reason = " ".join(str(error).split())[:160]
            reason = f"Another process of this run has died or cannot be reached ({reason}): see what that one said"
            what_to_do = "Checkpoints are kept; the same command on all hosts continues."
        else:  # not raised: on its way out, JAX would wait 5 minutes for the other processes
            traceback.print_exc()
            reason, what_to_do = type(error).__name__, "The other processes will end, too."
        sentence = f"{reason}. {what_to_do}"
    print(f"error{process}: {one_line(sentence)}", file=sys.stderr)
    return 1


def one_line(text: str) -> str:
    """`text` fit to be printed: cut where it is long; "?" for what, in names from outside, cannot be printed."""
    text = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def _bucket_trouble(error: BaseException | None) -> str | None:
    """What the libraries that talk to gs:// said, if `error` or one behind it is theirs."""
    while error is not None:
        ours = isinstance(error, OSError | ValueError) and any(
            words in str(error) for words in ("gs://", "/storage/v1/")
        )
        if ours or type(error).__module__.startswith(_BUCKET_MODULES):
            return " ".join(str(error).split())[:200]
        error = error.__cause__ or error.__context__
    return None


def _quiet_about_the_disk(args: threading.ExceptHookArgs) -> None:
    if not _disk_trouble(args.exc_value):
        threading.__excepthook__(args)


def _disk_trouble(error: BaseException | None) -> str | None:
    """What is wrong with the disk, if that is what `error` or an error behind it is about."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK:
            return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        for words in _DISK_WORDS:
            if words in str(error):
                return words
        error = error.__cause__ or error.__context__
    return None
