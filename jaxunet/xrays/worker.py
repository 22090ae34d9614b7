"""Hands compressed images to processes that decode them (`codecs.py`), and starts another where one broke down."""

import atexit
import json
import os
import pathlib
import queue
import subprocess
import sys
from typing import Any

import numpy as np

from jaxunet.core.errors import UserError

_SECONDS = 10  # for one image; the largest take 3
_LATE = 1  # exit status of a process that took longer
_PROGRAM = pathlib.Path(__file__).with_name("codecs.py")
_idle: "queue.LifoQueue[subprocess.Popen[bytes] | None]" = queue.LifoQueue()  # None: one that is not started yet
for _ in range(os.cpu_count() or 1):
    _idle.put(None)


def decode(stream: bytes, kind: str, **job: Any) -> np.ndarray:
    """The samples of a compressed image, decoded by another process. `job`: what `codecs.decode` wants to know.

    Raises UserError if it is damaged, takes too long or too much memory, or imagecodecs is not installed.
    """
    process, samples, answer = _idle.get(), b"", dict[str, Any]()
    try:
        if process is None or process.poll() is not None:
            process = _start()
        answer, samples = _ask(process, {"kind": kind, "length": len(stream), "seconds": _SECONDS, **job}, stream)
    except OSError:  # it ended while it was written to
        pass
    finally:
        if process is not None and not answer.keys() & {"missing", "error", "shape"}:
            _end(process)
            process = None
        _idle.put(process)
    if "missing" in answer:
        raise UserError(f"it is compressed ({kind}), which needs imagecodecs: pip install 'jaxunet[dicom]'.")
    if answer.get("error") == "MemoryError":
        raise UserError(f"decoding its {kind} stream needs more memory than there is.")
    if "late" in answer:
        raise UserError(f"decoding its {kind} stream takes longer than {_SECONDS} s, more than that of any X-ray.")
    if "shape" not in answer:
        why = answer.get("error", "the codec broke")
        raise UserError(f"it is damaged: its {kind} stream cannot be decoded ({why}).")
    return np.frombuffer(samples, np.dtype(answer["dtype"])).reshape(answer["shape"])


def _ask(process: "subprocess.Popen[bytes]", job: dict[str, Any], stream: bytes) -> tuple[dict[str, Any], bytes]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(job).encode() + b"\n")
    process.stdin.write(stream)
    process.stdin.flush()
    if line := process.stdout.readline():
        answer = json.loads(line)
        samples = process.stdout.read(answer.get("length", 0))
        if len(samples) == answer.get("length", 0):
            return answer, samples
    return ({"late": True} if process.wait() == _LATE else {}), b""


def _start() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-P", str(_PROGRAM)],  # -P: the folder of this file is not searched for modules
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the program that waits for it
    )


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.communicate()


@atexit.register
def _end_all() -> None:
    while not _idle.empty():
        if process := _idle.get_nowait():
            _end(process)
