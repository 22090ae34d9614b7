"""Reads `.pth` files without PyTorch: plain tensors, in its current format (a zip) and that of before 2020.

Both hold a pickle, which can call anything. `_Unpickler` lets it name only what a state dict needs, and gives it
stand-ins that do nothing: nothing of the file is executed.
"""

import collections
import io
import math
import pathlib
import pickle
import zipfile
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C  # of the older format
_MOST_AXES = 64
_DTYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


class _Tensor(NamedTuple):
    """A tensor whose numbers have not been read: `storage` is (key, dtype)."""

    storage: tuple[str, str]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Unpickler(pickle._Unpickler):  # the C version allocates whatever a memo index asks for
    def _refuse_bytearray(self) -> None:  # it is allocated as large as the file says, before a byte is read
        raise pickle.UnpicklingError("it holds a bytearray")

    dispatch: ClassVar[dict[int, Any]] = pickle._Unpickler.dispatch | {pickle.BYTEARRAY8[0]: _refuse_bytearray}

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.bytes_each: dict[str, int] = {}  # of the numbers of each storage
        self.known: dict[tuple[str, str], Any] = {  # made anew for each file: a pickle can set attributes
            ("collections", "OrderedDict"): _empty_dict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, shape, strides, *_: _Tensor(
                storage, offset, shape, strides
            ),
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            ("torch", "Size"): _size,
            ("torch", "device"): lambda *words: words,
        } | {("torch", name): dtype for name, dtype in _DTYPES.items()}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.known:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no file of tensors needs")
        return self.known[module, name]

    def persistent_load(self, saved: Any) -> tuple[str, str]:
        kind, dtype, key, *_ = saved
        if kind != "storage" or dtype not in _DTYPES.values():
            raise pickle.UnpicklingError(f"it holds a {kind} of {dtype}")
        self.bytes_each[str(key)] = jnp.dtype(dtype).itemsize
        return str(key), dtype


def _empty_dict(*items: Any) -> dict[Any, Any]:
    """An empty dict; a pickle fills it afterwards. Items given here could copy a large dict again and again."""
    if any(items):
        raise pickle.UnpicklingError("it fills a dict in a way that no state dict needs")
    return type("OrderedDict", (collections.OrderedDict,), {})()


def _size(sizes: Any = ()) -> tuple[int, ...]:
    if not isinstance(sizes, tuple | list) or len(sizes) > _MOST_AXES:
        raise pickle.UnpicklingError("it holds a shape that no tensor has")
    return tuple(sizes)


def load(path: pathlib.Path) -> Any:
    """The saved object, in which tensors are NumPy arrays, also within dicts and lists.

    Raises:
      Exception: of any type, for a damaged or hostile file, or one that holds other things.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            _check_zip(archive, path)
            (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            folder = pickled.removesuffix("data.pkl")
            if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
                raise ValueError("its numbers are big-endian")
            loaded = _Unpickler(io.BytesIO(archive.read(pickled))).load()
            storages = {name.removeprefix(f"{folder}data/"): archive.read(name) for name in archive.namelist()}
    else:
        loaded, storages = _load_old(io.BytesIO(path.read_bytes()))
    return _with_arrays(loaded, storages, [2 * path.stat().st_size], depth=0)


def _load_old(file: io.BytesIO) -> tuple[Any, dict[str, bytes]]:
    """Pickles of magic number, version, machine, object and list of keys; then the numbers of each key."""
    if _Unpickler(file).load() != _MAGIC or _Unpickler(file).load() != 1001:
        raise ValueError("it is no file of PyTorch")
    if not _Unpickler(file).load()["little_endian"]:
        raise ValueError("its numbers are big-endian")
    unpickler = _Unpickler(file)
    loaded, storages = unpickler.load(), {}
    for key in map(str, _Unpickler(file).load()):
        elements = int.from_bytes(file.read(8), "little")
        storages[key] = file.read(elements * unpickler.bytes_each[key])
    return loaded, storages


def _with_arrays(value: Any, storages: dict[str, bytes], budget: list[int], *, depth: int) -> Any:
    """`value` with arrays for tensors.

    `budget`: bytes left to create. It stops a huge tensor that repeats one number, and a list that repeats one list.
    """
    budget[0] -= 1
    if depth > 8 or budget[0] < 0:
        raise ValueError("it is nested too deep")
    if isinstance(value, _Tensor):
        (key, dtype), shape, strides = value.storage, tuple(value.shape), tuple(value.strides)
        size: int = math.prod(shape)
        data = np.frombuffer(storages[key], jnp.dtype(dtype))
        last = value.offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if min((value.offset, *shape, *strides)) < 0 or (size and last >= len(data)):
            raise ValueError("a tensor reaches beyond its numbers")
        budget[0] -= size * data.itemsize
        if budget[0] < 0:
            raise ValueError("it claims tensors larger than the file")
        steps = [s * data.itemsize for s in strides]
        return np.lib.stride_tricks.as_strided(data[value.offset :], shape, steps, writeable=False).copy()
    if isinstance(value, dict):
        return {k: _with_arrays(v, storages, budget, depth=depth + 1) for k, v in value.items()}
    if isinstance(value, list):
        return [_with_arrays(v, storages, budget, depth=depth + 1) for v in value]
    return value


def _check_zip(archive: zipfile.ZipFile, path: pathlib.Path) -> None:
    """Refuses compressed or overlapping entries, which could fill the memory. PyTorch writes neither."""
    entries = archive.infolist()
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("it expands to more than its own size")
