"""What the tests of bad input share: PNG by hand, the program without its work, and a watch over the process."""

import contextlib
import os
import pathlib
import signal
import struct
import sys
import tempfile
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator
from unittest import mock

from absl import app, flags, logging

from jaxunet import command_line
from jaxunet.commands import Flags
from jaxunet.core.errors import run_or_explain
from jaxunet.runs import checks

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes) -> bytes:
    """Of a PNG, with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width: int, height: int, data: bytes, *extra: bytes) -> bytes:
    """An 8-bit gray PNG with these numbers in its header and these bytes, packed, as its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return SIGNATURE + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def with_checksums(png: bytes) -> bytes:
    """The same chunks, with the checksums of what is in them now, so that damage gets past them."""
    at, chunks = 8, []
    while at + 12 <= len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        chunks.append(chunk(png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
        at += 12 + length
    return png[:8] + b"".join(chunks)


def check_config(_: str, flags: Flags) -> int:
    """In place of `commands.execute`: the status of checking the config alone."""
    return run_or_explain(lambda: checks.check(flags.config))


def launch_and_check(*arguments: str, check: Callable[..., int] = check_config) -> int:
    """The status of `launch.py` with these arguments, where what it would run is only checked."""
    app.define_help_flags()
    before, verbosity = set(flags.FLAGS), logging.get_verbosity()
    argv = ["launch.py", *arguments]
    try:
        with (
            mock.patch.object(command_line, "execute", check),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", DeprecationWarning)  # of ml_collections
            return command_line.main(argv)
    finally:
        flags.FLAGS.unparse_flags()
        logging.set_verbosity(verbosity)
        for name in set(flags.FLAGS) - before:  # they are global, and defined anew by every start
            delattr(flags.FLAGS, name)


# ---- a watch over the process ----------------------------------------------------------------------------------------

_CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod"}
_PROGRAMS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "socket.connect"}
_watched: pathlib.Path | None = None
_misdeeds: list[str] = []


def _hook(event: str, arguments: tuple) -> None:
    if _watched is None or (event != "open" and event not in _CHANGES | _PROGRAMS):
        return
    if event == "open":
        path, mode, how = arguments
        if isinstance(path, int) or not ((how or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            return
        paths = [path]
    else:
        paths = [p for p in arguments[:2] if isinstance(p, str | bytes | os.PathLike)]
    outside = [p for p in paths if not pathlib.Path(os.path.abspath(os.fsdecode(p))).is_relative_to(_watched)]
    if event in _PROGRAMS or outside:
        _misdeeds.append(f"{event}{arguments}")


sys.addaudithook(_hook)


class Hang(BaseException):
    """Not an Exception: what is being tested must not turn it into a sentence."""


def _too_long(*_: object) -> None:
    raise Hang


@contextlib.contextmanager
def watched(folder: pathlib.Path | None, *, most_bytes: int = 64 * 2**20, most_seconds: int = 120) -> Iterator[None]:
    """Fails if Python's own memory grows by more, it takes longer, a program is started or a socket connected, or
    anything outside `folder` is written (None: anywhere), where temporary files go too."""
    global _watched
    _misdeeds.clear()
    old = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(most_seconds)
    tracemalloc.start()
    _watched = folder
    try:
        with mock.patch.object(tempfile, "tempdir", str(folder) if folder else tempfile.tempdir):
            yield
    finally:
        _watched = None
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    assert not _misdeeds, _misdeeds[:3]
    assert peak < most_bytes, f"{peak:,} bytes"
