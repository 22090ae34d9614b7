"""What would keep a decoder busy is refused at once; a codec that breaks down takes nothing with it."""

import os
import signal
import struct
import time
import tracemalloc

import numpy as np
import pytest

from jaxunet.core.errors import UserError
from jaxunet.xrays import streams, worker
from jaxunet.xrays.read import decode, read_xray
from tests.support.dicoms import EIGHT, IN_12, SHOWN, TWELVE, dicom_of, item
from tests.support.hostile_input import chunk, png_of
from tests.support.tiffs import tiff_of
from tests.support.xrays import encoded

JPEG, JPEG_LS, JPEG_2000 = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"


JPEG_FILE = encoded(np.tile(SHOWN, (8, 8)), "jpeg")


def scans_repeated(times: int) -> bytes:
    """A progressive JPEG whose last scan is there so many times."""
    data = encoded(np.tile(SHOWN, (8, 8)), "jpeg", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * times + data[-2:]


def pages(number: int) -> bytes:
    """A TIFF whose pages all have the same pixels."""
    data = bytearray(tiff_of([(SHOWN, {})]))
    (first,) = struct.unpack_from("<I", data, 4)
    directory = bytes(data[first:-4])
    for _ in range(number):
        struct.pack_into("<I", data, len(data) - 4, len(data))
        data += directory + bytes(4)
    return bytes(data)


def strips(number: int) -> bytes:
    return tiff_of([(SHOWN.astype(np.uint16), {273: (8,) * number, 279: (1,) * number, 278: (1,)})])


def huge_tags(number: int) -> bytes:
    """A TIFF of tags that each hold the whole file."""
    tags = {259: (1,), **{34000 + i: (0,) * 100_000 for i in range(number)}}
    return tiff_of([(SHOWN, tags)])


def many_items() -> bytes:
    """A DICOM file of a sequence with a million empty items."""
    data = dicom_of(TWELVE, ReferencedImageSequence=item(PatientID="x"), **IN_12)
    at = data.index(b"\x08\0\x40\x11SQ")
    return data[: at + 8] + b"\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\0\0\0\0" * 1_000_000 + data[at + 12 :]


WORK = {
    "progressive JPEG": (lambda: scans_repeated(2000), "scans"),
    "segments of a JPEG": (lambda: JPEG_FILE[:2] + b"\xff\xfe\0\2" * 1_000_000 + JPEG_FILE[2:], "segments"),
    "pages of a TIFF": (lambda: pages(20_000), "pages"),
    "strips of a TIFF": (lambda: strips(1_000_000), "values"),
    "strips that overlap": (lambda: tiff_of([(SHOWN.astype(np.uint16), {279: (8000,) * 4})]), "than the file has"),
    "chunks of a PNG": (lambda: png_of(64, 64, b"")[:33] + chunk(b"tEXt", b"") * 200_000, "chunks"),
    "a line of pixels": (lambda: png_of(79_000_000, 1, b""), "per side"),
    "a line of pixels in DICOM": (lambda: dicom_of(TWELVE, Columns=65535, **IN_12), "per side"),
    "items of a DICOM header": (many_items, "header has more parts"),
}


@pytest.mark.parametrize("name", WORK)
def test_work_is_limited(name):
    make, words = WORK[name]
    data, start = make(), time.process_time()
    with pytest.raises(UserError, match=words):
        decode(data)
    assert time.process_time() - start < 4  # measured: at most 2.0, on a busy machine
    if make is many_items:  # which is slow when watched
        return
    tracemalloc.start()
    try:
        with pytest.raises(UserError):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    finally:
        tracemalloc.stop()


def test_tags_that_nobody_needs_are_not_read():
    np.testing.assert_array_equal(read_xray(huge_tags(20)).pixels, SHOWN)


def test_pages_that_go_in_a_circle():
    data = bytearray(pages(3))
    struct.pack_into("<I", data, len(data) - 4, struct.unpack_from("<I", data, 4)[0])
    assert read_xray(bytes(data)).notes == ("first of 4 pages",)


def test_the_size_of_a_decoy_does_not_count():
    """JPEG 2000: a codestream of the right size stands in a box before the one that is decoded."""
    library = pytest.importorskip("imagecodecs", reason="imagecodecs is not installed: pip install 'jaxunet[dicom]'")
    large = library.jpeg2k_encode(np.tile(SHOWN, (8, 8)), codecformat="jp2", level=0)
    decoy = library.jpeg2k_encode(SHOWN, codecformat="j2k", level=0)
    at = large.index(b"jp2c") - 4
    data = large[:at] + struct.pack(">I4s", 8 + len(decoy), b"free") + decoy + large[at:]
    found = streams.describe(data)
    assert (found.height, found.width) == (512, 512)
    with pytest.raises(UserError, match="compressed image claims"):
        read_xray(dicom_of(None, JPEG_2000, stream=data, **EIGHT))
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + len(JPEG_FILE)) + JPEG_FILE
    small = library.jpeg8_encode(SHOWN)
    assert streams.describe(small[:2] + thumbnail + small[2:]).height == 64


def test_a_process_that_dies_hangs_or_lies_is_replaced(monkeypatch, tmp_path):
    """Whatever a codec does, its X-ray alone fails, and the next one is read."""
    pytest.importorskip("imagecodecs", reason="imagecodecs is not installed: pip install 'jaxunet[dicom]'")
    good = dicom_of(None, JPEG, stream=encoded_with_codec(), **EIGHT)
    real, odd = worker._PROGRAM, tmp_path / "odd.py"
    for does, words in (
        ("os.abort()", "codec broke"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "codec broke"),
        ("faulthandler.dump_traceback_later(1, exit=True); [0 for _ in iter(int, 1)]", "takes longer"),
        ("sys.exit(0)", "codec broke"),
        ('sys.stdout.buffer.write(b\'{"shape": [9], "dtype": "|u1", "length": 9}\\n12\'); sys.exit()', "codec broke"),
    ):
        worker._end_all()
        worker._idle.put(None)
        odd.write_text(f"import faulthandler, os, signal, sys\nsys.stdin.buffer.readline()\n{does}\n")
        monkeypatch.setattr(worker, "_PROGRAM", odd)
        with pytest.raises(UserError, match=words):
            read_xray(good)
        monkeypatch.setattr(worker, "_PROGRAM", real)
        assert read_xray(good).pixels.shape == (64, 64)


def encoded_with_codec() -> bytes:
    import imagecodecs

    return imagecodecs.jpeg8_encode(SHOWN, level=95)


def test_the_processes_end_with_the_program():
    pytest.importorskip("imagecodecs", reason="imagecodecs is not installed: pip install 'jaxunet[dicom]'")
    read_xray(dicom_of(None, JPEG, stream=encoded_with_codec(), **EIGHT))
    process = worker._idle.get()
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(5) == 0
    process.stdout.close()
    worker._idle.put(None)
    assert os.getpgid(0) != process.pid  # Ctrl-C does not reach it
    assert signal.getsignal(signal.SIGALRM) in (signal.SIG_DFL, None)
