"""Standard output and error that may be closed, full, or unable to show a letter: work goes on without them."""

import io
import os
import sys
from typing import Any


def keep_working() -> None:
    """Makes stdout and stderr safe to write to until the process ends. Call it once, before files are opened.

    What is written after the reader has gone (`| head -1`) or the disk is full is lost. Letters that the terminal's
    encoding lacks are shown as backslash codes. A descriptor that is closed (`>&-`) leads to nothing, so that no file
    opened later gets its number.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    for name, number in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        encoding = old.encoding if old else "utf-8"
        writer = io.BufferedWriter(_LastingFile(number, "wb", closefd=False))
        stream = io.TextIOWrapper(writer, encoding, "backslashreplace", line_buffering=True)
        setattr(sys, name, stream)


class _LastingFile(io.FileIO):
    """A descriptor that leads to nothing after its first error."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)
