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


def padding(text: str, worst: int = 3) -> dict:
    """How much larger than their values the arrays written by the entry computation are, because of tiles.

    Returns:
      `factor` = bytes with padding over bytes without; `worst` = shape -> its factor, for those that waste most.
    """
    entry = text[text.find("\nENTRY ") :]
    plain = padded = 0
    waste: collections.Counter[str] = collections.Counter()
    factors = {}
    for shapes, operation in _INSTRUCTION.findall(entry):
        if operation in ("parameter", "get-tuple-element", "tuple", "bitcast", "copy-done"):
            continue
        for dtype, dims, layout in _SHAPE.findall(shapes):
            tile = re.search(r"T\((\d+),(\d+)\)", layout)
            if not tile or "," not in dims:
                continue
            sizes = [int(d) for d in dims.split(",")]
            order = [int(d) for d in layout.split(":")[0].split(",")]  # minor to major
            big = list(sizes)
            for axis, step in zip(order, (int(tile[2]), int(tile[1])), strict=False):
                big[axis] = -(-sizes[axis] // step) * step
            mine, whole = math.prod(sizes) * _BYTES.get(dtype, 0), math.prod(big) * _BYTES.get(dtype, 0)
            plain, padded = plain + mine, padded + whole
            name = f"{dtype}[{dims}]"
            waste[name] += whole - mine
            factors[name] = whole / max(mine, 1)
    top = [name for name, bytes_ in waste.most_common(worst) if bytes_ > 0]
    return {"factor": padded / plain if plain else 1.0, "worst": {name: factors[name] for name in top}}
