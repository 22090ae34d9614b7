"""Damaged or malicious input gives one sentence and status 1, leaves nothing behind and needs little memory."""

import json
import os
import pathlib
import re
import shutil
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import default
from jaxunet import commands
from jaxunet.core.errors import UserError, run_or_explain
from jaxunet.data.batches import stream_batches
from jaxunet.data.examples import ExampleSource, load_split
from jaxunet.data.labelled_images import LabelledImages
from jaxunet.data.prepared import dropped_from_train, open_builder
from jaxunet.models import torch_weights
from jaxunet.runs.metric_log import read_metrics
from jaxunet.training.import_torch import detect_network
from jaxunet.training.loop import _next_multiple
from tests.support.fake_archive import ROOT, fake_files, png, square, write_folder, write_zip, xray
from tests.support.hostile_input import chunk, launch_and_check, png_of, watched
from tests.support.torch_files import Tensor, save
from tests.support.xrays import encoded

COVID = f"{ROOT}/Train/COVID-19"
IMAGE, MASK = f"{COVID}/images/covid_1.png", f"{COVID}/infection masks/covid_1.png"
FILES = fake_files(per_class=1)
BOMB = 80 * 2**20  # unpacked bytes, more than `watched` allows


@pytest.fixture
def refused(capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Runs an action as the program does. Asserts one sentence that matches and returns it."""

    def check(words: str, status: int | Callable[[], object]) -> str:
        if callable(status):
            action = status
            status = run_or_explain(lambda: action() and None)
        assert status == 1
        *progress, last = capsys.readouterr().err.strip().splitlines()
        assert last.startswith("error: ")
        assert last.isprintable()
        assert not [line for line in progress if "X-ray" not in line]
        assert re.search(words, last), last
        return last

    return check


def start(mode: str, config: ConfigDict, workdir: pathlib.Path | None, source: pathlib.Path | None = None) -> int:
    """Runs a mode like `launch.py`."""
    texts = {"workdir": workdir, "source": source}
    flags = commands.Flags(config, **{name: str(path) for name, path in texts.items() if path})
    return commands.execute(mode, flags)


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
        warnings.simplefilter("ignore")  # zipfile warns too
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
    """An entry of 80 MiB of zeros. `claims`: the size in the directory of the zip instead."""

    def make(folder: pathlib.Path) -> pathlib.Path:
        path = write_zip(folder / "a.zip", {n: data for n, data in FILES.items() if n != IMAGE})
        info = zipfile.ZipInfo(IMAGE)
        info.compress_type = method
        with zipfile.ZipFile(path, "a") as archive, archive.open(info, "w") as file:
            for _ in range(BOMB // 2**20):
                file.write(bytes(2**20))
        if claims is not None:
            data, size = path.read_bytes(), struct.pack("<I", BOMB)
            assert data.count(size) >= 1
            path.write_bytes(data.replace(size, struct.pack("<I", claims)))
        return path

    return make


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
    "other layout": (zipped({f"x/{i}.png": png(xray(i)) for i in range(3)}), "give a complete copy of COVID-QU-Ex"),
    "empty zip": (zipped({}), "has no X-rays in"),
    "line break in a name": (zipped(renamed("covid\n1.png")), r"a file called 'covid\\n1.png': names may have"),
    "web page in a name": (zipped(renamed("<script>1.png")), "a file called '<script>1.png'"),
    "formula in a name": (zipped(renamed('=HYPERLINK("x").png')), "a file called '=HYPERLINK"),
    "terminal code in a name": (zipped(renamed("\x1b[2J.png")), r"a file called '\\x1b\[2J.png'"),
    "long name": (zipped(renamed("a" * 240 + ".png")), "names may have up to 100 letters"),
    "one name twice": (twice, "covid_1.png' twice"),
    "symbolic link": (symbolic_link, r"covid_1.png is not a PNG file \(11 bytes\)"),
    "zip bomb": (zip_bomb(zipfile.ZIP_DEFLATED, claims=None), "claims 83,886,080 bytes"),
    "zip bomb that claims little": (zip_bomb(zipfile.ZIP_DEFLATED, claims=50_000), "cannot be read"),
    "bzip2 bomb": (zip_bomb(zipfile.ZIP_BZIP2, claims=50_000), "another method than Deflate"),
    "lzma bomb": (zip_bomb(zipfile.ZIP_LZMA, claims=50_000), "another method than Deflate"),
    "PNG bomb": (zipped(FILES | {IMAGE: png_of(60000, 60000, b"")}), "is 60000x60000 pixels, not 256x256"),
    "PNG with two headers": (zipped(FILES | {IMAGE: png_of(256, 256, b"", SECOND_HEADER)}), "is damaged"),
    "PNG with texts of 256 MiB": (zipped(FILES | {IMAGE: png_of(256, 256, b"", TEXT_BOMB)}), "is damaged"),
    "PNG without pixels": (zipped(FILES | {IMAGE: png_of(256, 256, b"")}), "is damaged"),
    "gray with alpha": (zipped(FILES | {IMAGE: encoded(Image.new("LA", (256, 256)))}), "has mode LA"),
    "one bit": (zipped(FILES | {MASK: encoded(Image.new("1", (256, 256)))}), "has mode 1"),
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
    with watched(tmp_path):
        status = start("train", config, tmp_path / "run")
    refused(words, status)
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.glob("data/**/*.array_record*"))


def test_pixels_that_unpack_to_gigabytes_stop_at_the_last_row(tmp_path):
    """80 MiB behind a header of 256 x 256: bytes that are not needed are not unpacked."""
    files = FILES | {IMAGE: png_of(256, 256, bytes(BOMB))}
    config = covid_config(write_zip(tmp_path / "a.zip", files), tmp_path)
    with watched(tmp_path):
        assert start("verify", config, None) == 0


def test_an_archive_of_equal_images_lists_few_pairs(tmp_path):
    files = {n: png(xray(0)) if "/images/" in n else data for n, data in fake_files(per_class=3).items()}
    start("verify", covid_config(write_zip(tmp_path / "a.zip", files), tmp_path), tmp_path / "out")
    (report,) = json.loads((tmp_path / "out" / "verify.json").read_text())
    assert len(report["identical"]) == 3 * 17
    assert not report["near"]
    assert len(report["dropped_from_train"]) == 9


def test_labelled_images_of_other_kinds_are_not_opened(tmp_path, refused):
    """Pillow would start another program for PostScript, whatever the name of the file."""
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    for name, data in {
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "bomb": png_of(60000, 60000, b""),
    }.items():
        (folder / f"{name}.png").write_bytes(data)
    images = LabelledImages(str(tmp_path), "train", image_size=32)
    assert len(images) == 2
    for i in range(2):
        refused("cannot be read as an image", lambda i=i: images[i])


# ---- weights ---------------------------------------------------------------------------------------------------------


def safetensors_file(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def one_tensor(dtype: str, shape: list[int], size: int) -> bytes:
    return safetensors_file({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}, bytes(size))


SAFETENSORS = {
    "empty": b"",
    "huge header": safetensors_file(b"{}", length=2**62),
    "header longer than the file": safetensors_file(b"{}", length=90_000_000),
    "header that is a list": safetensors_file([1]),
    "header nested 100,000 deep": safetensors_file(b"[" * 100_000),
    "header that is no text": safetensors_file(b'{"\xff":1}'),
    "more numbers than there can be": one_tensor("F32", [2**40, 2**40], 8),
    "fewer bytes than its shape": one_tensor("F32", [3], 8),
    "type that NumPy does not have": one_tensor("F8_E4M3", [8], 8),
    "70 axes": one_tensor("F32", [1] * 70, 4),
    "another network": one_tensor("F32", [1], 4),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_safetensors_files(name, tmp_path, refused):
    pytest.importorskip("safetensors")
    path = tmp_path / "x.safetensors"
    path.write_bytes(SAFETENSORS[name])
    with watched(tmp_path):
        status = start("import_torch", default.get_config(), tmp_path / "run", path)
    refused("x.safetensors (is not a complete safetensors file|holds neither)", status)
    assert not (tmp_path / "run").exists()


def tiny(channels: int = 1) -> dict[str, np.ndarray]:
    """Weights of a U-Net with a ResNet encoder, reduced to a stem and a head."""
    return {
        "encoder.conv1.weight": np.ones((4, channels, 7, 7), np.float32),
        "encoder.bn1.weight": np.ones(4, np.float32),
        "encoder.bn1.running_var": np.ones(4, np.float32),
        "segmentation_head.0.weight": np.ones((1, 4, 3, 3), np.float32),
    }


def tiny_network() -> dict:
    zeros = jax.ShapeDtypeStruct
    return {
        "params": {
            "encoder": {"conv1": {"kernel": zeros((7, 7, 1, 4), "float32")}, "bn1": {"scale": zeros((4,), "float32")}},
            "head": {"kernel": zeros((3, 3, 4, 1), "float32")},
        },
        "batch_stats": {"encoder": {"bn1": {"var": zeros((4,), "float32")}}},
    }


BN, STEM, HEAD = "encoder.bn1.weight", "encoder.conv1.weight", "segmentation_head.0.weight"
WEIGHTS = {
    "NaN": (BN, np.full(4, np.nan, np.float32), "not finite"),
    "infinite": (BN, np.full(4, np.inf, np.float32), "not finite"),
    "beyond float32": (BN, np.full(4, 1e300), "not finite"),
    "whole numbers": (BN, np.ones(4, np.int64), "holds int64, not floating-point numbers"),
    "complex": (BN, np.ones(4, np.complex64), "holds complex64"),
    "variance below 0": ("encoder.bn1.running_var", -np.ones(4, np.float32), "variances below 0"),
    "wrong shape": (BN, np.ones(5, np.float32), r"the shape \(5,\), not \(4,\)"),
    "RGB stem": (STEM, np.ones((4, 3, 7, 7), np.float32), r"shape \(7, 7, 3, 4\)"),
    "stem of no axes": (STEM, np.float32(1), r"shape \(\), not"),
    "missing": (HEAD, None, "has no tensor 'segmentation_head.0.weight'"),
    "extra": ("decoder.x", np.ones(1, np.float32), r"does not use \(decoder.x\)"),
}


@pytest.mark.parametrize("encoder_only", [False, True])
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(name, encoder_only, refused):
    key, value, words = WEIGHTS[name]
    if encoder_only and (key in (HEAD, "decoder.x") or name == "RGB stem"):
        pytest.skip("of no concern to the encoder")
    tensors = tiny() | {key: value}
    tensors = {n: v for n, v in tensors.items() if v is not None and (not encoder_only or n.startswith("encoder."))}

    def load() -> None:
        torch_weights.from_torch(tensors, tiny_network(), "resnet_unet", source="f", encoder_only=encoder_only)

    refused(words, load)


def test_a_sound_tiny_network_is_taken():
    result = torch_weights.from_torch(tiny(), tiny_network(), "resnet_unet", source="f")
    assert result["params"]["head"]["kernel"].shape == (3, 3, 4, 1)


@pytest.mark.parametrize(
    ("key", "words"), [(HEAD, r"ends with a tensor of shape \(\)"), (STEM, "does not take one-channel images")]
)
def test_networks_without_axes(key, words, refused):
    blocks = {f"encoder.layer{s}.{i}.conv1.weight": np.zeros(1) for s in (1, 2, 3, 4) for i in (0, 1)}
    refused(words, lambda: detect_network(tiny() | blocks | {key: np.float32(1)}, pathlib.Path("f")))
    many = {f"encoder.layer1.{'9' * 5000}.conv1.weight": np.zeros(1)}
    refused("blocks: only depths", lambda: detect_network(tiny() | many, pathlib.Path("f")))


def packed(path: pathlib.Path) -> None:
    """The same file with deflated entries, one of them 80 MiB of zeros."""
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, bytes(BOMB) if "/data/" in name else data)


def test_deflated_torch_file(tmp_path, refused):
    path = save({"a": Tensor(np.zeros(8, np.float32))}, tmp_path / "x.pth")
    packed(path)
    refused("expands to more than its own size", lambda: torch_weights.read_tensors(path))


# ---- settings --------------------------------------------------------------------------------------------------------


SETTINGS = {
    "text for a number": ("train.batch_size=many", "many"),
    "part of a number": ("train.batch_size=4.5", "4.5"),
    "nothing": ("train.batch_size=", "invalid literal"),
    "word for a switch": ("profile=maybe", "maybe"),
    "unknown key": ("train.batchsize=4", "There is no setting 'batchsize'"),
    "section": ("train=5", "is not a dict"),
    "infinite": ("optimizer.learning_rate=inf", "must be a finite number"),
    "overflow": ("optimizer.learning_rate=1e999", "must be a finite number"),
    "not a number": ("model.input_mean=nan", "model.input_mean=nan must be a finite number"),
    "huge seed": (f"seed={2**32}", "seed=4294967296 must be .* at most 4,294,967,295"),
    "huge batch": (f"train.batch_size={10**12}", "at most 65,536"),
    "huge length": (f"train.total_steps={10**30}", "at most 2,147,483,647"),
    "thousands of threads": ("input.threads=100000", "at most 1,024"),
    "steps per call": ("train.steps_per_call=1000000000", "at most 10,000"),
    "parentheses": ("model.channels=" + "(" * 5000, r"channels=\(.\(\(.*\.\.\.$"),
    "wide": ("model.channels=(16,1000000)", "must be a tuple of 1 to 8"),
    "deep": ("model.channels=(4,4,4,4,4,4,4,4,4)", "must be a tuple of 1 to 8"),
    "switch as width": ("model.channels=(True,)", "must be a tuple of 1 to 8"),
    "terminal codes": ("dataset.targets=('\x1b[2J',)", r"x1b\[2J"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(name, refused):
    override, words = SETTINGS[name]
    refused(words, launch_and_check(f"--config.{override}"))


@pytest.mark.parametrize("argument", ["--config=/etc/hosts", "--config=tests", "--mode=dance", "--nonsense=1", "word"])
def test_arguments(argument, refused):
    refused("", launch_and_check(argument))


def test_sound_settings_are_taken():
    assert launch_and_check("--config.train.batch_size=8", "--config.model.channels=(4,8)") == 0


def test_tiny_periods_and_long_runs_take_neither_time_nor_memory(config):
    config.input.threads = 1
    source = type("Source", (), {"__len__": lambda _: 4, "__getitem__": lambda _, i: {"image": np.array(i)}})()
    with watched(None):
        assert _next_multiple(5, 1e-300) == 6
        batches = stream_batches(source, seed=0, start_step=0, total_steps=2**22, batch_size=8, stream=config.input)
        assert sorted(next(batches)["image"].tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]


# ---- what a run left -------------------------------------------------------------------------------------------------


def changed(**values: object) -> str:
    """`config.json` with "section.key" values changed; `...` removes a key."""
    settings = default.get_config().to_dict()
    for name, value in values.items():
        *sections, key = name.split(".")
        section = settings
        for s in sections:
            section = section[s]
        section[key] = value
        if value is ...:
            del section[key]
    return json.dumps(settings)


CONFIGS = {
    "list": ("[]", "is damaged"),
    "number": ("5", "is damaged"),
    "nothing": ("null", "is damaged"),
    "nested": ("[" * 100_000, "is damaged"),
    "no text": (b"\xff\xfe\x00", "is damaged"),
    "no keys": ("{}", "is missing"),
    "no number": (changed(**{"train.batch_size": "16"}), "train.batch_size='16' must be a whole number"),
    "switch for a number": (changed(seed=True), "seed=True must be a whole number"),
    "fraction": (changed(**{"eval.batch_size": 2.5}), "eval.batch_size=2.5 must be a whole number"),
    "null": (changed(**{"optimizer.learning_rate": None}), "learning_rate=None must be a number"),
    "NaN": (changed(**{"augment.scale": float("nan")}), "augment.scale=nan must be a finite number"),
    "text for a tuple": (changed(**{"dataset.targets": "lung"}), "targets='lung' must be a tuple"),
    "number for a text": (changed(**{"dataset.source": 5}), "source=5 must be a text"),
    "number for a switch": (changed(**{"model.bn_sync": 1}), "bn_sync=1 must be True or False"),
    "section gone": (changed(model=...), "is missing"),
    "section for a key": (changed(seed={"a": 1}), "seed is missing"),
    "nested targets": (changed(**{"dataset.targets": [["lung"]]}), "must name"),
}


@pytest.mark.parametrize("mode", ["train", "evaluate"])
@pytest.mark.parametrize("name", CONFIGS)
def test_config_of_a_workdir(name, mode, tmp_path, refused):
    text, words = CONFIGS[name]
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = path.read_bytes()
    words = "holds a run of another config" if (name, mode) == ("nested targets", "train") else words
    refused(words, start(mode, default.get_config(), tmp_path))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


ROW = b'{"step": 2, "train/loss": 0.5}\n'
LOGS = {
    "no JSON": b"{oops\n",
    "no text": b"\xff\xff\n",
    "no object": b"5\n",
    "no step": b"{}\n",
    "step of another kind": b'{"step": "2"}\n',
    "no number": b'{"step": 2, "val/P1/dice": "x"}\n',
    "nested": b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("name", LOGS)
def test_log_of_a_workdir(name, tmp_path, refused):
    (tmp_path / "metrics.jsonl").write_bytes(ROW + LOGS[name] + ROW)
    refused(r"Line 2 of .*metrics.jsonl is damaged", lambda: read_metrics(tmp_path))
    (tmp_path / "metrics.jsonl").write_bytes(ROW + LOGS[name])
    assert len(read_metrics(tmp_path)) == 1  # as after a crash


# ---- prepared datasets -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("prepared")
    path = write_zip(folder / "a.zip", fake_files())
    open_builder(covid_config(path, folder / "data").dataset, "infection")
    return folder


def read_prepared(folder: pathlib.Path) -> np.ndarray:
    builder = open_builder(covid_config(folder / "a.zip", folder / "data").dataset, "infection")
    source = ExampleSource(builder, "train", ("infection",), exclude=dropped_from_train(builder))
    return load_split(source, threads=2).image


def flip(path: pathlib.Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 16
    path.write_bytes(data)


def without_a_shard_length(path: pathlib.Path) -> None:
    path.write_text(path.read_text().replace('"2"', '"3"'))


SHARD = "covid_qu_ex-train.array_record-00000-of-00001"
PREPARED = {
    "shard gone": (SHARD, lambda p: p.unlink()),
    "shard empty": (SHARD, lambda p: p.write_bytes(b"")),
    "shard cut": (SHARD, lambda p: p.write_bytes(p.read_bytes()[:-1000])),
    "flip in the first image": (SHARD, lambda p: flip(p, 5000)),
    "flip in the last image": (SHARD, lambda p: flip(p, 40_000)),
    "other number of examples": ("dataset_info.json", without_a_shard_length),
    "info gone": ("dataset_info.json", lambda p: p.unlink()),
    "info no text": ("dataset_info.json", lambda p: p.write_bytes(b"\xff{")),
    "info empty": ("dataset_info.json", lambda p: p.write_text("{}")),
    "report gone": ("verify.json", lambda p: p.unlink()),
    "report no text": ("verify.json", lambda p: p.write_bytes(b"\xff{")),
    "report a list": ("verify.json", lambda p: p.write_text("[]")),
    "report of other kinds": ("verify.json", lambda p: p.write_text(p.read_text().replace("[]", "[5]"))),
}


@pytest.mark.parametrize("name", PREPARED)
def test_prepared_datasets(name, prepared, tmp_path, refused):
    file, damage = PREPARED[name]
    folder = tmp_path / "copy"
    shutil.copytree(prepared, folder)
    np.testing.assert_array_equal(read_prepared(folder), read_prepared(prepared))
    damage(folder / "data/covid_qu_ex/infection/1.0.0" / file)
    refused("The prepared dataset in .*covid_qu_ex.* is damaged .*: delete that folder", lambda: read_prepared(folder))


def test_too_little_memory_is_a_sentence(refused):
    def fail(error: Exception) -> None:
        raise error

    for error in (MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")):
        refused("not enough memory. Make config.train.batch_size", lambda e=error: fail(e))


def test_sentences_are_one_printable_line(refused):
    def fail() -> None:
        raise UserError("a\n\x1b[2J\udcff" + "b" * 5000)

    sentence = refused("", fail)
    assert sentence.startswith("error: a ?[2J?b")
    assert len(sentence) < 1100
