"""Reads the text of a compiled program (optimised HLO): collectives, memory traffic and padding by tiles."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_NO_TRAFFIC = (  # these name existing arrays, or are the second half of a pair
    *("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "iota", "while", "call", "conditional"),
    *("copy-done", "slice-done", "all-reduce-done", "all-gather-done", "collective-permute-done"),
)
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](?:\{([^}]*)\})?")
_TILE = re.compile(r"T\((\d+),(\d+)\)")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$")


@dataclasses.dataclass(frozen=True)
class _Array:
    name: str  # such as bf16[32,64,64,16]
    plain: int  # bytes of its values
    padded: int  # bytes with the padding to tiles
    lane_axis: int | None  # the axis along the lanes of two-dimensional tiles
    on_chip: bool  # in the chip's own fast memory, not in HBM


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    arrays: list[_Array]  # of the result
    operation: str
    rest: str  # operands and attributes


def collectives(text: str) -> dict[str, dict[str, int]]:
    """Kind -> `count` and `bytes` of the results. An asynchronous pair counts once."""
    found: dict[str, dict[str, int]] = {}
    for instruction in filter(None, map(_parse, text.splitlines())):
        kind = instruction.operation.removesuffix("-start")
        if kind in _COLLECTIVES:
            arrays = [a for a in instruction.arrays if not a.name.endswith("[]") or kind == instruction.operation]
            if instruction.operation != kind and kind != "all-reduce":  # others start with operands, then results
                arrays = arrays[len(arrays) // 2 :]
            entry = found.setdefault(kind, {"count": 0, "bytes": 0})
            entry["count"] += 1
            entry["bytes"] += sum(a.plain for a in arrays)
    return found


def traffic(text: str) -> int:
    """Bytes between chip and memory: all that the instructions read and write there, padded to tiles.

    The compiler's own "bytes accessed" also counts arrays in the chip's fast memory. Every operand counts once and in
    full, even if only a part is read (a gather) or parts are read again (a convolution). A loop's body counts once.
    """
    total = 0
    for _, instructions in _executed(text):
        arrays = {i.name: i.arrays for i in instructions}
        for i in instructions:
            if i.operation in _NO_TRAFFIC:
                continue
            operands, _, _ = i.rest.partition("), ")
            read = [a for name in re.findall(r"%([\w.-]+)", operands) for a in arrays.get(name, ())]
            written = i.arrays
            if i.operation == "copy-start":  # result: target, source, a flag
                written = written[:1]
            elif i.operation == "slice-start":  # result: source, target, a flag; only the slice is read
                written = written[1:2]
                read = [dataclasses.replace(a, on_chip=r.on_chip) for a, r in zip(written, read, strict=False)]
            total += sum(a.padded for a in (*read, *written) if not a.on_chip)
    return total


def padding(text: str, worst: int = 3) -> dict[str, Any]:
    """How much tiles pad the arrays that the entry computation writes to memory.

    Returns:
      `factor`: bytes with padding over bytes without. `worst`: shape -> `factor` and `lane_axis` (the axis along the
      tiles' 128 lanes) of the arrays that waste most.
    """
    plain = padded = 0
    waste: collections.Counter[str] = collections.Counter()
    largest: dict[str, _Array] = {}
    for is_entry, instructions in _executed(text):
        for a in (a for i in instructions if is_entry and i.operation not in _NO_TRAFFIC for a in i.arrays):
            if a.lane_axis is not None and not a.on_chip:
                plain, padded = plain + a.plain, padded + a.padded
                waste[a.name] += a.padded - a.plain
                largest[a.name] = max(a, largest.get(a.name, a), key=lambda x: x.padded)
    top = [largest[name] for name, bytes_ in waste.most_common(worst) if bytes_ > 0]
    described = {a.name: {"factor": a.padded / a.plain, "lane_axis": a.lane_axis} for a in top}
    return {"factor": padded / plain if plain else 1.0, "worst": described}


def _parse(line: str) -> _Instruction | None:
    match = _INSTRUCTION.match(line)
    if not match:
        return None
    name, shapes, operation, rest = match.groups()
    return _Instruction(name, [_array(*a) for a in _ARRAY.findall(shapes)], operation, rest)


def _array(dtype: str, dims: str, layout: str) -> _Array:
    sizes = [int(d) for d in dims.split(",") if d]
    big, tile = list(sizes), _TILE.search(layout)
    lane_axis = None
    if tile and len(sizes) > 1:
        order = [int(d) for d in layout.split(":")[0].split(",")]  # minor to major
        lane_axis = order[0]
        for axis, step in zip(order, (int(tile[2]), int(tile[1])), strict=False):
            big[axis] = -(-sizes[axis] // step) * step
    width = _BYTES.get(dtype, 0)
    return _Array(f"{dtype}[{dims}]", width * math.prod(sizes), width * math.prod(big), lane_axis, "S(1)" in layout)


def _executed(text: str) -> Iterator[tuple[bool, list[_Instruction]]]:
    """(is_entry, instructions) of the entry computation, then of the computations that it calls or loops over."""
    bodies: dict[str, list[_Instruction]] = {}
    waiting: list[str] = []
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            current = bodies.setdefault(header[2], [])
            if header[1]:
                waiting = [header[2]]
        elif bodies and (instruction := _parse(line)):
            current.append(instruction)
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        yield not seen, bodies[name]
        seen.add(name)
        for i in bodies[name]:
            if i.operation in ("while", "call", "conditional"):
                waiting += [n for n in re.findall(r"(?:body|to_apply|computation)=%?([\w.-]+)", i.rest) if n in bodies]
