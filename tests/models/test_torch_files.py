"""`.pth` files are read without PyTorch, and execute nothing."""

import collections
import os
import pickle
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from jaxunet.core.errors import UserError
from jaxunet.models import torch_files, torch_weights
from tests.support.torch_files import Tensor, save


def refused(words, call):
    with pytest.raises(UserError, match=words):
        call()


@pytest.mark.parametrize("old", [False, True])
def test_tensors_of_every_layout(old, tmp_path):
    numbers = np.arange(24, dtype=np.float32)
    state = collections.OrderedDict(
        plain=Tensor(numbers.reshape(2, 3, 4)),
        turned=Tensor(numbers, shape=(4, 3), strides=(1, 4), offset=8),
        parameter=Tensor(numbers[:3], parameter=True),
        half=Tensor(np.float16([1.5, -2])),
        bfloat=Tensor(np.array([1.5, -3], jnp.bfloat16)),
        count=Tensor(np.int64(7).reshape(())),
        empty=Tensor(np.zeros((0, 5), np.float32)),
    )
    state._metadata = collections.OrderedDict(version=1)  # as PyTorch's own files have it
    tensors = torch_weights.read_tensors(save(state, tmp_path / "x.pth", old=old))
    expected = {
        "plain": numbers.reshape(2, 3, 4),
        "turned": numbers[8:20].reshape(3, 4).T,
        "parameter": numbers[:3],
        "half": [1.5, -2],
        "bfloat": [1.5, -3],
        "count": 7,
        "empty": np.zeros((0, 5)),
    }
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(tensors[name], value)
        assert tensors[name].dtype == np.float32


@pytest.mark.parametrize("old", [False, True])
def test_a_checkpoint_holds_its_network_under_a_name(old, tmp_path):
    saved = {"epoch": 40, "optimizer": {"lr": [0.1]}, "model": {"module.a": Tensor(np.float32([1, 2]))}}
    np.testing.assert_array_equal(torch_weights.read_tensors(save(saved, tmp_path / "x.pth", old=old))["a"], [1, 2])


class Calls:
    """Pickled as a call of `function`."""

    def __init__(self, function, *args, state=None):
        self.call = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    "evil",
    [
        lambda mark: Calls(os.mkdir, mark),
        lambda mark: Calls(eval, f"__import__('os').mkdir({mark!r})"),
        lambda mark: Calls(getattr, "os", "mkdir"),
        lambda mark: Calls(pickle.loads, pickle.dumps(7)),
        lambda mark: Calls(collections.OrderedDict, Calls(os.mkdir, mark)),
        lambda mark: Calls(np.memmap, mark, "uint8", "w+", 0, (9,)),
    ],
    ids=["mkdir", "eval", "getattr", "loads", "nested", "memmap"],
)
def test_a_file_that_calls_anything_is_refused(evil, old, tmp_path):
    mark = tmp_path / "called"
    path = save({"a": Tensor(np.float32([1])), "b": evil(str(mark))}, tmp_path / "x.pth", old=old)
    refused("names .*, which no file of tensors needs", lambda: torch_weights.read_tensors(path))
    assert not mark.exists()


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("saved", "words"),
    [
        ({"a": Tensor(np.float32([1]), shape=(2**28,), strides=(0,))}, "claims tensors larger than"),
        ({"a": Tensor(np.float32([1, 2]), shape=(3,), strides=(1,))}, "reaches beyond its numbers"),
        ({"a": Tensor(np.float32([1, 2]), shape=(1,), strides=(1,), offset=-1)}, "reaches beyond its numbers"),
        ({"a": Tensor(np.float32([1, 2]), shape=(2,), strides=(-1,), offset=1)}, "reaches beyond its numbers"),
        ([Tensor(np.float32([1]))], "holds a list"),
        ({"a": "b"}, "'a', which is not a tensor"),
        ({7: Tensor(np.float32([1]))}, "7, which is not a tensor"),
    ],
)
def test_files_that_are_no_state_dict(saved, words, old, tmp_path):
    refused(words, lambda: torch_weights.read_tensors(save(saved, tmp_path / "x.pth", old=old)))


@pytest.mark.parametrize("old", [False, True])
def test_big_endian_files_are_refused(old, tmp_path):
    path = save({"a": Tensor(np.float32([1]))}, tmp_path / "x.pth", old=old, big_endian=True)
    refused("its numbers are big-endian", lambda: torch_weights.read_tensors(path))


def test_a_file_that_holds_itself(tmp_path):
    loop = {"a": Tensor(np.float32([1]))}
    loop["model"] = loop
    refused("nested too deep", lambda: torch_weights.read_tensors(save(loop, tmp_path / "x.pth")))


def test_a_small_file_that_unfolds(tmp_path):
    """Seven lists, each of which holds the next one a thousand times."""
    unfolding = []
    for _ in range(7):
        unfolding = [unfolding] * 1000
    refused("nested too deep", lambda: torch_weights.read_tensors(save({"a": unfolding}, tmp_path / "x.pth")))


def test_a_pickle_cannot_change_the_reader(tmp_path):
    """A pickle can set attributes of what it names; the next file must not see them."""
    name = b"ctorch._utils\n_rebuild_tensor_v2\n"
    state = b"}X\x0c\x00\x00\x00__defaults__NsX\x04\x00\x00\x00markI1\ns"
    path = save({"a": Tensor(np.float32([1]))}, tmp_path / "x.pth", old=True)
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    evil = tmp_path / "evil.pth"
    evil.write_bytes(magic + b"\x80\x02" + name + b"N" + state + b"\x86b." + pickle.dumps([], 2))
    torch_files.load(evil)
    np.testing.assert_array_equal(torch_files.load(path)["a"], [1])


@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (b"\x80\x05\x96" + (2**38).to_bytes(8, "little") + b".", "holds a bytearray"),
        (b"\x80\x02ctorch\nSize\nX\x64\x00\x00\x00" + 100 * b"a" + b"\x85R.", "a shape that no tensor has"),
        (b"\x80\x02ctorch\nSize\n(" + 65 * b"K\x01" + b"l\x85R.", "a shape that no tensor has"),
        (b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01s\x85R.", "no state dict needs"),
    ],
    ids=["bytearray", "size", "long size", "dict"],
)
def test_a_small_file_that_asks_for_much_memory(pickled, words, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("x/data.pkl", pickled)
    refused(words, lambda: torch_weights.read_tensors(tmp_path / "x.pth"))


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("keep", [0, 1, 40, 0.5, 0.9, 0.99])
def test_damaged_files(keep, old, tmp_path):
    path = save({"a": Tensor(np.arange(99, dtype=np.float32))}, tmp_path / "x.pth", old=old)
    data = path.read_bytes()
    path.write_bytes(data[: keep if keep >= 1 else int(len(data) * keep)])
    refused("cannot be loaded as tensors alone", lambda: torch_weights.read_tensors(path))


def test_pytorchs_own_files(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is an optional extra")
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(2, dtype=torch.bfloat16)}
    for new in (False, True):
        torch.save({"model": tensors}, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
        ours = torch_weights.read_tensors(tmp_path / "x.pth")
        for name, value in tensors.items():
            np.testing.assert_array_equal(ours[name], value.float().numpy())
