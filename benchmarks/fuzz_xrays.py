"""Damages sound X-ray files at random and reads them: counts aborts, hangs, tracebacks, and how long it took.

  python benchmarks/fuzz_xrays.py --number=1000 --seed=0

reads so many DICOM files that are damaged anywhere (uncompressed, RLE, JPEG, JPEG of 12 bits, lossless JPEG, JPEG-LS,
JPEG 2000), as many of which only the compressed stream is damaged, and as many TIFF, JPEG and PNG files. Another
process reads them, and is replaced when it dies. Needs `pip install '.[dicom]'`.
"""

import argparse
import collections
import io
import pathlib
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from jaxunet.core.errors import UserError  # noqa: E402
from jaxunet.xrays.read import read_xray  # noqa: E402

_SECONDS = 10
KINDS = {"DICOM": "DICOM", "streams": "compressed streams in DICOM", "pictures": "TIFF, JPEG and PNG"}
_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)
_PIXELS = (np.random.default_rng(0).normal(0, 4, (256, 240)).cumsum(0).cumsum(1) / 60 % 255).astype(np.uint8)


def dicoms() -> list[bytes]:
    """One sound file of each compression."""
    import imagecodecs
    import pydicom

    twelve, found = _PIXELS.astype(np.uint16) * 16, []
    for syntax, stream in (
        ("1.2.840.10008.1.2.1", None),
        ("1.2.840.10008.1.2.5", None),
        ("1.2.840.10008.1.2.4.50", imagecodecs.jpeg8_encode(_PIXELS, level=90)),
        ("1.2.840.10008.1.2.4.51", imagecodecs.jpeg8_encode(twelve, level=90, bitspersample=12)),
        ("1.2.840.10008.1.2.4.70", imagecodecs.jpeg8_encode(twelve, lossless=True, bitspersample=12)),
        ("1.2.840.10008.1.2.4.80", imagecodecs.jpegls_encode(twelve)),
        ("1.2.840.10008.1.2.4.90", imagecodecs.jpeg2k_encode(twelve, codecformat="j2k", level=0)),
    ):
        header = pydicom.Dataset()
        header.file_meta = pydicom.dataset.FileMetaDataset()
        header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
        header.Rows, header.Columns = _PIXELS.shape
        header.SamplesPerPixel, header.PhotometricInterpretation, header.PixelRepresentation = 1, "MONOCHROME2", 0
        bits = 8 if syntax.endswith("4.50") else 12
        header.BitsAllocated, header.BitsStored, header.HighBit = 8 if bits == 8 else 16, bits, bits - 1
        header.WindowCenter, header.WindowWidth = 2 ** (bits - 1), 2**bits
        header.PatientOrientation, header.PixelSpacing = ["L", "F"], [0.2, 0.2]
        header.add_new(0x7FE00010, "OW", twelve.tobytes())
        if stream is not None:
            header.file_meta.TransferSyntaxUID = syntax
            header.add_new(0x7FE00010, "OB", pydicom.encaps.encapsulate([stream]))
            header["PixelData"].is_undefined_length = True
        elif syntax.endswith(".5"):
            header.compress(syntax)
        data = io.BytesIO()
        header.save_as(data, enforce_file_format=True)
        found.append(data.getvalue())
    return found


def pictures() -> list[bytes]:
    """Sound TIFF, JPEG and PNG files of several layouts."""
    found = []
    colours = Image.fromarray(np.dstack([_PIXELS] * 3))
    for image in (Image.fromarray(_PIXELS), Image.fromarray(_PIXELS.astype(np.uint16) * 200), colours):
        for kind, options in (
            ("png", {}),
            ("tiff", {}),
            ("tiff", {"compression": "tiff_lzw"}),
            ("tiff", {"compression": "jpeg"}),
            ("tiff", {"compression": "tiff_adobe_deflate"}),
            ("jpeg", {"quality": 80}),
            ("jpeg", {"quality": 80, "progressive": True}),
        ):
            data = io.BytesIO()
            try:
                image.save(data, kind, **options)
            except (OSError, ValueError, KeyError):  # JPEG has no 16 bits
                continue
            found.append(data.getvalue())
    return found


