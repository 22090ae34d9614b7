"""Valid input, damaged at random: the outcome must be a result or an error in one sentence.

Each kind of input is tried 150 times; `python -m pytest -m slow tests/program/test_fuzz.py -s` tries each 1,000 times.
"""

import collections
import io
import json
import pathlib
import struct
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict
from PIL import Image
from test_untrusted import tiny, tiny_network

from configs import default
from jaxunet.core.errors import UserError
from jaxunet.data import prepared, verify
from jaxunet.data.archive import Record
from jaxunet.data.png import decode_gray_png
from jaxunet.data.specs import COVID_QU_EX
from jaxunet.models import torch_weights
from jaxunet.models.build import NETWORKS
from jaxunet.runs.settings import flatten
from jaxunet.training.import_torch import detect_network
from tests.support.fake_archive import fake_files, png, square, xray
from tests.support.hostile_input import launch_and_check, watched, with_checksums

FILES = fake_files(per_class=1)
NAMES = sorted(FILES)
_KINDS = ("image", "lung", "infection")
RECORD = Record("Train/COVID-19/covid_1.png", "Train", "COVID-19", {kind: kind for kind in _KINDS})
INTERESTING = [0, 1, 0x7F, 0x80, 0xFF]


# ---- damage ----------------------------------------------------------------------------------------------------------


def damages(where: tuple[float, float] = (0.0, 1.0)) -> st.SearchStrategy[list[tuple[str, float, int]]]:
    """One to four times (kind of damage, place as a share of the length, a number)."""
    kinds = st.sampled_from(["flip", "set", "cut", "drop", "splice", "repeat"])
    return st.lists(st.tuples(kinds, st.floats(*where), st.integers(0, 2**16)), min_size=1, max_size=4)


def damaged(data: bytes, operations: list[tuple[str, float, int]]) -> bytes:
    for what, where, number in operations:
        at = min(int(where * len(data)), max(len(data) - 1, 0))
        if not data:
            return data
        if what == "flip":
            data = data[:at] + bytes([data[at] ^ 1 << number % 8]) + data[at + 1 :]
        elif what == "set":
            data = (
                data[:at] + bytes([INTERESTING[number % 5]]) * (1 + number // 5 % 4) + data[at + 1 + number // 5 % 4 :]
            )
        elif what == "cut":
            data = data[:at]
        elif what == "drop":
            data = data[:at] + data[at + number % 64 :]
        elif what == "splice":
            other = number % len(data)
            data = data[:at] + data[other : other + 64] + data[at + 64 :]
        else:
            data = data[:at] + data[at : at + number % 256] + data[at:]
    return data


def zipped(files: list[tuple[str, bytes]]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name), content)
    return data.getvalue()


SOUND_ZIP = zipped(list(FILES.items()))
SOUND_PNG, SOUND_MASK = png(xray(1)), png(square(60, 90))


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """A zip with damaged bytes (anywhere, or in the last 5 %, its directory), or a valid zip of damaged files."""
    how = draw(st.sampled_from(["bytes", "directory", "files"]))
    if how != "files":
        return damaged(SOUND_ZIP, draw(damages((0.0, 1.0) if how == "bytes" else (0.95, 1.0))))
    files = [list(entry) for entry in FILES.items()]
    for _ in range(draw(st.integers(1, 3))):
        what, i, j = draw(st.tuples(st.sampled_from(["swap", "rename", "remove", "damage"]), *[st.integers(0, 27)] * 2))
        i, j = i % len(files), j % len(files)
        if what == "swap":
            files[i][1], files[j][1] = files[j][1], files[i][1]
        elif what == "rename":
            folder = files[i][0].rpartition("/")[0]
            name = draw(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
            if all(name != other for other, _ in files):
                files[i][0] = f"{folder}/{name}.png" if draw(st.booleans()) else name
        elif what == "remove":
            del files[i]
        else:
            files[i][1] = with_checksums(damaged(files[i][1], draw(damages())))
    return zipped(list({name: (name, content) for name, content in files}.values()))


@st.composite
def pngs(draw: st.DrawFn, sound: bytes = SOUND_PNG) -> bytes:
    data = damaged(sound, draw(damages((0.0, draw(st.sampled_from([0.05, 1.0]))))))
    return with_checksums(data) if draw(st.booleans()) else data


@st.composite
def masks(draw: st.DrawFn) -> bytes:
    """Pictures of other sizes, types and values; or damaged."""
    if draw(st.booleans()):
        return draw(pngs(SOUND_MASK))
    shape = draw(st.sampled_from([(256, 256), (256, 256), (256, 255), (1, 1), (256, 256, 3), (512, 512)]))
    dtype = np.dtype(draw(st.sampled_from(["uint8", "uint8", "uint16", "bool"]))) if len(shape) == 2 else np.uint8
    values = draw(st.lists(st.sampled_from([0, 1, 127, 255]), min_size=1, max_size=3))
    pixels = np.resize(np.array(values), shape).astype(dtype)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "png")
    return data.getvalue()


