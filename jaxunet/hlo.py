"""Reading a compiled program's text (optimised HLO): which collectives it has, and what tiling pads."""

import collections
import math
import re

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_SHAPE = re.compile(r"\b(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z][\w-]*)\(", re.MULTILINE)


def _size(dtype: str, dims: str) -> int:
    return _BYTES.get(dtype, 0) * math.prod(int(d) for d in dims.split(",") if d)


def collectives(text: str) -> dict[str, dict[str, int]]:
    """Kind -> `count` and `bytes` of results, each asynchronous pair once."""
    found: dict[str, dict[str, int]] = {}
    for shapes, operation in _INSTRUCTION.findall(text):
        kind = operation.removesuffix("-start")
        if kind in _COLLECTIVES:
            entry = found.setdefault(kind, {"count": 0, "bytes": 0})
            entry["count"] += 1
            entry["bytes"] += sum(_size(dtype, dims) for dtype, dims, _ in _SHAPE.findall(shapes))
    return found


_FREE = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant")  # and the ends of asynchronous pairs
_DEFINITION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$", re.MULTILINE)


def main_memory_bytes(text: str) -> int:
    """Bytes that the entry computation's instructions read from and write to main memory, tiles included.

    Buffers that the compiler placed on the chip (`S(1)` in their layout) are left out, which its own count of "bytes
    accessed" does not do.
    """
    sizes, total = {}, 0
    for name, shapes, operation, rest in _DEFINITION.findall(_entry(text)):
        sizes[name] = sum(_padded(*shape)[1] for shape in _SHAPE.findall(shapes) if "S(" not in shape[2])
        if operation not in _FREE and not operation.endswith("-done"):
            operands = re.findall(r"%([\w.-]+)", rest.split("), ")[0])
            if operation.endswith("-start"):  # its result names the operand again
                operands = []
            total += sizes[name] + sum(sizes.get(operand, 0) for operand in operands)
    return total


def _entry(text: str) -> str:
    return text[text.find("\nENTRY ") :]


def _padded(dtype: str, dims: str, layout: str) -> tuple[int, int]:
    """Bytes of an array without and with what its tiles add."""
    sizes = [int(d) for d in dims.split(",") if d]
    big, tile = list(sizes), re.search(r"T\((\d+),(\d+)\)", layout)
    if tile and len(sizes) > 1:
        minor_to_major = [int(d) for d in layout.split(":")[0].split(",")]
        for axis, step in zip(minor_to_major, (int(tile[2]), int(tile[1])), strict=False):
            big[axis] = -(-sizes[axis] // step) * step
    return math.prod(sizes) * _BYTES.get(dtype, 0), math.prod(big) * _BYTES.get(dtype, 0)


def padding(text: str, worst: int = 3) -> dict:
    """How much larger than their values the arrays written by the entry computation are, because of tiles.

    Returns:
      `factor` = bytes with padding over bytes without; `worst` = shape -> its factor, for those that waste most.
    """
    plain = padded = 0
    waste: collections.Counter[str] = collections.Counter()
    factors = {}
    for shapes, operation in _INSTRUCTION.findall(_entry(text)):
        if operation in _FREE or operation.endswith("-done"):
            continue
        for dtype, dims, layout in _SHAPE.findall(shapes):
            mine, whole = _padded(dtype, dims, layout)
            plain, padded = plain + mine, padded + whole
            name = f"{dtype}[{dims}]"
            waste[name] += whole - mine
            factors[name] = whole / max(mine, 1)
    top = [name for name, bytes_ in waste.most_common(worst) if bytes_ > 0]
    return {"factor": padded / plain if plain else 1.0, "worst": {name: factors[name] for name in top}}
