"""Input that is damaged, or made to do harm: one sentence and status 1, nothing left behind, little memory."""

import gc
import json
import os
import pathlib
import shutil
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable

import jax
import numpy as np
import pytest
from absl import app, flags
from fake_archive import ROOT, fake_files, png, square, write_folder, write_zip, xray
from ml_collections import ConfigDict
from PIL import Image
from test_dataset import encode

import launch
from configs import default
from jaxunet import config as config_lib
from jaxunet import dataset, run
from jaxunet.dataset.labelled_images import LabelledImages
from jaxunet.errors import UserError, exit_status
from jaxunet.import_torch import detect_network
from jaxunet.input_pipeline import ExampleSource, load_split, stream_batches
from jaxunet.metric_writer import read_metrics
from jaxunet.models import pretrained
from jaxunet.train import _next_multiple

COVID = f"{ROOT}/Train/COVID-19"
IMAGE, MASK = f"{COVID}/images/covid_1.png", f"{COVID}/infection masks/covid_1.png"
FILES = fake_files(per_class=1)
LEAST_MEMORY = 64 * 2**20  # bytes; a bomb below claims or holds at least 256 MiB


@pytest.fixture
def refused(capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Runs an action as the program does, or takes its status; asserts one sentence, and returns it."""

    def check(status: int | Callable[[], object]) -> str:
        if callable(status):
            action = status
            status = exit_status(lambda: action() and None)
        assert status == 1
        *progress, last = capsys.readouterr().err.strip().splitlines()
        assert last.startswith("error: ")
        assert last.isprintable()
        assert not [line for line in progress if "X-ray" not in line]
        return last

    return check


def start(mode: str, config: ConfigDict, workdir: pathlib.Path | None, source: pathlib.Path | None = None) -> int:
    """As `launch.py --mode` does."""
    return run.run(
        mode,
        config=config,
        overrides={},
        workdir=str(workdir) if workdir else None,
        split="val",
        checkpoint="latest",
        source=str(source) if source else None,
        runs=[],
        topology=[],
        batch_per_chip=0,
    )


def covid_config(source: pathlib.Path, data_dir: pathlib.Path) -> ConfigDict:
    config = default.get_config()
    config.dataset.source, config.dataset.data_dir = str(source), str(data_dir)
    return config


# ---- archives --------------------------------------------------------------------------------------------------------


def renamed(name: str) -> dict[str, bytes]:
    return {n.replace("covid_1.png", name): data for n, data in FILES.items()}


def zipped(files: dict[str, bytes]) -> Callable[[pathlib.Path], pathlib.Path]:
    return lambda folder: write_zip(folder / "a.zip", files)


def twice(folder: pathlib.Path) -> pathlib.Path:
    path = write_zip(folder / "a.zip", FILES)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")  # zipfile says so too
        archive.writestr(IMAGE, b"another")
    return path


def symbolic_link(folder: pathlib.Path) -> pathlib.Path:
    path = write_zip(folder / "a.zip", {n: data for n, data in FILES.items() if n != IMAGE})
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo(IMAGE)
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return path


def zip_bomb(method: int, *, claims: int | None) -> Callable[[pathlib.Path], pathlib.Path]:
    """An entry of 256 MiB of zeros; `claims` is the size that the directory of the zip gives instead."""

    def make(folder: pathlib.Path) -> pathlib.Path:
        path = write_zip(folder / "a.zip", {n: data for n, data in FILES.items() if n != IMAGE})
        with zipfile.ZipFile(path, "a") as archive:
            with archive.open(zipfile.ZipInfo(IMAGE) if method == 0 else _entry(method), "w") as file:
                for _ in range(256):
                    file.write(bytes(2**20))
        if claims is not None:
            data, size = path.read_bytes(), struct.pack("<I", 2**28)
            assert data.count(size) >= 1
            path.write_bytes(data.replace(size, struct.pack("<I", claims)))
        return path

    return make


def _entry(method: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(IMAGE)
    info.compress_type = method
    return info


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width: int, height: int, data: bytes, *extra: bytes) -> bytes:
    """An 8-bit gray PNG with these numbers in its header and these bytes, packed, as its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


SECOND_HEADER = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
TEXT_BOMB = b"".join(chunk(b"zTXt", b"k%d\0\0" % i + zlib.compress(bytes(2**24))) for i in range(16))


def folder_with(change: Callable[[pathlib.Path], None]) -> Callable[[pathlib.Path], pathlib.Path]:
    def make(folder: pathlib.Path) -> pathlib.Path:
        path = write_folder(folder / "extracted", FILES)
        (path / IMAGE).unlink()
        change(path / IMAGE)
        return path

    return make


ARCHIVES = {
    "text file": (lambda f: write_folder(f, {"a.zip": b"PK but no zip"}) / "a.zip", "is not a complete zip file"),
    "other layout": (zipped({f"x/{i}.png": png(xray(i)) for i in range(3)}), "is this COVID-QU-Ex, and complete"),
    "empty zip": (zipped({}), "has no X-rays in"),
    "line break in a name": (zipped(renamed("covid\n1.png")), r"a file called 'covid\\n1.png': names may have"),
    "web page in a name": (zipped(renamed("<script>1.png")), "a file called '<script>1.png'"),
    "formula in a name": (zipped(renamed('=HYPERLINK("x").png')), "a file called '=HYPERLINK"),
    "terminal code in a name": (zipped(renamed("\x1b[2J.png")), r"a file called '\\x1b\[2J.png'"),
    "long name": (zipped(renamed("a" * 240 + ".png")), "names may have up to 100 letters"),
    "one name twice": (twice, "covid_1.png' twice"),
    "symbolic link": (symbolic_link, r"covid_1.png is not a PNG file \(11 bytes\)"),
    "zip bomb": (zip_bomb(zipfile.ZIP_DEFLATED, claims=None), "claims 268,435,456 bytes"),
    "zip bomb that claims little": (zip_bomb(zipfile.ZIP_DEFLATED, claims=50_000), "cannot be read"),
    "bzip2 bomb": (zip_bomb(zipfile.ZIP_BZIP2, claims=50_000), "another method than Deflate"),
    "lzma bomb": (zip_bomb(zipfile.ZIP_LZMA, claims=50_000), "another method than Deflate"),
    "PNG bomb": (zipped(FILES | {IMAGE: png_of(60000, 60000, b"")}), "is 60000x60000 pixels, not 256x256"),
    "PNG with two headers": (zipped(FILES | {IMAGE: png_of(256, 256, b"", SECOND_HEADER)}), "is damaged"),
    "PNG with texts of 256 MiB": (zipped(FILES | {IMAGE: png_of(256, 256, b"", TEXT_BOMB)}), "is damaged"),
    "PNG without pixels": (zipped(FILES | {IMAGE: png_of(256, 256, b"")}), "is damaged"),
    "gray with alpha": (zipped(FILES | {IMAGE: encode(Image.new("LA", (256, 256)))}), "has mode LA"),
    "one bit": (zipped(FILES | {MASK: encode(Image.new("1", (256, 256)))}), "has mode 1"),
    "mask of another size": (zipped(FILES | {MASK: png(square(0, 9)[:128])}), "infection mask .* is 256x128 pixels"),
    "a split of damaged images": (
        zipped({n: b"" if "/Val/" in n and "/images/" in n else data for n, data in FILES.items()}),
        r"is not a PNG file \(0 bytes\) \(and 2 more",
    ),
    "link to nothing": (folder_with(lambda p: p.symlink_to(p.parent / "nothing.png")), "covid_1.png has no image"),
    "pipe": (folder_with(os.mkfifo), "covid_1.png has no image"),
    "name that is no text": (
        folder_with(lambda p: pathlib.Path(os.fsdecode(os.fsencode(p.parent) + b"/\xff.png")).touch()),
        "names may have",
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives(name, tmp_path, refused):
    make, words = ARCHIVES[name]
    path = make(tmp_path)
    config = covid_config(path, tmp_path / "data")
    tracemalloc.start()
    status = start("train", config, tmp_path / "run")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    refused_with(words, refused(status))
    assert peak < LEAST_MEMORY
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.glob("data/**/*.array_record*"))


def refused_with(words: str, sentence: str) -> None:
    import re

    assert re.search(words, sentence), sentence


def test_pixels_that_unpack_to_gigabytes_stop_at_the_last_row(tmp_path):
    """256 MiB behind a header of 256 x 256: what is not needed is never unpacked."""
    files = FILES | {IMAGE: png_of(256, 256, bytes(2**28))}
    tracemalloc.start()
    status = start("verify", covid_config(write_zip(tmp_path / "a.zip", files), tmp_path), None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert status == 0
    assert peak < LEAST_MEMORY


def test_an_archive_of_equal_images_lists_few_pairs(tmp_path):
    files = {n: png(xray(0)) if "/images/" in n else data for n, data in fake_files(per_class=8).items()}
    start("verify", covid_config(write_zip(tmp_path / "a.zip", files), tmp_path), tmp_path / "out")
    (report,) = json.loads((tmp_path / "out" / "verify.json").read_text())
    assert len(report["identical"]) == 3 * 47
    assert not report["near"]
    assert len(report["dropped_from_train"]) == 24


def test_labelled_images_of_other_kinds_are_not_opened(tmp_path, refused):
    """PostScript would be given to a program of its own, whatever the file is called."""
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    for name, data in {"eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "bomb": png_of(60000, 60000, b"")}.items():
        (folder / f"{name}.png").write_bytes(data)
    images = LabelledImages(str(tmp_path), "train", image_size=32)
    assert len(images) == 2
    for i in range(2):
        refused_with("cannot be read as an image", refused(lambda i=i: images[i]))
