"""Writes `.pth` files as `torch.save` does, without PyTorch, in the format of today and in that before 2020."""

import collections
import contextlib
import io
import pathlib
import pickle
import sys
import types
import zipfile

import numpy as np

STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage", "bfloat16": "BFloat16Storage"}


class Tensor:
    """Stands for a tensor: numbers, and how they are viewed."""

    def __init__(self, numbers, *, shape=None, strides=None, offset=0, parameter=False):
        self.numbers = np.ascontiguousarray(numbers)
        self.shape = self.numbers.shape if shape is None else shape
        plain = tuple(s // self.numbers.itemsize for s in self.numbers.strides)
        self.strides, self.offset, self.parameter = plain if strides is None else strides, offset, parameter

    def __reduce__(self):
        storage = Storage(self.numbers.reshape(-1))
        args = (storage, self.offset, self.shape, self.strides, False, collections.OrderedDict())
        if self.parameter:
            plain = Tensor(self.numbers, shape=self.shape, strides=self.strides, offset=self.offset)
            return sys.modules["torch._utils"]._rebuild_parameter, (plain, True, collections.OrderedDict())
        return sys.modules["torch._utils"]._rebuild_tensor_v2, args


class Storage:
    def __init__(self, numbers):
        self.numbers = numbers


@contextlib.contextmanager
def named_as_in_torch():
    """Modules whose names a pickle can write, as long as it is written."""
    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
        function = types.FunctionType((lambda *_: None).__code__, {}, name)
        function.__module__, function.__qualname__ = "torch._utils", name
        setattr(utils, name, function)
    torch._utils = utils
    sys.modules |= {"torch": torch, "torch._utils": utils}
    try:
        yield torch
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def save(value, path: pathlib.Path, *, old=False, big_endian=False) -> pathlib.Path:
    """Writes `value`, whose tensors are `Tensor`, to `path`; `big_endian`: says that its numbers are."""
    file, numbers = io.BytesIO(), []
    with named_as_in_torch() as torch:

        class Pickler(pickle.Pickler):
            def persistent_id(self, item):
                if not isinstance(item, Storage):
                    return None
                numbers.append(item.numbers)
                kind = getattr(torch, STORAGES[item.numbers.dtype.name])
                more = (None,) if old else ()
                return ("storage", kind, str(len(numbers) - 1), "cpu", len(item.numbers), *more)

        Pickler(file, protocol=2).dump(value)
    if old:
        start = [
            0x1950A86A20F9469CFC6C,
            1001,
            {"protocol_version": 1001, "little_endian": not big_endian, "type_sizes": {}},
        ]
        keys = pickle.dumps([str(i) for i in range(len(numbers))], 2)
        data = b"".join(len(x).to_bytes(8, "little") + x.tobytes() for x in numbers)
        path.write_bytes(b"".join(pickle.dumps(x, 2) for x in start) + file.getvalue() + keys + data)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", file.getvalue())
            archive.writestr("x/byteorder", "big" if big_endian else "little")
            for i, x in enumerate(numbers):
                archive.writestr(f"x/data/{i}", x.tobytes())
    return path
