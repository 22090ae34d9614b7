"""Decodes compressed images, as a process of its own: what breaks a codec does not end the program.

`worker.py` starts it and writes jobs to its standard input: a line of JSON and the stream. Each is answered with a line
of JSON and the bytes of the samples. It needs nothing of jaxunet, and ends with the program that started it.
"""

import contextlib
import faulthandler
import json
import signal
import sys
from typing import Any

import numpy as np

_MOST_MEMORY = 4 * 2**30  # bytes of addresses
# `kind` of `streams.describe` -> decoder of imagecodecs
_DECODERS = {"JPEG": "jpeg8", "JPEG-LS": "jpegls", "JPEG 2000": "jpeg2k", "JPEG XL": "jpegxl"}


def decode(stream: bytes, job: dict[str, Any]) -> np.ndarray:
    """The samples of a stream, as its codec gives them.

    Args:
      stream: compressed.
      job: `kind`; of RLE also `shape`, [channels, H, W], and `bytes`, of a sample; of JPEG `colours`, what is to become
        red, green and blue, or None to leave the channels as they are.
    """
    import imagecodecs

    if job["kind"] == "RLE":
        channels, height, width = job["shape"]
        return _run_lengths(imagecodecs.packbits_decode, stream, channels, height, width, job["bytes"])
    decoder = getattr(imagecodecs, f"{_DECODERS[job['kind']]}_decode")
    if job["kind"] == "JPEG" and job["colours"]:
        return decoder(stream, colorspace=job["colours"], outcolorspace="RGB")
    return decoder(stream, numthreads=2) if job["kind"] == "JPEG 2000" else decoder(stream)


def _run_lengths(unpack: Any, stream: bytes, channels: int, height: int, width: int, size: int) -> np.ndarray:
    """DICOM RLE (PS3.5 annex G): one segment per byte of a sample, the most significant first -> [channels, H, W]."""
    offsets = np.frombuffer(stream, "<u4", 16)
    if offsets[0] != channels * size:
        raise ValueError("the number of segments is not that of the samples")
    starts = [*offsets[1 : channels * size + 1].tolist(), len(stream)]
    planes = np.empty((channels, size, height * width), np.uint8)
    for i in range(channels * size):
        plane = np.frombuffer(unpack(stream[starts[i] : starts[i + 1]]), np.uint8)
        planes[i // size, i % size] = plane[: height * width]
    joined = np.ascontiguousarray(planes.transpose(0, 2, 1)).view(f">u{size}")
    return joined.astype(f"u{size}").reshape(channels, height, width)


def _answer(job: dict[str, Any], stream: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        samples = np.ascontiguousarray(decode(stream, job))
    except ImportError:
        return {"missing": True}, b""
    except BaseException as error:  # codecs raise whatever they like
        return {"error": type(error).__name__}, b""
    return {"shape": samples.shape, "dtype": samples.dtype.str, "length": samples.nbytes}, samples.tobytes()


def main() -> None:
    """Answers jobs until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limits, macOS refuses them
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    while line := sys.stdin.buffer.readline():
        job = json.loads(line)
        stream = sys.stdin.buffer.read(job["length"])
        faulthandler.dump_traceback_later(job["seconds"], exit=True)  # ends this process if it takes longer
        answer, samples = _answer(job, stream)
        faulthandler.cancel_dump_traceback_later()
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + samples)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