def safetensors_bytes(tensors: dict[str, np.ndarray], changes: dict[str, tuple[str, object]]) -> bytes:
    """As the format says, with fields of the header replaced."""
    header, body = {}, b""
    names = {"float32": "F32", "float64": "F64", "int64": "I64", "float16": "F16", "bool": "BOOL"}
    for name, value in tensors.items():
        data = value.tobytes()
        entry = {
            "dtype": names[str(value.dtype)],
            "shape": list(value.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        if name in changes:
            key, new = changes[name]
            entry[key] = new
        header[name] = entry
        body += data
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@st.composite
def weights(draw: st.DrawFn) -> bytes:
    """Tensors of other types, shapes and values with right or wrong names; or damaged bytes."""
    tensors = tiny(channels=draw(st.sampled_from([1, 1, 3])))
    tensors |= {f"encoder.layer{s}.{i}.conv1.weight": np.zeros(1, np.float32) for s in (1, 2, 3, 4) for i in (0, 1)}
    changes = {}
    for name in draw(st.lists(st.sampled_from(sorted(tensors)), max_size=2)):
        what = draw(st.sampled_from(["value", "dtype", "shape", "header", "rename", "remove", "scalar"]))
        if name not in tensors:
            continue
        if what == "value":
            number = draw(st.sampled_from([np.nan, np.inf, -1.0, 1e38, 0.0]))
            tensors[name] = np.full_like(tensors[name], number)
        elif what == "dtype":
            tensors[name] = tensors[name].astype(draw(st.sampled_from(["float64", "float16", "int64", "bool"])))
        elif what == "shape":
            tensors[name] = np.ones(draw(st.lists(st.integers(0, 5), max_size=5)), np.float32)
        elif what == "header":
            values = {
                "dtype": st.sampled_from(["F8_E4M3", "BF16", "F32", "U64", "X", 5]),
                "shape": st.lists(st.integers(0, 2**64), max_size=3),
                "data_offsets": st.lists(st.integers(0, 2**64), max_size=3),
            }
            key = draw(st.sampled_from(sorted(values)))
            changes[name] = key, draw(values[key])
        elif what == "rename":
            tensors[draw(st.text(max_size=20))] = tensors.pop(name)
        elif what == "scalar":
            tensors[name] = np.array(1.0, np.float32)
        else:
            del tensors[name]
    data = safetensors_bytes(tensors, changes)
    if draw(st.booleans()):
        data = damaged(data, draw(damages((0.0, draw(st.sampled_from([0.02, 1.0]))))))
    return data


@st.composite
def overrides(draw: st.DrawFn) -> list[str]:
    keys = st.sampled_from(sorted(flatten(default.get_config())))
    numbers = st.one_of(st.integers(), st.floats(), st.integers(0, 64), st.floats(0, 1)).map(repr)
    words = st.sampled_from(["True", "('lung',)", "(4,8)", "()", "bce", "None", "1e3", "[1]", "{}", "(((", "''"])
    texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
    odd = st.tuples(keys, texts).map(".".join) | texts
    key = keys | keys | keys | odd
    return [f"--config.{draw(key)}={draw(numbers | words | texts)}" for _ in range(draw(st.integers(1, 2)))]


# ---- what takes it ---------------------------------------------------------------------------------------------------


def take_archive(data: bytes, folder: pathlib.Path) -> None:
    """Reads and decodes every file, like `--mode=verify`."""
    take_archive.count += 1  # findings are cached by path
    path = folder / f"{take_archive.count}.zip"
    path.write_bytes(data)
    try:
        source = ConfigDict({"name": "covid_qu_ex", "source": str(path), "data_dir": str(folder)})
        with watched(folder):
            if verify.write_findings(prepared.archive_of(source), folder / "out"):
                report, _ = verify.verify(path, COVID_QU_EX, "infection")
                report.raise_if_unusable()
    finally:
        path.unlink()


take_archive.count = 0


def take_png(data: bytes, folder: pathlib.Path) -> None:
    """Reads the bytes as a file of an archive and as a stored example."""
    with watched(folder):
        try:
            pixels = decode_gray_png(data, 256)
        except ValueError as error:  # its callers turn this into a sentence
            raise UserError(str(error)) from error
    assert (pixels.shape, pixels.dtype) == ((256, 256), np.uint8)


def take_mask(data: bytes, folder: pathlib.Path) -> None:
    contents = {"image": SOUND_PNG, "lung": png(square(0, 256)), "infection": data}
    archive = type("Archive", (), {"read": lambda _, entry: contents[entry], "spec": COVID_QU_EX})()
    with watched(folder):
        checked = verify.check_record(archive, "infection", RECORD)
    if checked.errors:
        raise UserError("; ".join(checked.errors))
    assert set(np.unique(decode_gray_png(checked.masks["infection"], 256))) <= {0, 1}


def take_weights(data: bytes, folder: pathlib.Path) -> None:
    path = folder / "x.safetensors"
    path.write_bytes(data)
    with watched(folder):
        tensors = torch_weights.read_tensors(path)
        encoder_only = not any(name.startswith("segmentation_head") for name in tensors)
        if not encoder_only:
            detect_network(tensors, path)
        tensors = {n: v for n, v in tensors.items() if "layer" not in n}
        result = torch_weights.from_torch(tensors, tiny_network(), "resnet_unet", source="x", encoder_only=encoder_only)
        if encoder_only:
            result["batch_stats"]["encoder"]["bn1"]["mean"] = np.zeros(4, np.float32)
            result = torch_weights.fold_rgb_stem(result, NETWORKS["resnet_unet"].imagenet, mean=0.5, std=0.2)
    assert np.isfinite(result["params"]["encoder"]["conv1"]["kernel"]).all()


def take_overrides(arguments: list[str], folder: pathlib.Path) -> None:
    with watched(folder):
        status = launch_and_check(*arguments)
    if status:
        raise UserError("on stderr")


KINDS: dict[str, tuple[st.SearchStrategy, Callable[..., None]]] = {
    "archive": (archives(), take_archive),
    "PNG": (pngs(), take_png),
    "mask": (masks(), take_mask),
    "safetensors": (weights(), take_weights),
    "settings": (overrides(), take_overrides),
}


def fuzz(kind: str, folder: pathlib.Path, examples: int, capsys: pytest.CaptureFixture) -> None:
    inputs, take = KINDS[kind]
    outcomes = collections.Counter()

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    @given(inputs)
    def one(data: bytes | list[str]) -> None:
        try:
            take(data, folder)
            outcomes["taken"] += 1
        except UserError:
            outcomes["refused"] += 1
        said = capsys.readouterr().err
        assert "Traceback" not in said

    one()
    with capsys.disabled():
        if examples > 150:
            print(f"\n{kind}: {outcomes['taken']} taken, {outcomes['refused']} refused with a sentence, 0 tracebacks")
    assert min(outcomes.values()) > examples / 50  # neither too little nor too much damage
    assert len(outcomes) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_damage_ends_in_a_result_or_a_sentence(kind, tmp_path, capsys):
    fuzz(kind, tmp_path, 150, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_times(kind, tmp_path, capsys):
    fuzz(kind, tmp_path, 1000, capsys)
