"""Reads the text of a compiled program (optimised HLO): arithmetic, kernels, collectives, padding by tiles.

The texts of TPU, GPU and CPU compilers differ in what they call, not in form. A loop's body counts once.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from typing import Any

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
NO_TRAFFIC = (  # these name existing arrays, or are the second half of a pair
    *("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "iota", "while", "call", "conditional"),
    *("copy-done", "slice-done", "all-reduce-done", "all-gather-done", "collective-permute-done", "after-all"),
)
_CUDNN = re.compile(r'"__cudnn\$conv(Forward|BiasActivationForward|BackwardInput|BackwardFilter)"')
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](?:\{([^}]*)\})?")
_TILE = re.compile(r"T\((\d+),(\d+)\)")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_LINE = re.compile(r"^\s*(ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$")


@dataclasses.dataclass(frozen=True)
class Array:
    name: str  # such as bf16[32,64,64,16]
    sizes: tuple[int, ...]
    plain: int  # bytes of its values
    padded: int  # bytes with the padding to tiles
    lane_axis: int | None  # the axis along the lanes of two-dimensional tiles
    on_chip: bool  # in the chip's own fast memory, not in HBM


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    arrays: list[Array]  # of the result
    operation: str
    rest: str  # operands and attributes
    is_root: bool
    is_nested: bool  # whether the result is a tuple that begins with a tuple: the operands of an asynchronous pair

    @functools.cached_property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.-]+)", self.rest.partition("), ")[0])

    def called(self, attribute: str) -> list[str]:
        return re.findall(rf"\b(?:{attribute})=%?([\w.-]+)", self.rest)


Computation = dict[str, Instruction]


def collectives(text: str) -> dict[str, dict[str, int]]:
    """Kind -> `count`, `bytes` of the results, and `blocking`: how many run with no kernel beside them.

    An asynchronous pair counts once. It is blocking if no kernel stands between its start and its end.
    """
    found: dict[str, dict[str, int]] = {}
    for computation in computations(text)[1].values():
        started: dict[str, int] = {}  # name of a start -> kernels before it
        done = 0
        for i in computation.values():
            kind = i.operation.removesuffix("-start").removesuffix("-done")
            if kind not in COLLECTIVES:
                done += i.operation not in NO_TRAFFIC
                continue
            entry = found.setdefault(kind, {"count": 0, "bytes": 0, "blocking": 0})
            if i.operation.endswith("-done"):
                entry["blocking"] += started.get(i.operands[0]) == done
                continue
            arrays = [a for a in i.arrays if not a.name.endswith("[]") or kind == i.operation]
            if i.is_nested or i.operation not in (kind, "all-reduce-start"):  # operands, then results
                arrays = arrays[len(arrays) // 2 :]
            started[i.name] = done
            entry["count"] += 1
            entry["bytes"] += sum(a.plain for a in arrays)
            entry["blocking"] += i.operation == kind
    return found


def step_of_loop(text: str) -> str:
    """The program of one step: if the entry computation loops over steps, the text in which the body is the entry.

    A loop of steps is one that computes convolutions or matrix products, which the entry does not.
    """
    entry, found = computations(text)

    def multiplies(name: str) -> bool:
        instructions = found[name].values()
        fused = (f for i in instructions for f in i.called("calls") if f in found)
        return any(i.operation == "dot" or _CUDNN.search(i.rest) for i in instructions) or any(map(multiplies, fused))

    if multiplies(entry):
        return text
    loops = [name for i in found[entry].values() if i.operation == "while" for name in i.called("body")]
    body = next((name for name in loops if multiplies(name)), None)
    if body is None:
        return text
    text = text.replace("\nENTRY ", "\n")
    return re.sub(rf"\n%?{re.escape(body)} \(", f"\nENTRY %{body} (", text)


def kernels(text: str) -> int:
    """Operations that the device starts, one after the other: kernels of a GPU, copies and collectives included."""
    return sum(i.operation not in NO_TRAFFIC for _, c in executed(text) for i in c.values())


def arithmetic(text: str) -> float:
    """Floating-point operations of all convolutions that call cuDNN and of all matrix products."""
    found = computations(text)[1]

    def of(computation: Computation) -> float:
        total = 0.0
        for i in computation.values():
            if i.operation == "fusion":
                total += sum(of(found[name]) for name in i.called("calls"))
            elif i.operation == "dot":
                (contracted,) = re.findall(r"lhs_contracting_dims=\{([\d,]*)\}", i.rest)
                lhs = computation[i.operands[0]].arrays[0].sizes
                total += 2 * math.prod(i.arrays[0].sizes) * math.prod(lhs[int(d)] for d in contracted.split(","))
            elif match := _CUDNN.search(i.rest):
                left, right = (computation[name].arrays[0].sizes for name in i.operands[:2])
                result = i.arrays[0].sizes
                # (the forward convolution's output, its kernel); dim_labels: as in b01f_o01i->b01f
                output, kernel = {"BackwardInput": (left, right), "BackwardFilter": (right, result)}.get(
                    match[1], (result, right)
                )
                channels = kernel[re.findall(r"dim_labels=\w+_(\w+)->", i.rest)[0].index("o")]
                total += 2 * math.prod(output) * math.prod(kernel) / channels
        return total

    return sum(of(computation) for _, computation in executed(text))


def padding(text: str, worst: int = 3) -> dict[str, Any]:
    """How much tiles pad the arrays that the entry computation writes to memory.

    Returns:
      `factor`: bytes with padding over bytes without. `worst`: shape -> `factor` and `lane_axis` (the axis along the
      tiles' 128 lanes) of the arrays that waste most.
    """
    plain = padded = 0
    waste: collections.Counter[str] = collections.Counter()
    largest: dict[str, Array] = {}
    for is_entry, computation in executed(text):
        written = (i for i in computation.values() if is_entry and i.operation not in NO_TRAFFIC)
        for a in (a for i in written for a in i.arrays):
            if a.lane_axis is not None and not a.on_chip:
                plain, padded = plain + a.plain, padded + a.padded
                waste[a.name] += a.padded - a.plain
                largest[a.name] = max(a, largest.get(a.name, a), key=lambda x: x.padded)
    top = [largest[name] for name, bytes_ in waste.most_common(worst) if bytes_ > 0]
    described = {a.name: {"factor": a.padded / a.plain, "lane_axis": a.lane_axis} for a in top}
    return {"factor": padded / plain if plain else 1.0, "worst": described}


def _parse(line: str) -> Instruction | None:
    match = _LINE.match(line)
    if not match:
        return None
    root, name, shapes, operation, rest = match.groups()
    arrays = [_array(*a) for a in _ARRAY.findall(shapes)]
    return Instruction(name, arrays, operation, rest, bool(root), shapes.startswith("(("))


def _array(dtype: str, dims: str, layout: str) -> Array:
    sizes = tuple(int(d) for d in dims.split(",") if d)
    big, tile = list(sizes), _TILE.search(layout)
    lane_axis = None
    if tile and len(sizes) > 1:
        order = [int(d) for d in layout.split(":")[0].split(",")]  # minor to major
        lane_axis = order[0]
        for axis, step in zip(order, (int(tile[2]), int(tile[1])), strict=False):
            big[axis] = -(-sizes[axis] // step) * step
    width = _BYTES.get(dtype, 0)
    on_chip = "S(1)" in layout
    return Array(f"{dtype}[{dims}]", sizes, width * math.prod(sizes), width * math.prod(big), lane_axis, on_chip)


@functools.lru_cache(maxsize=1)
def computations(text: str) -> tuple[str, dict[str, Computation]]:
    """The entry computation's name; name -> instructions of all computations, in the order of execution."""
    found: dict[str, Computation] = {}
    entry = ""
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = found.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif found and (instruction := _parse(line)):
            current[instruction.name] = instruction
    return entry, found


def executed(text: str) -> Iterator[tuple[bool, Computation]]:
    """(is_entry, instructions) of the entry computation, then of the computations that it calls or loops over."""
    entry, found = computations(text)
    seen: set[str] = set()
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        yield not seen, found[name]
        seen.add(name)
        for i in found[name].values():
            if i.operation in ("while", "call", "conditional"):
                waiting += [n for n in i.called("body|to_apply|computation") if n in found]