def damaged(data: bytes, rng: np.random.Generator, *, stream_only: bool) -> bytes:
    """`data` with one to four bytes or parts changed; the checksums of a PNG are mended.

    Args:
      data: a file.
      rng: what changes where.
      stream_only: whether it is a DICOM file of which only the pixels change, and no length.
    """
    start = data.index(b"\xe0\x7f\x10\0") + 36 if stream_only else 0
    early = start + (100 if stream_only else 700)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(start, min(len(data), early) if rng.random() < 0.3 else len(data)))
        what, number = rng.integers(0, 2 if stream_only else 6), int(rng.integers(0, 2**16))
        if what == 0:
            data = data[:at] + bytes([data[at] ^ 1 << number % 8]) + data[at + 1 :]
        elif what == 1:
            data = data[:at] + bytes([_INTERESTING[number % 5]]) * (1 + number % 4) + data[at + 1 + number % 4 :]
        elif what == 2:
            data = data[: max(at, 140)]
        elif what == 3:
            data = data[:at] + data[at + number % 64 :]
        elif what == 4:
            other = number % len(data)
            data = data[:at] + data[other : other + 64] + data[at + 64 :]
        else:
            data = data[:at] + data[at : at + number % 256] + data[at:]
    return _with_checksums(data) if data.startswith(b"\x89PNG") else data


def _with_checksums(png: bytes) -> bytes:
    at, chunks = 8, [png[:8]]
    while at + 12 <= len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        body = png[at + 4 : at + 8 + length]
        chunks += [png[at : at + 4], body, struct.pack(">I", zlib.crc32(body))]
        at += 12 + length
    return b"".join(chunks)


def read_them(kind: str, seed: int, first: int, number: int) -> None:
    """Prints a line for each file: its number and what came of it. Ends by SIGALRM where one takes too long."""
    sound = pictures() if kind == "pictures" else dicoms()[kind == "streams" :]
    for i in range(first, number):
        rng = np.random.default_rng((seed, i, list(KINDS).index(kind)))
        data = damaged(sound[i % len(sound)], rng, stream_only=kind == "streams")
        signal.alarm(_SECONDS + 5)
        start = time.perf_counter()
        try:
            read_xray(data)
            outcome = "read"
        except UserError:
            outcome = "refused"
        except Exception as error:  # what is looked for
            outcome = f"traceback of {type(error).__name__}"
        signal.alarm(0)
        if time.perf_counter() - start > _SECONDS:
            outcome = "hang"
        print(f"{i}\t{outcome}", flush=True)


def outcomes(kind: str, seed: int, number: int) -> Iterator[str]:
    """What came of each file; a process that dies is replaced."""
    first = 0
    while first < number:
        command = [
            sys.executable,
            __file__,
            f"--seed={seed}",
            f"--number={number}",
            f"--kind={kind}",
            f"--first={first}",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                first = int(line.split("\t")[0]) + 1
                yield line.strip().split("\t")[1]
        if first < number:
            print(f"{kind} {first}: the process ended with status {process.returncode}")
            yield "hang" if process.returncode == -signal.SIGALRM else "abort"
            first += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=1000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(KINDS), help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.kind:
        read_them(arguments.kind, arguments.seed, arguments.first, arguments.number)
        return
    for kind, name in KINDS.items():
        start = time.perf_counter()
        counts = collections.Counter(outcomes(kind, arguments.seed, arguments.number))
        tracebacks = sum(n for outcome, n in counts.items() if outcome.startswith("traceback"))
        print(
            f"{name}: {arguments.number} tried, {counts['read']} read, {counts['refused']} refused, "
            f"{counts['abort']} aborts, {counts['hang']} hangs over {_SECONDS} s, {tracebacks} tracebacks, "
            f"{time.perf_counter() - start:.0f} s"
        )


if __name__ == "__main__":
    main()
